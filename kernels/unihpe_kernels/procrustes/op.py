"""Registration of `procrustes` and `pa_mpjpe` with torch: operators, shapes, gradients, autocast, in that order."""

from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.procrustes import torch_backend
from unihpe_kernels.small_linalg.lanes import compute_dtype

# backend name -> module with `procrustes_forward`, `procrustes_backward`, `pa_mpjpe_forward`, `pa_mpjpe_backward`
_BACKENDS: dict[str, Any] = {"torch": torch_backend}


@torch.library.custom_op("unihpe_kernels::procrustes", mutates_args=())
def procrustes(
    pred: Tensor, target: Tensor, weights: Tensor | None, scaled: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> rotation [N, 3, 3], scale [N], translation [N, 3], and for the backward 1/variance [N]."""
    return _BACKENDS[backend].procrustes_forward(pred, target, weights, scaled)


@torch.library.custom_op("unihpe_kernels::procrustes_backward", mutates_args=())
def procrustes_backward(
    d_rotation: Tensor,
    d_scale: Tensor,
    d_translation: Tensor,
    pred: Tensor,
    target: Tensor,
    weights: Tensor | None,
    rotation: Tensor,
    scale: Tensor,
    inverse_variance: Tensor,
    scaled: bool,
    for_pred: bool,
    for_target: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of pred and target, [N, J, 3] in their dtypes; empty [0] where not asked for."""
    grads = (d_rotation, d_scale, d_translation)
    inputs = (pred, target, weights)
    saved = (rotation, scale, inverse_variance)
    return _BACKENDS[backend].procrustes_backward(*grads, *inputs, *saved, scaled, (for_pred, for_target))


@torch.library.custom_op("unihpe_kernels::pa_mpjpe", mutates_args=())
def pa_mpjpe(
    pred: Tensor, target: Tensor, weights: Tensor | None, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> error [N], and for the backward rotation [N, 3, 3], scale [N], 1/variance [N]."""
    return _BACKENDS[backend].pa_mpjpe_forward(pred, target, weights)


@torch.library.custom_op("unihpe_kernels::pa_mpjpe_backward", mutates_args=())
def pa_mpjpe_backward(
    grad: Tensor,
    pred: Tensor,
    target: Tensor,
    weights: Tensor | None,
    rotation: Tensor,
    scale: Tensor,
    inverse_variance: Tensor,
    for_pred: bool,
    for_target: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of pred and target, [N, J, 3] in their dtypes; empty [0] where not asked for."""
    inputs = (pred, target, weights)
    saved = (rotation, scale, inverse_variance)
    return _BACKENDS[backend].pa_mpjpe_backward(grad, *inputs, *saved, (for_pred, for_target))


@procrustes.register_fake
def _(pred, target, weights, scaled, backend):
    samples, dtype = pred.shape[0], compute_dtype(pred, target, weights)
    return tuple(
        pred.new_empty(shape, dtype=dtype) for shape in ((samples, 3, 3), (samples,), (samples, 3), (samples,))
    )


@pa_mpjpe.register_fake
def _(pred, target, weights, backend):
    samples, dtype = pred.shape[0], compute_dtype(pred, target, weights)
    return tuple(pred.new_empty(shape, dtype=dtype) for shape in ((samples,), (samples, 3, 3), (samples,), (samples,)))


@procrustes_backward.register_fake
def _(
    d_rotation,
    d_scale,
    d_translation,
    pred,
    target,
    weights,
    rotation,
    scale,
    inverse_variance,
    scaled,
    for_pred,
    for_target,
    backend,
):
    return pred.new_empty(pred.shape if for_pred else (0,)), target.new_empty(target.shape if for_target else (0,))


@pa_mpjpe_backward.register_fake
def _(grad, pred, target, weights, rotation, scale, inverse_variance, for_pred, for_target, backend):
    return pred.new_empty(pred.shape if for_pred else (0,)), target.new_empty(target.shape if for_target else (0,))


def _setup_procrustes(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pred, target, weights, ctx.scaled, ctx.backend = inputs
    rotation, scale, _, inverse_variance = output
    ctx.mark_non_differentiable(inverse_variance)
    ctx.save_for_backward(pred, target, weights, rotation, scale, inverse_variance)


def _procrustes_gradient(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad[:2]
    gradients = procrustes_backward(*grads[:3], *ctx.saved_tensors, ctx.scaled, *needs, ctx.backend)
    return *_asked(gradients, needs), None, None, None


def _setup_pa_mpjpe(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pred, target, weights, ctx.backend = inputs
    _, *saved = output
    ctx.mark_non_differentiable(*saved)
    ctx.save_for_backward(pred, target, weights, *saved)


def _pa_mpjpe_gradient(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad[:2]
    gradients = pa_mpjpe_backward(grad, *ctx.saved_tensors, *needs, ctx.backend)
    return *_asked(gradients, needs), None, None


def _asked(gradients: tuple[Tensor, Tensor], needs: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
    return tuple(gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True))


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise NotImplementedError("procrustes and pa_mpjpe have no second derivative: call backward without create_graph")


procrustes.register_autograd(_procrustes_gradient, setup_context=_setup_procrustes)
pa_mpjpe.register_autograd(_pa_mpjpe_gradient, setup_context=_setup_pa_mpjpe)
procrustes_backward.register_autograd(_no_second_derivative)
pa_mpjpe_backward.register_autograd(_no_second_derivative)

for _device in ("cpu", "cuda"):
    for _op in (procrustes, procrustes_backward, pa_mpjpe, pa_mpjpe_backward):
        _op.register_autocast(_device, torch.float32)
