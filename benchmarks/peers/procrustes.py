"""What `pa_mpjpe` and `svd3x3` are measured against: the same numbers by other means.

The pose errors take predictions and targets [N, J, 3] and return [N]; the torch ones are differentiable.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unihpe_kernels.procrustes import reference

PoseError = Callable[[Tensor, Tensor], Tensor]


def torch_svd(pred: Tensor, target: Tensor) -> Tensor:
    """Batched `torch.linalg.svd` of the covariances."""
    return reference.pa_mpjpe(pred, target)


def roma_registration(pred: Tensor, target: Tensor) -> Tensor:
    """`roma.rigid_points_registration` with scaling: Horn's closed form, refined, with its own backward."""
    import roma

    rotation, translation, scale = roma.rigid_points_registration(pred, target, compute_scaling=True)
    aligned = scale[:, None, None] * (pred @ rotation.mT) + translation[:, None]
    return torch.linalg.vector_norm(aligned - target, dim=-1).mean(-1)


def numpy_svd(pred: Tensor, target: Tensor) -> Tensor:
    """Batched numpy SVD, by the steps of VideoPose3D's p_mpjpe, per pose instead of averaged. No gradient."""
    x, y = pred.numpy(), target.numpy()
    x_mean, y_mean = x.mean(1, keepdims=True), y.mean(1, keepdims=True)
    x0, y0 = x - x_mean, y - y_mean
    x_norm, y_norm = (np.sqrt((points**2).sum((1, 2), keepdims=True)) for points in (x0, y0))
    x0, y0 = x0 / x_norm, y0 / y_norm
    u, s, vh = np.linalg.svd(y0.transpose(0, 2, 1) @ x0)
    v = vh.transpose(0, 2, 1)
    sign = np.sign(np.linalg.det(v @ u.transpose(0, 2, 1)))[:, None]
    v[:, :, -1] *= sign
    s[:, -1] *= sign[:, 0]
    rotation = v @ u.transpose(0, 2, 1)
    scale = s.sum(1)[:, None, None] * y_norm / x_norm
    aligned = scale * (x @ rotation) + y_mean - scale * (x_mean @ rotation)
    return torch.from_numpy(np.linalg.norm(aligned - y, axis=-1).mean(-1))
