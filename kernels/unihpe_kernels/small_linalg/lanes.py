"""Structure of arrays for many small problems: component first, sample (a "lane") last.

One torch operation then works on one component of thousands of samples at once, in vector registers, and a batch of
3x3 problems becomes a few hundred such operations. Vectors are [3, n]; matrices are [3, 3, n], column first: `m[b, a]`
is the entry of row a and column b, so that `m[b]` is a column.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Samples a thread: the working set of a pass stays in cache, yet is long enough to hide what it costs to start an
# operation. Not a power of two: rows a power of two apart fall into the same cache sets.
CHUNK = 8_176


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any of the tensors is float64, else float32."""
    wide = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def to_lanes(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, k], any strides -> a new contiguous [k, n] of `dtype`."""
    return rows.t().to(dtype, memory_format=torch.contiguous_format, copy=True)


def from_lanes(lanes: Tensor) -> Tensor:
    """[k, n] -> a new contiguous [n, k]."""
    return lanes.t().clone(memory_format=torch.contiguous_format)


def for_each_chunk(samples: int, device: torch.device, work: Callable[[slice], None]) -> None:
    """Call `work` with slices that cover the batch: everything at once on a GPU, what fits the caches on a CPU."""
    step = CHUNK * torch.get_num_threads() if device.type == "cpu" else max(samples, 1)
    for start in range(0, samples, step):
        work(slice(start, min(start + step, samples)))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[3, n] twice -> [n]."""
    (a0, a1, a2), (b0, b1, b2) = a.unbind(0), b.unbind(0)
    return (a0 * b0).addcmul_(a1, b1).addcmul_(a2, b2)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """[3, n] twice -> [3, n]."""
    out = torch.empty_like(a)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        torch.mul(a[j], b[k], out=out[i]).addcmul_(a[k], b[j], value=-1)
    return out


def matvec(matrix: Tensor, vectors: Tensor, base: Tensor | None = None) -> Tensor:
    """base + matrix @ vectors, [3, 3, n] column first, [..., 3, n] -> [..., 3, n]; base broadcasts to the result."""
    (a, b, c), (x, y, z) = matrix.unbind(0), vectors.unsqueeze(-2).unbind(-3)
    out = x * a if base is None else torch.addcmul(base, x, a)
    return out.addcmul_(y, b).addcmul_(z, c)


def transposed(matrix: Tensor) -> Tensor:
    """The view of [3, 3, n] as its transpose."""
    return matrix.transpose(0, 1)


def trace(matrix: Tensor) -> Tensor:
    """[3, 3, n] -> [n]."""
    return matrix[0, 0] + matrix[1, 1] + matrix[2, 2]


def skew_plus(vector: Tensor, size: Tensor) -> Tensor:
    """v [3, n], [n] -> the matrix [v]x + size I of w -> v x w + size w, [3, 3, n] column first."""
    (x, y, z), (minus_x, minus_y, minus_z) = vector.unbind(0), (-vector).unbind(0)
    return torch.stack([size, z, minus_y, minus_z, size, x, y, minus_x, size]).view(3, 3, -1)


def axial(matrix: Tensor) -> Tensor:
    """[3, 3, n] column first -> v [3, n] with [v]x = A - A^T."""
    (_, yx, zx), (xy, _, zy), (xz, yz, _) = (column.unbind(0) for column in matrix.unbind(0))
    return torch.stack([zy - yz, xz - zx, yx - xy])


def outer_sum(rows: Tensor, columns: Tensor) -> Tensor:
    """sum over j of rows_j columns_j^T, [J, 3, n] twice -> [3, 3, n] column first."""
    pairs = zip(rows.unsqueeze(1).unbind(0), columns.unsqueeze(2).unbind(0), strict=True)
    row, column = next(pairs)
    out = column * row
    for row, column in pairs:
        out.addcmul_(column, row)
    return out
