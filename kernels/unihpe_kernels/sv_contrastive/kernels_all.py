"""Kernels for negatives="all" of three modalities: every triple (i, j, k) once in each direction.

Gram matrices A[i, j] = x_i.y_j, B[i, k] = x_i.z_k, C[j, k] = y_j.z_k lie one after the other, [3, ld, ld] with ld the
batch rounded up to whole tiles. Where `shard` is given, i are so many samples alone, of their own, and A and B have
`shard` rows, the sample of the first i being j and k = `first_own`; where it is None, they are all.

A program owns a tile of C in registers and walks over i: it reads one row piece of A and of B a step, and every triple
costs arithmetic alone.

exp2 of the shifted logits needs no running maximum: scores lie in [1, sqrt(3)], the shift is their middle.

A sample's positive is in no sum: near convergence all others together are less than rounding of it, so its part of
the softmax and of the gradients is taken from theirs.
"""

import triton
import triton.language as tl

from unihpe_kernels.sv_contrastive.kernels_rows import LOG2_E, softplus2
from unihpe_kernels.sv_contrastive.kernels_score import triple_gradient, triple_mu, triple_sigma

_MIDDLE = tl.constexpr(1.3660254037844386)  # of [1, sqrt(3)]
_HALF_RANGE = tl.constexpr(0.3660254037844386)
_OFF = tl.constexpr(-1e30)  # a logit without weight; finite, so that 0 x it is 0


@triton.jit
def _in_use(complete, index, n, MASKED: tl.constexpr):
    """Whether a sample takes part in triples. complete: uint8 [n], read only if MASKED."""
    used = index < n
    if MASKED:
        used = tl.load(complete + index, mask=used, other=0) != 0
    return used


@triton.jit
def _ranges(first, last, start_j, start_k, TILE_J: tl.constexpr, TILE_K: tl.constexpr, shard, first_own):
    """i from first to last as the bounds of three ranges; the second alone may meet positives in a tile of j, k: a
    comparison in every step would take the registers of a whole program."""
    shift = 0 if shard is None else first_own
    low = tl.maximum(start_j, start_k) - shift
    high = tl.minimum(start_j + TILE_J, start_k + TILE_K) - shift
    low = tl.minimum(tl.maximum(low, first), last)
    return first, low, tl.minimum(tl.maximum(high, low), last), last


@triton.jit
def sv_all_forward(
    grams,  # float32 [3, ld, ld]
    complete,
    temperature,  # float32 []
    sums_i,  # out, float32 [tiles of j x tiles of k, n]: every anchor's tuples of one tile
    sums_j,  # out, float32 [tiles of k x splits, ld]
    sums_k,  # out, float32 [tiles of j x splits, ld]
    shard,
    first_own,
    n,
    ld,
    rows,  # of i that a program walks over
    MASKED: tl.constexpr,
    TILE_J: tl.constexpr,
    TILE_K: tl.constexpr,
):
    """Partial sums of exp2 of shifted logits over the anchors' other tuples. Grid (j, k, splits of i)."""
    part_j, part_k, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    j = part_j * TILE_J + tl.arange(0, TILE_J)
    k = part_k * TILE_K + tl.arange(0, TILE_K)
    scale = LOG2_E / tl.load(temperature)
    # unused samples get a logit of -1e30 through the shift of their row and the scale of their column: no work a triple
    shift_j = tl.where(_in_use(complete, j, n, MASKED), -_MIDDLE * scale, _OFF)[:, None]
    scale_k = tl.where(_in_use(complete, k, n, MASKED), scale, _OFF)[None, :]

    end = n if shard is None else shard
    plane = tl.cast(ld, tl.int64) * (ld if shard is None else shard)
    c = tl.load(grams + 2 * plane + (tl.cast(j, tl.int64)[:, None] * ld + k[None, :]))
    sums_i += tl.cast(part_j * tl.num_programs(1) + part_k, tl.int64) * end
    sums = tl.zeros([TILE_J, TILE_K], tl.float32)
    first = split * rows
    row = grams + tl.cast(first, tl.int64) * ld
    bounds = _ranges(first, min(first + rows, end), part_j * TILE_J, part_k * TILE_K, TILE_J, TILE_K, shard, first_own)
    for part in tl.static_range(3):
        for i in range(bounds[part], bounds[part + 1]):
            a = tl.load(row + j)[:, None]
            b = tl.load(row + plane + k)[None, :]
            row += ld
            shift_ij = shift_j
            if MASKED:
                shift_ij += tl.where(tl.load(complete + i) != 0, 0.0, _OFF)
            weight = tl.exp2(triple_sigma(a, b, c) * scale_k + shift_ij)
            if part == 1:
                own = i if shard is None else i + first_own
                weight = tl.where((j == own)[:, None] & (k == own)[None, :], 0.0, weight)
            sums += weight
            tl.store(sums_i + i, tl.sum(weight))

    splits = tl.num_programs(2)
    tl.store(sums_j + tl.cast(part_k * splits + split, tl.int64) * ld + j, tl.sum(sums, 1))
    tl.store(sums_k + tl.cast(part_j * splits + split, tl.int64) * ld + k, tl.sum(sums, 0))


