"""What the ranks of a process group tell each other: a header, samples gathered, gradients summed, blocks passed on.

Samples lie along the first dimension. Ranks may hold different numbers of them, and none: then collectives, which want
equal shares, carry padding up to the largest share.
"""

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from unihpe_kernels.checks import FLOATING
from unihpe_kernels.scores import SCORES

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work

Header = dict[str, int | float | str]
HEADER = 24  # numbers
_WORDS = (
    *map(str, FLOATING), "paired", "all", "auto", "triton", "native", "torch", "a tensor", "True", "False",
    *SCORES, "product", "softmax", "sigmoid", "anchor", "both", "a float", "None",
)  # fmt: skip


class Collectives:
    """The collectives of one group for samples of which rank r holds sizes[r]."""

    def __init__(self, group: "ProcessGroup", sizes: list[int]) -> None:
        self.group, self.sizes = group, sizes
        self.ranks, self.rank = len(sizes), dist.get_rank(group)
        self.begin = sum(sizes[: self.rank])  # place of this rank's first sample among all
        self.total = sum(sizes)
        self._share = max(sizes)

    def gather(self, own: Tensor) -> Tensor:
        """[a, ..] of every rank, in the order of ranks: [total, ..]."""
        if self._share == 0:
            return own
        padding = own.new_zeros(self._share - len(own), *own.shape[1:])
        given = torch.cat([own, padding]) if len(padding) else own.contiguous()
        shares = own.new_empty(self.ranks * self._share, *own.shape[1:])
        dist.all_gather_into_tensor(shares, given, group=self.group)
        if self.ranks * self._share == self.total:
            return shares
        parts = zip(shares.split(self._share), self.sizes, strict=True)
        return torch.cat([share[:size] for share, size in parts])

    def scatter_sum(self, parts: Tensor) -> Tensor:
        """The sum over ranks of [total, ..], of which every rank gets its own samples: [a, ..]."""
        if self._share == 0:
            return parts
        shares = parts.contiguous()
        if self.ranks * self._share > self.total:
            shares = parts.new_zeros(self.ranks, self._share, *parts.shape[1:])
            for share, part, size in zip(shares, parts.split(self.sizes), self.sizes, strict=True):
                share[:size] = part
            shares = shares.flatten(0, 1)
        own = parts.new_empty(self._share, *parts.shape[1:])
        dist.reduce_scatter_tensor(own, shares, group=self.group)
        return own[: self.sizes[self.rank]]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, of any shape, in place."""
        dist.all_reduce(values, group=self.group)
        return values

    def sum_of_few(self, values: Tensor) -> Tensor:
        """The sum over ranks of [n], a few numbers: added in the order of ranks, so the same bits everywhere."""
        every = values.new_empty(self.ranks, len(values))
        dist.all_gather_into_tensor(every, values[None], group=self.group)
        return every.sum(0)

    def circulate(self, own: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Every rank and its block [a, ..], own first; the next one travels while the caller works on this one."""
        block = own.contiguous()
        for step in range(self.ranks):
            owner = self._owner(step)
            following = self._start(block, self._owner(step + 1), 0) if step + 1 < self.ranks else None
            yield owner, block
            if following:
                block = following()

    def circulate_gradients(self, own: Tensor, gradients: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The sum over ranks of the gradient of `own` [a, ..], where gradients(rank, block) is this rank's part.

        Sums follow their blocks from rank to rank, one step behind, and travel while the next part is worked out.
        """
        home: Tensor | None = None
        arriving: Callable[[], Tensor] | None = None
        for step, (owner, block) in enumerate(self.circulate(own)):
            part = gradients(owner, block)
            if step == 0:
                home = part
                continue
            if arriving:
                part = part + arriving()
            arriving = self._start(part, self._owner(step + 1), 1)
        assert home is not None
        return home + arriving() if arriving else home

    def _owner(self, step: int) -> int:
        return (self.rank - step) % self.ranks

    def _start(self, block: Tensor, arriving: int, tag: int) -> Callable[[], Tensor]:
        """Send a block to the next rank and take that of rank `arriving` from the one before; the call waits for it."""
        received = block.new_empty(self.sizes[arriving], *block.shape[1:])
        operations = []
        for call, tensor, peer in (
            (dist.isend, block, (self.rank + 1) % self.ranks),
            (dist.irecv, received, (self.rank - 1) % self.ranks),
        ):
            if tensor.numel():  # both ends know the size
                operations.append(dist.P2POp(call, tensor, dist.get_global_rank(self.group, peer), self.group, tag))
        works: list[Work] = dist.batch_isend_irecv(operations) if operations else []

        def wait() -> Tensor:
            for work in works:
                work.wait()
            return received

        return wait


def global_means(sums: list[tuple[Tensor, Tensor]], group: "ProcessGroup | None") -> list[Tensor]:
    """Each (weighted sum, sum of weights) of scalars as the mean over all ranks' samples; 0 where the weights are 0.

    The value is the one that a single process would compute on all ranks' samples, the same on every rank; a rank's
    gradient is scaled so that the mean over ranks of the parameters' gradients, which DistributedDataParallel and FSDP
    take, is that single process's gradient. The weights are taken to be constants where there are several ranks. One
    collective for all means together.
    """
    if group is None or dist.get_world_size(group) == 1:
        return [total / _positive(weight) for total, weight in sums]
    if not sums:
        return []
    size = dist.get_world_size(group)
    both = torch.stack([torch.stack([total.detach(), weight.detach()]) for total, weight in sums])  # [T, 2]
    dist.all_reduce(both, group=group)
    totals, weights = both[:, 0], _positive(both[:, 1])
    means = []
    for (total, _), value, weight in zip(sums, totals / weights, weights, strict=True):
        own = size * total / weight
        # this rank's gradient, everybody's value
        means.append(own - own.detach() + value)
    return means


def _positive(weight: Tensor) -> Tensor:
    return weight.clamp(min=torch.finfo(weight.dtype).tiny)


def exchange_headers(group: "ProcessGroup", own: tuple[int, ...], shared: Header | None) -> list[tuple[int, ...]]:
    """`own` of every rank, after all agree that `shared` is the same on each; None: the arguments here were refused.

    On the CPU where the group has a backend for it ("gloo", or "cpu:gloo,cuda:nccl"), so that a GPU goes on working;
    else this waits for the device.

    Raises:
        ValueError: on every rank, unless all agree.
    """
    header = [int(shared is None), *own, *(_encode(value) for value in (shared or {}).values())]
    header += [0] * (HEADER - len(header))
    every = torch.empty(dist.get_world_size(group), HEADER, dtype=torch.int64, device=_header_device(group))
    dist.all_gather_into_tensor(every, torch.tensor([header], device=every.device), group=group)
    rows = every.tolist()
    if shared is None:
        return []
    refused = [rank for rank, row in enumerate(rows) if row[0]]
    if refused:
        raise ValueError(f"arguments were refused on rank {_listed([*refused])} of the group: see the error there")
    first = 1 + len(own)
    for place, name in enumerate(shared, start=first):
        found = [row[place] for row in rows]
        if len(set(found)) > 1:
            shown = _listed([_decode(code) for code in found])
            raise ValueError(f"{name} must be the same on every rank of the group, got {shown} on ranks 0, 1, ..")
    return [tuple(row[1:first]) for row in rows]


def _header_device(group: "ProcessGroup") -> torch.device:
    if "cpu:" in dist.get_backend_config(group):
        return torch.device("cpu")
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def _encode(value: float | str) -> int:
    """Words are negative numbers, and the bits of positive floats are large ones."""
    if isinstance(value, str):
        return -1 - _WORDS.index(value)
    if isinstance(value, float):
        return struct.unpack("q", struct.pack("d", value))[0]
    return value


def _decode(code: int) -> object:
    if code < 0:
        return _WORDS[-1 - code]
    return struct.unpack("d", struct.pack("q", code))[0] if code >= 2**52 else code


def _listed(values: list[object]) -> str:
    return ", ".join(str(value) for value in values)
