"""GRAM's score: minus the volume of the parallelotope that the unit vectors span, -sqrt(det G).

Its gradient has no bound as the volume goes to 0, where the released code gives NaN: 1 / volume is held to 1 / FLOOR.
"""

from collections.abc import Sequence
from itertools import combinations
from math import prod

import torch
from torch import Tensor

from unihpe_kernels.contrastive.contract import Pullback
from unihpe_kernels.scores import basis

FLOOR = 1e-4


def members(gram: Sequence[Tensor], num_members: int) -> list[Tensor]:
    """None of one member; of two their product; of more det of their Gram matrix diag(nu), its minors without one nu
    and without two, and the basis."""
    if num_members < 3:
        return list(gram)
    nu, q = basis.diagonalise(gram, num_members)
    nu = [value.clamp(min=0) for value in nu]
    return [prod(nu[1:], start=nu[0]), *_without(nu, 1), *_without(nu, 2), *q]


def score(products: Sequence[Tensor], members: Sequence[Tensor]) -> tuple[Tensor, Pullback]:
    n = len(products)
    if n == 1:
        (a,) = products
        det = (1 - a) * (1 + a)
    elif n == 2:
        (a, b), (c,) = products, members
        det = (1 - c) * (1 + c) - a * a - b * b + 2 * a * b * c
    else:
        minors, of_two, q = members[1 : n + 1], members[n + 1 : -n * n], members[-n * n :]
        s = basis.rotate(products, q)
        det = members[0] - sum(x * x * minor for x, minor in zip(s, minors, strict=True))
    volume = det.clamp(min=0).sqrt()

    def gradient(weight: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        weight = weight / volume.clamp(min=FLOOR)
        if n == 1:
            return [weight * a], []
        if n == 2:
            return [weight * (a - b * c), weight * (b - a * c)], [weight * (c - a * b)]
        places = {pair: place for place, pair in enumerate(combinations(range(n), 2))}

        def of_both(p: int, r: int) -> Tensor:
            return of_two[places[min(p, r), max(p, r)]]

        d_s = [weight * x * minor for x, minor in zip(s, minors, strict=True)]
        sums = []  # of the cofactors of G
        for p in range(n):
            sums.append(-weight * (minors[p] - sum(s[k] * s[k] * of_both(p, k) for k in range(n) if k != p)))
            sums += [-weight * s[p] * s[r] * of_both(p, r) for r in range(p + 1, n)]
        return basis.rotate_back(d_s, q), sums

    return -volume, gradient


def own(sums: Sequence[Tensor], members: Sequence[Tensor], num_members: int) -> list[Tensor]:
    if num_members < 3:
        return list(sums)
    return basis.of_products(sums, members[-num_members * num_members :], num_members)


def _without(nu: Sequence[Tensor], count: int) -> list[Tensor]:
    """Products of all but `count` of them, for every such choice."""
    n = range(len(nu))
    one = torch.ones_like(nu[0])
    return [prod((nu[k] for k in n if k not in left_out), start=one) for left_out in combinations(n, count)]
