"""Poses and references shared by the tests of Procrustes alignment."""

import torch
from torch import Tensor

from unihpe_kernels.procrustes import reference

# mm, at a spread of 500 mm, in float32 against float64 on the same inputs
ERROR_TOLERANCE = 1e-3

OCTAHEDRON = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)]) * 500


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_poses(samples: int, joints: int = 17, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """[samples, joints, 3], mm, spread of 500 mm."""
    return (torch.randn(samples, joints, 3, generator=generator(seed), dtype=torch.float64) * 500).to(dtype)


def random_rotations(samples: int, seed: int = 0) -> Tensor:
    """[samples, 3, 3] float64, det +1."""
    q, _ = torch.linalg.qr(torch.randn(samples, 3, 3, generator=generator(seed), dtype=torch.float64))
    return q * torch.det(q)[:, None, None]


def pose_pairs(samples: int, joints: int = 17, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Targets and their turned, scaled, shifted, noisy predictions, every hundredth mirrored; float64."""
    target = random_poses(samples, joints, seed)
    share = 0.1 + 0.9 * torch.rand(samples, 1, 1, generator=generator(seed), dtype=target.dtype)
    noise = random_poses(samples, joints, seed + 1) * share
    pred = 0.7 * target @ random_rotations(samples, seed).mT + 0.3 * noise + 100
    pred[::100, :, 0] *= -1
    return pred, target


def squared_residual(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The least sum over joints of w |s R X + t - Y|^2, [...], by the singular values of the covariance, float64."""
    pred, target = pred.double(), target.double()
    w = torch.ones_like(pred[..., 0]) if weights is None else weights.double()
    w = w[..., None]
    x = pred - (w * pred).sum(-2, keepdim=True) / w.sum(-2, keepdim=True)
    y = target - (w * target).sum(-2, keepdim=True) / w.sum(-2, keepdim=True)
    u, s, vh = torch.linalg.svd(y.mT @ (w * x))
    best = s[..., 0] + s[..., 1] + torch.det(u @ vh).sign() * s[..., 2]
    return (w * y * y).sum((-2, -1)) - best**2 / (w * x * x).sum((-2, -1))


def reference_gradients(pred: Tensor, target: Tensor, weights: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the reference PA-MPJPE in float64."""
    pred, target = pred.double().requires_grad_(), target.double().requires_grad_()
    error = reference.pa_mpjpe(pred, target, None if weights is None else weights.double())
    d_pred, d_target = torch.autograd.grad(error, (pred, target), grad.double())
    return d_pred, d_target
