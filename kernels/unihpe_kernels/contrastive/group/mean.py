"""The mean over the anchors of all ranks, and what a loss over a group gives back of it."""

from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.collectives import Collectives


class Mean(NamedTuple):
    """The loss, the same on every rank, beside what it is made of: of this rank's samples [a] the losses, each summed
    over its anchors, and the numbers of anchors; and one over the total weight of all ranks' anchors, 0 where there is
    none. In the compute dtype."""

    loss: Tensor  # []
    sample_loss: Tensor  # [a]
    anchor_counts: Tensor  # [a]
    inverse_total: Tensor  # []

    @classmethod
    def over(
        cls, collectives: Collectives, sample_loss: Tensor, weights: Tensor, anchor_counts: Tensor | None, count: int
    ) -> "Mean":
        """weights [a]: of `weights_of`. anchor_counts: None where every sample has `count` of them."""
        counts = torch.full_like(weights, count) if anchor_counts is None else anchor_counts.to(weights.dtype)
        sums = torch.stack([(weights * sample_loss).sum(), (weights * counts).sum()])
        loss_sum, weight_sum = collectives.sum_of_few(sums.double())
        inverse_total = weight_sum.reciprocal().masked_fill_(weight_sum == 0, 0)
        loss = (loss_sum * inverse_total).to(weights.dtype)
        return cls(loss, sample_loss, counts, inverse_total.to(weights.dtype))

    def weight_gradients(self, weights: Tensor | None, grads: Tensor) -> Tensor | None:
        """Of the weights [a], where there are any. grads []: the gradients of all ranks' results together."""
        if weights is None:
            return None
        excess = self.sample_loss - self.anchor_counts * self.loss
        return (excess * (self.inverse_total * grads.to(self.loss.dtype))).to(weights.dtype)
