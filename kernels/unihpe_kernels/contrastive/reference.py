"""The loss as its definition reads: every tuple stacked, its singular values by SVD. For tests and benchmarks.

O(B^M M D) memory for "all"; differentiable where the SVD is. Independent of the backends: it shares no code with them.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_rows


def singular_value_contrastive_loss(
    embeddings: Sequence[Tensor],
    *,
    temperature: float | Tensor = 0.07,
    negatives: str = "paired",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """The public function of the same name, in the dtype of the embeddings and without checks."""
    count, batch = len(embeddings), len(embeddings[0])
    if present is None:
        present = torch.ones(count, batch, dtype=torch.bool)
    if weights is None:
        weights = embeddings[0].new_ones(batch)
    units = [unit_rows(embedding, dim=1) if normalize else embedding for embedding in embeddings]
    total = torch.stack([embedding.sum() * 0 for embedding in embeddings]).sum()
    weight_total = embeddings[0].new_zeros(())
    for size in range(2, count + 1):
        for subset in itertools.combinations(range(count), size):
            members = torch.tensor([m in subset for m in range(count)])
            pool = (present | ~members[:, None]).all(0).nonzero()[:, 0]
            exact = (present == members[:, None]).all(0)[pool]  # [b]: of the pool, the anchors
            if exact.any():
                losses = dense_anchor_losses([units[m][pool] for m in subset], temperature, negatives)[:, exact]
                weight = weights[pool][exact]
                total = total + (weight * losses).sum()
                weight_total = weight_total + weight.sum() * size
    return total / weight_total if weight_total != 0 else total


def dense_anchor_losses(units: Sequence[Tensor], temperature: float | Tensor, negatives: str) -> Tensor:
    """L[m, i] of the definition for unit vectors, M tensors [B, D] -> [M, B]."""
    count, batch = len(units), len(units[0])
    every = torch.arange(batch)
    losses = []
    for m in range(count):
        if negatives == "all":
            others = torch.cartesian_prod(*[every] * (count - 1)).view(-1, count - 1)  # [B^(M-1), M-1]
        else:
            others = every[:, None].expand(batch, count - 1)
        rows = others.shape[0]
        columns = list(others.T.expand(batch, -1, -1).unbind(1))
        indices = [*columns[:m], every[:, None].expand(batch, rows), *columns[m:]]
        logits = sigma_1(torch.stack([units[n][indices[n]] for n in range(count)], dim=-2)) / temperature  # [B, rows]
        positive = sigma_1(torch.stack(list(units), dim=-2)) / temperature  # [B]
        losses.append(logits.logsumexp(1) - positive)
    return torch.stack(losses)


def sigma_1(stacks: Tensor) -> Tensor:
    """Largest singular value of [..., M, D]."""
    return torch.linalg.svdvals(stacks)[..., 0]
