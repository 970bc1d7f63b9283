"""sigma_1 of three unit vectors in closed form, over broadcast triples, in reused buffers.

With a, b, c the three inner products, G = [[1, a, b], [a, 1, c], [b, c, 1]] has the largest eigenvalue 1 + mu, mu the
largest root of mu^3 - p mu - 2q = 0, p = a^2 + b^2 + c^2, q = abc. Written with m = p/3, r = sqrt(m) and X = q/r^3:

    mu = 2 r f(s),  f(s) = cos(2/3 acos s),  s^2 = (1 + X)/2

Near a double top eigenvalue (X -> -1) the sum 1 + X keeps half of the digits at best. There it is taken from

    r^6 - q^2 = (c^2 - m)^2 (m - c^2/4) + (a^2 - b^2)^2 c^2/4

which is a sum of two non-negative terms, as r^3 + q = (r^6 - q^2)/(r^3 - q).
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Inner products are multiplied by a power of two, which is exact, so that their sixth powers neither underflow
# (from 5e-13 up) nor overflow in float32.
_SCALE = 2.0**20

# f(s) = 1/2 + u (c_1 + c_2 u + .. + c_7 u^6), u = sqrt(2) s in [0, sqrt(2)]: minimax with f(0) exact, error 2.2e-8
# (8.1e-8 when evaluated in float32).
POLYNOMIAL = (
    0.5,
    0.40824691884332653,
    -0.055528581527822606,
    0.018718043531817906,
    -0.0076267207418898786,
    0.0029041582286233477,
    -0.0007947133001053834,
    0.00010628019160304878,
)


@dataclass(frozen=True)
class Operand:
    """One inner product of every triple, in the two forms the closed form reads; any shape that broadcasts."""

    value: Tensor  # 2^20 x
    third: Tensor  # value^2 / 3

    @classmethod
    def of(cls, x: Tensor) -> "Operand":
        value = x * _SCALE
        # the addend keeps m > 0; in float32 it is that of an x of 1e-16
        return cls(value, torch.addcmul(_constants(x.dtype, x.device).tiny_third, value, value, value=1 / 3))

    def unsqueeze(self, dim: int) -> "Operand":
        return Operand(self.value.unsqueeze(dim), self.third.unsqueeze(dim))

    def split(self, sizes: list[int], dim: int = 0) -> list["Operand"]:
        values, thirds = (x.split_with_sizes(sizes, dim) for x in (self.value, self.third))
        return [Operand(value, third) for value, third in zip(values, thirds, strict=True)]


class TripleTile:
    """Buffers for `capacity` triples at a time.

    Every step is one pass over a tile that stays in the cache. The steps avoid what is slow on a CPU: comparisons and
    selections, and acos, cos, exp and sqrt, which go to a scalar-accurate vector library.
    """

    def __init__(self, capacity: int, like: Tensor) -> None:
        self._store = like.new_empty(5, capacity)
        self._shape: tuple[int, ...] | None = None
        self._constants = _constants(like.dtype, like.device)
        # More than the relative error of r^3 - |q| by either formula: the maximum below picks the accurate one.
        self._guard = 1 - 6 * torch.finfo(like.dtype).eps

    def sigma(self, a: Operand, b: Operand, c: Operand, shape: tuple[int, ...]) -> Tensor:
        """sigma_1 of every triple; `shape` is what any two operands broadcast to. Valid until the next call."""
        if shape != self._shape:
            self._shape = shape
            self._buffers = [row[: math.prod(shape)].view(shape) for row in self._store]
        x0, x1, x2, x3, x4 = self._buffers

        t = torch.add(a.third, b.third, out=x0)
        m = torch.add(t, c.third, out=x1)
        gap = torch.sub(t, c.third, alpha=2, out=x2).square_()  # (c^2 - m)^2
        gap.mul_(t.add_(c.third, alpha=0.25))
        cross = torch.sub(a.third, b.third, out=x0).mul_(c.value)
        gap.addcmul_(cross, cross, value=2.25)  # r^6 - q^2
        r = torch.pow(m, -0.5, out=x3).mul_(m)
        cube = m.mul_(r)
        q = torch.mul(b.value, c.value, out=x0).mul_(a.value)
        # r^3 + q: for q >= 0 the sum is the larger and accurate; for q < 0 the quotient is.
        low = gap.div_(torch.abs(q, out=x4).add_(cube))
        top = torch.maximum(low, q.add_(cube, alpha=self._guard), out=x2)
        # u = sqrt(top / r^3)
        u = top.mul_(torch.addcmul(self._constants.tiny_product, top, cube, out=x4).pow_(-0.5))
        f = self._cosine(u, out=x0)
        square = torch.addcmul(self._constants.one, r, f, value=2 / _SCALE, out=x1)  # 1 + mu
        self._inverse = torch.pow(square, -0.5, out=x4)
        self._r, self._f, self._scratch = r, f, x2
        self._operands = (a, b, c)
        return square.mul_(self._inverse)

    def gradients(self, weight: Tensor) -> Iterator[Tensor]:
        """weight * d sigma_1/d(a, b, c), for the triples of the last call, one after the other in one buffer.

        d sigma_1/d a = (a mu + b c) / (3 mu^2 - p) / sigma_1; the ratio is the product of two entries of a unit
        eigenvector and is held to [-1/2, 1/2], which rounding leaves near a double eigenvalue. `weight` is overwritten.
        """
        half = self._f.mul_(self._r)  # mu/2
        gap = self._r.square_().addcmul_(half, half, value=-4).clamp_(max=-_tiny(weight.dtype, 0.8))  # -(3 mu^2 - p)/3
        weight = torch.addcmul(self._constants.zero, weight, self._inverse, value=-1 / 3, out=weight)
        a, b, c = self._operands
        for x, y, z in ((a, b, c), (b, a, c), (c, a, b)):
            ratio = torch.mul(y.value, z.value, out=self._scratch).addcmul_(x.value, half, value=2)
            yield ratio.div_(gap).clamp_(-1.5, 1.5).mul_(weight)

    def _cosine(self, u: Tensor, out: Tensor) -> Tensor:
        if u.dtype == torch.float64:
            return torch.mul(u, math.sqrt(0.5), out=out).clamp_(max=1).acos_().mul_(2 / 3).cos_()
        *rest, second, last = self._constants.polynomial
        value = torch.addcmul(second, u, last, out=out)
        for coefficient in reversed(rest):
            torch.addcmul(coefficient, value, u, out=value)
        return value


@dataclass(frozen=True)
class _Constants:
    """Tensors [], as a fused operation with a scalar wants them."""

    zero: Tensor
    one: Tensor
    tiny_third: Tensor
    tiny_product: Tensor
    polynomial: list[Tensor]


@functools.lru_cache
def _constants(dtype: torch.dtype, device: torch.device) -> _Constants:
    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=dtype, device=device)

    return _Constants(
        scalar(0),
        scalar(1),
        scalar(_tiny(dtype, 0.53)),
        scalar(_tiny(dtype, 0.95)),
        [scalar(c) for c in POLYNOMIAL],
    )


def _tiny(dtype: torch.dtype, power: float) -> float:
    """The smallest normal number to a power below one: what must not underflow when multiplied by itself or others."""
    return torch.finfo(dtype).tiny ** power
