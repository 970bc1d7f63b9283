# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""sigma_1 of one unit vector stacked on n others: the largest root of an arrowhead matrix's secular equation.

The n members' Gram matrix is diagonalised once a sample, Q diag(nu) Q^T with nu_1 the largest, and s = Q^T (products of
the anchor with the members). The whole Gram matrix [[1, s^T], [s, diag(nu)]] has the largest eigenvalue nu_1 + t,

    t + alpha = sum_k s_k^2 / (t + g_k),  alpha = nu_1 - 1 >= 0,  g_k = nu_1 - nu_k >= 0

scores/singular_value/torch.py derives the steps: every term is non-negative, the first pole is kept as it is and the
others replaced by their tangent, so that t rises to the root and keeps its relative accuracy.
"""

import triton
import triton.language as tl

_TINY = tl.constexpr(1e-28)
_STEPS = tl.constexpr(5)  # the worst of 10^6 cases comes to 1e-10


@triton.jit
def _inverse(x):
    """1/x of positive numbers, to 3 ulp: two instructions where a division takes eight."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def arrowhead_root(s, alpha, gaps, n: tl.constexpr):
    """t >= 0. s: n tensors; alpha, and the n gaps, of shapes that broadcast to theirs."""
    t = tl.full(s[0].shape, _TINY, tl.float32)
    for k in tl.static_range(n):  # each pole alone bounds t from below: the root of (t + alpha) (t + g) = s^2
        square = s[k] * s[k]
        gap = gaps[k]
        difference = alpha - gap
        root = tl.sqrt(4 * square + (difference * difference + _TINY))
        t = tl.maximum(t, 2 * (square - alpha * gap) * _inverse(root + (alpha + gap)))
    first = s[0] * s[0]
    for _ in range(_STEPS):
        # (1 + slope) t^2 + linear t = s_1^2
        others = tl.zeros(s[0].shape, tl.float32)
        slope = tl.zeros(s[0].shape, tl.float32)
        for k in tl.static_range(1, n):
            inverse = _inverse(t + gaps[k])
            term = s[k] * s[k] * inverse
            others += term
            slope += term * inverse
        linear = alpha - others - slope * t
        slope += 1
        half = 0.5 * (tl.sqrt(linear * linear + 4 * slope * first) + tl.abs(linear))
        half = tl.maximum(half, _TINY)
        rising = linear > 0
        t = tl.maximum(t, tl.where(rising, first, half) * _inverse(tl.where(rising, half, slope)))
    return t + (s[0] - s[0])  # maxima drop a NaN


@triton.jit
def arrowhead_gradient(s, alpha, gaps, t, weight, n: tl.constexpr):
    """weight d sigma_1/d s, n tensors, and the eigenvector as `arrowhead_entry` wants it."""
    # The eigenvector scaled by sqrt(t): v_0^2 = t, v_0 v_1 = s_1, v_1^2 = s_1^2/t, v_0 v_k = t r_k with
    # r_k = s_k/(t + g_k). For s_1 -> 0 the quotient s_1^2/t is taken from the secular equation instead.
    top = t + alpha
    norm = tl.zeros(t.shape, tl.float32)
    ratios = ()
    for k in tl.static_range(1, n):
        ratio = s[k] * _inverse(t + gaps[k])
        top -= s[k] * ratio
        norm += ratio * ratio
        ratios = ratios + (ratio,)
    top = tl.maximum(top, s[0] * s[0] * _inverse(t))
    sigma = tl.sqrt(t + (alpha + 1))
    weight = weight * _inverse((norm * t + t + top) * sigma)  # d sigma = v^T dG v / (2 sigma)
    d_s = (weight * s[0],)
    for k in tl.static_range(n - 1):
        d_s = d_s + (weight * t * ratios[k],)
    return d_s, (weight * top, weight, weight * t, ratios)


@triton.jit
def arrowhead_entry(s, vector, p: tl.constexpr, q: tl.constexpr):
    """Entry (p, q), p <= q, of a symmetric H: the inner product of two members has the gradient (Q H Q^T)[.., ..].

    One at a time: all of them together would not fit the registers.
    """
    top, weight, weight_t, ratios = vector
    if p > 0:
        entry = weight_t * ratios[p - 1] * ratios[q - 1]
    elif q > 0:
        entry = weight * s[0] * ratios[q - 1]
    else:
        entry = top
    return entry
