"""sigma_1 of three unit vectors in closed form, over broadcast triples, in reused buffers.

With a, b, c the three inner products, G = [[1, a, b], [a, 1, c], [b, c, 1]] has the largest eigenvalue 1 + mu, mu the
largest root of mu^3 - p mu - 2q = 0, p = a^2 + b^2 + c^2, q = abc. Written with m = p/3, r = sqrt(m) and X = q/r^3:

    mu = 2 r f(s),  f(s) = cos(2/3 acos s),  s^2 = (1 + X)/2

Near a double top eigenvalue (X -> -1) the sum 1 + X keeps half of its digits at best. So it is taken from

    4 s^2 = (1 - X^2) + (1 + X)^2,  r^6 (1 - X^2) = (c^2 - m)^2 (m - c^2/4) + (a^2 - b^2)^2 c^2/4

where every term is non-negative and the square leaves nothing of the error of 1 + X.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Inner products are multiplied by a power of two, which is exact, so that their sixth powers do not overflow and, from
# 1e-12 up, are normal numbers in float32.
SCALE = 2.0**20

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


_HALF_ROOT = math.sqrt(0.5)


@dataclass(frozen=True)
class Operand:
    """One inner product of every triple, in the two forms the closed form reads; any shape that broadcasts."""

    value: Tensor  # 2^20 x
    third: Tensor  # value^2 / 3

    @classmethod
    def of(cls, x: Tensor) -> "Operand":
        return cls.scaled(x * SCALE)

    @classmethod
    def scaled(cls, value: Tensor) -> "Operand":
        # the addend keeps m^3 a normal number; in float32 it is that of an x of 7e-13
        tiny = _constants(value.dtype, value.device).tiny_third
        return cls(value, torch.addcmul(tiny, value, value, value=1 / 3))

    def unsqueeze(self, dim: int) -> "Operand":
        return Operand(self.value.unsqueeze(dim), self.third.unsqueeze(dim))

    def unbind(self) -> list["Operand"]:
        return [Operand(value, third) for value, third in zip(self.value, self.third, strict=True)]

    def split(self, sizes: list[int], dim: int = 0) -> list["Operand"]:
        if len(sizes) == 1:
            return [self]
        values, thirds = (x.split_with_sizes(sizes, dim) for x in (self.value, self.third))
        return [Operand(value, third) for value, third in zip(values, thirds, strict=True)]


class TripleTile:
    """Buffers for `capacity` triples at a time.

    Every step is one pass over a tile that stays in the cache. The steps avoid what is slow on a CPU: comparisons and
    selections; acos, cos, exp and sqrt, which go to a scalar-accurate vector library; two scalars in one operation,
    which is not vectorised.
    """

    def __init__(self, capacity: int, like: Tensor, store: Tensor | None = None) -> None:
        """store: [5, capacity] to work in."""
        self._store = like.new_empty(5, capacity) if store is None else store
        self._shape: tuple[int, ...] | None = None
        self._constants = _constants(like.dtype, like.device)
        # the scaled mu is this times `_root`
        self._lead = 2.0 if like.dtype == torch.float64 else 2 * POLYNOMIAL[-1] * _HALF_ROOT ** (len(POLYNOMIAL) - 1)

    def sigma(
        self, a: Operand, b: Operand, c: Operand, shape: tuple[int, ...], keep: Sequence[Tensor] | None = None
    ) -> Tensor:
        """sigma_1 of every triple; `shape` is what any two operands broadcast to. Valid until the next call.

        keep: two tensors of this shape to work in. The first will be what `recall` takes, the second that of `slopes`.
        """
        self._hold(a, b, c, shape)
        x0, x1, x2, *own = self._buffers
        x3, x4 = own if keep is None else keep

        t = torch.add(a.third, b.third, out=x0)
        m = torch.add(t, c.third, out=x1)
        square = torch.sub(t, c.third, alpha=2, out=x2).square_()  # (c^2 - m)^2
        square.mul_(t.add_(c.third, alpha=0.25))
        cross = torch.sub(a.third, b.third, out=x0).mul_(c.value)
        square.addcmul_(cross, cross, value=2.25)  # r^6 (1 - X^2)
        r = torch.pow(m, -0.5, out=x4).mul_(m)
        product = torch.mul(a.value, b.value, out=x3)
        top = torch.mul(m, r, out=x0).addcmul_(product, c.value)  # r^3 (1 + X)
        square.addcmul_(top, top)  # r^6 4 s^2
        self._twice_s = torch.pow(m, 3, out=x0).div_(square).pow_(-0.5)
        self._root = self._cosine(self._twice_s, out=x3).mul_(r)
        eigenvalue = torch.add(self._constants.one, self._root, alpha=self._lead / SCALE, out=x2)
        self._inverse = torch.pow(eigenvalue, -0.5, out=x4)
        return eigenvalue.mul_(self._inverse)

    def least_gap(self) -> Tensor:
        """The least s of the last `sigma` times two, []: 3 mu^2 - p is p sqrt(4/3) times as much while it is small."""
        return self._twice_s.amin()

    def gradients(self, weight: Tensor) -> Iterator[Tensor]:
        """weight * d sigma_1/d(a, b, c), for the triples of the last `sigma`, one after the other in one buffer.

        d sigma_1/d a = (a mu + b c) / (3 mu^2 - p) / sigma_1; the ratio is the product of two entries of a unit
        eigenvector and is held to [-1/2, 1/2], which rounding leaves near a double eigenvalue. `weight` is overwritten.
        """
        scratch = self._buffers[0]
        gap = self._third_of_gap().clamp_(max=-_tiny(weight.dtype, 0.8))
        weight = torch.addcmul(self._constants.zero, weight, self._inverse, value=-1 / 3, out=weight)
        a, b, c = self._operands
        for x, y, z in ((a, b, c), (b, a, c), (c, a, b)):
            ratio = torch.mul(y.value, z.value, out=scratch).addcmul_(x.value, self._root, value=self._lead)
            yield ratio.div_(gap).clamp_(-1.5, 1.5).mul_(weight)

    def slopes(self) -> Tensor:
        """What the weights of the triples of the last `sigma` must be multiplied with for `add_sums`."""
        return self._inverse.div_(self._third_of_gap())

    def recall(self, a: Operand, b: Operand, c: Operand, shape: tuple[int, ...], kept: Tensor) -> None:
        """Go back to an earlier `sigma`, for `add_sums` alone."""
        self._hold(a, b, c, shape)
        self._root = kept

    def add_sums(self, weight: Tensor, d_a: Tensor, d_b: Tensor, d_c: Tensor) -> None:
        """Add weight / slope * d sigma_1/d(a, b, c), summed over k, j and i, to d_a [i, j], d_b [i, k] and d_c [j, k].

        Half the passes that `gradients` takes, without its bound: for triples that keep off a double eigenvalue.
        `weight` is overwritten.
        """
        x0, x1, *_ = self._buffers
        a, b, c = (operand.value for operand in self._operands)
        by_root = torch.mul(weight, self._root, out=x0)
        by_c = torch.mul(weight, c, out=x1)
        d_a[:, None].baddbmm_(b, by_c.mT, alpha=-1 / 3)
        d_b[:, None].baddbmm_(a.mT, by_c, alpha=-1 / 3)
        by_b = torch.mul(weight, b, out=x1)
        d_c[:, None].baddbmm_(a.permute(1, 2, 0), by_b.transpose(0, 1), alpha=-1 / 3)
        d_a.addcmul_(a[:, :, 0], by_root.sum(2), value=-self._lead / 3)
        d_b.addcmul_(b[:, 0], by_root.sum(1), value=-self._lead / 3)
        d_c.addcmul_(c[0], by_root.sum(0), value=-self._lead / 3)

    def _hold(self, a: Operand, b: Operand, c: Operand, shape: tuple[int, ...]) -> None:
        self._operands = (a, b, c)
        if shape != self._shape:
            self._shape = shape
            self._buffers = self._store[:, : math.prod(shape)].view(-1, *shape).unbind()

    def _third_of_gap(self) -> Tensor:
        """-(3 mu^2 - p)/3, in the place of m."""
        return self._buffers[1].addcmul_(self._root, self._root, value=-self._lead * self._lead)

    def _cosine(self, twice_s: Tensor, out: Tensor) -> Tensor:
        """f(s) in float64. In float32 its polynomial divided by the leading coefficient, which saves a pass."""
        if twice_s.dtype == torch.float64:
            return torch.mul(twice_s, 0.5, out=out).clamp_(max=1).acos_().mul_(2 / 3).cos_()
        *rest, last = self._constants.polynomial
        value = torch.add(twice_s, last, out=out)
        for coefficient in reversed(rest):
            torch.addcmul(coefficient, value, twice_s, out=value)
        return value


@dataclass(frozen=True)
class _Constants:
    """Tensors [], as a fused operation with a scalar wants them."""

    zero: Tensor
    one: Tensor
    tiny_third: Tensor
    polynomial: list[Tensor]  # of 2 s, monic, without its leading one


@functools.lru_cache
def _constants(dtype: torch.dtype, device: torch.device) -> _Constants:
    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=dtype, device=device)

    degree = len(POLYNOMIAL) - 1
    return _Constants(
        scalar(0),
        scalar(1),
        scalar(_tiny(dtype, 1 / 3)),
        [scalar(c / POLYNOMIAL[-1] / _HALF_ROOT ** (degree - n)) for n, c in enumerate(POLYNOMIAL[:-1])],
    )


def _tiny(dtype: torch.dtype, power: float) -> float:
    """The smallest normal number to a power below one: what must not underflow when multiplied by itself or others."""
    return torch.finfo(dtype).tiny ** power
