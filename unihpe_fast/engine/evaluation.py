"""Run a model over batches, and turn what it says into the scores of a summary.json."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from unihpe_fast.config import DataConfig
from unihpe_fast.data.batches import Batches
from unihpe_fast.data.loader import val_batches
from unihpe_fast.data.records import FUSED, MODALITIES, Batch, SampleInfo
from unihpe_fast.engine.distributed import Ranks
from unihpe_fast.engine.flip import averaged, mirrored
from unihpe_fast.engine.runtime import Runtime
from unihpe_fast.metrics import (
    average,
    average_by_group,
    group_by_action,
    keypoint_metrics,
    pose_metrics,
    torso_pck,
)
from unihpe_fast.models.unihpe import Outputs, UniHPE
from unihpe_fast.retrieval import retrieve

log = logging.getLogger(__name__)

# samples that plots choose from
PLOTTED = 128
MEAN_POSE_METRICS = ("mpjpe", "pa_mpjpe")
# of retrieval: each modality by each other, and 3D poses by queries composed of image and 2D pose
DIRECTIONS = (*permutations(MODALITIES, 2), (FUSED, "pose3d"))


@dataclass(frozen=True)
class Predictions:
    """What a model says of N samples, and what is true of them; float32 on the CPU.

    embeddings: [N, D] by modality of the model. joints_3d: [N, 17, 3] root-relative mm by modality of the model. Both
    have FUSED, "image+pose2d", too where the model has the two.
    keypoints_2d: [N, 17, 2] of the image's 2D head in half bbox sides, None without an image encoder.
    target_3d: [N, 17, 4] root-relative mm and validity. target_2d: [N, 17, 3] half bbox sides and confidence.
    present: [3, N] bool, what the samples have, in MODALITIES order; rows of a modality that a sample lacks mean
    nothing. scale_2d: [N] px a half bbox side. info: which samples these are.
    """

    embeddings: dict[str, Tensor]
    joints_3d: dict[str, Tensor]
    keypoints_2d: Tensor | None
    target_3d: Tensor
    target_2d: Tensor
    present: Tensor
    scale_2d: Tensor
    info: SampleInfo

    def __len__(self) -> int:
        return len(self.info)

    @property
    def valid_3d(self) -> Tensor:
        """[N, 17] bool: joints whose true 3D position is known."""
        return (self.target_3d[..., 3] > 0) & self.present[MODALITIES.index("pose3d"), :, None]

    @property
    def valid_2d(self) -> Tensor:
        """[N, 17] bool: joints whose true 2D position is known."""
        return (self.target_2d[..., 2] > 0) & self.present[MODALITIES.index("pose2d"), :, None]


def predict(
    model: UniHPE,
    batches: Iterable[Batch],
    *,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    flip_test: bool = False,
) -> Predictions:
    """The model's word on every sample of the batches, in their order.

    dtype: of autocast; float32: none. flip_test: poses are averaged with those of the mirrored input (engine/flip.py);
    embeddings are not. The model is in evaluation mode meanwhile and gets its own mode back. Raises
    ValueError when there is no batch.
    """
    device = torch.device(device)
    rows: dict[str, list[Tensor]] = {}
    infos: list[SampleInfo] = []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            for batch in batches:
                there = batch.to(device)
                outputs = _outputs(model, there)
                fused = _fused(model, outputs, there)
                if flip_test:
                    mirror = mirrored(there)
                    of_mirrored = _outputs(model, mirror)
                    fused = fused and averaged(fused, _fused(model, of_mirrored, mirror) or fused)
                    outputs = averaged(outputs, of_mirrored)
                collected = {
                    "embeddings": outputs.embeddings.transpose(0, 1),
                    "joints_3d": outputs.pred_joints_3d.transpose(0, 1),
                    "target_3d": batch.joints_3d,
                    "target_2d": batch.target_2d,
                    "present": batch.present.T,
                    "scale_2d": batch.scale_2d,
                }
                if fused is not None:
                    collected["fused"], collected["fused_3d"] = fused.embeddings[0], fused.pred_joints_3d[0]
                if outputs.pred_keypoints_2d is not None:
                    collected["keypoints_2d"] = outputs.pred_keypoints_2d
                for name, x in collected.items():
                    rows.setdefault(name, []).append(x.float().cpu() if x.is_floating_point() else x.cpu())
                infos.append(batch.info)
                for line in batch.broken:
                    log.warning("%s; scored without it", line)
    finally:
        model.train(was_training)
    if not rows:
        raise ValueError("batches: found none, wanted at least one sample to predict")
    # [N, ..] each; the modality axis of the outputs comes second
    whole = {name: torch.cat(parts) for name, parts in rows.items()}
    embeddings = {m: whole["embeddings"][:, row] for row, m in enumerate(model.modalities)}
    joints_3d = {m: whole["joints_3d"][:, row] for row, m in enumerate(model.modalities)}
    if "fused" in whole:
        embeddings[FUSED], joints_3d[FUSED] = whole["fused"], whole["fused_3d"]
    return Predictions(
        embeddings=embeddings,
        joints_3d=joints_3d,
        keypoints_2d=whole.get("keypoints_2d"),
        target_3d=whole["target_3d"],
        target_2d=whole["target_2d"],
        present=whole["present"].T,
        scale_2d=whole["scale_2d"],
        info=SampleInfo.joined(infos),
    )


def predict_together(model: UniHPE, batches: Batches, ranks: Ranks, **options: Any) -> Predictions | None:
    """`predict` over every rank's part of the batches, which may be empty, in rank order, on rank 0; elsewhere None."""
    mine = predict(model, batches, **options) if len(batches) else None
    parts = [part for part in ranks.gather(mine) if part is not None]
    return concatenate(parts) if ranks.first else None


