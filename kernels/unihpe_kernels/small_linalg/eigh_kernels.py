# A Triton tuple grows by `+`, which changes its type, and constexpr conditions know no `in`.
# ruff: noqa: RUF005, SIM109
# mypy: disable-error-code="assignment,misc,index,operator"
"""Eigenvalues and eigenvectors of lanes of small symmetric matrices by Jacobi rotations, for other kernels to call.

One matrix a lane: every entry is a tensor of its own, all of one shape, in a Triton tuple. Branch-free: all lanes take
the same steps. Rotated neighbours change places, (0, 1), (2, 3), .., then (1, 2), (3, 4), ..; after n / 2 such rounds
every pair has met once (odd-even ordering, Luk and Park 1989). So a round is the body of a runtime loop, for n = 8 a
quarter of the code that all pairs would be.
"""

import triton
import triton.language as tl


@triton.constexpr_function
def eigen_rounds(n):
    """Rounds that diagonalise any matrix.

    Measured on 4096 matrices and more of each kind, n = 2..8: Gaussian, Gram, graded, sparse, clustered. Values are off
    by rounding alone from three quarters of the count on; vectors of repeated values converge last.
    """
    return n * (n + 8) // 4


@triton.constexpr_function
def triangle_index(i, j, n):
    """Place of entry (i, j) in the upper triangle, row by row."""
    i, j = min(i, j), max(i, j)
    return i * n - i * (i + 1) // 2 + j


@triton.jit
def symmetric_eigen(entries, n: tl.constexpr):
    """(values, vectors) of symmetric float32 matrices, 1 <= n <= 8, values descending.

    entries: upper triangle row by row, n (n + 1) / 2 tensors of one shape; the largest between 1e-10 and 1e15 or zero.
    values: n tensors, off by rounding of the largest |value|, also where values repeat, meet or vanish.
    vectors: n * n tensors, component i of vector k at k * n + i; orthonormal to rounding, whatever the matrix.
    A lane with a NaN or an infinity in it is spoiled alone.
    """
    return diagonalise(entries, identity(entries[0], n), eigen_rounds(n), n)


@triton.jit
def identity(like, n: tl.constexpr):
    """n * n tensors as `like`: the unit vectors."""
    zero = tl.zeros_like(like)
    vectors = ()
    for k in tl.static_range(n):
        for i in tl.static_range(n):
            vectors = vectors + ((zero + 1) if i == k else zero,)
    return vectors


@triton.jit
def diagonalise(entries, vectors, rounds, n: tl.constexpr):
    """`symmetric_eigen` of entries given in the basis `vectors`, which is rotated and sorted along with them."""
    for _ in range(rounds):
        for p in tl.static_range(0, n - 1, 2):
            entries, vectors = _rotate(entries, vectors, p, n)
        for p in tl.static_range(1, n - 1, 2):
            entries, vectors = _rotate(entries, vectors, p, n)
    values = ()
    for k in tl.static_range(n):
        values = values + (entries[triangle_index(k, k, n)],)
    for _ in range((n + 1) // 2):
        for p in tl.static_range(0, n - 1, 2):
            values, vectors = _exchange(values, vectors, p, n)
        for p in tl.static_range(1, n - 1, 2):
            values, vectors = _exchange(values, vectors, p, n)
    return values, vectors


@triton.jit
def _rotate(entries, vectors, p: tl.constexpr, n: tl.constexpr):
    """Make entry (p, q), q = p + 1, zero, and let p and q change places."""
    q: tl.constexpr = p + 1
    low = entries[triangle_index(p, p, n)]
    high = entries[triangle_index(q, q, n)]
    inner = entries[triangle_index(p, q, n)]
    # tan(angle) = inner / (gap + sign(gap) sqrt(gap^2 + inner^2))
    gap = 0.5 * (high - low)
    rounding = 4e-9 * (high + low)
    # without `rounding`, equal values would be turned by 45 degrees for an inner that is nothing, time and again
    root = tl.sqrt(gap * gap + (inner * inner + (rounding * rounding + 1e-36)))
    tan = inner / (gap + tl.where(gap < 0, -root, root))
    square = tan * tan + 1
    cos = tl.rsqrt(square)
    cos += 0.5 * cos * (1 - square * cos * cos)  # the hardware's is off by an ulp, which n^2 rotations would add up
    sin = cos * tan
    change = tan * inner
    turned = ()
    for i in tl.static_range(n):
        for j in tl.static_range(i, n):
            if i == p and j == p:
                turned = turned + (high + change,)
            elif i == q and j == q:
                turned = turned + (low - change,)
            elif i == p and j == q:
                turned = turned + (tl.zeros_like(inner),)
            elif i == p or j == p:
                turned = turned + (
                    sin * entries[triangle_index(i + j - p, p, n)] + cos * entries[triangle_index(i + j - p, q, n)],
                )
            elif i == q or j == q:
                turned = turned + (
                    cos * entries[triangle_index(i + j - q, p, n)] - sin * entries[triangle_index(i + j - q, q, n)],
                )
            else:
                turned = turned + (entries[triangle_index(i, j, n)],)
    rotated = ()
    for k in tl.static_range(n):
        for i in tl.static_range(n):
            if k == p:
                rotated = rotated + (sin * vectors[p * n + i] + cos * vectors[q * n + i],)
            elif k == q:
                rotated = rotated + (cos * vectors[p * n + i] - sin * vectors[q * n + i],)
            else:
                rotated = rotated + (vectors[k * n + i],)
    return turned, rotated


@triton.jit
def _exchange(values, vectors, p: tl.constexpr, n: tl.constexpr):
    """Put the larger of the values p and p + 1 first, its vector with it."""
    q: tl.constexpr = p + 1
    swap = values[p] < values[q]
    sorted_values = ()
    sorted_vectors = ()
    for k in tl.static_range(n):
        if k == p or k == q:
            sorted_values = sorted_values + (tl.where(swap, values[p + q - k], values[k]),)
        else:
            sorted_values = sorted_values + (values[k],)
        for i in tl.static_range(n):
            if k == p or k == q:
                sorted_vectors = sorted_vectors + (tl.where(swap, vectors[(p + q - k) * n + i], vectors[k * n + i]),)
            else:
                sorted_vectors = sorted_vectors + (vectors[k * n + i],)
    return sorted_values, sorted_vectors
