# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""sigma_1 of a tuple, and its gradient, in registers: of two and three unit vectors in closed form, of more by the
arrowhead matrix; where samples may lack modalities, by the zero-diagonal Gram matrix. The functions are those of the
fused kernels."""

import triton
import triton.language as tl

from unihpe_kernels.small_linalg.eigh_kernels import symmetric_eigen, triangle_index
from unihpe_kernels.sv_contrastive.kernels_arrowhead import arrowhead_entry, arrowhead_gradient, arrowhead_root
from unihpe_kernels.sv_contrastive.kernels_score import triple_gradient, triple_mu
from unihpe_kernels.sv_contrastive.kernels_zero_diagonal import zero_diagonal_root, zero_diagonal_vector


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
    """Gradients of the N (N - 1) / 2 inner products of the members, row by row, from what `gradient` gave in all."""
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
    return tl.sqrt(zero_diagonal_root(entries, M) + 1)


@triton.jit
def whole_gradient(entries, M: tl.constexpr):
    """The score, and its gradients in all of them."""
    mu, vector, inverse_square = zero_diagonal_vector(entries, M)
    value = tl.sqrt(mu + 1)
    factor = inverse_square / value
    gradients = ()
    for p in tl.static_range(M):
        for q in tl.static_range(p + 1, M):
            gradients = gradients + (factor * vector[p] * vector[q],)
    return value, gradients
