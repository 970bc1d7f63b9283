# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""One-sided Jacobi (Hestenes 1958) for 3x3 matrices, one a lane, for other kernels to call: `jacobi.py` in Triton.

A matrix is a tuple of nine float32 tensors of one shape, row by row; a column with its companion of V is a tuple of
six. Branch-free. Quotients are squared reciprocal roots, which the hardware has.
"""

import triton
import triton.language as tl

_SWEEPS = tl.constexpr(4)  # measured in `jacobi.py`
_TINY = tl.constexpr(1e-37)
_LEAST = tl.constexpr(2.0**-46)  # a length far below rounding, whose square is still a normal number


@triton.jit
def inverse_power(x):
    """1 / 2^floor(log2 x) for x >= 0, exact; its range ends at 2^126 and 2^-126, so that it is a normal number."""
    bits = x.to(tl.int32, bitcast=True) & 0x7F800000
    bits = tl.minimum(tl.maximum(bits, 1 << 23), 253 << 23)
    return ((254 << 23) - bits).to(tl.float32, bitcast=True)


@triton.jit
def dot3(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def with_sign(size, sign):
    """`size` times -1 where `sign` is negative, as negative zero is not."""
    return tl.where(sign < 0, -size, size)


@triton.jit
def jacobi_frame(a):
    """A V = U S: (v, u, s). v and u: nine tensors each, column by column, right-handed, orthonormal to rounding.

    s: three tensors, s[0] >= s[1] >= |s[2]| to rounding, s[2] < 0 where det A < 0. A zero matrix has u = v = identity.
    """
    largest = tl.abs(a[0])
    for i in tl.static_range(1, 9):
        largest = tl.maximum(largest, tl.abs(a[i]))
    scale = inverse_power(largest)  # squares neither overflow nor underflow after this
    zero = tl.zeros_like(largest)
    one = zero + 1
    p = (a[0] * scale, a[3] * scale, a[6] * scale, one, zero, zero)
    q = (a[1] * scale, a[4] * scale, a[7] * scale, zero, one, zero)
    r = (a[2] * scale, a[5] * scale, a[8] * scale, zero, zero, one)
    for _ in tl.static_range(_SWEEPS):
        # anew in every sweep: what is left of a short column after long ones were taken out of it is all rounding
        pp = 0.5 * dot3(p, p)
        qq = 0.5 * dot3(q, q)
        rr = 0.5 * dot3(r, r)
        p, q, pp, qq = _rotate(p, q, pp, qq)
        p, r, pp, rr = _rotate(p, r, pp, rr)
        q, r, qq, rr = _rotate(q, r, qq, rr)
    pp = dot3(p, p)
    qq = dot3(q, q)
    rr = dot3(r, r)
    p, q, pp, qq = _exchange(p, q, pp, qq)
    p, r, pp, rr = _exchange(p, r, pp, rr)
    q, r, qq, rr = _exchange(q, r, qq, rr)
    u, s = _complete(p, q, r)
    size = inverse_power(scale)
    return p[3:] + q[3:] + r[3:], u, (s[0] * size, s[1] * size, s[2] * size)


@triton.jit
def _rotate(a, b, half_a, half_b):
    """Make two columns orthogonal; with them go half their squared lengths."""
    inner = dot3(a, b)
    gap = half_b - half_a
    # tan(angle) = inner / (gap + sign(gap) sqrt(gap^2 + inner^2))
    square = gap * gap + (inner * inner + _TINY)
    root = tl.rsqrt(tl.abs(gap) + square * tl.rsqrt(square))
    tan = with_sign(inner, gap) * (root * root)
    square = tan * tan + 1
    cos = tl.rsqrt(square)
    cos += 0.5 * cos * (1 - square * cos * cos)  # the hardware's is off by an ulp, which twelve rotations would add up
    sin = cos * tan
    change = 0.5 * tan * inner
    first = ()
    second = ()
    for i in tl.static_range(6):
        first = first + (cos * a[i] - sin * b[i],)
        second = second + (cos * b[i] + sin * a[i],)
    return first, second, half_a - change, half_b + change


@triton.jit
def _exchange(a, b, square_a, square_b):
    """Put the longer of two columns first, by a quarter turn, which leaves V a rotation."""
    swap = square_a < square_b
    first = ()
    second = ()
    for i in tl.static_range(6):
        first = first + (tl.where(swap, b[i], a[i]),)
        second = second + (tl.where(swap, -a[i], b[i]),)
    return first, second, tl.maximum(square_a, square_b), tl.minimum(square_a, square_b)


@triton.jit
def _complete(a, b, c):
    """Orthonormal right-handed u and s of orthogonal columns sorted by length, any of which may vanish."""
    a = (a[0] + _LEAST, a[1], a[2])  # a is longer than 1 / sqrt(3), unless the matrix is zero
    first = _unit(a)
    b = _without(b, first)
    # A vanished column takes any direction across the first one; the sign keeps the two from cancelling.
    across = _perpendicular(first)
    least = with_sign(tl.zeros_like(first[0]) + _LEAST, dot3(b, across))
    b = (b[0] + least * across[0], b[1] + least * across[1], b[2] + least * across[2])
    second = _unit(_without(_unit(b), first))  # once more: b may be all rounding
    third = (
        first[1] * second[2] - first[2] * second[1],
        first[2] * second[0] - first[0] * second[2],
        first[0] * second[1] - first[1] * second[0],
    )
    return first + second + third, (dot3(first, a), dot3(second, b), dot3(third, c))


@triton.jit
def _unit(a):
    inverse = tl.rsqrt(dot3(a, a))
    return a[0] * inverse, a[1] * inverse, a[2] * inverse


@triton.jit
def _without(b, unit):
    """b without its part along `unit`."""
    along = dot3(unit, b)
    return b[0] - along * unit[0], b[1] - along * unit[1], b[2] - along * unit[2]


@triton.jit
def _perpendicular(unit):
    """Unit vectors across unit vectors, (0, 1, 0) for (1, 0, 0) (Duff et al. 2017, without branches)."""
    x, y, z = unit[0], unit[1], unit[2]
    sign = tl.where(z < 0, -1.0, 1.0)
    root = tl.rsqrt(1 + tl.abs(z))
    a = -sign * (root * root)
    return x * y * a, sign + y * y * a, -y
