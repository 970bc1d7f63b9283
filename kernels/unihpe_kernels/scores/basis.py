"""The basis in which the Gram matrix of a sample's N members is diagonal: what scores of four modalities or more share.

With the members' Gram matrix Q diag(nu) Q^T, nu descending, and s = Q^T (products of the anchor with the members), the
tuple's Gram matrix becomes the arrowhead [[1, s^T], [s, diag(nu)]].
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor


def diagonalise(gram: Sequence[Tensor], num_members: int) -> tuple[list[Tensor], list[Tensor]]:
    """nu, N tensors [n], and Q, N^2 of them, row by row; gram: the products of members, N (N - 1) / 2 tensors [n]."""
    matrix = torch.eye(num_members, dtype=torch.float64, device=gram[0].device).repeat(len(gram[0]), 1, 1)
    for (s, t), product in zip(combinations(range(num_members), 2), gram, strict=True):
        matrix[:, s, t] = matrix[:, t, s] = product.double()
    finite = matrix.isfinite().all(2).all(1)  # eigh raises at any other
    # tiny: float64 costs nothing and leaves float32 no error
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], matrix, 0))
    values = torch.where(finite[:, None], values, torch.nan).flip(-1).to(gram[0].dtype)
    vectors = vectors.flip(-1).to(gram[0].dtype)
    return list(values.unbind(-1)), list(vectors.flatten(1).unbind(-1))


def rotate(products: Sequence[Tensor], q: Sequence[Tensor]) -> list[Tensor]:
    """Q^T products."""
    n = len(products)
    return [sum((q[row * n + k] * products[row] for row in range(1, n)), q[k] * products[0]) for k in range(n)]


def rotate_back(gradients: Sequence[Tensor], q: Sequence[Tensor]) -> list[Tensor]:
    """Q gradients."""
    n = len(gradients)
    return [sum((q[row * n + k] * gradients[k] for k in range(1, n)), q[row * n] * gradients[0]) for row in range(n)]


def of_products(sums: Sequence[Tensor], q: Sequence[Tensor], num_members: int) -> list[Tensor]:
    """(Q H Q^T)[s][t] for s < t, of the upper triangle of H, row by row."""
    n = num_members
    h = torch.zeros(len(sums[0]), n, n, dtype=sums[0].dtype, device=sums[0].device)
    places = [(p, r) for p in range(n) for r in range(p, n)]
    for (p, r), entry in zip(places, sums, strict=True):
        h[:, p, r] = h[:, r, p] = entry
    basis = torch.stack(list(q), dim=1).view(-1, n, n)
    whole = basis @ h @ basis.mT
    return [whole[:, s, t] for s, t in combinations(range(n), 2)]
