"""Kernels for negatives="all" of three modalities: every triple (i, j, k) once in each direction.

Gram matrices A[i, j] = x_i.y_j, B[i, k] = x_i.z_k, C[j, k] = y_j.z_k lie one after the other, [3, ld, ld] with ld the
batch rounded up to whole tiles. Where `slab` is given, i are so many samples alone, of their own, and A and B have
`slab` rows; where it is None, they are all.

A program owns a tile of C in registers and walks over i: it reads one row piece of A and of B a step, and every triple
costs arithmetic alone.

exp2 of the shifted logits needs no running maximum: scores lie in [1, sqrt(3)], the shift is their middle.
"""

import triton
import triton.language as tl

from unihpe_kernels.scores.singular_value.triton import triple_gradient, triple_mu, triple_sigma

_LOG2_E = tl.constexpr(1.4426950408889634)
_MIDDLE = tl.constexpr(1.3660254037844386)  # of [1, sqrt(3)]
_OFF = tl.constexpr(-1e30)  # a logit without weight; finite, so that 0 x it is 0


@triton.jit
def _in_use(complete, index, n, MASKED: tl.constexpr):
    """Whether a sample takes part in triples. complete: uint8 [n], read only if MASKED."""
    used = index < n
    if MASKED:
        used = tl.load(complete + index, mask=used, other=0) != 0
    return used


@triton.jit
def sv_all_forward(
    grams,  # float32 [3, ld, ld]
    complete,
    temperature,  # float32 []
    sums_i,  # out, float32 [tiles of j x tiles of k, n]: every anchor's tuples of one tile
    sums_j,  # out, float32 [tiles of k x splits, ld]
    sums_k,  # out, float32 [tiles of j x splits, ld]
    slab,
    n,
    ld,
    rows,  # of i that a program walks over
    MASKED: tl.constexpr,
    TILE_J: tl.constexpr,
    TILE_K: tl.constexpr,
):
    """Sums of exp2 of shifted logits over the tuples of every anchor, in pieces. Grid (j, k, splits of i)."""
    part_j, part_k, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    j = part_j * TILE_J + tl.arange(0, TILE_J)
    k = part_k * TILE_K + tl.arange(0, TILE_K)
    scale = _LOG2_E / tl.load(temperature)
    # unused samples get a logit of -1e30 through the shift of their row and the scale of their column: no work a triple
    shift_j = tl.where(_in_use(complete, j, n, MASKED), -_MIDDLE * scale, _OFF)[:, None]
    scale_k = tl.where(_in_use(complete, k, n, MASKED), scale, _OFF)[None, :]

    end = n if slab is None else slab
    plane = tl.cast(ld, tl.int64) * (ld if slab is None else slab)
    c = tl.load(grams + 2 * plane + (tl.cast(j, tl.int64)[:, None] * ld + k[None, :]))
    sums_i += tl.cast(part_j * tl.num_programs(1) + part_k, tl.int64) * end
    sums = tl.zeros([TILE_J, TILE_K], tl.float32)
    first = split * rows
    row = grams + tl.cast(first, tl.int64) * ld
    for i in range(first, min(first + rows, end)):
        a = tl.load(row + j)[:, None]
        b = tl.load(row + plane + k)[None, :]
        row += ld
        shift_ij = shift_j
        if MASKED:
            shift_ij += tl.where(tl.load(complete + i) != 0, 0.0, _OFF)
        weight = tl.exp2(triple_sigma(a, b, c) * scale_k + shift_ij)
        sums += weight
        tl.store(sums_i + i, tl.sum(weight))

    splits = tl.num_programs(2)
    tl.store(sums_j + tl.cast(part_k * splits + split, tl.int64) * ld + j, tl.sum(sums, 1))
    tl.store(sums_k + tl.cast(part_j * splits + split, tl.int64) * ld + k, tl.sum(sums, 0))


@triton.jit(do_not_specialize=["begin", "end", "d_scale"])
def sv_all_backward(
    grams,
    complete,
    temperature,
    factors,  # float32 [3, ld]: of i, j, k, what exponentials are multiplied with; 0 for unused samples
    d_a,  # out, float32 [tiles of k, end - begin, ld]
    d_b,  # out, float32 [tiles of j, end - begin, ld]
    d_c,  # out, float32 [splits, ld, ld]
    d_scale,  # out, float32 [programs]: sum of scores times their gradient, but for the mean over anchors
    slab,
    n,
    ld,
    begin,  # the i of this launch
    end,
    rows,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,  # whether this is the first launch: later ones add to d_c
    TILE_J: tl.constexpr,
    TILE_K: tl.constexpr,
):
    """Gradients of the Gram matrices but for the own tuples' part and the mean over anchors, in pieces.

    Grid (j, k, splits of i).
    """
    part_j, part_k, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    j = part_j * TILE_J + tl.arange(0, TILE_J)
    k = part_k * TILE_K + tl.arange(0, TILE_K)
    scale = _LOG2_E / tl.load(temperature)
    used_j = _in_use(complete, j, n, MASKED)
    used_k = _in_use(complete, k, n, MASKED)
    shift = -_MIDDLE * scale
    shift_j = tl.where(used_j, shift, _OFF)[:, None]
    scale_k = tl.where(used_k, scale, _OFF)[None, :]
    of_j = tl.load(factors + ld + j)[:, None]
    of_k = tl.load(factors + 2 * ld + k)[None, :]

    plane = tl.cast(ld, tl.int64) * (ld if slab is None else slab)
    c = tl.load(grams + 2 * plane + (tl.cast(j, tl.int64)[:, None] * ld + k[None, :]))
    first = begin + split * rows
    length = tl.cast(end - begin, tl.int64)
    d_a += (part_k * length + (first - begin)) * ld
    d_b += (part_j * length + (first - begin)) * ld
    row = grams + tl.cast(first, tl.int64) * ld
    sum_c = tl.zeros([TILE_J, TILE_K], tl.float32)
    sum_scale = tl.zeros([TILE_J, TILE_K], tl.float32)
    for i in range(first, min(first + rows, end)):
        a = tl.load(row + j)[:, None]
        b = tl.load(row + plane + k)[None, :]
        row += ld
        shift_ij = shift_j
        if MASKED:
            shift_ij += tl.where(tl.load(complete + i) != 0, 0.0, _OFF)
        mu, m, f = triple_mu(a, b, c)
        sigma = tl.sqrt(mu + 1)
        weight = tl.exp2(sigma * scale_k + shift_ij) * ((of_j + tl.load(factors + i)) + of_k)
        sum_scale += weight * sigma
        n_a, n_b, n_c, h = triple_gradient(a, b, c, mu, m, f, sigma)
        weight = weight * h
        sum_c += weight * n_c
        tl.store(d_a + j, tl.sum(weight * n_a, 1))
        tl.store(d_b + k, tl.sum(weight * n_b, 0))
        d_a += ld
        d_b += ld

    pointers = d_c + tl.cast(ld, tl.int64) * ld * split + (tl.cast(j, tl.int64)[:, None] * ld + k[None, :])
    if not FIRST:
        sum_c += tl.load(pointers)
    tl.store(pointers, sum_c)
    program = (part_j * tl.num_programs(1) + part_k) * tl.num_programs(2) + split
    tl.store(d_scale + program, tl.sum(sum_scale))
