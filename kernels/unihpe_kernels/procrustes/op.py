"""Registration of `procrustes`, `align` and `pa_mpjpe` with torch: operators, shapes, gradients.

`pa_mpjpe` makes its gradient in the forward pass, where the alignment still stands in registers or cache: the backward
pass only scales it by the gradient that comes in. Separately it would cost the forward pass once more.
"""

from typing import Any

from torch import Tensor

from unihpe_kernels.procrustes import native_backend, torch_backend
from unihpe_kernels.registration import define, differentiate, refuse_gradients, register_fake
from unihpe_kernels.small_linalg.lanes import compute_dtype


def _backend(name: str) -> Any:
    """The module with `procrustes_forward`, `procrustes_backward`, `pa_mpjpe_forward` and `pa_mpjpe_backward`."""
    if name == "triton":
        from unihpe_kernels.procrustes import triton_backend  # not above: triton may be missing

        return triton_backend
    return native_backend if name == "native" else torch_backend


def _procrustes(
    pred: Tensor, target: Tensor, weights: Tensor | None, scaled: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> rotation [N, 3, 3], scale [N], translation [N, 3]."""
    return _backend(backend).procrustes_forward(pred, target, weights, scaled, False)


def _align(
    pred: Tensor, target: Tensor, weights: Tensor | None, scaled: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `procrustes`, and aligned [N, J, 3], joint_errors [N, J], error [N]; has no gradient."""
    return _backend(backend).procrustes_forward(pred, target, weights, scaled, True)


def _procrustes_backward(
    d_rotation: Tensor,
    d_scale: Tensor,
    d_translation: Tensor,
    pred: Tensor,
    target: Tensor,
    weights: Tensor | None,
    rotation: Tensor,
    scale: Tensor,
    scaled: bool,
    for_pred: bool,
    for_target: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients in pred and target, [N, J, 3] in their dtypes; [0] where not asked for."""
    gradients = (d_rotation, d_scale, d_translation)
    poses = (pred, target, weights)
    needs = (for_pred, for_target)
    return _backend(backend).procrustes_backward(*gradients, *poses, rotation, scale, scaled, needs)


def _pa_mpjpe(
    pred: Tensor, target: Tensor, weights: Tensor | None, for_pred: bool, for_target: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, J, 3] twice, [N, J] -> error [N] and its gradients in pred and target, [N, J, 3]; [0] where not asked for.

    Autograd sets for_pred and for_target: what a tensor wants is known at the level of its transform alone.
    """
    return _backend(backend).pa_mpjpe_forward(pred, target, weights, (for_pred, for_target))


def _pa_mpjpe_backward(grad: Tensor, gradient: Tensor, points: Tensor, backend: str) -> Tensor:
    """Gradient of the errors [N] times their own gradient [N, J, 3] in `points`, in the dtype of those.

    The points are an argument so that torch knows of the dependence: a second derivative is refused, not taken as 0.
    """
    return _backend(backend).pa_mpjpe_backward(grad, gradient, points.dtype)


procrustes = define(_procrustes, by_sample=True)
procrustes_backward = define(_procrustes_backward, by_sample=True)
align = define(_align, by_sample=True)
pa_mpjpe = define(_pa_mpjpe, by_sample=True)
pa_mpjpe_backward = define(_pa_mpjpe_backward, by_sample=True)


@register_fake(procrustes)
def _(pred, target, weights, scaled, backend):
    return torch_backend.empty_alignment(pred, False, compute_dtype(pred, target, weights))


@register_fake(align)
def _(pred, target, weights, scaled, backend):
    return torch_backend.empty_alignment(pred, True, compute_dtype(pred, target, weights))


@register_fake(procrustes_backward)
def _(
    d_rotation,
    d_scale,
    d_translation,
    pred,
    target,
    weights,
    rotation,
    scale,
    scaled,
    for_pred,
    for_target,
    backend,
):
    return pred.new_empty(pred.shape if for_pred else (0,)), target.new_empty(target.shape if for_target else (0,))


@register_fake(pa_mpjpe)
def _(pred, target, weights, for_pred, for_target, backend):
    dtype = compute_dtype(pred, target, weights)
    shapes = ((pred.shape[0],), pred.shape if for_pred else (0,), target.shape if for_target else (0,))
    return tuple(pred.new_empty(shape, dtype=dtype) for shape in shapes)


@register_fake(pa_mpjpe_backward)
def _(grad, gradient, points, backend):
    return points.new_empty(gradient.shape)


def _setup_procrustes(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    pred, target, weights, ctx.scaled, ctx.backend = inputs
    rotation, scale, _ = output
    ctx.save_for_backward(pred, target, weights, rotation, scale)


def _procrustes_gradient(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    pred, _, _, rotation, scale = ctx.saved_tensors
    needs = ctx.needed[:2]
    shapes = (rotation.shape, scale.shape, (len(pred), 3))
    given = [rotation.new_zeros(shape) if grad is None else grad for grad, shape in zip(grads, shapes, strict=True)]
    gradients = procrustes_backward(*given, *ctx.saved_tensors, ctx.scaled, *needs, ctx.backend)
    asked = (gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True))
    return *asked, None, None, None


def _for_gradient(pred: Tensor, target: Tensor, weights: Tensor | None, *others: Any) -> tuple[Any, ...]:
    return pred, target, weights, pred.requires_grad, target.requires_grad, others[-1]


def _setup_pa_mpjpe(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    pred, target, _, for_pred, for_target, ctx.backend = inputs
    _, d_pred, d_target = output
    ctx.mark_non_differentiable(d_pred, d_target)
    ctx.save_for_backward(d_pred, d_target, pred if for_pred else None, target if for_target else None)


def _pa_mpjpe_gradient(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    d_pred, d_target, pred, target = ctx.saved_tensors
    gradients = (
        None if points is None or grad is None else pa_mpjpe_backward(grad, gradient, points, ctx.backend)
        for gradient, points in ((d_pred, pred), (d_target, target))
    )
    return *gradients, None, None, None, None


differentiate(procrustes, _setup_procrustes, _procrustes_gradient)
differentiate(pa_mpjpe, _setup_pa_mpjpe, _pa_mpjpe_gradient, _for_gradient)
refuse_gradients(
    align, "the operator align has no gradient: unihpe_kernels.align takes another way where one is wanted"
)
for _operator in (procrustes_backward, pa_mpjpe_backward):
    refuse_gradients(_operator, "procrustes and pa_mpjpe have no second derivative: call backward without create_graph")
