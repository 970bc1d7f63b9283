"""Structure of arrays for many small problems: component first, sample (a "lane") last.

One torch operation then works on one component of thousands of samples at once, in vector registers, and a batch of
3x3 problems becomes a few hundred such operations. Vectors are [3, n]; matrices are [3, 3, n], column first: `m[b, a]`
is the entry of row a and column b, so that `m[b]` is a column.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Samples a pass and thread: the working set of a pass stays in cache, yet is long enough to hide what it costs to start
# an operation. Not a power of two: rows a power of two apart fall into the same cache sets, which makes the
# transposition four times slower.
CHUNK = 8_176


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any of the tensors is float64, else float32."""
    wide = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def chunks(samples: int, device: torch.device) -> Iterator[slice]:
    """Slices of the batch that are worked on at once: everything on a GPU, what fits the caches on a CPU."""
    step = CHUNK * torch.get_num_threads() if device.type == "cpu" else max(samples, 1)
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))


def to_lanes(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, k], any strides -> a new contiguous [k, n] of `dtype`."""
    # Copied first, whatever they are: in order, memory is read twice as fast as by the transposition.
    return _transpose(rows.to(dtype, memory_format=torch.contiguous_format, copy=True))


def from_lanes(lanes: Tensor) -> Tensor:
    """[k, n] -> a new contiguous [n, k]."""
    return _transpose(lanes.contiguous())


def _transpose(matrix: Tensor) -> Tensor:
    rows, columns = matrix.shape
    if matrix.device.type != "cpu" or matrix.numel() == 0:
        return matrix.t().clone(memory_format=torch.contiguous_format)
    # The same values as `matrix.t().contiguous()`. On the CPU torch's channel shuffle is four times faster than its
    # copy when it sees an image in channels-last order, here one pixel of rows * columns channels.
    count = rows * columns
    pixel = matrix.as_strided((1, count, 1, 1), (count, 1, count, count))
    return torch.channel_shuffle(pixel, rows).view(columns, rows)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[3, n] twice -> [n]."""
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])


def cross(a: Tensor, b: Tensor) -> Tensor:
    """[3, n] twice -> [3, n]."""
    out = torch.empty_like(a)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        torch.mul(a[j], b[k], out=out[i]).addcmul_(a[k], b[j], value=-1)
    return out


def matvec(matrix: Tensor, vectors: Tensor, base: Tensor | None = None) -> Tensor:
    """base + matrix @ vectors, [3, 3, n] column first, [..., 3, n] -> [..., 3, n]; base broadcasts to the result."""
    x, y, z = (vectors[..., i : i + 1, :] for i in range(3))
    out = x * matrix[0] if base is None else torch.addcmul(base, x, matrix[0])
    return out.addcmul_(y, matrix[1]).addcmul_(z, matrix[2])


def transposed(matrix: Tensor) -> Tensor:
    """The view of [3, 3, n] as its transpose."""
    return matrix.transpose(0, 1)


def trace(matrix: Tensor) -> Tensor:
    """[3, 3, n] -> [n]."""
    return (matrix[0, 0] + matrix[1, 1]).add_(matrix[2, 2])


def skew(vector: Tensor) -> Tensor:
    """v [3, n] -> the matrix [v]x of w -> v x w, [3, 3, n] column first."""
    x, y, z = vector.unbind(0)
    zero = torch.zeros_like(x)
    return torch.stack([zero, z, -y, -z, zero, x, y, -x, zero]).view(3, 3, -1)


def axial(matrix: Tensor) -> Tensor:
    """[3, 3, n] column first -> v [3, n] with [v]x = A - A^T."""
    return torch.stack([matrix[j, k] - matrix[k, j] for j, k in ((1, 2), (2, 0), (0, 1))])


def outer_sum(rows: Tensor, columns: Tensor) -> Tensor:
    """sum over j of rows_j columns_j^T, [J, 3, n] twice -> [3, 3, n] column first."""
    out = columns[0][:, None] * rows[0]
    for j in range(1, rows.shape[0]):
        out.addcmul_(columns[j][:, None], rows[j])
    return out
