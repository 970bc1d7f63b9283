# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""sigma_1 of a tuple, and its gradient, in registers: of two and three unit vectors in closed form, of more by the
arrowhead matrix of `arrowhead_kernels`, where samples may lack modalities by `zero_diagonal_kernels`.

Of three, with a, b, c the inner products, G = [[1, a, b], [a, 1, c], [b, c, 1]] has the largest eigenvalue 1 + mu,

    mu = 2 r f(u),  r = sqrt(m),  m = (a^2 + b^2 + c^2)/3,  u^2 = 1 + X,  X = abc/r^3

with f the polynomial of `closed_form`. For X < 0 the sum 1 + X loses digits; 1 - X^2 does not when it is taken from
d_n = (a_n^2 - m)/m, which sum to zero: 1 - X^2 = d_3^2 - d_1 d_2 (1 + d_3), a positive quadratic form and a small rest.
Its root is good to rounding although the d_n come from an approximate rsqrt: they share its error.
"""

import triton
import triton.language as tl

from unihpe_kernels.contrastive.closed_form import POLYNOMIAL
from unihpe_kernels.scores.singular_value.arrowhead_kernels import arrowhead_entry, arrowhead_gradient, arrowhead_root
from unihpe_kernels.small_linalg.eigh_kernels import symmetric_eigen, triangle_index
from unihpe_kernels.small_linalg.zero_diagonal_kernels import largest_eigenvalue, largest_eigenvector

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


@triton.constexpr_function
def num_members_entries(N):
    """Numbers that `members` makes: none; c; alpha, N gaps and component i of vector k at 1 + N (1 + k) + i."""
    return N - 1 if N < 3 else 1 + N + N * N


@triton.constexpr_function
def num_sums(N):
    """Numbers of `gradient` to be added up: none; d c; the upper triangle of a matrix in the members' basis."""
    return N - 1 if N < 3 else N * (N + 1) // 2


@triton.jit
def members(gram, N: tl.constexpr):
    """What a sample's N members contribute to all of its scores, from their inner products row by row."""
    if N < 3:
        entries = gram
    else:
        whole = ()
        place = 0
        for s in tl.static_range(N):
            whole = whole + (tl.zeros_like(gram[0]) + 1,)
            for t in tl.static_range(s + 1, N):
                whole = whole + (gram[triangle_index(s, t, N) - s - 1],)
        values, vectors = symmetric_eigen(whole, N)
        # maximum would swallow the NaN of a bad sample, and so would all that comes after
        entries = (tl.where(values[0] < 1, 0.0, values[0] - 1),)
        for k in tl.static_range(N):
            entries = entries + (tl.maximum(values[0] - values[k], 0.0),)
        entries = entries + vectors
    return entries


@triton.jit
def score(products, members, N: tl.constexpr):
    """sigma_1 of an anchor with N members, and what `gradient` takes over."""
    if N == 1:
        inverse = tl.rsqrt(tl.abs(products[0]) + 1)
        value = (tl.abs(products[0]) + 1) * inverse
        state = (inverse,)
    elif N == 2:
        mu, m, f = triple_mu(products[0], products[1], members[0])
        value = tl.sqrt(mu + 1)
        state = (mu, m, f)
    else:
        s = ()
        gaps = ()
        for k in tl.static_range(N):
            total = products[0] * members[1 + N + k * N]
            for c in tl.static_range(1, N):
                total += products[c] * members[1 + N + k * N + c]
            s = s + (total,)
            gaps = gaps + (members[1 + k],)
        root = arrowhead_root(s, members[0], gaps, N)
        value = tl.sqrt(root + (members[0] + 1))
        state = s + (root,)
    return value, state


@triton.jit
def gradient(products, members, value, state, weight, N: tl.constexpr):
    """weight d sigma_1/d products, N tensors, and `num_sums` tensors for `own`."""
    if N == 1:
        half = (weight * (0.5 * state[0])).to(tl.int32, bitcast=True)
        half = (half ^ (products[0].to(tl.int32, bitcast=True) & -0x80000000)).to(tl.float32, bitcast=True)
        d_products = (tl.where(products[0] == 0, 0.0, half),)
        sums = ()
    elif N == 2:
        n_a, n_b, n_c, h = triple_gradient(products[0], products[1], members[0], state[0], state[1], state[2], value)
        weight = weight * h
        d_products = (weight * n_a, weight * n_b)
        sums = (weight * n_c,)
    else:
        s = ()
        gaps = ()
        for k in tl.static_range(N):
            s = s + (state[k],)
            gaps = gaps + (members[1 + k],)
        d_s, vector = arrowhead_gradient(s, members[0], gaps, state[N], weight, N)
        d_products = ()
        for c in tl.static_range(N):
            total = d_s[0] * members[1 + N + c]
            for k in tl.static_range(1, N):
                total += d_s[k] * members[1 + N + k * N + c]
            d_products = d_products + (total,)
        sums = ()
        for p in tl.static_range(N):
            for q in tl.static_range(p, N):
                sums = sums + (arrowhead_entry(s, vector, p, q),)
    return d_products, sums


@triton.jit
def own(sums, members, N: tl.constexpr):
    """The gradients of the N (N - 1) / 2 inner products of the members, row by row, from what `gradient` gave in all."""
    if N < 3:
        result = sums
    else:
        half = ()  # Q H, row s, column k
        for s in tl.static_range(N):
            for k in tl.static_range(N):
                total = sums[triangle_index(0, k, N)] * members[1 + N + s]
                for q in tl.static_range(1, N):
                    total += sums[triangle_index(q, k, N)] * members[1 + N + q * N + s]
                half = half + (total,)
        result = ()
        for s in tl.static_range(N):
            for t in tl.static_range(s + 1, N):
                total = half[s * N] * members[1 + N + t]
                for k in tl.static_range(1, N):
                    total += half[s * N + k] * members[1 + N + k * N + t]
                result = result + (total,)
    return result


@triton.jit
def whole_score(entries, M: tl.constexpr):
    """`score` from all M (M - 1) / 2 inner products of a tuple, row by row with the anchor last."""
    return tl.sqrt(largest_eigenvalue(entries, M) + 1)


@triton.jit
def whole_gradient(entries, M: tl.constexpr):
    """The score, and its gradients in all of them."""
    mu, vector, inverse_square = largest_eigenvector(entries, M)
    value = tl.sqrt(mu + 1)
    factor = inverse_square / value
    gradients = ()
    for p in tl.static_range(M):
        for q in tl.static_range(p + 1, M):
            gradients = gradients + (factor * vector[p] * vector[q],)
    return value, gradients
