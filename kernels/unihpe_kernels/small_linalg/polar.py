"""The rotation nearest to a 3x3 matrix, and how it answers to a change of the matrix, in lanes."""

import torch
from torch import Tensor

from unihpe_kernels.small_linalg.jacobi import jacobi_frame
from unihpe_kernels.small_linalg.lanes import dot, matvec, transposed

# The closed form is used where 2 (s_1 + s_2)(s_2 + c s_3)(s_1 + c s_3) is above this times |A|^3: its error there is
# the rounding to float32. Two of 1e6 Gaussian matrices lie below, and those of collinear poses.
_REGULAR = 1e-3

# Newton steps from above to the largest root, where it is as simple as that: in float32, then in float64.
_COARSE_STEPS, _FINE_STEPS = 14, 3


def polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation R (det +1) that maximises trace(R^T A), and that maximum.

    With A = U S V^T and c = det(U V^T), R = U diag(1, 1, c) V^T and the maximum is s_1 + s_2 + c s_3 (Umeyama 1991).
    Where several rotations share it (s_2 + c s_3 = 0, so rank one too) R is one of them; it is I for A = 0.

    Args:
        matrix: [3, 3, n] column first, float32 or float64.

    Returns:
        R [3, 3, n] column first, and the maximum [n].
    """
    if matrix.dtype != torch.float32 or matrix.device.type != "cpu":
        return _by_jacobi(matrix)
    rotation, maximum, regular = _in_closed_form(matrix)
    if not regular.all():
        rest = (~regular).nonzero()[:, 0]
        rotation[..., rest], maximum[rest] = _by_jacobi(matrix[..., rest])
    return rotation, maximum


def _by_jacobi(matrix: Tensor) -> tuple[Tensor, Tensor]:
    frame = jacobi_frame(matrix)
    rotation = frame.v[0][:, None] * frame.u[0]
    for u, v in zip(frame.u[1:], frame.v[1:], strict=True):
        rotation.addcmul_(v[:, None], u)
    return rotation, frame.s.sum(0)


def _in_closed_form(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """float32 -> R, the maximum, and where they hold [n] bool; half the time of Jacobi, in float64.

    The maximum f is the largest root of Horn's quartic (1987), whose roots are real:

        (f^2 - |A|^2)^2 - 8 det(A) f - 4 |C|^2 = 0, C the cofactors of A,

    and R its derivative in A:

        R = ((f^2 + |A|^2) A + 2 f C - 2 A A^T A) / (f^3 - |A|^2 f - 2 det A)

    whose denominator is 2 (s_1 + s_2)(s_2 + c s_3)(s_1 + c s_3).
    """
    lanes = matrix.shape[-1]
    cyclic = matrix.new_empty((5, 5, lanes), dtype=torch.float64)  # rows and columns 0 1 2 0 1
    a = cyclic[:3, :3]
    a.copy_(matrix)
    inverse = (a * a).sum((0, 1)).add_(1e-300).rsqrt_()
    a.mul_(inverse)  # |A| = 1 from here on, but for A = 0
    cyclic[:3, 3:], cyclic[3:] = cyclic[:3, :2], cyclic[:2]
    p, q = cyclic[1:4], cyclic[2:5]
    cofactors = (p[:, 1:4] * q[:, 2:5]).addcmul_(p[:, 2:5], q[:, 1:4], value=-1)
    det, squares = dot(a[0], cofactors[0]), (cofactors * cofactors).sum((0, 1))

    # |A^T A|^2 = 1 - 2 |C|^2: the quartic is (f^2 - 1)^2 - 8 det f - 4 |C|^2
    eight_det, rest = det * 8, squares.mul_(4)
    f = _newton(torch.full_like(det, 3**0.5, dtype=torch.float32), eight_det.float(), rest.float(), _COARSE_STEPS)
    f = _newton(f.double(), eight_det, rest, _FINE_STEPS)

    square = f * f
    denominator = torch.addcmul(det.mul_(-2), f, square - 1)
    unit = denominator.reciprocal()
    mixed = matvec(transposed(a), a).mul_(unit * -2)
    mixed.view(9, lanes)[::4].addcmul_(square.add_(1), unit)  # its diagonal
    rotation = matvec(a, mixed, cofactors.mul_(unit.mul_(f).mul_(2)))
    # (nothing is left of A = 0, whose denominator is not above this)
    return rotation.float(), f.div_(inverse).float(), denominator > _REGULAR


def _newton(f: Tensor, eight_det: Tensor, rest: Tensor, steps: int) -> Tensor:
    """Newton steps for (f^2 - 1)^2 - 8 det f - rest = 0, in place; monotone from above."""
    minus_one, minus_rest = f.new_full((), -1.0), -rest
    g, value = torch.empty_like(f), torch.empty_like(f)
    for _ in range(steps):
        torch.addcmul(minus_one, f, f, out=g)
        torch.addcmul(minus_rest, g, g, out=value).addcmul_(eight_det, f, value=-1)
        f.addcdiv_(value, torch.addcmul(eight_det, f, g, value=-4, out=g))
    return f


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
