"""The C++ backend of `svd3x3`, for float32 on a CPU: svd3x3.cpp."""

import torch
from torch import Tensor

from unihpe_kernels.native import call, single

SOURCE = "small_linalg/svd3x3.cpp"


def forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N, 3, 3] -> U [N, 3, 3], S [N, 3], Vh [N, 3, 3]."""
    shapes = ((3, 3), (3,), (3, 3))
    u, s, vh = (a.new_empty((len(a), *shape), dtype=torch.float32) for shape in shapes)
    call(SOURCE, "svd3x3", single(a), len(a), torch.get_num_threads(), u, s, vh)
    return u, s, vh


def backward(d_u: Tensor, d_s: Tensor, d_vh: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """Gradients of the outputs -> gradient of the matrices, [N, 3, 3]; `svd3x3` documents the damping."""
    d_a = torch.empty_like(u, memory_format=torch.contiguous_format)
    given = map(single, (d_u, d_s, d_vh, u, s, vh))
    call(SOURCE, "svd3x3_backward", *given, len(u), torch.get_num_threads(), d_a)
    return d_a
