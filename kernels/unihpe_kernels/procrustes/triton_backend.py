"""The Triton backend of `procrustes` and `pa_mpjpe`: buffers, launches.

Every pass is one launch over whole blocks of poses, and one over what is left.
"""

from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.procrustes import kernels
from unihpe_kernels.procrustes.torch_backend import alignment_shapes, pa_mpjpe_backward
from unihpe_kernels.small_linalg.lanes_kernels import launches
from unihpe_kernels.tuned import settings

__all__ = ["pa_mpjpe_backward", "pa_mpjpe_forward", "procrustes_backward", "procrustes_forward"]

_TABLES = ("pose_values", "pose_gradient", "pose_gradients")  # settings by how many gradients a pass writes


def pa_mpjpe_forward(
    pred: Tensor, target: Tensor, weights: Tensor | None, needs: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> error [N] and its gradients in pred and target, [N, J, 3], float32; [0] where not
    needed."""
    error = _buffer(pred, (pred.shape[0],))
    d_pred, d_target = (_buffer(pred, pred.shape if needed else (0,)) for needed in needs)
    _launch(kernels.pa_mpjpe_forward, _TABLES[sum(needs)], pred, [pred, target, weights, error, d_pred, d_target])
    return error, d_pred, d_target


def procrustes_forward(
    pred: Tensor, target: Tensor, weights: Tensor | None, scaled: bool, whole: bool
) -> tuple[Tensor, ...]:
    """As torch_backend's, float32."""
    outputs = tuple(_buffer(pred, shape) for shape in alignment_shapes(pred, whole))
    tensors = [pred, target, weights, *outputs, *[None] * (6 - len(outputs))]
    _launch(kernels.procrustes_forward, _TABLES[whole], pred, tensors, scaled)
    return outputs


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
    d_pred, d_target = (
        _buffer(points, points.shape if needed else (0,), points.dtype)
        for points, needed in zip((pred, target), needs, strict=True)
    )
    tensors = [d_rotation, d_scale, d_translation, pred, target, weights, rotation, scale, d_pred, d_target]
    _launch(kernels.procrustes_backward, _TABLES[sum(needs)], pred, tensors, scaled)
    return d_pred, d_target


def _buffer(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device=like.device)


def _launch(kernel: Any, table: str, pred: Tensor, tensors: list[Tensor | None], *flags: bool) -> None:
    samples, joints, _ = pred.shape
    options = settings(table, joints, pred.device)
    lanes, warps = options["lanes"], options["num_warps"]
    shape = (joints, lanes, options["share"])
    dense = [_dense(tensor) for tensor in tensors]
    with on_device(pred):
        for grid, block, whole in launches(samples, lanes):
            kernel[grid](*dense, block, samples, *flags, whole, shape, num_warps=warps, enable_fp_fusion=True)


def _dense(tensor: Tensor | None) -> Tensor | None:
    """Contiguous, and numbers instead of bools; None instead of what is not needed."""
    if tensor is None or tensor.numel() == 0:
        return None
    return (tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor).contiguous()
