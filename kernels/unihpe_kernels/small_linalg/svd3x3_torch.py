"""The torch backend of `svd3x3`: Jacobi in lanes forward, the closed formula backward."""

import torch
from torch import Tensor

from unihpe_kernels.small_linalg.jacobi import jacobi_frame
from unihpe_kernels.small_linalg.lanes import compute_dtype, for_each_chunk, from_lanes, to_lanes


def forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N, 3, 3] -> U [N, 3, 3], S [N, 3], Vh [N, 3, 3]."""
    samples, dtype = a.shape[0], compute_dtype(a)
    u = a.new_empty((samples, 3, 3), dtype=dtype)
    s = a.new_empty((samples, 3), dtype=dtype)
    vh = a.new_empty((samples, 3, 3), dtype=dtype)

    def work(part: slice) -> None:
        # [3, 3, n] column first: rows of the transposed matrices
        frame = jacobi_frame(to_lanes(a[part].mT.reshape(-1, 9), dtype).view(3, 3, -1))
        s0, s1, s2 = frame.s.unbind(0)
        frame.u[2].mul_(torch.copysign(s2.new_ones(()), s2))
        s1 = torch.minimum(s0, s1)  # rounding may have left equal values out of order
        s2 = torch.minimum(s1, s2.abs())
        u[part] = from_lanes(torch.stack(frame.u, dim=1).view(9, -1)).view(-1, 3, 3)
        vh[part] = from_lanes(torch.stack(frame.v).view(9, -1)).view(-1, 3, 3)
        s[part] = from_lanes(torch.stack([s0, s1, s2]))

    for_each_chunk(samples, a.device, work)
    return u, s, vh


def backward(d_u: Tensor, d_s: Tensor, d_vh: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """Gradients of the outputs -> gradient of the matrices, [N, 3, 3]; `svd3x3` documents the damping."""
    turn_u, turn_v = _product(u.mT, d_u), _product(vh, d_vh.mT)
    turn_u, turn_v = turn_u - turn_u.mT, turn_v - turn_v.mT
    largest = s[:, :1, None].clamp_min(torch.finfo(s.dtype).tiny)
    relative = s[:, :, None] / largest
    inner = (turn_u + turn_v) * _inverse(relative.mT - relative)
    inner += (turn_u - turn_v) * _inverse(relative.mT + relative)
    return _product(_product(u, inner / (2 * largest) + torch.diag_embed(d_s)), vh)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of small matrices, which torch's settings may not round to TF32."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is rounding: singular values are good to 12 eps of the largest."""
    return torch.where(x.abs() > 32 * torch.finfo(x.dtype).eps, x, torch.inf).reciprocal()
