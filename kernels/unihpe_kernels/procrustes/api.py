"""The public alignment and pose errors: arguments checked, then one operator call."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.autocast import without_autocast
from unihpe_kernels.checks import FLOATING, Backend, check_backend, check_tensor, check_weights
from unihpe_kernels.procrustes import op
from unihpe_kernels.scaling import inverse_power
from unihpe_kernels.small_linalg.lanes import compute_dtype


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + translation, a batch of them.

    rotation: [..., 3, 3], det +1. scale: [...]. translation: [..., 3], unit of the target.
    """

    rotation: Tensor
    scale: Tensor
    translation: Tensor

    @without_autocast
    def apply(self, points: Tensor) -> Tensor:
        """[..., P, 3] -> [..., P, 3], float64 if the points or the similarity are, else float32."""
        batch = self.scale.shape
        check_tensor("points", points, (*batch, "P", 3), like=self.scale)
        dtype = compute_dtype(points, self.scale)
        # not a matrix product, which torch's settings may round to TF32
        turned = (points.to(dtype)[..., None, :] * self.rotation.to(dtype)[..., None, :, :]).sum(-1)
        return self.scale[..., None, None] * turned + self.translation[..., None, :]


@without_autocast
def procrustes(
    pred: Tensor, target: Tensor, *, weights: Tensor | None = None, scale: bool = True, backend: Backend = "auto"
) -> Similarity:
    """The similarity that takes each predicted pose closest to its target (Umeyama 1991).

    It minimises sum over j of w_j |s R X_j + t - Y_j|^2 over rotations R (det +1: mirrored poses get the best rotation,
    never the reflection), scales s >= 0 and translations t.

    Where the optimum is not unique (collinear poses, a single joint) one of the optima is returned, finite. A
    prediction without variance, which means within rounding of its coordinates, gets R = I, s = 1; a target without
    variance gets s = 0 to rounding, and some rotation. All weights 0 give the identity. In float32 the spread of a pose
    should lie between 1e-15 and 1e15, as squares are summed.

    Differentiable in pred and target, not in weights. The gradient divides by sums of singular values of the covariance
    only, and is finite everywhere: a rotation about an axis that the poses leave undetermined is held fixed, and
    so are the R and s of a prediction without variance. There is no second derivative.

    Args:
        pred: X, [..., J, 3] with J >= 1, any unit and strides; float32, float64, bfloat16 or float16.
        target: Y, of the shape of pred; its dtype may differ.
        weights: [..., J], floating point or bool; a joint of weight 0 is not looked at and may be NaN. Negative and NaN
            weights raise on a CPU; a GPU is not waited for, and the pose's result is NaN there, as under torch.compile
            and vmap.
        scale: False holds s at 1.
        backend: "auto", "triton", "native" or "torch".

    Returns:
        Similarity(rotation [..., 3, 3], scale [...], translation [..., 3]): float64 if an input is, else float32. A NaN
        spoils its own sample only.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    batch, (flat_pred, flat_target, flat_weights) = _check(pred, target, weights)
    resolved = check_backend(backend, _widest(flat_pred, flat_target, flat_weights), "procrustes")
    rotation, size, translation = op.procrustes(flat_pred, flat_target, flat_weights, bool(scale), resolved)
    return Similarity(rotation.reshape(*batch, 3, 3), size.reshape(batch), translation.reshape(*batch, 3))


class Alignment(NamedTuple):
    """Predictions taken to their targets, a batch of them.

    similarity: see there. aligned: [..., J, 3], the predictions after it, unit of the target. joint_errors: [..., J],
    the distance of each joint from the target, 0 where its weight is 0. error: [...], their (weighted) mean.
    """

    similarity: Similarity
    aligned: Tensor
    joint_errors: Tensor
    error: Tensor


@without_autocast
def align(
    pred: Tensor, target: Tensor, *, weights: Tensor | None = None, scale: bool = True, backend: Backend = "auto"
) -> Alignment:
    """All that is to be known of the alignment by `procrustes`, for scores: the poses are read once.

    The errors are those of `pa_mpjpe`, joint by joint. A joint of weight 0 is aligned with the others but has the error
    0, and its place has no gradient. Where gradients are recorded, `procrustes` and plain torch do it, and the error of
    a joint that is below rounding is 0.

    Args, Raises: as for `procrustes`.

    Returns:
        Alignment(similarity, aligned [..., J, 3], joint_errors [..., J], error [...]): float64 if an input is, else
        float32. A NaN spoils its own sample only.
    """
    batch, (flat_pred, flat_target, flat_weights) = _check(pred, target, weights)
    if torch.is_grad_enabled() and (_may_want_gradient(pred) or _may_want_gradient(target)):
        return _recorded_alignment(
            pred, target, weights, procrustes(pred, target, weights=weights, scale=scale, backend=backend)
        )
    resolved = check_backend(backend, _widest(flat_pred, flat_target, flat_weights), "procrustes")
    found = op.align(flat_pred, flat_target, flat_weights, bool(scale), resolved)
    rotation, size, translation, aligned, joint_errors, error = (
        part.reshape((*batch, *part.shape[1:])) for part in found
    )
    return Alignment(Similarity(rotation, size, translation), aligned, joint_errors, error)


def _may_want_gradient(poses: Tensor) -> bool:
    """A tensor under vmap does not know whether it does."""
    if torch.compiler.is_compiling():
        return poses.requires_grad
    return poses.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(poses)


def _recorded_alignment(pred: Tensor, target: Tensor, weights: Tensor | None, similarity: Similarity) -> Alignment:
    """`align` by operations that torch differentiates."""
    dtype = similarity.scale.dtype
    w = similarity.scale.new_ones(()).expand(pred.shape[:-1]) if weights is None else weights.to(dtype)
    missing = (w == 0)[..., None]  # their gradient of 0 times a NaN would spoil those of the similarity
    aligned = similarity.apply(pred.masked_fill(missing, 0))
    wanted = target.to(dtype).masked_fill(missing, 0)
    residual = (aligned - wanted).masked_fill(missing, 0)
    # as in `pa_mpjpe`, a residual below rounding of the coordinates has no direction
    size = wanted.detach().square().sum(-1, keepdim=True).mean(-2, keepdim=True).sqrt()
    rounding = torch.linalg.vector_norm(residual.detach(), dim=-1, keepdim=True) <= 16 * torch.finfo(dtype).eps * size
    joint_errors = torch.linalg.vector_norm(residual.masked_fill(rounding, 0), dim=-1)
    if weights is not None:
        aligned = torch.where(missing, similarity.apply(pred).detach(), aligned)
    return Alignment(similarity, aligned, joint_errors, _weighted_mean(joint_errors, w))


@without_autocast
def pa_mpjpe(pred: Tensor, target: Tensor, *, weights: Tensor | None = None, backend: Backend = "auto") -> Tensor:
    """Mean per-joint position error after Procrustes alignment, one a pose.

    The (weighted) mean over joints of |s R X_j + t - Y_j|, with the similarity of `procrustes`. All weights 0 give 0,
    with a gradient of 0: leave such poses out of the mean over a data set. A single joint, or a target without
    variance, gives 0 to rounding; a prediction without variance gives the target's mean distance from its centre. In
    float32 the spread of a pose should lie between 1e-15 and 1e15, as there; `mpjpe` and `n_mpjpe` have no such bounds.

    Differentiable in pred and target, not in weights, through the alignment too (it minimises squares, this is a mean
    of norms), finite everywhere as described there. A residual below 16 eps of the target's size and distance from the
    origin has the gradient 0, so that a perfect alignment has that and not the direction of a rounding error. There is
    no second derivative. The gradient is made in the forward pass and kept for the backward pass.

    Args, Raises: as for `procrustes`.

    Returns:
        [...], in the unit of the input: float64 if an input is, else float32. A NaN spoils its own sample only.
    """
    batch, (flat_pred, flat_target, flat_weights) = _check(pred, target, weights)
    resolved = check_backend(backend, _widest(flat_pred, flat_target, flat_weights), "pa_mpjpe")
    return op.pa_mpjpe(flat_pred, flat_target, flat_weights, False, False, resolved)[0].reshape(batch)


@without_autocast
def n_mpjpe(pred: Tensor, target: Tensor, *, weights: Tensor | None = None, root: int | None = 0) -> Tensor:
    """Mean per-joint position error after alignment of the scale alone (Rhodin et al. 2018), one a pose.

    Both poses are centred on joint `root`, then X is scaled by s = sum w_j X_j . Y_j / sum w_j X_j . X_j, or by 1 where
    the prediction has no extent.

    Args, Returns, Raises: as for `mpjpe`.
    """
    x, y, w, size = scaled_poses(pred, target, weights, root)
    return _mean_distance(x, y, w) / size[..., 0, 0]


def scaled_poses(
    pred: Tensor, target: Tensor, weights: Tensor | None, root: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The poses [..., J, 3] whose distances `n_mpjpe` takes the mean of, their weights [..., J], and the size
    [..., 1, 1] by which both were multiplied."""
    x, y, w = _centred(pred, target, weights, root)
    size = inverse_power(y, (-2, -1))
    # of a size of about 1, so that neither squares nor products leave the range; the result does not depend on x's
    x, y = x * inverse_power(x, (-2, -1)), y * size
    over, under = (w * (x * y).sum(-1)).sum(-1), (w * (x * x).sum(-1)).sum(-1)
    empty = (under == 0).to(under.dtype)
    return x * ((over + empty) / (under + empty))[..., None, None], y, w, size


