# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""GRAM's volume of a tuple of unit vectors, -sqrt(det G), in registers.

Of two, det G = (1 - a)(1 + a); of three, with c the members' product, (1 - c^2)(1 - a^2) - (b - a c)^2. Of more, with
the members' Gram matrix L L^T once a sample, v = det L and W = v L^-1: det G = v^2 - |t|^2, t = W s, s the anchor's
products; V's gradient is -W^T t / V in s and W^T (t t^T + det G) W / (V v^2) in the members' products.

1/V has no bound where vectors become dependent: in gradients V is at least 1e-4.
"""

import triton
import triton.language as tl

_LEAST_SQUARE = tl.constexpr(1e-8)  # of V in gradients
# of a pivot of the members: the rounding of float32 products, 1e-7, squared over it is still little
_LEAST_PIVOT = tl.constexpr(1e-10)


@triton.constexpr_function
def _lower(i, j):
    """Place of entry (i, j), j <= i, in a lower triangle row by row."""
    return i * (i + 1) // 2 + j


@triton.constexpr_function
def _symmetric(i, j):
    """Place of entry (i, j) of a symmetric matrix given by that."""
    i, j = max(i, j), min(i, j)
    return i * (i + 1) // 2 + j


@triton.constexpr_function
def num_members_entries(N):
    """Numbers that `members` makes: none; c; W row by row, then v^2."""
    return N - 1 if N < 3 else N * (N + 1) // 2 + 1


@triton.constexpr_function
def num_sums(N):
    """Numbers of `gradient` to be added up: none; d c; the lower triangle of t t^T + det G."""
    return N - 1 if N < 3 else N * (N + 1) // 2


@triton.jit
def members(gram, N: tl.constexpr):
    """What a sample's N members contribute to all of its scores, from their inner products row by row."""
    if N < 3:
        entries = gram
    else:
        # L row by row with the inverse of its diagonal, then L^-1
        factor = ()
        inverses = ()
        square = tl.zeros_like(gram[0]) + 1
        for i in tl.static_range(N):
            for j in tl.static_range(i):
                total = gram[j * N - j * (j + 1) // 2 + i - j - 1]
                for k in tl.static_range(j):
                    total -= factor[_lower(i, k)] * factor[_lower(j, k)]
                factor = factor + (total * inverses[j],)
            pivot = tl.zeros_like(gram[0]) + 1
            for k in tl.static_range(i):
                pivot -= factor[_lower(i, k)] * factor[_lower(i, k)]
            pivot = tl.where(pivot < _LEAST_PIVOT, _LEAST_PIVOT, pivot)  # a NaN stays
            square *= pivot
            root = tl.sqrt(pivot)
            factor = factor + (root,)
            inverses = inverses + (1 / root,)
        whole = ()
        for i in tl.static_range(N):
            for j in tl.static_range(i):
                total = factor[_lower(i, j)] * whole[_lower(j, j)]
                for k in tl.static_range(j + 1, i):
                    total += factor[_lower(i, k)] * whole[_lower(k, j)]
                whole = whole + (-total * inverses[i],)
            whole = whole + (inverses[i],)
        volume = tl.sqrt(square)
        entries = ()
        for k in tl.static_range(N * (N + 1) // 2):
            entries = entries + (whole[k] * volume,)
        entries = entries + (square,)
    return entries


@triton.jit
def score(products, members, N: tl.constexpr):
    """-V of an anchor with N members and, for `gradient`, det G and t."""
    t = ()
    if N == 1:
        square = (1 - products[0]) * (1 + products[0])
    elif N == 2:
        rest = products[1] - products[0] * members[0]
        square = (1 - members[0] * members[0]) * (1 - products[0] * products[0]) - rest * rest
    else:
        square = members[N * (N + 1) // 2]
        for i in tl.static_range(N):
            total = products[0] * members[_lower(i, 0)]
            for j in tl.static_range(1, i + 1):
                total += products[j] * members[_lower(i, j)]
            square -= total * total
            t = t + (total,)
    # a maximum would drop a NaN
    return -tl.sqrt(tl.where(square < 0, 0.0, square)), (square,) + t


@triton.jit
def gradient(products, members, value, state, weight, N: tl.constexpr):
    """weight d score/d products, N tensors, and `num_sums` tensors for `own`."""
    weight = weight * tl.rsqrt(tl.maximum(state[0], _LEAST_SQUARE))
    if N == 1:
        d_products = (weight * products[0],)
        sums = ()
    elif N == 2:
        a, b, c = products[0], products[1], members[0]
        d_products = (weight * (a - b * c), weight * (b - a * c))
        sums = (weight * (c - a * b),)
    else:
        d_products = ()
        for j in tl.static_range(N):
            total = state[1 + j] * members[_lower(j, j)]
            for i in tl.static_range(j + 1, N):
                total += state[1 + i] * members[_lower(i, j)]
            d_products = d_products + (weight * total,)
        sums = ()
        for i in tl.static_range(N):
            for j in tl.static_range(i):
                sums = sums + (weight * state[1 + i] * state[1 + j],)
            sums = sums + (weight * (state[1 + i] * state[1 + i] + state[0]),)
    return d_products, sums


@triton.jit
def own(sums, members, N: tl.constexpr):
    """Gradients of the N (N - 1) / 2 inner products of the members, row by row, from what `gradient` gave in all."""
    if N < 3:
        result = sums
    else:
        half = ()  # H W, row i, column j
        for i in tl.static_range(N):
            for j in tl.static_range(N):
                total = sums[_symmetric(i, j)] * members[_lower(j, j)]
                for k in tl.static_range(j + 1, N):
                    total += sums[_symmetric(i, k)] * members[_lower(k, j)]
                half = half + (total,)
        square = members[N * (N + 1) // 2]
        inverse = -1 / tl.where(square == 0, 1.0, square)  # 0 in lanes without a sample
        result = ()
        for i in tl.static_range(N):
            for j in tl.static_range(i + 1, N):
                total = half[i * N + j] * members[_lower(i, i)]
                for k in tl.static_range(i + 1, N):
                    total += half[k * N + j] * members[_lower(k, i)]
                result = result + (total * inverse,)
    return result
