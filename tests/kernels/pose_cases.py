"""Poses and references shared by the tests of Procrustes alignment."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.tolerances import ALIGNED_ERROR
from unihpe_kernels.procrustes import reference

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


def line(samples: int) -> Tensor:
    """Joints along one random direction a pose."""
    return random_poses(samples, 17, seed=11)[..., :1] * random_rotations(samples, seed=12)[:, None, 0]


def plane(samples: int) -> Tensor:
    flat = random_poses(samples, 17, seed=13)
    flat[..., 2] = 0
    return flat @ random_rotations(samples, seed=14).mT


def mirrored(points: Tensor) -> Tensor:
    return points * torch.tensor([-1.0, 1.0, 1.0], dtype=points.dtype)


S = 64
GENERIC = random_poses(S, seed=15)
FIVE = GENERIC[:, :6]
SIX = OCTAHEDRON.expand(S, 6, 3)
CASES = {
    # name: prediction, target
    "mirrored": (mirrored(GENERIC), GENERIC),
    "mirrored noisy": (mirrored(GENERIC) + 0.1 * random_poses(S, seed=16), GENERIC),
    "planar": (plane(S), GENERIC),
    "planar target": (GENERIC, plane(S)),
    "planar both": (plane(S) @ random_rotations(S, 17).mT, plane(S)),
    "planar both, mirrored": (mirrored(plane(S)), plane(S)),
    "collinear": (line(S), GENERIC),
    "collinear target": (GENERIC, line(S)),
    "collinear both": (line(S) @ random_rotations(S, 18).mT, line(S)),
    "collinear along axes": (GENERIC * torch.tensor([1.0, 0, 0]), GENERIC * torch.tensor([0, 0, 1.0])),
    "identical": (GENERIC, GENERIC),
    "identical, equal singular values": (SIX, SIX),
    "equal singular values, noisy": (SIX + 0.1 * FIVE, SIX),
    "equal singular values, mirrored": (-SIX, SIX),
    "far from the origin": (GENERIC + 1e4, mirrored(GENERIC) - 1e4),
    "two joints": (GENERIC[:, :2], line(S)[:, :2]),
}


def check_optimum(name: str, dtype: torch.dtype, procrustes: Callable, pa_mpjpe: Callable) -> None:
    """Both functions on a degenerate case: nothing beats what they find."""
    pred, target = (points.to(dtype) for points in CASES[name])
    similarity = procrustes(pred, target)
    rotation = similarity.rotation.double()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(S, 3, 3), rtol=0, atol=20 * eps)
    torch.testing.assert_close(torch.det(rotation), torch.ones(S).double(), rtol=0, atol=20 * eps)
    assert (similarity.scale >= 0).all()
    # the sum of squares has one minimum whatever the rotation; its root is in mm. Far poses carry their own rounding.
    residual = (similarity.apply(pred) - target).double()
    far = 20 if "far" in name else 1
    size = (target - target.mean(1, keepdim=True)).double().norm(dim=(1, 2))
    got, best = residual.norm(dim=(1, 2)), squared_residual(pred, target).clamp_min(0).sqrt()
    assert (got <= best + 100 * eps * far * size).all()
    # (roots: a minimum of 0 is only known to the root of rounding)
    assert (got >= best - 2e-7 * size - 100 * eps * far * size).all()
    error = pa_mpjpe(pred, target).double()
    assert ((error - residual.norm(dim=-1).mean(-1)).abs() <= 50 * eps * far * size).all()


def check_prediction_without_variance(
    dtype: torch.dtype, offset: float, procrustes: Callable, pa_mpjpe: Callable
) -> None:
    pred = torch.full((S, 17, 3), offset, dtype=dtype)
    target = GENERIC.to(dtype)
    similarity = procrustes(pred, target)
    assert torch.equal(similarity.rotation, torch.eye(3, dtype=dtype).expand(S, 3, 3))
    assert torch.equal(similarity.scale, torch.ones(S, dtype=dtype))
    centred = target - target.mean(1, keepdim=True)
    atol = 4e-7 * offset + 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(pa_mpjpe(pred, target), centred.norm(dim=-1).mean(-1), rtol=0, atol=atol)
    torch.testing.assert_close(similarity.apply(pred).mean(1), target.mean(1), rtol=0, atol=5 * atol)


def check_alignment(dtype: torch.dtype, weighted: bool, scale: bool, align: Callable) -> None:
    """Everything that `align` returns, against the reference in float64; two joints are missing where weighted."""
    pred, target = (points.to(dtype) for points in pose_pairs(203))
    weights = None
    if weighted:
        weights = torch.rand(203, 17, generator=generator(4)).to(dtype) + 0.1
        weights[:, [3, 9]] = 0
    similarity = reference.procrustes(
        pred.double(), target.double(), None if weights is None else weights.double(), scale
    )
    aligned = similarity[1][:, None, None] * pred.double() @ similarity[0].mT + similarity[2][:, None]
    distances = (aligned - target.double()).norm(dim=-1)
    if weights is None:
        error = distances.mean(-1)
    else:
        distances[weights == 0] = 0
        error = (weights.double() * distances).sum(-1) / weights.double().sum(-1)
        weights[5] = 0
        pred[:, 3] = torch.nan
        aligned[:, 3] = torch.nan
    got = align(pred, target, weights=weights, scale=scale)
    atol = ALIGNED_ERROR if dtype == torch.float32 else 1e-8
    generic = [n for n in range(203) if n != 5] if weighted else slice(None)  # all weights 0: the identity
    for value, want in zip((got.aligned, got.joint_errors, got.error), (aligned, distances, error), strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value[generic].double(), want[generic], rtol=0, atol=atol, equal_nan=True)
    if weighted:
        torch.testing.assert_close(got.aligned[5, :3], pred[5, :3])
        assert not got.joint_errors[5].any()
        assert got.error[5] == 0
