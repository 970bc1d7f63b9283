"""The losses of tuples as their definitions read, from every stack of rows. For tests and benchmarks.

Independent of the backends: it shares no code with them. O(B^2 M D) memory.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_rows

from unihpe_kernels.sv_contrastive.reference import sigma_1


def score_of(name: str, stacks: Tensor) -> Tensor:
    """The score of every stack of M rows [..., M, D], as defined."""
    if name == "singular_value":
        return sigma_1(stacks)
    if name == "product":
        return stacks.prod(-2).sum(-1)
    if name == "cosine":
        return (stacks[..., 0, :] * stacks[..., 1, :]).sum(-1)
    if name == "volume":
        gram = stacks @ stacks.mT
        unit = torch.eye(gram.shape[-1], dtype=torch.bool)
        return -torch.linalg.det(gram.masked_fill(unit, 1)).clamp(min=0).sqrt()
    x, y, z = stacks.unbind(-2)
    u, v = x - y, x - z
    return -((u * u).sum(-1) * (v * v).sum(-1) - (u * v).sum(-1) ** 2) / 2  # "area"


def tuple_contrastive_loss(
    embeddings: Sequence[Tensor],
    *,
    score: str = "singular_value",
    temperature: float | Tensor = 0.07,
    anchors: Sequence[int] | None = None,
    direction: str = "anchor",
    label_smoothing: float = 0.0,
    form: str = "softmax",
    bias: float | Tensor = 0.0,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """The public function of the same name with "paired" negatives, in the dtype of the embeddings and without
    checks."""
    count, batch = len(embeddings), len(embeddings[0])
    every = torch.ones(count, batch, dtype=torch.bool) if present is None else present
    weights = embeddings[0].new_ones(batch) if weights is None else weights
    units = [unit_rows(embedding, dim=1) if normalize else embedding for embedding in embeddings]
    total = torch.stack([embedding.sum() * 0 for embedding in embeddings]).sum()
    weight_total = embeddings[0].new_zeros(())
    for size in range(2, count + 1):
        for subset in itertools.combinations(range(count), size):
            members = torch.tensor([m in subset for m in range(count)])
            pool = (every | ~members[:, None]).all(0).nonzero()[:, 0]
            exact = (every == members[:, None]).all(0)[pool]
            chosen = [subset.index(m) for m in (range(count) if anchors is None else anchors) if m in subset]
            if not exact.any() or not chosen:
                continue
            for m in chosen:
                logits = anchor_logits([units[n][pool] for n in subset], m, score) / temperature
                losses = _losses(logits, direction, label_smoothing, form, bias)
                total = total + (weights[pool] * losses)[exact].sum()
            weight_total = weight_total + weights[pool][exact].sum() * len(chosen)
    return total / weight_total if weight_total != 0 else total


def pairwise_contrastive_loss(
    embeddings: Sequence[Tensor],
    *,
    temperature: float | Tensor = 0.07,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """The public function of the same name, likewise."""
    count, batch = len(embeddings), len(embeddings[0])
    present = torch.ones(count, batch, dtype=torch.bool) if present is None else present
    weights = embeddings[0].new_ones(batch) if weights is None else weights
    units = [unit_rows(embedding, dim=1) if normalize else embedding for embedding in embeddings]
    total, weight_total = torch.stack([embedding.sum() * 0 for embedding in embeddings]).sum(), weights.sum() * 0
    for m, n in itertools.permutations(range(count), 2):
        both = present[m] & present[n]
        logits = (units[m] @ units[n].T / temperature).masked_fill(~present[n], -torch.inf)
        total = total + (weights[both] * (logits.logsumexp(1) - logits.diagonal())[both]).sum()
        weight_total = weight_total + weights[both].sum()
    return total / weight_total if weight_total != 0 else total


def anchor_logits(units: Sequence[Tensor], m: int, score: str) -> Tensor:
    """Scores [B, B]: of anchor i of modality m with the other members of sample j."""
    batch = len(units[0])
    rows = [
        (unit[:, None] if n == m else unit[None]).expand(batch, batch, unit.shape[1]) for n, unit in enumerate(units)
    ]
    return score_of(score, torch.stack(rows, dim=-2))


def _losses(logits: Tensor, direction: str, smoothing: float, form: str, bias: float | Tensor) -> Tensor:
    """Of every anchor [B]."""
    if form == "sigmoid":
        signs = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
        return -torch.nn.functional.logsigmoid(signs * (logits + bias)).sum(1)
    target = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    losses = cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")
    if direction == "anchor":
        return losses
    return (losses + cross_entropy(logits.T, target, label_smoothing=smoothing, reduction="none")) / 2
