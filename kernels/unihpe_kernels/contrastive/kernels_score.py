"""sigma_1 of three unit vectors, and its gradient, in registers: what the kernels of both kinds of negatives call.

With a, b, c the inner products, G = [[1, a, b], [a, 1, c], [b, c, 1]] has the largest eigenvalue 1 + mu,

    mu = 2 r f(u),  r = sqrt(m),  m = (a^2 + b^2 + c^2)/3,  u^2 = 1 + X,  X = abc/r^3

with f the polynomial of `closed_form`. For X < 0 the sum 1 + X loses digits; 1 - X^2 does not when it is taken from
d_n = (a_n^2 - m)/m, which sum to zero: 1 - X^2 = d_3^2 - d_1 d_2 (1 + d_3), a positive quadratic form and a small rest.
Its root is good to rounding although the d_n come from an approximate rsqrt: they share its error.
"""

import triton
import triton.language as tl

from unihpe_kernels.contrastive.closed_form import POLYNOMIAL

# The coefficients of 2 f. Nothing but multiply-add: special functions are the scarce unit of a GPU.
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7 = (tl.constexpr(2 * c) for c in POLYNOMIAL)

_TINY_M = tl.constexpr(1e-34)  # m of nothing; its r^-2 still is a normal number
_TINY_D = tl.constexpr(1e-30)
# X is off by up to 9e-7 with an rsqrt of 2 ulp: reduced by this much, 1 + X cannot pass for 1 - X^2 near X = -1
_GUARD = tl.constexpr(1e-6)
# Relative to m, what the gap of the two largest eigenvalues is known to. It keeps 1/gap finite.
_GAP = tl.constexpr(1 - 5e-7)


@triton.jit
def triple_mu(a, b, c):
    """mu, m and 2 f of inner products of any shapes that broadcast; what depends on one of them is computed once."""
    a2 = a * a
    b2 = b * b
    m = (c * c) * (1 / 3) + ((a2 * (1 / 3) + _TINY_M) + b2 * (1 / 3))
    inverse = tl.rsqrt(m)
    square = inverse * inverse
    d1 = a2 * square - 1
    d2 = b2 * square - 1
    d3 = -d1 - d2
    product = d1 * d2 - _TINY_D
    low = d3 * d3 - product
    low = low - product * d3  # 1 - X^2
    x = ((a * b) * square) * (c * inverse)
    top = tl.maximum(low, x + (1 - _GUARD))
    u = top * tl.rsqrt(top * (1 - tl.minimum(x, 0.0)))
    f = u * _C7 + _C6
    f = f * u + _C5
    f = f * u + _C4
    f = f * u + _C3
    f = f * u + _C2
    f = f * u + _C1
    f = f * u + _C0
    return (m * inverse) * f, m, f


@triton.jit
def triple_sigma(a, b, c):
    """sigma_1 of inner products of any shapes that broadcast."""
    return tl.sqrt(triple_mu(a, b, c)[0] + 1)


@triton.jit
def triple_gradient(a, b, c, mu, m, f, sigma):
    """n_a, n_b, n_c and h with d sigma_1/d(a, b, c) = n h.

    n_a = a mu + b c over 3 mu^2 - p is the product of two entries of a unit eigenvector and lies in [-1/2, 1/2]. One
    common factor holds all three there: near a double eigenvalue, where rounding could leave it, they keep their ratio.
    """
    n_a = a * mu + b * c
    n_b = b * mu + a * c
    n_c = c * mu + a * b
    half_gap = (f * f - _GAP) * (1.5 * m)  # (3 mu^2 - p)/2
    bound = tl.maximum(tl.maximum(tl.abs(n_a), tl.abs(n_b)), tl.maximum(tl.abs(n_c), half_gap))
    root = tl.rsqrt(bound * sigma)  # a division would cost more than its one special function
    return n_a, n_b, n_c, root * (0.5 * root)
