"""What the singular-value loss is measured against: the same loss, M = 3 and "all", by other means.

Each takes three [B, D] tensors and a temperature, is differentiable, and builds all B^3 scores at once.
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
    a, b, c = _inner_products(embeddings)
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
    return _contrast((1 + 2 * r * f).sqrt(), temperature)


PEERS: dict[str, Loss] = {
    "svdvals of stacks": svdvals_of_stacks,
    "svdvals of Grams": svdvals_of_grams,
    "eigvalsh of Grams": eigvalsh_of_grams,
    "closed form": closed_form,
    "closed form, torch.compile": torch.compile(closed_form, dynamic=False),
}


def _inner_products(embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = (F.normalize(e, dim=1) for e in embeddings)
    return (x @ y.T)[:, :, None], (x @ z.T)[:, None, :], (y @ z.T)[None, :, :]


def _gram_matrices(embeddings: Sequence[Tensor]) -> Tensor:
    a, b, c = torch.broadcast_tensors(*_inner_products(embeddings))
    one = torch.ones_like(a)
    return torch.stack([torch.stack(row, -1) for row in ((one, a, b), (a, one, c), (b, c, one))], -2)


def _contrast(scores: Tensor, temperature: float) -> Tensor:
    logits = scores / temperature
    positive = logits.diagonal(dim1=0, dim2=1).diagonal()
    sums = [logits.logsumexp(axes) for axes in ((1, 2), (0, 2), (0, 1))]
    return torch.stack([total - positive for total in sums]).mean()
