"""Loader processes that die, stop, hang, or tell of a broken file."""

import multiprocessing
import os
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tests.support.forked import Forked
from unihpe_fast.data import batches as batches_module
from unihpe_fast.data.batches import FILES_A_WORKER, FILES_OF_THE_RUN, Batches, LoaderError
from unihpe_fast.data.errors import StoreError


class Numbers(Dataset):
    """Batch k is the number k; `trouble` happens in a loader process at batch `at`, and leaves a mark of it."""

    def __init__(self, folder: Path, trouble: str = "", at: int = 3, times: int = 1) -> None:
        self.folder, self.trouble, self.at, self.times = folder, trouble, at, times

    def __getitem__(self, number: int):
        if number == self.at and self.trouble and len(list(self.folder.iterdir())) < self.times:
            (self.folder / f"mark-{time.monotonic_ns()}").touch()
            if self.trouble == "error":
                raise StoreError("file.h5: image: row 3: found nothing, wanted a picture")
            if self.trouble == "bug":
                raise TypeError("a fault of ours")
            if self.trouble == "stop when done":
                threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGSTOP]).start()
                return torch.tensor(number)
            os.kill(os.getpid(), getattr(signal, self.trouble))
            time.sleep(60)
        return torch.tensor(number)


@pytest.fixture(autouse=True)
def _asked_after_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "PATIENCE", 0.3)
    monkeypatch.setattr(batches_module, "GRACE_SECONDS", 1)


def _batches(dataset: Numbers, told: list[str], timeout: float = 60.0) -> Batches:
    return Batches(dataset, 0, 8, workers=2, timeout=timeout, warn=told.append)


@pytest.mark.parametrize("trouble", ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM"])
def test_a_loader_process_that_dies_is_replaced_and_no_batch_is_lost(tmp_path: Path, trouble: str) -> None:
    told: list[str] = []
    found = [int(batch) for batch in _batches(Numbers(tmp_path, trouble), told)]
    assert found == list(range(8))
    assert len(told) == 1
    assert "batch " in told[0]
    assert "DataLoader worker" in told[0]
    assert "started anew" in told[0]


def test_one_that_dies_again_ends_it_with_a_word(tmp_path: Path) -> None:
    told: list[str] = []
    found = []
    with pytest.raises(LoaderError, match=r"batch \d: DataLoader worker .* after the loader processes were started"):  # noqa: PT012
        for batch in _batches(Numbers(tmp_path, "SIGKILL", times=9), told):
            found.append(int(batch))  # noqa: PERF401 (what came before the error is looked at)
    assert found == list(range(len(found)))
    assert len(told) == 1
    _no_children()


def test_one_that_is_stopped_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    told: list[str] = []
    begun = time.monotonic()
    assert [int(batch) for batch in _batches(Numbers(tmp_path, "SIGSTOP"), told, timeout=2)] == list(range(8))
    assert "no batch came within --data.timeout 2 seconds" in told[0]
    assert time.monotonic() - begun < 50
    _no_children()


def test_one_that_is_stopped_with_a_batch_in_hand_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """The batch is there, its memory is to be asked of the process."""
    told: list[str] = []
    found = []
    for batch in _batches(Numbers(tmp_path, "stop when done"), told, timeout=1):
        found.append(int(batch))
        time.sleep(0.4)
    assert found == list(range(8))
    assert "no batch came within --data.timeout 1 seconds" in told[0]
    _no_children()


def test_an_error_of_a_file_comes_out_as_it_is(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(StoreError) as found:
        list(_batches(Numbers(tmp_path, "error"), told))
    assert str(found.value) == "file.h5: image: row 3: found nothing, wanted a picture"
    with pytest.raises(TypeError, match="a fault of ours"):
        list(_batches(Numbers(tmp_path / "..", "bug", times=10**6), told))
    assert told == []


def test_a_death_does_not_interrupt_what_the_run_does_meanwhile(tmp_path: Path) -> None:
    """torch raises from its handler of SIGCHLD, wherever the main thread is."""
    told: list[str] = []
    batches = iter(_batches(Numbers(tmp_path), told))
    next(batches)
    (child, *_) = multiprocessing.active_children()
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    time.sleep(0.2)  # the signal arrives here, in the middle of a step
    assert [int(batch) for batch in batches] == list(range(1, 8))


def test_too_few_open_files_are_refused_at_the_start(tmp_path: Path) -> None:
    def start() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
        with pytest.raises(ValueError) as caught:
            Batches(Numbers(tmp_path), 0, 8, workers=2, timeout=60)
        print(caught.value)

    run = Forked(start, tmp_path / "said")
    assert run.wait() == 0, run.said
    wanted = FILES_OF_THE_RUN + 2 * FILES_A_WORKER
    assert f"--data.workers 2: must be allowed {wanted} open files, got a limit of 24" in run.said


def test_loader_processes_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    def start() -> None:
        inherited = set(multiprocessing.active_children())  # of the process that this one is forked from
        batches = iter(Batches(Busy(), 0, 8, workers=2, timeout=60))
        next(batches)
        print(*[child.pid for child in set(multiprocessing.active_children()) - inherited], flush=True)
        time.sleep(60)

    run = Forked(start, tmp_path / "said")
    give_up = time.monotonic() + 60
    while not run.said.endswith("\n"):
        assert time.monotonic() < give_up, run.said
        time.sleep(0.01)
    children = [int(word) for word in run.said.split()]
    assert len(children) == 2
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    give_up = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() and not _is_zombie(child) for child in children):
        assert time.monotonic() < give_up, "orphans live on"
        time.sleep(0.05)


class Busy(Dataset):
    """Batches that take for ever from the second on, without ever letting Python look at anything."""

    def __getitem__(self, number: int):
        if number:
            a = np.ones((4000, 4000))
            while True:
                a @ a
        return torch.tensor(number)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def _no_children() -> None:
    give_up = time.monotonic() + 10
    while multiprocessing.active_children():
        assert time.monotonic() < give_up, "loader processes live on"
        time.sleep(0.05)


def test_a_pass_that_is_left_leaves_no_loader_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a thread that still knows torch's iterator keeps it from ending the processes when it goes
    kept: list[object] = []
    make = batches_module._without_interrupts
    monkeypatch.setattr(batches_module, "_without_interrupts", lambda loader: kept.append(make(loader)) or kept[-1])
    batches = iter(_batches(Numbers(tmp_path), []))
    assert int(next(batches)) == 0
    workers = [worker.pid for worker in kept[0]._workers]
    assert len(workers) == 2
    batches.close()
    assert [worker for worker in workers if Path(f"/proc/{worker}").exists()] == []
