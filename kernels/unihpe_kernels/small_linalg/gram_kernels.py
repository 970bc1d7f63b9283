# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""Triton backend of `gram_singular_values`: one launch forward, one backward, M = 1..8, float32 arithmetic.

Forward: an eigen-decomposition of the Gram matrix of the rows turns them nearly orthogonal; a second one, of the Gram
matrix of the turned rows, finishes. The first alone would lose half of the digits of small singular values: its matrix
is rounded relative to the largest one. In the second, entry (i, j) is rounded relative to |w_i| |w_j|, the turned rows'
lengths, and the squares of small singular values keep their digits.

A tile is [samples, 4 threads, up to 4 columns each]: threads that share a row read up to 64 bytes of it at once, and
what belongs to a sample (Gram matrix, vectors) is worked out by four threads alike.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.small_linalg.eigh_kernels import diagonalise, identity, triangle_index
from unihpe_kernels.small_linalg.jacobi_kernels import inverse_power

_EPS = tl.constexpr(2.0**-23)
# Rounds of a decomposition, times M. Measured for M = 2..8: with 2 the turned rows of every matrix tried, 512 and more
# of 14 kinds, were orthogonal to rounding in the end; with 3 / 2 those of clustered values were not.
_ROUNDS = tl.constexpr(2)
_SAMPLES = 8  # a program; 4 threads each are one warp, so that small batches spread over many processors
# The rotations are sums of products: fused, or they take twice the instructions.
_OPTIONS = {"num_warps": 1, "enable_fp_fusion": True}
_THREADS = tl.constexpr(4)  # that share a row


def _columns(count: int) -> int:
    """Of a tile, for each thread: 16 bytes of float32 a load, less where registers would run out."""
    return {7: 2, 8: 1}.get(count, 4)


def forward(stack: Tensor) -> tuple[Tensor, Tensor]:
    """[B, M, D] -> values [B, M], float32, descending, and left singular vectors [B, M, M] in columns, float32."""
    batch, count, width = stack.shape
    values = torch.empty((batch, count), dtype=torch.float32, device=stack.device)
    vectors = torch.empty((batch, count, count), dtype=torch.float32, device=stack.device)
    if batch == 0:
        return values, vectors
    with on_device(stack):
        _forward[(triton.cdiv(batch, _SAMPLES),)](
            stack, *stack.stride(), values, vectors, batch, width, count, _SAMPLES, _columns(count), **_OPTIONS
        )
    return values, vectors


