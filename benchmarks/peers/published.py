"""Losses that others publish for the same job, by their own public calls; each says why where it cannot run here."""

import importlib.util
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F


def absent(package: str, needs_gpu: bool = False) -> str:
    """Why a peer's package cannot run here; empty when it can."""
    if importlib.util.find_spec(package) is None:
        return f"absent: {package} is not installed"
    if needs_gpu and not torch.cuda.is_available():
        return f"absent: {package} needs a CUDA device"
    return ""


def symile_all(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """Symile (Saporta et al. 2024): multilinear inner products against every tuple."""
    from symile import Symile

    return Symile(negative_sampling="n_squared")([F.normalize(e, dim=1) for e in embeddings], _scale(temperature))


def symile_exact(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """What `symile_all` should say, for three modalities, written out."""
    x, y, z = (F.normalize(e, dim=1) for e in embeddings)
    logits = torch.einsum("id,jd,kd->ijk", x, y, z) / temperature
    positive = logits.diagonal(dim1=0, dim2=1).diagonal()
    sums = [logits.logsumexp(axes) for axes in ((1, 2), (0, 2), (0, 1))]
    return torch.stack([total - positive for total in sums]).mean()


def symile_paired(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """Symile with as many negatives as "paired" has, the members of a negative shuffled apart."""
    from symile import Symile

    return Symile(negative_sampling="n")([F.normalize(e, dim=1) for e in embeddings], _scale(temperature))


def inf_cl(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """Inf-CL (Cheng et al. 2024), flash InfoNCE of two modalities."""
    from inf_cl import cal_flash_loss

    x, y = (F.normalize(e, dim=1) for e in embeddings)
    scale = 1 / temperature
    return (cal_flash_loss(x, y, scale=scale).mean() + cal_flash_loss(y, x, scale=scale).mean()) / 2


def siglip(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """The sigmoid loss of two modalities (Zhai et al. 2023) by siglip-kernel."""
    from siglip_kernel import fused_siglip_loss

    x, y = (F.normalize(e, dim=1) for e in embeddings)
    log_scale, bias = _scale(temperature).log().to(x), torch.tensor(-10.0).to(x)
    return fused_siglip_loss(x, y, log_scale, bias)


def siglip_exact(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    x, y = (F.normalize(e, dim=1) for e in embeddings)
    logits = x @ y.T / temperature - 10.0
    signs = 2 * torch.eye(len(x), dtype=x.dtype, device=x.device) - 1
    return -F.logsigmoid(signs * logits).sum(1).mean()


def _scale(temperature: float) -> Tensor:
    return torch.tensor(1 / temperature)


def symile_paired_exact(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """What `symile_paired` should say after the same seed: it draws one permutation a member, anchor by anchor."""
    units = [F.normalize(e, dim=1) for e in embeddings]
    losses = []
    for m, anchor in enumerate(units):
        others = [u for n, u in enumerate(units) if n != m]
        negatives = torch.ones_like(anchor)
        for other in others:
            negatives = negatives * other[torch.randperm(len(other))]
        positive = anchor * torch.stack(others).prod(0)
        logits = anchor @ negatives.T
        logits = torch.diagonal_scatter(logits, positive.sum(1)) / temperature
        losses.append(F.cross_entropy(logits, torch.arange(len(anchor), device=anchor.device)))
    return torch.stack(losses).mean()


# The formulas of losses that are published as code and not as a package. As there, every B x B score is kept.


def gram(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """GRAM (Cicchetti et al. 2025): determinants of B^2 Gram matrices."""
    units = [F.normalize(e, dim=1) for e in embeddings]
    anchor, members = units[0], units[1:]
    batch = len(anchor)

    def of_members(y: Tensor, z: Tensor) -> Tensor:
        return (y * z).sum(1).expand(batch, batch)

    crosses = [anchor @ z.T for z in members]
    rows = [[(anchor * anchor).sum(1)[:, None].expand(batch, batch), *crosses]]
    rows += [[cross, *(of_members(y, z) for z in members)] for cross, y in zip(crosses, members, strict=True)]
    grams = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)  # [B, B, M, M]
    return _both_ways(-torch.linalg.det(grams).abs().sqrt() / temperature)


def triangle(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """TRIANGLE (Grassucci et al. 2025): B^2 differences of D numbers."""
    x, y, z = (F.normalize(e, dim=1) for e in embeddings)
    u, v = x[:, None] - y, x[:, None] - z  # [B, B, D]
    return _both_ways(-((u**2).sum(2) * (v**2).sum(2) - (u * v).sum(2) ** 2) / 2 / temperature)


def clip_pairs(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """CLIP's loss over every two."""
    units = [F.normalize(e, dim=1) for e in embeddings]
    losses = [_both_ways(x @ y.T / temperature, smoothing=0.0) for x, y in combinations(units, 2)]
    return torch.stack(losses).mean()


def siglip_pairs(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """SigLIP's loss over every two."""
    return torch.stack([siglip_exact(pair, temperature) for pair in combinations(embeddings, 2)]).mean()


def _both_ways(logits: Tensor, smoothing: float = 0.1) -> Tensor:
    target = torch.arange(len(logits), device=logits.device)
    ways = [F.cross_entropy(matrix, target, label_smoothing=smoothing) for matrix in (logits, logits.T)]
    return (ways[0] + ways[1]) / 2
