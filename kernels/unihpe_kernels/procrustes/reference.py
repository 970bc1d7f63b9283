"""Plain torch Procrustes alignment, as it is written in textbooks: what the fast backends are tested against."""

import torch
from torch import Tensor


def procrustes(
    pred: Tensor, target: Tensor, weights: Tensor | None = None, scale: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Umeyama 1991, eq. 34-43, by `torch.linalg.svd`: rotation [..., 3, 3], scale [...], translation [..., 3].

    Args as those of `unihpe_kernels.procrustes`. NaN where the prediction has no variance; differentiable by autograd,
    which gives NaN at repeated singular values.
    """
    w = torch.ones_like(pred[..., 0]) if weights is None else weights
    w = (w / w.sum(-1, keepdim=True))[..., None]  # [..., J, 1]
    pred_mean, target_mean = (w * pred).sum(-2), (w * target).sum(-2)
    x, y = pred - pred_mean[..., None, :], target - target_mean[..., None, :]
    u, s, vh = torch.linalg.svd(y.mT @ (w * x))
    ones = torch.ones_like(s[..., 0])
    signs = torch.stack([ones, ones, torch.det(u @ vh).sign()], dim=-1)
    rotation = (u * signs[..., None, :]) @ vh
    size = (s * signs).sum(-1) / (w * x * x).sum((-2, -1)) if scale else ones
    return rotation, size, target_mean - size[..., None] * (rotation @ pred_mean[..., None])[..., 0]


def pa_mpjpe(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weighted mean over joints of |s R X_j + t - Y_j|, [...]."""
    rotation, scale, translation = procrustes(pred, target, weights)
    aligned = scale[..., None, None] * (pred @ rotation.mT) + translation[..., None, :]
    distance = torch.linalg.vector_norm(aligned - target, dim=-1)
    w = torch.ones_like(distance) if weights is None else weights
    return (w * distance).sum(-1) / w.sum(-1)
