# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""`polar.py` in Triton, one matrix a lane: the nearest rotation, and how it answers to a change of the matrix.

A matrix is a tuple of nine float32 tensors of one shape, row by row.
"""

import triton
import triton.language as tl

from unihpe_kernels.small_linalg.jacobi_kernels import jacobi_frame

_FLOOR = tl.constexpr(8 * 2.0**-23)
_TINY = tl.constexpr(2.0**-126)


@triton.jit
def polar(a):
    """The rotation R that maximises trace(R^T A), row by row, and that maximum; I and 0 for A = 0."""
    v, u, s = jacobi_frame(a)
    rotation = ()
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            rotation = rotation + (u[i] * v[j] + u[3 + i] * v[3 + j] + u[6 + i] * v[6 + j],)
    return rotation, s[0] + s[1] + s[2]


@triton.jit
def polar_cotangent(xx, xy, xz, yy, yz, zz, h0, h1, h2):
    """z = (trace(K') I - K')^-1 h for K' = A R^T, symmetric; what `polar.polar_cotangent` says."""
    floor = tl.maximum((xx + yy + zz) * _FLOOR, _TINY)
    # L D L^T, pivots below the floor left out
    d0 = _inverse_pivot(yy + zz, floor)
    l10 = -xy * d0
    l20 = -xz * d0
    rest = l10 * xz - yz
    d1 = _inverse_pivot(l10 * xy + (xx + zz), floor)
    l21 = rest * d1
    d2 = _inverse_pivot((xx + yy) + l20 * xz - l21 * rest, floor)
    h1 -= l10 * h0
    h2 -= l20 * h0 + l21 * h1
    z2 = h2 * d2
    z1 = h1 * d1 - l21 * z2
    z0 = h0 * d0 - l10 * z1 - l20 * z2
    return z0, z1, z2


@triton.jit
def _inverse_pivot(pivot, floor):
    return 1 / tl.where(pivot > floor, pivot, float("inf"))
