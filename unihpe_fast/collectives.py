"""What losses over many processes are made of: rows of every rank, and means over all ranks, with exact gradients.

One rule for all of them: the value is the one that a single process would compute on all ranks' samples, the same on
every rank, and a rank's gradient is scaled so that the mean over ranks of the parameters' gradients, which
DistributedDataParallel and FSDP take, is that single process's gradient: the rule of
`unihpe_kernels.singular_value_contrastive_loss`. Needs torch alone.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unihpe_kernels.collectives import Wire, exchange_headers

Group = dist.ProcessGroup


class Rows:
    """The rows of all ranks, of which each holds `own`; their numbers may differ, and be 0."""

    def __init__(self, own: int, group: Group) -> None:
        self._wire = Wire(group, [size for (size,) in exchange_headers(group, (own,), {})])
        self.begin = self._wire.begin
        """where this rank's begin"""

    def gather(self, x: Tensor) -> Tensor:
        """x [own, ..] of every rank in their order: [all, ..]. Backward adds up the gradients of a row on all ranks."""
        return _GatherRows.apply(x, self._wire)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, wire: Wire) -> Tensor:
        ctx.wire = wire
        return wire.gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.wire.scatter_sum(gradient), None


def global_means(sums: list[tuple[Tensor, Tensor]], group: Group | None) -> list[Tensor]:
    """Each (weighted sum, sum of weights) of scalars as the mean over all ranks' samples; 0 where the weights are 0.

    The weights are taken to be constants where there are several ranks. One collective for all means together.
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
