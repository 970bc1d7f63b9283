"""sigma_1, the largest singular value of unit vectors, from their inner products; docs/loss.md derives it.

One member: sqrt(1 + |s|). Two: the closed form for the largest eigenvalue 1 + mu of a 3 x 3 Gram matrix. More: the
largest root nu_1 + t of the secular equation of an arrowhead matrix, with alpha = nu_1 - 1 and gaps g_n = nu_1 - nu_n:

    t + alpha = sum_n s_n^2 / (t + g_n)

in which every term is non-negative: t keeps its relative accuracy, and so does the eigenvector. It is found by steps
that keep the first pole, s_1^2/t, as it is and take the tangent of the others: a quadratic. Those poles are convex, so
every step stays below the root, and the steps converge quadratically from any start below it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unihpe_kernels.contrastive.contract import Pullback
from unihpe_kernels.scores import basis


def members(gram: Sequence[Tensor], num_members: int) -> list[Tensor]:
    """None of one member; of two their product; of more alpha, the gaps and the basis."""
    if num_members < 3:
        return list(gram)
    nu, q = basis.diagonalise(gram, num_members)
    return [(nu[0] - 1).clamp(min=0), *(nu[0] - value for value in nu), *q]


def score(products: Sequence[Tensor], members: Sequence[Tensor]) -> tuple[Tensor, Pullback]:
    if len(products) == 1:
        return _one(products[0])
    return _two(*products, *members) if len(products) == 2 else _more(products, members)


def own(sums: Sequence[Tensor], members: Sequence[Tensor], num_members: int) -> list[Tensor]:
    if num_members < 3:
        return list(sums)
    return basis.of_products(sums, members[num_members + 1 :], num_members)


def _one(s: Tensor) -> tuple[Tensor, Pullback]:
    sigma = (1 + s.abs()).sqrt()
    return sigma, lambda weight: ([weight * s.sign() / (2 * sigma)], [])


def _two(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Pullback]:
    """mu = r (1 + v), r = sqrt(m), m = (a^2 + b^2 + c^2)/3, v = 2 cos(2/3 acos s) - 1, 4 s^2 = 2 (1 + X), X = abc/r^3.

    Near a double top eigenvalue (X = -1) the sum 1 + X keeps half of its digits at best: there 4 s^2 is
    (1 - X^2) + (1 + X)^2, of which the first is found without loss and the square leaves nothing of the other's error.
    """
    finfo = torch.finfo(a.dtype)
    a2, b2 = a * a, b * b
    m = (c * c + (a2 + b2)) / 3 + finfo.tiny**0.9  # m of nothing: its inverse still is a normal number
    over_r = m.rsqrt()
    over_m = over_r * over_r
    d1, d2 = a2 * over_m - 1, b2 * over_m - 1
    total, product = d1 + d2, d1 * d2
    rest = total * product + (total * total - product)  # 1 - X^2
    top = (a * b * over_m) * (c * over_r) + 1
    half_s = (top * top + rest).clamp(min=0).sqrt() / 2
    angle = half_s.clamp(max=1).asin() * (2 / 3)
    v = math.sqrt(3) * angle.sin() - 2 * (angle / 2).sin().square()  # 2 cos(pi/3 - angle) - 1
    mu = m * over_r * (1 + v)
    sigma = (1 + mu).sqrt()

    def gradient(weight: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        # Divided by the gap, the sums below are products of two entries of a unit eigenvector, within [-1/2, 1/2]; near
        # a double eigenvalue, where rounding could carry them out of there, what is added to the gap keeps them in.
        gap = v * (v + 2) + 4 * finfo.eps  # (3 mu^2 - 3 m)/(3 m)
        factor = weight * over_m / (3 * gap * sigma)
        return [(a * mu + b * c) * factor, (b * mu + a * c) * factor], [(c * mu + a * b) * factor]

    return sigma, gradient


def _more(products: Sequence[Tensor], members: Sequence[Tensor]) -> tuple[Tensor, Pullback]:
    n = len(products)
    alpha, gaps, q = members[0], members[1 : n + 1], members[n + 1 :]
    s = basis.rotate(products, q)
    squares = [x * x for x in s]
    t = arrowhead_root(squares, alpha, gaps)
    sigma = (t + (alpha + 1)).sqrt_()

    def gradient(weight: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        # The eigenvector, scaled by sqrt(t): v_0^2 = t, v_0 v_1 = s_1, v_1^2 = s_1^2/t, v_0 v_n = t r_n with
        # r_n = s_n/(t + g_n). For s_1 -> 0 the quotient s_1^2/t is taken from the secular equation instead.
        ratios = [x / (t + gap) for x, gap in zip(s[1:], gaps[1:], strict=True)]
        top, norm = t + alpha, torch.zeros_like(t)
        for x, ratio in zip(s[1:], ratios, strict=True):
            top = top - x * ratio
            norm += ratio.square()
        top = torch.maximum(top, squares[0] / t)
        weight = weight / (norm.mul_(t).add_(t).add_(top).mul_(sigma))  # d sigma = v^T dG v / (2 sigma)
        first = weight * s[0]
        rotated = [weight * t * ratio for ratio in ratios]
        sums = [weight * top, *(first * ratio for ratio in ratios)]
        sums += [rotated[p] * ratios[r] for p in range(n - 1) for r in range(p, n - 1)]
        return basis.rotate_back([first, *rotated], q), sums

    return sigma, gradient


def arrowhead_root(squares: Sequence[Tensor], alpha: Tensor, gaps: Sequence[Tensor]) -> Tensor:
    """t, from the squares of s."""
    tiny = torch.finfo(squares[0].dtype).tiny ** 0.75
    # Each pole alone bounds t from below: the root of (t + alpha) (t + g) = s^2.
    t = torch.full_like(squares[0], tiny)
    for square, gap in zip(squares, gaps, strict=True):
        root = (4 * square + ((alpha - gap).square() + tiny)).sqrt_()
        torch.maximum(t, (2 * square - 2 * alpha * gap).div_(root.add_(alpha + gap)), out=t)
    if len(squares) == 1:
        return t  # exact
    # The worst of 10^6 cases, near-degenerate ones among them, comes to 1e-10 in five steps and to 1e-16 in seven.
    for _ in range(7 if t.dtype == torch.float64 else 5):
        # (1 + slope) t^2 + linear t = s_1^2
        others, slope = torch.zeros_like(t), torch.zeros_like(t)
        for square, gap in zip(squares[1:], gaps[1:], strict=True):
            shifted = t + gap
            term = square / shifted
            others += term
            slope += term.div_(shifted)
        linear = alpha - others - slope * t
        slope += 1
        root = (linear.square() + 4 * slope * squares[0]).sqrt_()
        half = (root + linear.abs()).mul_(0.5).clamp_(min=tiny)
        t = torch.maximum(t, torch.where(linear > 0, squares[0] / half, half / slope))
    return t