def predict_some(model: UniHPE, data: DataConfig, runtime: Runtime) -> tuple[Batch, Predictions]:
    """At most PLOTTED samples, spread over data.val, and what the model says of them."""
    data = replace(data, val_batch_size=PLOTTED, workers=0)
    batch = next(iter(val_batches(data, limit=PLOTTED)))
    return batch, predict(model, [batch], device=runtime.device, dtype=runtime.dtype)


def _outputs(model: UniHPE, batch: Batch) -> Outputs:
    return model(batch.image, batch.keypoints_2d, batch.joints_3d, batch.box, batch.present)


def _fused(model: UniHPE, outputs: Outputs, batch: Batch) -> Outputs | None:
    """[1, B, ..] of image and 2D pose together; None where the model lacks one of them."""
    parts = FUSED.split("+")
    if not set(parts) <= set(model.modalities):
        return None
    embedding = model.fuse(**{m: outputs.embeddings[model.modalities.index(m)] for m in parts})
    # who has no keypoints here has no line of sight
    seen = torch.where(batch.present[MODALITIES.index("pose2d")][:, None, None], batch.keypoints_2d, 0)
    pose = model.to_rays(model.decode(embedding, parts), seen, batch.box)
    return Outputs(embedding[None], pose[None], None)


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of several sets of samples as one, in their order."""

    def joined(name: str, values: list[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            return torch.cat(values, dim=1 if name == "present" else 0)
        if isinstance(first, dict):
            return {key: torch.cat([value[key] for value in values]) for key in first}
        return first if first is None else SampleInfo.joined(values)

    return Predictions(
        **{f.name: joined(f.name, [getattr(part, f.name) for part in parts]) for f in fields(Predictions)}
    )


@dataclass(frozen=True)
class Scorable:
    """Which samples one row of the scores is averaged over.

    keep: [N] bool. why_not: the reason when that is none. broken: the reason is that the predictions are not finite.
    """

    keep: Tensor
    why_not: str = ""
    broken: bool = False


def _finite(predicted: Tensor) -> Tensor:
    """[N, ..] -> [N] bool."""
    return predicted.flatten(1).isfinite().all(-1)


def _scorable(keep: Tensor, lacking: str, finite: Tensor) -> Scorable:
    if not keep.any():
        return Scorable(keep, lacking)
    bad = int((keep & ~finite).sum())
    if bad:
        why = f"{bad} of {int(keep.sum())} predictions are NaN or infinite"
        return Scorable(torch.zeros_like(keep), why, broken=True)
    return Scorable(keep)


def scorable(predictions: Predictions) -> dict[str, Scorable]:
    """What can be scored, by name: poses of each modality and of FUSED, "keypoints2d", and the DIRECTIONS."""
    p = predictions
    nothing = torch.zeros(len(p), dtype=torch.bool)
    has = dict(zip(MODALITIES, p.present, strict=True))
    has[FUSED] = has["image"] & has["pose2d"]
    has_truth = p.valid_3d.any(-1)
    rows: dict[str, Scorable] = {}
    for m in (*MODALITIES, FUSED):
        if m in p.joints_3d:
            rows[m] = _scorable(has[m] & has_truth, f"no sample has both {m} and a 3D pose", _finite(p.joints_3d[m]))
        else:
            rows[m] = Scorable(nothing, f"the model has no {m} encoder")
    if p.keypoints_2d is None:
        rows["keypoints2d"] = Scorable(nothing, "the model has no image encoder")
    else:
        lacking = "no sample has both an image and 2D keypoints"
        rows["keypoints2d"] = _scorable(has["image"] & p.valid_2d.any(-1), lacking, _finite(p.keypoints_2d))
    finite = {m: _finite(x) for m, x in p.embeddings.items()}
    for a, b in DIRECTIONS:
        missing = [m for m in (a, b) if m not in p.embeddings]
        if missing:
            rows[f"{a}->{b}"] = Scorable(nothing, f"the model has no {missing[0]} encoder")
            continue
        both = has[a] & has[b]
        # finding the only candidate says nothing
        keep = both if both.sum() > 1 else nothing
        lacking = f"fewer than two samples have both {a} and {b}"
        rows[f"{a}->{b}"] = _scorable(keep, lacking, finite[a] & finite[b])
    return rows


def score(predictions: Predictions, mean_pose: Tensor) -> dict[str, Any]:
    """The scores of a summary.json: plain finite numbers, None where there is nothing to score.

    mean_pose: [17, 3] mm, root-relative, the training data's: the predictor that looks at nothing. All 3D errors are in
    mm, PCK and AUC in percent, recall as a share; see metrics.py and retrieval.py. "n" counts all samples; a row
    is averaged over those that have its modality and a 3D pose. A row that is None because its predictions are not
    finite is logged as a warning.
    """
    p = predictions
    rows = scorable(p)
    for name, row in rows.items():
        if row.broken:
            log.warning("%s is not scored: %s", name, row.why_not)
    target, valid = p.target_3d[..., :3], p.valid_3d
    actions, action_row = group_by_action(p.info.action)
    counts = torch.bincount(action_row[action_row >= 0], minlength=len(actions)).tolist()
    per_action: dict[str, dict[str, Any]] = {name: {"n": n} for name, n in zip(actions, counts, strict=True)}

    known = valid.any(-1)
    still = mean_pose.detach().cpu().float().expand_as(target)
    of_mean_pose = pose_metrics(still[known], target[known], valid[known])
    scores: dict[str, Any] = {
        "n": len(p),
        "mean_pose": average({name: of_mean_pose[name] for name in MEAN_POSE_METRICS}),
    }
    for m in (*MODALITIES, FUSED):
        scores[m] = None
        by_action: list[dict[str, float] | None] = [None] * len(actions)
        keep = rows[m].keep
        if keep.any():
            errors = pose_metrics(p.joints_3d[m][keep], target[keep], valid[keep])
            scores[m] = average(errors)
            by_action = average_by_group(errors, action_row[keep], len(actions))
        # actions are told apart by modality only
        if m in MODALITIES:
            for action, row_scores in zip(actions, by_action, strict=True):
                per_action[action][m] = row_scores

    scores["keypoints2d"] = None
    keep = rows["keypoints2d"].keep
    if p.keypoints_2d is not None and keep.any():
        found, truth, known = p.keypoints_2d[keep], p.target_2d[keep][..., :2], p.valid_2d[keep]
        scores["keypoints2d"] = average(keypoint_metrics(found, truth, known, p.scale_2d[keep]))
        of_torso = torso_pck(found, truth, known)
        torso = average({"pck_torso": of_torso[~of_torso.isnan()]})
        scores["keypoints2d"]["pck_torso"] = torso and torso["pck_torso"]
    scores["per_action"] = per_action
    scores["retrieval"] = {}
    for a, b in DIRECTIONS:
        keep = rows[f"{a}->{b}"].keep
        scores["retrieval"][f"{a}->{b}"] = (
            retrieve(p.embeddings[a][keep], p.embeddings[b][keep], target[keep], valid[keep]) if keep.any() else None
        )
    return scores
