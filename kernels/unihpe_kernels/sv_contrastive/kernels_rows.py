"""Kernels over the rows of embeddings: lengths before the scores, the mean over anchors, the gradient after them."""

import triton
import triton.language as tl

from unihpe_kernels.small_linalg.jacobi_kernels import inverse_power
from unihpe_kernels.sv_contrastive.arguments import MIN_NORM

_MIN_NORM = tl.constexpr(MIN_NORM)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def unit_rows_of_three(
    x,  # [n, dim], contiguous, any floating dtype
    y,
    z,
    complete,  # uint8 [n], read only if MASKED
    units,  # out, float32 [5, ld, dim]: x, x, y, z, z; zero for unused samples and from n on
    inverse_norms,  # out, float32 [3, ld]
    n,
    ld,
    dim,
    MASKED: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Unit rows in the order in which one batched product gives x.y, x.z and y.z: the first three by the last three."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    used = row < n
    if MASKED:
        used = tl.load(complete + row, mask=used, other=0) != 0
    plane = tl.cast(ld, tl.int64) * dim
    offset = tl.cast(row, tl.int64) * dim
    for m in tl.static_range(3):
        if m == 0:
            source = x
        elif m == 1:
            source = y
        else:
            source = z
        scale, inverse = unit_scales(source, offset, dim, used, NORMALIZE, ROWS, BLOCK)
        tl.store(inverse_norms + m * ld + row, inverse * scale, mask=row < ld)
        for start in range(0, dim, BLOCK):
            column = start + tl.arange(0, BLOCK)
            place = offset[:, None] + column[None, :]
            inside = column[None, :] < dim
            value = tl.load(source + place, mask=used[:, None] & inside, other=0.0).to(tl.float32)
            value = value * scale[:, None] * inverse[:, None]
            written = (row < ld)[:, None] & inside
            tl.store(units + (m + 1) * plane + place, value, mask=written)
            if m == 0:
                tl.store(units + place, value, mask=written)
            if m == 2:
                tl.store(units + 4 * plane + place, value, mask=written)


@triton.jit
def unit_scales(source, offset, dim, used, NORMALIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """A power of two for each row, and 1/length of rows times that, 0 for rows as good as zero; 1 unless NORMALIZE."""
    if not NORMALIZE:
        return tl.full([ROWS], 1.0, tl.float32), tl.full([ROWS], 1.0, tl.float32)
    else:  # noqa: RET505 - Triton compiles what follows a return
        scale = row_power(source, offset, dim, used, ROWS, BLOCK)
        square = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, dim, BLOCK):
            column = start + tl.arange(0, BLOCK)[None, :]
            inside = used[:, None] & (column < dim)
            value = tl.load(source + (offset[:, None] + column), mask=inside, other=0.0).to(tl.float32)
            value = value * scale[:, None]
            square += value * value
        return scale, inverse_root(tl.sum(square, 1), scale)


@triton.jit
def row_power(source, offset, dim, used, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The power of two that takes a row's largest magnitude into [1, 2): squares neither overflow nor underflow after
    it. offset [ROWS]: of the rows in `source`."""
    largest = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, dim, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]
        inside = used[:, None] & (column < dim)
        value = tl.load(source + (offset[:, None] + column), mask=inside, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(value))
    return inverse_power(tl.max(largest, 1))


@triton.jit
def inverse_root(square, scale):
    """1/length from the squared lengths of rows that were multiplied with `scale`, 0 for rows as good as zero.
    Correctly rounded: every score depends on it."""
    norm = tl.sqrt_rn(square)
    least = _MIN_NORM * scale
    return tl.where(norm >= least, tl.div_rn(1.0, tl.maximum(norm, least)), 0.0)


@triton.jit
def softplus2(x):
    """log2(1 + 2^x), and 2^x over 1 + 2^x, both good to a few roundings of themselves however small: x may be
    -infinity."""
    small = tl.exp2(-tl.abs(x))
    return log2_1p(small, False) + tl.where(x > 0, x, 0.0), tl.where(x > 0, 1.0, small) / (1 + small)


@triton.jit
def log2_1p(small, FAST: tl.constexpr):
    """log2(1 + small) of numbers in [0, 1] with all digits of a small one: ln(1 + e) = 2 atanh(e / (2 + e)), as the
    hardware's logarithm near 1 is good to 2^-22 of 1. FAST: with one root for a division, and fewer terms."""
    if FAST:
        inverse = tl.rsqrt(2 + small)
        ratio = small * (inverse * inverse)
        square = ratio * ratio
        series = square * (1 / 13) + 1 / 11
    else:
        ratio = small / (2 + small)
        square = ratio * ratio
        series = square * (1 / 17) + 1 / 15
        series = series * square + 1 / 13
        series = series * square + 1 / 11
    series = series * square + 1 / 9
    series = series * square + 1 / 7
    series = series * square + 1 / 5
    series = series * square + 1 / 3
    series = series * square + 1
    return ratio * series * (2 * LOG2_E)


@triton.jit
def mean_over_anchors(
    sample_loss,  # float32 [n]: summed over the sample's anchors
    weights,  # [n], read only if WEIGHTED
    present,  # uint8 [M, n], read only if MASKED
    loss,  # out, float32 []
    inverse_total,  # out, float32 [32]: 1 over the weight of all anchors, or 0, all alike
    n,
    M: tl.constexpr,
    MASKED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The weighted mean over anchors. One program."""
    total = tl.zeros([BLOCK], tl.float32)
    weighted = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside = i < n
        weight = _weight(weights, i, inside, WEIGHTED)
        total += tl.where(inside, weight * _anchors(present, i, n, inside, M, MASKED), 0.0)
        weighted += weight * tl.load(sample_loss + i, mask=inside, other=0.0)
    sum_total = tl.sum(total)
    inverse = tl.where(sum_total == 0, 0.0, 1 / tl.where(sum_total == 0, 1.0, sum_total))
    tl.store(inverse_total + tl.arange(0, 32), inverse)
    tl.store(loss, tl.sum(weighted) * inverse)


@triton.jit
def _weight(weights, i, inside, WEIGHTED: tl.constexpr):
    if WEIGHTED:
        return tl.load(weights + i, mask=inside, other=0.0).to(tl.float32)
    else:  # noqa: RET505 - Triton compiles what follows a return
        return tl.where(inside, 1.0, 0.0)


@triton.jit
def _anchors(present, i, n, inside, M: tl.constexpr, MASKED: tl.constexpr):
    """How many anchors a sample has."""
    if MASKED:
        count = tl.zeros(i.shape, tl.float32)
        for m in tl.static_range(M):
            count += tl.load(present + m * n + i, mask=inside, other=0).to(tl.float32)
        return tl.where(count >= 2, count, 0.0)
    else:  # noqa: RET505 - Triton compiles what follows a return
        return tl.where(inside, M * 1.0, 0.0)


@triton.jit
def weights_and_temperature_gradient(
    grad,
    loss,
    inverse_total,
    sample_loss,
    present,
    temperature,
    d_scale,  # float32 [parts]: partial sums of scores times their gradient
    open_parts,  # the first of them still lack the mean over anchors
    d_weights,  # out, float32 [n]
    d_temperature,  # out, float32 []
    n,
    parts,
    M: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of the weights, and, by the first program, of the temperature."""
    block = tl.program_id(0)
    i = block * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    factor = tl.load(grad) * tl.load(inverse_total)
    anchors = _anchors(present, i, n, inside, M, MASKED)
    own = tl.load(sample_loss + i, mask=inside, other=0.0)
    # nothing weighs anything: the loss is 0, and so is its gradient
    tl.store(d_weights + i, factor * (own - anchors * tl.load(loss)), mask=inside)
    if block == 0:
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, parts, BLOCK):
            part = start + tl.arange(0, BLOCK)
            value = tl.load(d_scale + part, mask=part < parts, other=0.0)
            total += tl.where(part < open_parts, factor * value, value)
        tl.store(d_temperature, -tl.sum(total) / tl.load(temperature))


@triton.jit
def embedding_gradients_of_three(
    units,  # float32 [5, ld, dim]
    inverse_norms,  # float32 [3, ld]
    left,  # float32 [3, ld, dim]: dA y, dB z, dC z
    right,  # float32 [3, ld, dim]: dA^T x, dB^T x, dC^T y
    d_x,  # out, [n, dim]
    d_y,
    d_z,
    n,
    ld,
    dim,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of the unit rows taken back through the normalisation."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    plane = tl.cast(ld, tl.int64) * dim
    offset = tl.cast(row, tl.int64) * dim
    for m in tl.static_range(3):
        if m == 0:
            first, second, out = left, left + plane, d_x
        elif m == 1:
            first, second, out = left + 2 * plane, right, d_y
        else:
            first, second, out = right + plane, right + 2 * plane, d_z
        inverse = tl.load(inverse_norms + m * ld + row, mask=inside, other=0.0)[:, None]
        along = tl.zeros([ROWS, 1], tl.float32)
        if NORMALIZE:
            for start in range(0, dim, BLOCK):
                column = start + tl.arange(0, BLOCK)
                place = offset[:, None] + column[None, :]
                mask = inside[:, None] & (column[None, :] < dim)
                gradient = tl.load(first + place, mask=mask, other=0.0) + tl.load(second + place, mask=mask, other=0.0)
                unit = tl.load(units + (m + 1) * plane + place, mask=mask, other=0.0)
                along += tl.sum(unit * gradient, 1)[:, None]
        for start in range(0, dim, BLOCK):
            column = start + tl.arange(0, BLOCK)
            place = offset[:, None] + column[None, :]
            mask = inside[:, None] & (column[None, :] < dim)
            gradient = tl.load(first + place, mask=mask, other=0.0) + tl.load(second + place, mask=mask, other=0.0)
            if NORMALIZE:
                unit = tl.load(units + (m + 1) * plane + place, mask=mask, other=0.0)
                gradient = (gradient - unit * along) * inverse
            tl.store(out + place, gradient.to(out.dtype.element_ty), mask=mask)
