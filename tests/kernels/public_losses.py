"""The published losses as their formulas read, in the dtype of the embeddings: every B x B (or B^3) score is kept.

Independent of the package: they share no code with it. Rows are normalised here where a loss wants unit rows.
Sources: GRAM (Cicchetti et al., ICLR 2025), TRIANGLE (Grassucci et al., NeurIPS 2025), Symile (Saporta et al., NeurIPS
2024), CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023), UniHPE (arXiv 2311.16477).
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

Score = Callable[[Tensor, Sequence[Tensor]], Tensor]


def unit(embeddings: Sequence[Tensor]) -> list[Tensor]:
    return [F.normalize(z, dim=1) for z in embeddings]


# Scores of anchor i against the members of sample j: [B, B] from an anchor [B, D] and its members, each [B, D].


def _stacks(anchor: Tensor, members: Sequence[Tensor]) -> Tensor:
    """[B, B, M, D]."""
    batch = len(anchor)
    rows = [anchor[:, None].expand(batch, batch, -1), *(m[None].expand(batch, batch, -1) for m in members)]
    return torch.stack(rows, dim=-2)


def singular_value(anchor: Tensor, members: Sequence[Tensor]) -> Tensor:
    return torch.linalg.svdvals(_stacks(anchor, members))[..., 0]


def volume(anchor: Tensor, members: Sequence[Tensor]) -> Tensor:
    """Of the parallelepiped: the product of the singular values of the stack, negated."""
    return -torch.linalg.svdvals(_stacks(anchor, members)).prod(-1)


def area(anchor: Tensor, members: Sequence[Tensor]) -> Tensor:
    """TRIANGLE's released formula, without a root, negated."""
    first, second = members
    u, v = anchor[:, None] - first[None], anchor[:, None] - second[None]  # [B, B, D]
    return -(u.square().sum(-1) * v.square().sum(-1) - (u * v).sum(-1).square()) / 2


def cosine(anchor: Tensor, members: Sequence[Tensor]) -> Tensor:
    (member,) = members
    return anchor @ member.T


def product(anchor: Tensor, members: Sequence[Tensor]) -> Tensor:
    return anchor @ torch.stack(list(members)).prod(0).T


SCORES: dict[str, Score] = {
    "singular_value": singular_value,
    "volume": volume,
    "area": area,
    "cosine": cosine,
    "product": product,
}


def scores(name: str, units: Sequence[Tensor], anchor: int) -> Tensor:
    """[B anchors, B samples] with modality `anchor` first."""
    return SCORES[name](units[anchor], [z for m, z in enumerate(units) if m != anchor])


# Forms of a [B, B] matrix of logits whose diagonal is the positives.


def softmax(logits: Tensor, direction: str, label_smoothing: float) -> Tensor:
    target = torch.arange(len(logits))
    rows = F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    if direction == "anchor":
        return rows
    return (rows + F.cross_entropy(logits.T, target, label_smoothing=label_smoothing)) / 2


def sigmoid(logits: Tensor) -> Tensor:
    """SigLIP's: the sum over candidates, the mean over anchors."""
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


# The losses under their own names.


def gram(embeddings: Sequence[Tensor], temperature: float | Tensor = 0.07, label_smoothing: float = 0.1) -> Tensor:
    """GRAM: modality 0 against the tuples of the others, both ways."""
    units = unit(embeddings)
    return softmax(volume(units[0], units[1:]) / temperature, "both", label_smoothing)


def triangle(embeddings: Sequence[Tensor], temperature: float | Tensor = 0.07, label_smoothing: float = 0.1) -> Tensor:
    units = unit(embeddings)
    return softmax(area(units[0], units[1:]) / temperature, "both", label_smoothing)


def clip(embeddings: Sequence[Tensor], temperature: float | Tensor = 0.07) -> Tensor:
    x, y = unit(embeddings)
    return softmax(x @ y.T / temperature, "both", 0.0)


def pairwise(embeddings: Sequence[Tensor], temperature: float | Tensor = 0.07) -> Tensor:
    """CLIP's over every two modalities."""
    return torch.stack([clip(pair, temperature) for pair in combinations(embeddings, 2)]).mean()


def siglip(embeddings: Sequence[Tensor], temperature: float | Tensor = 0.1, bias: float | Tensor = -10.0) -> Tensor:
    x, y = unit(embeddings)
    return sigmoid(x @ y.T / temperature + bias)


def symile_n_squared(
    embeddings: Sequence[Tensor], temperature: float | Tensor = 0.07, normalize: bool = True
) -> Tensor:
    """Three modalities: every (i, j, k) against the sums over the two that are no anchor."""
    x, y, z = unit(embeddings) if normalize else embeddings
    logits = torch.einsum("id,jd,kd->ijk", x, y, z) / temperature
    positives = logits.diagonal(dim1=0, dim2=1).diagonal()
    return torch.stack([logits.logsumexp(axes) - positives for axes in ((1, 2), (0, 2), (0, 1))]).mean()


def symile_n(
    embeddings: Sequence[Tensor],
    permutations: Sequence[Sequence[Tensor]],
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
) -> Tensor:
    """permutations[m]: of each modality but m in order, a permutation of [0, B) that draws its rows as negatives.

    The candidates of anchor (m, i) are B: its positive tuple in place i, in the others the drawn tuples.
    """
    rows = unit(embeddings) if normalize else list(embeddings)
    losses = []
    for m, anchor in enumerate(rows):
        others = [z for n, z in enumerate(rows) if n != m]
        drawn = torch.stack([z[order] for z, order in zip(others, permutations[m], strict=True)]).prod(0)
        positives = (anchor * torch.stack(others).prod(0)).sum(1)
        logits = torch.diagonal_scatter(anchor @ drawn.T, positives) / temperature
        losses.append(F.cross_entropy(logits, torch.arange(len(anchor))))
    return torch.stack(losses).mean()
