"""What the singular-value loss is measured against: the same loss by other means, and other losses for the same job.

Each takes M tensors [B, D] and a temperature and is differentiable. Those of "all" are for three modalities and build
all B^3 scores at once; those of "paired" build all B^2 scores of an anchor's modality.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from unihpe_kernels.sv_contrastive.closed_form import POLYNOMIAL

Loss = Callable[[Sequence[Tensor], float], Tensor]


def svdvals_of_stacks(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """Singular values of B^3 stacks of 3 x D."""
    x, y, z = (F.normalize(e, dim=1) for e in embeddings)
    batch, width = x.shape
    shape = (batch, batch, batch, width)
    rows = (x[:, None, None].expand(shape), y[None, :, None].expand(shape), z[None, None].expand(shape))
    return _contrast(torch.linalg.svdvals(torch.stack(rows, dim=-2))[..., 0], temperature)


def svdvals_of_grams(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """Singular values of the B^3 Gram matrices, 3 x 3: sigma_1 is the square root of the largest."""
    return _contrast(torch.linalg.svdvals(_gram_matrices(embeddings))[..., 0].sqrt(), temperature)


def eigvalsh_of_grams(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    return _contrast(torch.linalg.eigvalsh(_gram_matrices(embeddings))[..., -1].sqrt(), temperature)


def closed_form(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """The closed form, with its accuracy cure and polynomial, as one would write it; autograd does the rest."""
    return _contrast(_largest_of_three(*_inner_products(embeddings)), temperature)


def paired_svdvals_of_stacks(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """Singular values of M B^2 stacks of M x D: the anchor's own row over the others' rows of one sample."""
    units = [F.normalize(e, dim=1) for e in embeddings]
    batch, width = units[0].shape
    shape = (batch, batch, width)
    scores = []
    for m in range(len(units)):
        rows = [u[:, None].expand(shape) if n == m else u[None].expand(shape) for n, u in enumerate(units)]
        scores.append(torch.linalg.svdvals(torch.stack(rows, dim=-2))[..., 0])
    return _contrast_pairs(torch.stack(scores), temperature)


def paired_svdvals_of_grams(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    largest = torch.linalg.svdvals(_pair_gram_matrices(embeddings))[..., 0]
    return _contrast_pairs(largest.sqrt(), temperature)


def paired_eigvalsh_of_grams(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    largest = torch.linalg.eigvalsh(_pair_gram_matrices(embeddings))[..., -1]
    return _contrast_pairs(largest.sqrt(), temperature)


def paired_closed_form(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """Three modalities, or two, whose sigma_1 is sqrt(1 + |x.y|)."""
    units = [F.normalize(e, dim=1) for e in embeddings]
    scores = []
    for m, anchor in enumerate(units):
        others = [u for n, u in enumerate(units) if n != m]
        products = [anchor @ u.T for u in others]
        if len(units) == 2:
            scores.append((1 + products[0].abs()).sqrt())
        else:
            scores.append(_largest_of_three(*products, (others[0] * others[1]).sum(1).expand_as(products[0])))
    return _contrast_pairs(torch.stack(scores), temperature)


def cosine_infonce(embeddings: Sequence[Tensor], temperature: float) -> Tensor:
    """Another loss, two modalities: symmetric InfoNCE of cosines (CLIP), B^2 logits kept."""
    x, y = (F.normalize(e, dim=1) for e in embeddings)
    logits = x @ y.T / temperature
    target = torch.arange(len(x), device=x.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _largest_of_three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """sigma_1 of three unit rows with inner products a, b, c, which broadcast."""
    tiny = 1e-20
    aa, bb, cc = a * a, b * b, c * c
    m = (aa + bb + cc) / 3 + tiny
    q = a * b * c
    r = m.sqrt()
    cosine = q / (m * r)
    d1, d2, d3 = (aa - m) / m, (bb - m) / m, (cc - m) / m
    one_minus_square = d3 * d3 - d1 * d2 - d1 * d2 * d3
    # 1 + X, for X < 0 from 1 - X^2
    top = torch.where(cosine < 0, one_minus_square.clamp(min=0) / (1 + cosine.abs()), 1 + cosine)
    u = (top + tiny).sqrt()
    f = torch.full_like(u, POLYNOMIAL[-1])
    for coefficient in reversed(POLYNOMIAL[:-1]):
        f = f * u + coefficient
    return (1 + 2 * r * f).sqrt()


def _inner_products(embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = (F.normalize(e, dim=1) for e in embeddings)
    return (x @ y.T)[:, :, None], (x @ z.T)[:, None, :], (y @ z.T)[None, :, :]


def _gram_matrices(embeddings: Sequence[Tensor]) -> Tensor:
    a, b, c = torch.broadcast_tensors(*_inner_products(embeddings))
    one = torch.ones_like(a)
    return torch.stack([torch.stack(row, -1) for row in ((one, a, b), (a, one, c), (b, c, one))], -2)


def _pair_gram_matrices(embeddings: Sequence[Tensor]) -> Tensor:
    """[M, B, B, M, M], the anchor's row first."""
    units = [F.normalize(e, dim=1) for e in embeddings]
    batch = len(units[0])
    grams = []
    for m, anchor in enumerate(units):
        others = torch.stack([u for n, u in enumerate(units) if n != m], 1)  # [B, M - 1, D]
        inner = (others @ others.mT).expand(batch, -1, -1, -1)
        # a row's own square is one, so that no gradient passes there
        inner = inner.masked_fill(torch.eye(others.shape[1], dtype=torch.bool, device=anchor.device), 1)
        cross = torch.einsum("id,jnd->ijn", anchor, others)[..., None]
        one = torch.ones_like(cross[..., :1, :])
        grams.append(torch.cat([torch.cat([one, cross.mT], -1), torch.cat([cross, inner], -1)], -2))
    return torch.stack(grams)


def _contrast(scores: Tensor, temperature: float) -> Tensor:
    logits = scores / temperature
    positive = logits.diagonal(dim1=0, dim2=1).diagonal()
    sums = [logits.logsumexp(axes) for axes in ((1, 2), (0, 2), (0, 1))]
    return torch.stack([total - positive for total in sums]).mean()


def _contrast_pairs(scores: Tensor, temperature: float) -> Tensor:
    """scores: [M, B anchors, B samples]."""
    logits = scores / temperature
    return (logits.logsumexp(2) - logits.diagonal(dim1=1, dim2=2)).mean()
