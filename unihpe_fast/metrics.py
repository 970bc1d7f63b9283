"""Pose errors, one value a sample, and their means over samples and over actions.

Every metric is first averaged over the valid joints of a sample and then over samples, so a sample with few labelled
joints counts as much as a full one. 3D metrics centre both poses on the root (joint 0) and count the root itself, as
VideoPose3D and mmpose do; in Human3.6M's joint set that is one joint of zero error in 17.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unihpe_fast.data.skeleton import H36M14, JOINT_NAMES, ROOT
from unihpe_kernels import mpjpe, n_mpjpe, pa_mpjpe

PCK_MM = 150.0
PCK_BBOX = 0.05
PCK_TORSO = 0.2
# 0, 5, .. 150 mm: MPI-INF-3DHP's 31 thresholds
AUC_MM = tuple(range(0, 151, 5))
POSE_METRICS = ("mpjpe", "pa_mpjpe", "n_mpjpe", "pck150", "auc")
KEYPOINT_METRICS = ("px", "pck")
_TORSO = (JOINT_NAMES.index("left_shoulder"), JOINT_NAMES.index("right_hip"))

PerSample = dict[str, Tensor]
"""metric name -> [N], in the order of the table that prints it"""


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the last axis of the entries where `valid` (bool, same shape); 0 where there are none."""
    return torch.where(valid, values, 0).sum(-1) / valid.sum(-1).clamp(min=1)


def pck(distance: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Percentage of correct keypoints: [..., J] distances -> [...], percent of the valid joints strictly under it."""
    return 100 * masked_mean((distance < threshold).to(distance.dtype), valid)


def auc(distance: Tensor, valid: Tensor) -> Tensor:
    """Area under the PCK curve: [..., J] mm -> [...], mean of the PCK at 0, 5, .. 150 mm, in percent.

    Nothing is strictly under 0 mm, so the best value is 30/31 (Mehta et al. 2017; same thresholds as their script).
    """
    thresholds = torch.tensor(AUC_MM, dtype=distance.dtype, device=distance.device)
    passed = len(AUC_MM) - torch.bucketize(distance.contiguous(), thresholds, right=True)
    return 100 * masked_mean(passed.to(distance.dtype) / len(AUC_MM), valid)


def _check(pred: Tensor, target: Tensor, valid: Tensor, coordinates: int) -> None:
    if pred.shape != target.shape or pred.ndim < 2 or pred.shape[-1] != coordinates:
        raise ValueError(
            f"pred and target: wanted the same shape [..., J, {coordinates}], "
            f"found {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    if valid.shape != pred.shape[:-1] or valid.dtype != torch.bool:
        raise ValueError(
            f"valid: wanted bool of shape {tuple(pred.shape[:-1])}, found {valid.dtype} of {tuple(valid.shape)}"
        )


def pose_metrics(pred: Tensor, target: Tensor, valid: Tensor) -> PerSample:
    """3D errors of each pose; invalid joints are left out.

    pred, target: [..., J, 3] mm, any origin. valid: [..., J] bool. Returns `POSE_METRICS` -> [...]: the three errors in
    mm (see unihpe_kernels for their alignments), pck150 and auc in percent. A pose without a valid joint has values
    that mean nothing: leave it out with `valid.any(-1)`.
    """
    _check(pred, target, valid, 3)
    centred = (pred - pred[..., ROOT, None, :]) - (target - target[..., ROOT, None, :])
    distance = centred.norm(dim=-1)
    return {
        "mpjpe": mpjpe(pred, target, weights=valid, root=ROOT),
        "pa_mpjpe": pa_mpjpe(pred, target, weights=valid),
        "n_mpjpe": n_mpjpe(pred, target, weights=valid, root=ROOT),
        "pck150": pck(distance, valid, PCK_MM),
        "auc": auc(distance, valid),
    }


def keypoint_metrics(pred: Tensor, target: Tensor, valid: Tensor, scale: Tensor) -> PerSample:
    """2D errors of each sample; invalid joints are left out.

    pred, target: [..., J, 2] in half bbox sides. valid: [..., J] bool. scale: [...] px of the full image for one such
    unit. Returns px: mean distance in px of the full image, and pck: PCK@0.05 of the bbox side, in percent (mmpose's
    PCKAccuracy with its default threshold, for a square bbox).
    """
    _check(pred, target, valid, 2)
    if scale.shape != pred.shape[:-2]:
        raise ValueError(f"scale: wanted shape {tuple(pred.shape[:-2])}, found {tuple(scale.shape)}")
    distance = (pred - target).norm(dim=-1)
    # a bbox side is two units
    return {"px": masked_mean(distance, valid) * scale, "pck": pck(distance, valid, 2 * PCK_BBOX)}


def torso_pck(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Percentage of correct keypoints by the measure of Leeds Sports Pose: [..., 17, 2] in any unit -> [...].

    A keypoint is right within 0.2 of the distance from the left shoulder to the right hip (Yang and Ramanan 2013); of
    the 14 that LSP has, those that are valid, bool [..., 17], count. NaN where an end of the torso is not known.
    """
    _check(pred, target, valid, 2)
    shoulder, hip = _TORSO
    torso = (target[..., shoulder, :] - target[..., hip, :]).norm(dim=-1)
    distance = (pred - target)[..., H36M14, :].norm(dim=-1)
    percent = 100 * masked_mean((distance < PCK_TORSO * torso[..., None]).to(distance.dtype), valid[..., H36M14])
    return torch.where(valid[..., shoulder] & valid[..., hip], percent, torch.nan)


def average(per_sample: PerSample) -> dict[str, float] | None:
    """Mean of each metric over its N samples; None where there is none."""
    # float64: a float32 sum over half a million frames loses the second decimal
    return {name: x.double().mean().item() for name, x in per_sample.items() if len(x)} or None


def action_name(action: str) -> str:
    """The action without its take: Human3.6M's "Walking 1" is scored with "Walking"."""
    return re.sub(r" \d+$", "", action)


def group_by_action(actions: Sequence[str]) -> tuple[list[str], Tensor]:
    """N action names -> the distinct actions, sorted, and [N] int64, the row of each sample among them.

    Takes of one action are pooled; a sample without an action has row -1.
    """
    raw, inverse = np.unique(np.array(actions, dtype=np.str_), return_inverse=True)
    names = [action_name(str(name)) for name in raw]
    groups = sorted(set(names) - {""})
    rows = np.array([groups.index(name) if name else -1 for name in names], dtype=np.int64)
    return groups, torch.from_numpy(rows[inverse.reshape(-1)])


def average_by_group(per_sample: PerSample, rows: Tensor, groups: int) -> list[dict[str, float] | None]:
    """`average` within each of G groups: every sample of a group weighs the same.

    rows: [N] int64, the group of each sample, -1 for none. A group without a sample has None.
    """
    inside = rows >= 0
    rows = rows[inside]
    counts = torch.bincount(rows, minlength=groups)
    means = {
        name: (torch.bincount(rows, weights=x[inside].double(), minlength=groups) / counts.clamp(min=1)).tolist()
        for name, x in per_sample.items()
    }
    return [
        {name: column[group] for name, column in means.items()} if count else None
        for group, count in enumerate(counts.tolist())
    ]


def mean_over_actions(rows: Sequence[dict[str, float] | None]) -> dict[str, float] | None:
    """Unweighted mean of the actions that were scored (Human3.6M's protocol 1); None where none was."""
    scored = [row for row in rows if row is not None]
    if not scored:
        return None
    return {name: sum(row[name] for row in scored) / len(scored) for name in scored[0]}
