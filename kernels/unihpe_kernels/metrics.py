"""The pose errors as torchmetrics' metrics: accumulated over batches, synchronised over ranks.

Needs torchmetrics. Each is the mean over poses of the function of the same name,
or, where asked, one mean an action, a joint or both.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("unihpe_kernels.metrics needs torchmetrics: pip install torchmetrics") from error

from unihpe_kernels.autocast import without_autocast
from unihpe_kernels.procrustes.api import align, mpjpe, n_mpjpe, pa_mpjpe, scaled_poses

__all__ = ["MPJPE", "NMPJPE", "PAMPJPE"]


class _PoseError(Metric):
    """What the three have in common: sums of errors and of their weights, by action and joint, in float64."""

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    total: Tensor
    count: Tensor

    def __init__(self, *, per_joint: int | None = None, per_action: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if per_joint is not None and (isinstance(per_joint, bool) or not isinstance(per_joint, int) or per_joint < 1):
            raise ValueError(f"per_joint must be None or the number of joints, at least 1, got {per_joint!r}")
        if per_action is not None and (isinstance(per_action, str) or len(set(per_action)) < len(per_action)):
            raise ValueError(f"per_action must be None or names of actions, each once, got {per_action!r}")
        self.per_joint = per_joint
        self.per_action = None if per_action is None else tuple(per_action)
        shape = (1 if per_action is None else len(per_action), per_joint or 1)
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    @without_autocast
    def update(
        self, pred: Tensor, target: Tensor, *, weights: Tensor | None = None, actions: Sequence[str] | None = None
    ) -> None:
        """Take in a batch.

        pred, target: [..., J, 3], one unit. weights: [..., J], floating point or bool, as for the functions; a pose
        whose weights are all 0 is not counted. actions: the action of each pose, in their order, with `per_action`
        only. Raises TypeError or ValueError, which names the argument.
        """
        errors, w = self._errors(pred, target, weights)
        if self.per_joint is None:
            # one number a pose, of weight 1 if any joint counts
            errors, w = errors.reshape(-1, 1), (w > 0).any(-1).reshape(-1, 1)
        elif pred.shape[-2] != self.per_joint:
            raise ValueError(f"pred must have the {self.per_joint} joints of per_joint, got shape {list(pred.shape)}")
        else:
            errors, w = errors.reshape(-1, self.per_joint), w.reshape(-1, self.per_joint)
        w = w.double()
        errors = torch.where(w > 0, errors.double(), 0) * w
        rows = self._rows(actions, len(errors), errors.device)
        shape = self.total.shape
        self.total = self.total + errors.new_zeros(shape).index_add(0, rows, errors)
        self.count = self.count + w.new_zeros(shape).index_add(0, rows, w)

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The mean over all poses in their unit, 0-d float64; with `per_joint` [J]; with `per_action` one such tensor
        by the name of each action. NaN where there was no pose."""
        means = self.total / self.count
        if self.per_joint is None:
            means = means[:, 0]
        return means[0] if self.per_action is None else dict(zip(self.per_action, means.unbind(), strict=True))

    def _errors(self, pred: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The error of each pose [...] or, with `per_joint`, of each joint [..., J]; and the joints' weights."""
        raise NotImplementedError

    def _rows(self, actions: Sequence[str] | None, poses: int, device: torch.device) -> Tensor:
        if (actions is None) != (self.per_action is None):
            wanted = "one name a pose for a metric with per_action" if actions is None else "None without per_action"
            raise ValueError(f"actions must be {wanted}, got {actions!r}")
        if actions is None or self.per_action is None:
            return torch.zeros(poses, dtype=torch.int64, device=device)
        if isinstance(actions, str) or len(actions) != poses:
            raise ValueError(f"actions must be one name for each of {poses} poses, got {actions!r}")
        if strange := sorted(set(actions) - set(self.per_action)):
            raise ValueError(f"actions must be among {self.per_action}, got {strange}")
        return torch.tensor([self.per_action.index(name) for name in actions], dtype=torch.int64, device=device)


def _weights(pred: Tensor, weights: Tensor | None) -> Tensor:
    return torch.ones(pred.shape[:-1], dtype=torch.bool, device=pred.device) if weights is None else weights


class _RootedError(_PoseError):
    """Of poses that are centred on a joint."""

    def __init__(self, *, root: int | None = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root


class MPJPE(_RootedError):
    """Mean per-joint position error with both poses centred on a root: see `unihpe_kernels.mpjpe`.

    Args:
        root: the joint to centre on; None leaves poses where they are.
        per_joint: the number of joints, for one mean a joint: over the poses that have it, by their weights.
        per_action: names of actions, for one mean an action.
        kwargs: torchmetrics' own.
    """

    def _errors(self, pred: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.per_joint is None:
            return mpjpe(pred, target, weights=weights, root=self.root), _weights(pred, weights)
        root = self.root
        if root is not None:
            pred, target = pred - pred[..., root, None, :], target - target[..., root, None, :]
        return _by_joint(pred, target, weights), _weights(pred, weights)


class NMPJPE(_RootedError):
    """Mean per-joint position error after alignment of the scale: see `unihpe_kernels.n_mpjpe`. Args: as `MPJPE`."""

    def _errors(self, pred: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.per_joint is None:
            return n_mpjpe(pred, target, weights=weights, root=self.root), _weights(pred, weights)
        x, y, w, size = scaled_poses(pred, target, weights, self.root)
        return _by_joint(x, y, w) / size[..., 0], w


class PAMPJPE(_PoseError):
    """Mean per-joint position error after Procrustes alignment: see `unihpe_kernels.pa_mpjpe`.

    Args:
        per_joint: the number of joints, for one mean a joint: over the poses that have it, by their weights.
        per_action: names of actions, for one mean an action.
        kwargs: torchmetrics' own.
    """

    def _errors(self, pred: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        w = _weights(pred, weights)
        if self.per_joint is None:
            return pa_mpjpe(pred, target, weights=weights), w
        return align(pred, target, weights=weights).joint_errors, w


def _by_joint(pred: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """[..., J, 3] twice -> [..., J] distances, 0 where the weight is: each joint as a pose of its own."""
    alone = None if weights is None else weights[..., None]
    return mpjpe(pred[..., None, :], target[..., None, :], weights=alone, root=None)
