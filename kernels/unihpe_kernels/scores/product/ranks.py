"""What the product loss wants of the other ranks of a group, or of none: their rows, sums over them, the common mean.

The rule for gradients is that of `tuple_contrastive_loss`: a rank differentiates the loss of the whole batch so that
the mean over ranks of parameters' gradients is that of one process.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from unihpe_kernels.collectives import Collectives
from unihpe_kernels.contrastive.group.headers import agree
from unihpe_kernels.contrastive.options import Arguments

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Alone:
    """One process: everybody's samples are its own."""

    begin = 0

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def shared(self, number: Tensor) -> Tensor:
        return number

    def logsumexp(self, partial: Tensor) -> Tensor:
        return partial

    def mean(self, total: Tensor, weight: Tensor) -> Tensor:
        """0 without any weight."""
        return total / torch.where(weight > 0, weight, 1)


class Ranks:
    """The ranks of a group, which agree on the loss."""

    def __init__(self, group: "ProcessGroup", given: Arguments, negatives: str) -> None:
        self._collectives = Collectives(group, agree(group, given, negatives)[0])
        self.begin = self._collectives.begin

    def gather(self, rows: Tensor) -> Tensor:
        """[a, ..] of every rank: [b, ..]. Backward adds up the gradients of a row on all ranks."""
        return _Gather.apply(rows, self._collectives)

    def shared(self, number: Tensor) -> Tensor:
        """A number that all ranks share gets the mean over ranks of its gradients, the same on each."""
        return _Shared.apply(number, self._collectives)

    def logsumexp(self, partial: Tensor) -> Tensor:
        """Over ranks, of a number each [b]; this rank's gradient is that of its own."""
        every = partial.new_empty(self._collectives.ranks, len(partial))
        dist.all_gather_into_tensor(every, partial.detach()[None], group=self._collectives.group)
        total = every.logsumexp(0)
        share = torch.exp(partial.detach() - total)
        return total + share * (partial - partial.detach())

    def mean(self, total: Tensor, weight: Tensor) -> Tensor:
        """Of the sums and weights of all ranks, 0 without any weight."""
        both = self._collectives.sum_of_few(torch.stack([total.detach(), weight.detach()]))
        everyone = torch.where(both[1] > 0, both[1], 1)
        value = both[0] / everyone
        own = self._collectives.ranks * (total - value * weight) / everyone
        return own - own.detach() + value


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, collectives: Collectives) -> Tensor:
        ctx.collectives = collectives
        return collectives.gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.collectives.scatter_sum(gradient), None


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, number: Tensor, collectives: Collectives) -> Tensor:
        ctx.collectives = collectives
        return number.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.collectives.sum_of_few(gradient[None])[0] / ctx.collectives.ranks, None
