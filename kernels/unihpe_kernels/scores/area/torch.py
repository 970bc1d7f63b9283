"""TRIANGLE's score: minus half the squared area, times four, of the triangle that three unit vectors span.

With p = 1 - a, q = 1 - b, r = 1 - c it is -(2 (pq + pr + qr) - p^2 - q^2 - r^2) / 2.
"""

from collections.abc import Sequence

from torch import Tensor

from unihpe_kernels.contrastive.contract import Pullback


def members(gram: Sequence[Tensor], num_members: int) -> list[Tensor]:
    return [1 - gram[0]]


def score(products: Sequence[Tensor], members: Sequence[Tensor]) -> tuple[Tensor, Pullback]:
    p, q = 1 - products[0], 1 - products[1]
    (r,) = members
    half = (p - q).square() / 2 + r * (r / 2 - p - q)

    def gradient(weight: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return [weight * (q + r - p), weight * (p + r - q)], [weight * (p + q - r)]

    return half, gradient


def own(sums: Sequence[Tensor], members: Sequence[Tensor], num_members: int) -> list[Tensor]:
    return [sums[0]]
