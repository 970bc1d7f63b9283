"""The C++ backend of `procrustes` and `pa_mpjpe`, for float32 on a CPU: poses.cpp."""

import torch
from torch import Tensor

from unihpe_kernels.native import call, single
from unihpe_kernels.procrustes.torch_backend import empty_gradients, pa_mpjpe_backward

SOURCE = "procrustes/poses.cpp"

__all__ = ["SOURCE", "pa_mpjpe_backward", "pa_mpjpe_forward", "procrustes_backward", "procrustes_forward"]


def pa_mpjpe_forward(
    pred: Tensor, target: Tensor, weights: Tensor | None, needs: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> error [N] and its gradients in pred and target, [N, J, 3]; [0] where not needed."""
    error = pred.new_empty(pred.shape[0], dtype=torch.float32)
    gradients = empty_gradients(pred, target, needs, torch.float32)
    _call("pa_mpjpe", pred, target, weights, error, *_wanted(gradients, needs))
    return error, *gradients


def procrustes_forward(
    pred: Tensor, target: Tensor, weights: Tensor | None, scaled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> rotation [N, 3, 3], scale [N], translation [N, 3]."""
    shapes = ((3, 3), (), (3,))
    rotation, scale, translation = (pred.new_empty((len(pred), *shape), dtype=torch.float32) for shape in shapes)
    _call("procrustes", pred, target, weights, scaled, rotation, scale, translation)
    return rotation, scale, translation


def procrustes_backward(
    d_rotation: Tensor,
    d_scale: Tensor,
    d_translation: Tensor,
    pred: Tensor,
    target: Tensor,
    weights: Tensor | None,
    rotation: Tensor,
    scale: Tensor,
    scaled: bool,
    needs: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of the similarities -> gradients in pred and target, [N, J, 3]; [0] where not needed."""
    gradients = empty_gradients(pred, target, needs, torch.float32)
    given = map(single, (rotation, scale, d_rotation, d_scale, d_translation))
    _call("procrustes_backward", pred, target, weights, scaled, *given, *_wanted(gradients, needs))
    d_pred, d_target = gradients
    return d_pred.to(pred.dtype), d_target.to(target.dtype)


def _call(name: str, pred: Tensor, target: Tensor, weights: Tensor | None, *arguments: Tensor | float | None) -> None:
    """The function `name` of poses.cpp."""
    samples, joints, _ = pred.shape
    poses = (single(pred), single(target), None if weights is None else single(weights))
    call(SOURCE, name, *poses, samples, joints, torch.get_num_threads(), *arguments)


def _wanted(gradients: tuple[Tensor, Tensor], needs: tuple[bool, bool]) -> list[Tensor | None]:
    return [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]
