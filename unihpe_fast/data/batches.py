"""Batches by their numbers, from this process or from loader processes that may fail, stop or be killed."""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from unihpe_fast.config import ConfigError
from unihpe_fast.data.errors import SourceError, StoreError
from unihpe_fast.data.records import Batch

# that a loader process goes on after a signal to stop
GRACE_SECONDS = 10
# how often a batch that does not come is asked after
PATIENCE = 5.0
# open files of a loader process's queues and of what it reads, and of the run itself
FILES_A_WORKER, FILES_OF_THE_RUN = 16, 64
_PR_SET_PDEATHSIG = 1


class LoaderError(RuntimeError):
    """Loader processes that died or did not answer, twice; the message says what was seen."""


@dataclass
class _Failure:
    """What a loader process gives instead of a batch: an error whose message is for people, not where it came from."""

    error: Exception


class _Told(Dataset[Any]):
    """A data set whose own errors arrive as they are: torch would put a traceback into their messages."""

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> Any:
        try:
            return self.dataset[number]
        except (StoreError, SourceError, OSError) as error:
            return _Failure(error)


class Batches:
    """Batch `start` .. `stop` - 1 of a data set, in order; they may be gone through again and again.

    workers: loader processes; 0: this process makes them. A loader process that dies, or that gives nothing for
    `timeout` seconds, is replaced with all the others once in a pass, which `warn` is told; batches are functions of
    their numbers, so nothing is lost or repeated. The second time raises LoaderError. An error of a file comes out as
    it is, and ValueError at the start where the system allows fewer open files than the processes need.
    """

    def __init__(
        self,
        dataset: Dataset[Batch],
        start: int,
        stop: int,
        *,
        workers: int,
        timeout: float,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._dataset, self._start, self._stop = dataset, start, max(start, stop)
        self._workers, self._timeout = workers, timeout
        self._warn = warn or warnings.warn
        if workers:
            _allow_open_files(workers)

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[Batch]:
        number, trouble = self._start, ""
        while True:
            loader = self._loader(range(number, self._stop))
            iterator = _without_interrupts(loader)
            try:
                while True:
                    found = self._next(iterator)
                    if found is None:
                        return
                    yield found
                    number += 1
            except _LoaderTrouble as error:
                again, trouble = trouble, str(error)
                _end(iterator)
                if again:
                    reason = f"{trouble}, after the loader processes were started anew"
                    raise LoaderError(f"batch {number}: {reason}") from None
                self._warn(f"batch {number}: {trouble}; the loader processes are started anew")
            except GeneratorExit:
                # nobody waits for processes that may not answer; what was killed lets go of its files soon
                _end(iterator, wait=PATIENCE)
                raise

    def _next(self, iterator: Any) -> Batch | None:
        """The next batch, None after the last one."""
        give_up = time.monotonic() + self._timeout
        late = f"no batch came within --data.timeout {self._timeout:g} seconds"
        while True:
            try:
                with _watched(iterator, self._timeout + PATIENCE + 1) if self._workers else contextlib.nullcontext():
                    found = next(iterator)
            except StopIteration:
                return None
            except (ConnectionError, EOFError) as error:
                # a batch's memory is asked of the process that made it
                reason = "DataLoader worker ended while it handed a batch over"
                raise _LoaderTrouble(late if time.monotonic() >= give_up else reason) from error
            except RuntimeError as error:
                text = str(error)
                if "timed out after" in text and self._workers:
                    if time.monotonic() < give_up:
                        continue
                    raise _LoaderTrouble(late) from error
                if text.startswith("DataLoader worker"):
                    reason = text.splitlines()[0].rstrip(".")
                    raise _LoaderTrouble(late if time.monotonic() >= give_up else reason) from error
                raise
            if isinstance(found, _Failure):
                raise found.error
            return found

    def _loader(self, numbers: range) -> DataLoader[Any]:
        # crops are too small to share among threads. Not set in the workers: a forked process that changes the number
        # when its parent's pool was busy waits forever for threads that it does not have
        cv2.setNumThreads(0)
        return DataLoader(
            _Told(self._dataset),
            sampler=numbers,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self._workers,
            worker_init_fn=partial(_begin_worker, os.getpid()),
            pin_memory=torch.cuda.is_available(),
            timeout=PATIENCE if self._workers else 0,
            # the loader takes a number from its generator; torch's own must not depend on how many loaders there were
            generator=torch.Generator(),
        )


class _LoaderTrouble(Exception):
    """What is wrong with loader processes."""


def _without_interrupts(loader: DataLoader[Any]) -> Any:
    """An iterator whose dead processes are noticed where a batch is waited for.

    torch's own handler of SIGCHLD would raise in the middle of whatever the run does at that moment.
    """
    try:
        before = signal.getsignal(signal.SIGCHLD)
        iterator = iter(loader)
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)
    except ValueError:
        # not the main thread: there is no handler then
        iterator = iter(loader)
    return iterator


@contextlib.contextmanager
def _watched(iterator: Any, seconds: float) -> Iterator[None]:
    """End the loader processes when the block takes longer: one that is stopped while it hands a batch over leaves the
    run in a read that has no time limit of its own, until the other end is gone."""
    timer = threading.Timer(seconds, _end, [iterator])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(iterator: Any, wait: float = 0.0) -> None:
    """End the loader processes, whatever they are doing: one that was stopped hears no other signal.

    wait: seconds until which they are to be gone, each; without it they may hold their files a little longer.
    """
    workers = getattr(iterator, "_workers", ())
    for worker in workers:
        with contextlib.suppress(ValueError, OSError):
            worker.kill()
    if wait:
        for worker in workers:
            worker.join(wait)


def _allow_open_files(workers: int) -> None:
    """Raise the limit on open files to what the loader processes need, or ConfigError where the system refuses."""
    wanted = FILES_OF_THE_RUN + FILES_A_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"--data.workers {workers}: must be allowed {wanted} open files, got a limit of {hard}; raise it "
            "(ulimit -n), or use --data.workers 0"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _begin_worker(run: int, worker: int) -> None:
    """run: the process that the batches are for."""
    # whatever the run does with it: below, it ends the process
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # schedulers and torchrun send signals to all processes of a run: its own would lack batches before it saved
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: signal.alarm(GRACE_SECONDS))
    if sys.platform == "linux":
        # the kernel ends this process when the run does, whatever it is doing: one inside of HDF5 looks at nothing
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if multiprocessing.get_start_method() == "fork" and os.getppid() != run:
            os._exit(1)  # it ended before this was said


def _as_it_is(batch: Any) -> Any:
    return batch
