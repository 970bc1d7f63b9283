"""The rotation nearest to a 3x3 matrix, and how it answers to a change of the matrix, in lanes."""

import torch
from torch import Tensor

from unihpe_kernels.small_linalg.jacobi import SWEEPS, SWEEPS_BEFORE_CORRECTION, jacobi_frame


def polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation R (det +1) that maximises trace(R^T A), and that maximum.

    With A = U S V^T and c = det(U V^T), R = U diag(1, 1, c) V^T and the maximum is s_1 + s_2 + c s_3 (Umeyama 1991).
    Where several rotations share it (s_2 + c s_3 = 0, so rank one too) R is one of them; it is I for A = 0.

    Args:
        matrix: [3, 3, n] column first, float32 or float64.

    Returns:
        R [3, 3, n] column first, and the maximum [n].
    """
    single = matrix.dtype == torch.float32
    frame = jacobi_frame(matrix, SWEEPS_BEFORE_CORRECTION if single else SWEEPS)
    (u0, u1, u2), (s0, s1, s2) = frame.u, frame.s
    # What the sweeps left is at most 2.4e-5 in angle: one first-order step of R towards the optimum leaves its square,
    # for half of the price of another sweep. (The last pair rotated, 1 and 2, has nothing left.)
    turn_1 = frame.inner[0] / (s0 + s1)
    sum_02 = s0 + s2
    turn_2 = frame.inner[1].mul_(sum_02).div_(torch.addcmul(sum_02.new_full((), 1e-6), sum_02, sum_02))
    first = torch.addcmul(u0, u1, turn_1, value=-1).addcmul_(u2, turn_2, value=-1)
    second, third = u1.addcmul_(u0, turn_1), u2.addcmul_(u0, turn_2)

    v0, v1, v2 = frame.v
    rotation = v0[:, None] * first
    rotation.addcmul_(v1[:, None], second).addcmul_(v2[:, None], third)
    return rotation, (s0 + s1).add_(s2).mul_(frame.size)


def polar_cotangent(aligned: Tensor, cotangent: Tensor) -> Tensor:
    """Carry a gradient through `polar`: from the rotation's turn to the turn of the matrix.

    Let K' = A R^T, symmetric at the optimum, and let the loss change by h . w when R becomes (I + [w]x) R. A change of
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
    xx, yy, zz = (aligned[i, i] for i in range(3))
    xy, xz, yz = aligned[1, 0], aligned[2, 0], aligned[2, 1]
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
