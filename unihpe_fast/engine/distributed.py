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

T = TypeVar("T")
# a rank that waits longer than this for another gives up: longer than a checkpoint or the drawing of plots takes
TIMEOUT = datetime.timedelta(minutes=10)
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


@contextlib.contextmanager
def session() -> Iterator[Ranks]:
    """Join the other processes that torchrun started, for as long as the context lasts; alone where there are none.

    Tensors of a GPU go by NCCL, those of the CPU by gloo.
    """
    size = int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _VARIABLES) else 1
    if size == 1:
        yield Ranks()
        return
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    # torchrun may keep the store over a restart, with the addresses of processes that are gone
    store = dist.PrefixStore(f"restart_{restarts()}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    yield Ranks(dist.get_rank(), dist.get_world_size())
    # not after an error: the other ranks may still be at work, and it would wait for them
    dist.destroy_process_group()


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