def backward(grad: Tensor, stack: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """[B, M, D]: sum over k of grad_k u_k v_k^T, v_k = Z^T u_k / |Z^T u_k|, or 0 where that length is mere rounding."""
    batch, count, width = stack.shape
    gradient = torch.empty((batch, count, width), dtype=stack.dtype, device=stack.device)
    if batch == 0:
        return gradient
    with on_device(stack):
        _backward[(triton.cdiv(batch, _SAMPLES),)](
            grad.contiguous(), stack, *stack.stride(), values, vectors, gradient, batch, width, count, _SAMPLES,
            _columns(count), **_OPTIONS,
        )  # fmt: skip
    return gradient


@triton.jit
def _zeros(count: tl.constexpr, samples: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(count):
        zeros = zeros + (tl.zeros([samples, _THREADS], tl.float32),)
    return zeros


@triton.jit
def _load(stack, rows, stride_m, stride_d, columns, mask, M: tl.constexpr):
    """The M rows of a tile, float32, 0 outside."""
    members = ()
    for m in tl.static_range(M):
        place = tl.full((), m, tl.int64) * stride_m
        members = members + (tl.load(stack + place + (rows + columns * stride_d), mask=mask, other=0).to(tl.float32),)
    return members


@triton.jit
def _combine(factors, members, start: tl.constexpr, step: tl.constexpr, M: tl.constexpr):
    """sum over m of factors[start + m * step] members[m]; factors are per sample."""
    total = factors[start][:, None, None] * members[0]
    for m in tl.static_range(1, M):
        total += factors[start + m * step][:, None, None] * members[m]
    return total


@triton.jit
def _turned(stack, rows, stride_m, stride_d, columns, width, inside, scale, vectors, M: tl.constexpr):
    """The M rows of a tile, scaled, in the basis `vectors`."""
    mask = inside[:, None, None] & (columns < width)
    members = _load(stack, rows, stride_m, stride_d, columns, mask, M)
    scaled = ()
    for m in tl.static_range(M):
        scaled = scaled + (members[m] * scale[:, None, None],)
    turned = ()
    for k in tl.static_range(M):
        turned = turned + (_combine(vectors, scaled, k * M, 1, M),)
    return turned


@triton.jit
def _forward(
    stack, stride_b, stride_m, stride_d, values_out, vectors_out, batch, width,
    M: tl.constexpr, SAMPLES: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    inside = sample < batch
    rows = (sample * stride_b)[:, None, None]
    column = tl.arange(0, _THREADS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    column = column.to(tl.int64)[None, :, :]

    # squares neither overflow nor underflow once the largest entry lies in [1, 2)
    largest = tl.zeros([SAMPLES, _THREADS], tl.float32)
    for start in range(0, width, _THREADS * COLUMNS):
        mask = inside[:, None, None] & (start + column < width)
        members = _load(stack, rows, stride_m, stride_d, start + column, mask, M)
        for m in tl.static_range(M):
            largest = tl.maximum(largest, tl.max(tl.abs(members[m]), axis=2))
    scale = inverse_power(tl.max(largest, axis=1))

    vectors = identity(scale, M)
    squares = vectors[:M]
    for _ in range(2):
        grams = _zeros(M * (M + 1) // 2, SAMPLES)
        for start in range(0, width, _THREADS * COLUMNS):
            turned = _turned(stack, rows, stride_m, stride_d, start + column, width, inside, scale, vectors, M)
            sums = ()
            for i in tl.static_range(M):
                for j in tl.static_range(i, M):
                    sums = sums + (grams[triangle_index(i, j, M)] + tl.sum(turned[i] * turned[j], axis=2),)
            grams = sums
        entries = ()
        for e in tl.static_range(M * (M + 1) // 2):
            entries = entries + (tl.sum(grams[e], axis=1),)
        squares, vectors = diagonalise(entries, vectors, _ROUNDS * M, M)

    for k in tl.static_range(M):
        # D rows span at most D dimensions: the rest is rounding
        length = tl.where(k < width, tl.sqrt(tl.where(squares[k] < 0, 0.0, squares[k])), 0.0) * inverse_power(scale)
        tl.store(values_out + sample * M + k, length, mask=inside)
        for i in tl.static_range(M):
            tl.store(vectors_out + sample * (M * M) + (i * M + k), vectors[k * M + i], mask=inside)


@triton.jit
def _backward(
    grad, stack, stride_b, stride_m, stride_d, values, vectors_in, gradient, batch, width,
    M: tl.constexpr, SAMPLES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    inside = sample < batch
    rows = (sample * stride_b)[:, None, None]
    column = tl.arange(0, _THREADS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    column = column.to(tl.int64)[None, :, :]
    largest = tl.load(values + sample * M, mask=inside, other=0)
    scale = inverse_power(largest)
    vectors = ()
    for k in tl.static_range(M):
        for i in tl.static_range(M):
            vectors = vectors + (tl.load(vectors_in + sample * (M * M) + (i * M + k), mask=inside, other=0),)

    squares = _zeros(M, SAMPLES)
    for start in range(0, width, _THREADS * COLUMNS):
        turned = _turned(stack, rows, stride_m, stride_d, start + column, width, inside, scale, vectors, M)
        sums = ()
        for k in tl.static_range(M):
            sums = sums + (squares[k] + tl.sum(turned[k] * turned[k], axis=2),)
        squares = sums
    # lengths anew, not `values`: where they are not far above rounding the two differ, and v_k must have unit length
    factors = ()
    for k in tl.static_range(M):
        length = tl.sqrt(tl.sum(squares[k], axis=1))
        length = tl.where(length <= 16 * _EPS * (largest * scale), float("inf"), length)
        factors = factors + (tl.load(grad + sample * M + k, mask=inside, other=0) / length,)

    for start in range(0, width, _THREADS * COLUMNS):
        turned = _turned(stack, rows, stride_m, stride_d, start + column, width, inside, scale, vectors, M)
        units = ()
        for k in tl.static_range(M):
            units = units + (factors[k][:, None, None] * turned[k],)
        mask = inside[:, None, None] & (start + column < width)
        for i in tl.static_range(M):
            place = (sample * M + i)[:, None, None] * width + (start + column)
            tl.store(gradient + place, _combine(vectors, units, i, M, M), mask=mask)