@without_autocast
def mpjpe(pred: Tensor, target: Tensor, *, weights: Tensor | None = None, root: int | None = 0) -> Tensor:
    """Mean per-joint position error, one a pose: the mean over joints of |X_j - Y_j| with both poses centred on a root.

    Args:
        pred: X, [..., J, 3] with J >= 1, any unit and strides; float32, float64, bfloat16 or float16.
        target: Y, of the shape of pred; its dtype may differ.
        weights: [..., J], floating point or bool, without gradient; a joint of weight 0 is left out of the mean and
            may be NaN, but the root is subtracted whatever its weight. All 0: the error is 0. Negative and NaN weights
            raise on a CPU, and give NaN elsewhere.
        root: the joint to centre on, negative counts from the end; None: the poses stay where they are.

    Returns:
        [...], in the unit of the input: float64 if an input is, else float32. A NaN spoils its own sample only.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    x, y, w = _centred(pred, target, weights, root)
    offset = x - y
    size = inverse_power(offset, (-2, -1))
    return _mean_distance(x * size, y * size, w) / size[..., 0, 0]


def _check(
    pred: Tensor, target: Tensor, weights: Tensor | None
) -> tuple[torch.Size, tuple[Tensor, Tensor, Tensor | None]]:
    """The batch shape, and the arguments with one batch dimension."""
    check_tensor("pred", pred, (..., "J", 3))
    check_tensor("target", target, tuple(pred.shape), like=pred)
    *batch, joints, _ = pred.shape
    if joints == 0:
        raise ValueError(f"pred must have at least one joint, got shape {list(pred.shape)}")
    samples = math.prod(batch)
    if weights is not None:
        check_tensor("weights", weights, (*batch, joints), dtypes=(*FLOATING, torch.bool), like=pred)
        if weights.requires_grad:
            raise ValueError("weights must not require a gradient: the errors are differentiated in the poses only")
        weights = check_weights(weights).reshape(samples, joints)
    flat = (pred.reshape(samples, joints, 3), target.reshape(samples, joints, 3), weights)
    return torch.Size(batch), flat


def _widest(pred: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """The tensor that makes the computation float64 if there is one, else the prediction."""
    return next((tensor for tensor in (target, weights) if tensor is not None and tensor.dtype == torch.float64), pred)


def _centred(pred: Tensor, target: Tensor, weights: Tensor | None, root: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both poses in the compute dtype, centred on the root, 0 at missing joints; and their weights."""
    flat_weights = _check(pred, target, weights)[1][2]
    joints = pred.shape[-2]
    if root is not None and (isinstance(root, bool) or not isinstance(root, int)):
        raise TypeError(f"root must be None or an int, got {root!r}")
    if root is not None and not -joints <= root < joints:
        raise ValueError(f"root must be None or a joint from {-joints} to {joints - 1}, got {root}")
    dtype = compute_dtype(pred, target, weights)
    x, y = pred.to(dtype), target.to(dtype)
    if root is not None:
        x, y = x - x[..., root, None, :], y - y[..., root, None, :]
    if weights is None:
        return x, y, x.new_ones(()).expand(x.shape[:-1])
    assert flat_weights is not None
    w = flat_weights.reshape(weights.shape).to(dtype)
    missing = (w == 0)[..., None]
    return x.masked_fill(missing, 0), y.masked_fill(missing, 0), w


def _mean_distance(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """[..., J, 3] twice, [..., J] -> [...]; a distance of 0 has the gradient 0."""
    squares = (x - y).square().sum(-1)
    # not a norm, whose second derivative is NaN where it is 0, as at the root
    empty = squares == 0
    return _weighted_mean(squares.masked_fill(empty, 1).sqrt().masked_fill(empty, 0), w)


def _weighted_mean(distances: Tensor, w: Tensor) -> Tensor:
    """[..., J] twice -> [...]; 0 where all weights are."""
    total = w.sum(-1)
    return (w * distances).sum(-1) / (total + (total == 0))