@triton.jit
def _add_up(parts, count, stride, index, mask, PARTS: tl.constexpr):
    """Sum over `count` rows of parts at columns `index`, in the same order every time."""
    total = tl.zeros([PARTS, index.shape[0]], tl.float32)
    part = tl.arange(0, PARTS)[:, None]
    for start in range(0, count, PARTS):
        pointers = parts + tl.cast(start + part, tl.int64) * stride + index[None, :]
        total += tl.load(pointers, mask=mask[None, :] & (start + part < count), other=0.0)
    return tl.sum(total, 0)


@triton.jit
def sv_all_finish(
    grams,
    complete,
    temperature,
    weights,  # [n], read only if WEIGHTED
    sums_i,
    sums_j,
    sums_k,
    logsumexp,  # out, float32 [3, n]: log2 of every anchor's normaliser
    sample_loss,  # out, float32 [n]
    factors,  # out, float32 [4, ld]: of i, j, k, what exp2 of shifted logits is multiplied with in the backward pass;
    #           then what the weights of the other tuples of its anchors come to, times that. 0 for unused samples
    n,
    ld,
    parts_i,  # rows of sums_i, sums_j, sums_k
    parts_j,
    parts_k,
    MASKED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Normalisers and losses of the samples from `sv_all_forward`'s partial sums. Unused ones keep what they had."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    used = _in_use(complete, i, n, MASKED)
    scale = LOG2_E / tl.load(temperature)
    of_i = tl.where(used, _add_up(sums_i, parts_i, n, i, inside, PARTS), 1.0)
    of_j = tl.where(used, _add_up(sums_j, parts_j, ld, i, inside, PARTS), 1.0)
    of_k = tl.where(used, _add_up(sums_k, parts_k, ld, i, inside, PARTS), 1.0)
    shift = _MIDDLE * scale
    # Out of float32's range at so small a temperature: no number, rather than a wrong one.
    reach = scale * _HALF_RANGE + 2 * tl.log2(tl.cast(n, tl.float32))
    shift = tl.where(reach < 110, shift, float("nan"))
    a, b, c = _diagonal(grams, i, ld, inside)
    positive = triple_sigma(a, b, c) * scale
    loss_i, share_i = _own_loss(of_i, shift - positive)
    loss_j, share_j = _own_loss(of_j, shift - positive)
    loss_k, share_k = _own_loss(of_k, shift - positive)
    log_i, log_j, log_k = positive + loss_i, positive + loss_j, positive + loss_k
    tl.store(logsumexp + i, log_i, mask=used)
    tl.store(logsumexp + n + i, log_j, mask=used)
    tl.store(logsumexp + 2 * n + i, log_k, mask=used)
    tl.store(sample_loss + i, (loss_i + loss_j + loss_k) / LOG2_E, mask=used)

    weight = tl.where(used, 1 / tl.load(temperature), 0.0)
    if WEIGHTED:
        weight *= tl.load(weights + i, mask=inside, other=0.0).to(tl.float32)
    padded = i < ld
    tl.store(factors + i, tl.where(used, weight * tl.exp2(shift - log_i), 0.0), mask=padded)
    tl.store(factors + ld + i, tl.where(used, weight * tl.exp2(shift - log_j), 0.0), mask=padded)
    tl.store(factors + 2 * ld + i, tl.where(used, weight * tl.exp2(shift - log_k), 0.0), mask=padded)
    tl.store(factors + 3 * ld + i, tl.where(used, weight * (share_i + share_j + share_k), 0.0), mask=padded)


@triton.jit
def _own_loss(others, shift):
    """An anchor's loss to base 2, and what its softmax weights come to without the positive's, from the sum of
    exponentials of its other tuples, shift off their logarithms relative to the own one's."""
    none = others == 0
    return softplus2(tl.where(none, float("-inf"), tl.log2(tl.where(none, 1.0, others)) + shift))


@triton.jit
def _diagonal(grams, i, ld, mask):
    plane = tl.cast(ld, tl.int64) * ld
    place = grams + tl.cast(i, tl.int64) * (ld + 1)
    a = tl.load(place, mask=mask, other=0.0)
    b = tl.load(place + plane, mask=mask, other=0.0)
    c = tl.load(place + 2 * plane, mask=mask, other=0.0)
    return a, b, c


@triton.jit(do_not_specialize=["begin", "end", "d_scale"])
def sv_all_backward(
    grams,
    complete,
    temperature,
    factors,  # by `sv_all_finish`
    d_a,  # out, float32 [tiles of k, end - begin, ld]
    d_b,  # out, float32 [tiles of j, end - begin, ld]
    d_c,  # out, float32 [splits, ld, ld]
    d_scale,  # out, float32 [programs]: sum of scores times their gradient, but for the mean over anchors
    shard,
    first_own,
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
    """Gradients of the Gram matrices but for the positives' part and the mean over anchors, in partial sums.

    Grid (j, k, splits of i).
    """
    part_j, part_k, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    j = part_j * TILE_J + tl.arange(0, TILE_J)
    k = part_k * TILE_K + tl.arange(0, TILE_K)
    scale = LOG2_E / tl.load(temperature)
    used_j = _in_use(complete, j, n, MASKED)
    used_k = _in_use(complete, k, n, MASKED)
    shift = -_MIDDLE * scale
    shift_j = tl.where(used_j, shift, _OFF)[:, None]
    scale_k = tl.where(used_k, scale, _OFF)[None, :]
    of_j = tl.load(factors + ld + j)[:, None]
    of_k = tl.load(factors + 2 * ld + k)[None, :]

    plane = tl.cast(ld, tl.int64) * (ld if shard is None else shard)
    c = tl.load(grams + 2 * plane + (tl.cast(j, tl.int64)[:, None] * ld + k[None, :]))
    first = begin + split * rows
    length = tl.cast(end - begin, tl.int64)
    d_a += (part_k * length + (first - begin)) * ld
    d_b += (part_j * length + (first - begin)) * ld
    row = grams + tl.cast(first, tl.int64) * ld
    sum_c = tl.zeros([TILE_J, TILE_K], tl.float32)
    sum_scale = tl.zeros([TILE_J, TILE_K], tl.float32)
    bounds = _ranges(first, min(first + rows, end), part_j * TILE_J, part_k * TILE_K, TILE_J, TILE_K, shard, first_own)
    for part in tl.static_range(3):
        for i in range(bounds[part], bounds[part + 1]):
            a = tl.load(row + j)[:, None]
            b = tl.load(row + plane + k)[None, :]
            row += ld
            shift_ij = shift_j
            if MASKED:
                shift_ij += tl.where(tl.load(complete + i) != 0, 0.0, _OFF)
            mu, m, f = triple_mu(a, b, c)
            sigma = tl.sqrt(mu + 1)
            weight = tl.exp2(sigma * scale_k + shift_ij) * ((of_j + tl.load(factors + i)) + of_k)
            if part == 1:
                own = i if shard is None else i + first_own
                weight = tl.where((j == own)[:, None] & (k == own)[None, :], 0.0, weight)
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


@triton.jit(do_not_specialize=["begin", "end"])
def sv_all_reduce(
    grams,
    grad,  # float32 []
    inverse_total,  # float32 []
    factors,
    parts_a,  # float32 [count_a, end - begin, ld]
    parts_b,  # float32 [count_b, end - begin, ld]
    parts_c,  # float32 [count_c, ld, ld]
    d_grams,  # out, float32 [3, ld, ld]
    d_scale,  # out, float32 [ld]: what the positives add to the sum of scores times their gradient
    ld,
    begin,
    end,
    count_a,
    count_b,
    count_c,
    LAST: tl.constexpr,  # whether this is the last launch: d_c is complete
    BLOCK: tl.constexpr,
):
    """Add the partial sums of `sv_all_backward` up, and the positives' gradient on the diagonals. Grid (rows, columns).

    The rows of a launch are those from `begin` to `end`. The last one has a program for every row, and sees to those
    from `begin` to ld: beyond the batch they are those of unused samples, zero.
    """
    row = tl.cast(tl.program_id(0), tl.int64)
    if not LAST:
        row += begin
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < ld
    plane = tl.cast(ld, tl.int64) * ld
    place = row * ld + column
    own_a, own_b, own_c, own_scale = _positive(grams, factors, row, ld)
    own = column == row
    mean = tl.load(grad) * tl.load(inverse_total)
    length = tl.cast(end - begin, tl.int64) * ld
    if row >= begin:
        offset = (row - begin) * ld + column
        mask = inside & (row + column * 0 < end)
        d_a = tl.where(own, own_a, 0.0)
        d_b = tl.where(own, own_b, 0.0)
        for part in range(count_a):
            d_a += tl.load(parts_a + part * length + offset, mask=mask, other=0.0)
        for part in range(count_b):
            d_b += tl.load(parts_b + part * length + offset, mask=mask, other=0.0)
        if LAST:
            mask = inside
        tl.store(d_grams + place, d_a * mean, mask=mask)
        tl.store(d_grams + plane + place, d_b * mean, mask=mask)
    if LAST:
        d_c = tl.where(own, own_c, 0.0)
        for part in range(count_c):
            d_c += tl.load(parts_c + part * plane + place, mask=inside, other=0.0)
        tl.store(d_grams + 2 * plane + place, d_c * mean, mask=inside)
        if tl.program_id(1) == 0:
            tl.store(d_scale + row, own_scale)


@triton.jit
def _positive(grams, factors, i, ld):
    """Gradient that the positive of sample i gives to A[i, i], B[i, i], C[i, i], and its part of d_scale."""
    plane = tl.cast(ld, tl.int64) * ld
    place = grams + i * (ld + 1)
    a, b, c = tl.load(place), tl.load(place + plane), tl.load(place + 2 * plane)
    mu, m, f = triple_mu(a, b, c)
    sigma = tl.sqrt(mu + 1)
    n_a, n_b, n_c, h = triple_gradient(a, b, c, mu, m, f, sigma)
    d_score = -tl.load(factors + 3 * ld + i)
    return d_score * (n_a * h), d_score * (n_b * h), d_score * (n_c * h), d_score * sigma
