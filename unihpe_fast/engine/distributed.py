"""The processes of a run: torchrun's, or the one that there is.

torchrun starts N processes with the same command line, and tells each by environment variables which one it is. Batches
and gradients are those of all ranks together; files and the console are rank 0's.
"""

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unihpe_fast.config import ConfigError, RunConfig

T = TypeVar("T")
# minutes
DEFAULT_TIMEOUT = RunConfig.timeout
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. Every method but the properties is to be called by all of them."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and speaks."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """None for one process."""
        return dist.group.WORLD if self.size > 1 else None

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0, which alone calls it; an exception there is raised on all ranks."""
        if self.size == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = make()
            except (Exception, SystemExit) as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on rank 0; elsewhere []."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.gather_object(value, values if self.first else None)
        return values if self.first else []

    def sum(self, values: list[int]) -> list[int]:
        """The sums over all ranks."""
        if self.size == 1:
            return values
        sums = torch.tensor(values)
        dist.all_reduce(sums)
        return sums.tolist()

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


class LateSums:
    """Sums over the ranks of a few integers that every step has, known one step later, so that nobody waits.

    All ranks get the same numbers at the same step; a single process gets its own at once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._pending: tuple[Tensor, Any] | None = None

    def exchange(self, values: list[int]) -> list[int]:
        """Hand in this step's values, get the sums of the step before; zeros at the first."""
        if self._ranks.size == 1:
            return values
        sums = self.settle() or [0] * len(values)
        mine = torch.tensor(values)
        self._pending = mine, dist.all_reduce(mine, async_op=True)
        return sums

    def settle(self) -> list[int] | None:
        """The sums that are still under way, or None."""
        if self._pending is None:
            return None
        sums, work = self._pending
        self._pending = None
        work.wait()
        return sums.tolist()


class SessionError(ConfigError):
    """Processes that could not join each other; the message says which are missing."""


@contextlib.contextmanager
def session(timeout: float = DEFAULT_TIMEOUT) -> Iterator[Ranks]:
    """Join the other processes that torchrun started, for as long as the context lasts; alone where there are none.

    Tensors of a GPU go by NCCL, those of the CPU by gloo. timeout: minutes that one process waits for another, now and
    later. Raises SessionError where the environment does not say how to join them, or where some do not come.
    """
    where = _environment()
    if where is None:
        yield Ranks()
        return
    wait = datetime.timedelta(minutes=timeout)
    store = _meet(*where, wait)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    rank, size, *_ = where
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    yield Ranks(dist.get_rank(), dist.get_world_size())
    # not after an error: the other ranks may still be at work, and it would wait for them
    dist.destroy_process_group()


def _environment() -> tuple[int, int, str, int] | None:
    """Rank, number of processes, address and port of the first one; None for a process that is alone."""
    if not all(name in os.environ for name in _VARIABLES):
        return None
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        try:
            numbers[name] = int(os.environ[name])
        except ValueError:
            raise SessionError(f"environment: {name} must be a whole number, got {os.environ[name]!r}") from None
    rank, size, port = numbers.values()
    if not 0 <= rank < size:
        raise SessionError(f"environment: RANK must be from 0 to WORLD_SIZE - 1, got {rank} of {size}")
    return None if size == 1 else (rank, size, os.environ["MASTER_ADDR"], port)


def _meet(rank: int, size: int, address: str, port: int, wait: datetime.timedelta) -> dist.Store:
    """The store that all processes share, once all of them are there."""
    server = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    try:
        whole = dist.TCPStore(address, port, size, server, wait, wait_for_workers=False, multi_tenant=True)
        # torchrun may keep the store over a restart, with the addresses of processes that are gone
        store = dist.PrefixStore(f"restart_{restarts()}", whole)
        store.set(f"here_{rank}", "")
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SessionError(f"rank {rank}: rank 0 must answer at {address}:{port}, got: {reason}") from error
    try:
        store.wait([f"here_{other}" for other in range(size)], wait)
    except RuntimeError as error:
        missing = [other for other in range(size) if not store.check([f"here_{other}"])]
        raise SessionError(
            f"rank {rank}: all {size} processes must come within --run.timeout {wait.total_seconds() / 60:g} minutes, "
            f"got no word of rank {', '.join(map(str, missing))}"
        ) from error
    return store


def local_rank() -> int:
    """The number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restarts() -> int:
    """How often torchrun has started these processes again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def torchrun_job() -> str | None:
    """A name for the torchrun command that this process belongs to, the same after a restart; None without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    # the name that torchrun gives where it was told none: its process must do
    return f"{socket.gethostname()}-{os.getppid()}" if name == "none" else name
