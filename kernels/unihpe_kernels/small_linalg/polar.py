"""The rotation nearest to a 3x3 matrix, and how it answers to a change of the matrix, in lanes."""

import torch
from torch import Tensor

from unihpe_kernels.small_linalg.jacobi import jacobi_frame


def polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation R (det +1) that maximises trace(R^T A), and that maximum.

    With A = U S V^T and c = det(U V^T), R = U diag(1, 1, c) V^T and the maximum is s_1 + s_2 + c s_3 (Umeyama 1991).
    Where several rotations share it (s_2 + c s_3 = 0, so rank one too) R is one of them; it is I for A = 0.

    Args:
        matrix: [3, 3, n] column first, float32 or float64.

    Returns:
        R [3, 3, n] column first, and the maximum [n].
    """
    frame = jacobi_frame(matrix)
    rotation = frame.v[0][:, None] * frame.u[0]
    for u, v in zip(frame.u[1:], frame.v[1:], strict=True):
        rotation.addcmul_(v[:, None], u)
    return rotation, frame.s.sum(0)


def polar_cotangent(aligned: Tensor, cotangent: Tensor) -> Tensor:
    """Carry a gradient through `polar`: from the rotation's turn to the turn of the matrix.

    Let K' = R^T A, symmetric at the optimum, and let the loss change by h . w when R becomes R (I + [w]x). A change of
    K' turns R by w with (trace(K') I - K') w = axial(dK'), so that the loss has the gradient [z]x with respect to K',
    z = (trace(K') I - K')^-1 h. The eigenvalues of that matrix are the sums s_i + s_j of (signed) singular values,
    never their differences: it is regular at repeated singular values. Where such a sum is below 8 eps times the sum
    of all, the optimum is not unique and its computed value is noise: the rotation is held fixed about that axis.

    Args:
        aligned: K' [3, 3, n], of which the upper triangle is read.
        cotangent: h [3, n].

    Returns:
        z [3, n].
    """
    limits = torch.finfo(aligned.dtype)
    (xx, _, _), (xy, yy, _), (xz, yz, zz) = (column.unbind(0) for column in aligned.unbind(0))
    floor = (xx + yy + zz).mul_(8 * limits.eps).clamp_min_(limits.tiny)

    # L D L^T of the positive semidefinite trace(K') I - K', pivots below the floor left out
    d0 = _inverse_pivot(yy + zz, floor)
    l10, l20 = xy * -d0, xz * -d0
    rest = torch.addcmul(-yz, l10, xz)
    d1 = _inverse_pivot(torch.addcmul(xx + zz, l10, xy), floor)
    l21 = rest * d1
    d2 = _inverse_pivot(torch.addcmul(xx + yy, l20, xz).addcmul_(l21, rest, value=-1), floor)

    h0, h1, h2 = cotangent.unbind(0)
    h1 = torch.addcmul(h1, l10, h0, value=-1)
    h2 = torch.addcmul(h2, l20, h0, value=-1).addcmul_(l21, h1, value=-1)
    z2 = h2 * d2
    z1 = (h1 * d1).addcmul_(l21, z2, value=-1)
    z0 = (h0 * d0).addcmul_(l10, z1, value=-1).addcmul_(l20, z2, value=-1)
    return torch.stack([z0, z1, z2])


def _inverse_pivot(pivot: Tensor, floor: Tensor) -> Tensor:
    return torch.where(pivot > floor, pivot, torch.inf).reciprocal_()
