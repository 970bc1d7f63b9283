"""What losses over many processes are made of: rows of every rank, and means over all ranks, with exact gradients.

One rule for all of them: the value is the one that a single process would compute on all ranks' samples, the same on
every rank, and a rank's gradient is scaled so that the mean over ranks of the parameters' gradients, which
DistributedDataParallel takes, is that single process's gradient. Needs torch alone.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup


def gather_rows(x: Tensor, group: Group) -> tuple[Tensor, int]:
    """The rows [sum of B, ..] of every rank's x [B, ..], in rank order, and where this rank's begin.

    B may differ from rank to rank and be 0. The backward pass adds up what every rank's gradient says of a row.
    """
    sizes = _sizes(len(x), group)
    rank = dist.get_rank(group)
    return _GatherRows.apply(x, sizes, group), sum(sizes[:rank])


def _sizes(size: int, group: Group) -> list[int]:
    # numbers of the host, so that the device need not be waited for
    device = "cpu" if "gloo" in dist.get_backend_config(group) else "cuda"
    sizes = torch.empty(dist.get_world_size(group), dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(sizes, torch.tensor([size], device=device), group=group)
    return sizes.tolist()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: Group) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        most = max(sizes)
        # the collectives want the same size of all
        gathered = x.new_empty(len(sizes) * most, *x.shape[1:])
        dist.all_gather_into_tensor(gathered, _padded(x, most), group=group)
        return torch.cat([part[:size] for part, size in zip(gathered.split(most), sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        most = max(ctx.sizes)
        padded = torch.cat([_padded(part, most) for part in gradient.split(ctx.sizes)])
        mine = gradient.new_empty(most, *gradient.shape[1:])
        dist.reduce_scatter_tensor(mine, padded, group=ctx.group)
        return mine[: ctx.sizes[dist.get_rank(ctx.group)]], None, None


def _padded(x: Tensor, rows: int) -> Tensor:
    return torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])]).contiguous()


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
