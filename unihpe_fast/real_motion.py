"""`real-motion`: a lifter's errors on unseen people in motion of many kinds, by exact 2D, a detector's, or with gaps.

Three inputs: "exact", the true projections; "detector": a standard deviation of 2 % of the box side, by joint as OKS
has it (data/augment.OKS_ERRORS), 5 % of limbs taken for the other side's, 10 % of joints missing; "quarter": exact, a
quarter of the joints missing. Means over samples and over families of actions, with the bootstrap's 95 % interval over
people: to draw frames would take those of one person for independent.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unihpe_fast.config import AugmentConfig
from unihpe_fast.data.augment import OKS_ERRORS, People, camera_up, detect
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.collate import collate
from unihpe_fast.data.level import check_level
from unihpe_fast.data.records import Batch
from unihpe_fast.data.skeleton import JOINT_NAMES, NUM_JOINTS
from unihpe_fast.data.store import Columns, Store
from unihpe_kernels import mpjpe, pa_mpjpe

BLOCK = 1024
SEED = 0
WORST = 10
BOOTSTRAPS = 2000
INPUTS: dict[str, AugmentConfig | None] = {
    "exact": None,
    "detector": AugmentConfig(detector=0.02, swap=0.05, missing=0.1),
    "quarter": AugmentConfig(missing=0.25),
}
TITLES = {"exact": "exact 2D", "detector": "a detector's 2D", "quarter": "a quarter of the joints missing"}
ERRORS = ("mpjpe", "pa", "mean", "mean_pa")
# the first that is found in a clip's action
FAMILIES = (
    ("zombie", "zombie"),
    ("acrobatics", "flip|cart ?wheel|handstand|acroba|rope|capoeira"),
    ("salsa", "salsa"),
    ("dance", "danc|ballet|jet|pirouette|jackson|indian"),
    ("boxes", r"\bbox\b"),
    ("martial arts", "karate|kick|punch|empi|barai|uke$|duki|mawashi|heian|boxing|jab|hook|uppercut|block|dodge"),
    ("lying, crawling", "lie|crawl|lying|get ?up|crouch"),
    ("jumping", "jump|hop|leap|skip"),
    ("running", "run|jog"),
    ("walking", "walk|step|stride|turn|navigate"),
)


class Lifter(Protocol):
    """What of a UniHPE is looked at."""

    mean_pose: Tensor

    def lift(self, keypoints_2d: Tensor, box: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Found:
    """N samples with one kind of 2D input. mpjpe, pa, mean, mean_pa: [N] mm, those of the mean pose the last two.

    joints: [N, 17] mm. person, family, action: [N] names. file, row: [N] int, where the sample stands. keypoints_2d:
    [N, 17, 3] as given, crop units; pred, target: [N, 17, 3] float32 mm.
    """

    mpjpe: np.ndarray
    pa: np.ndarray
    mean: np.ndarray
    mean_pa: np.ndarray
    joints: np.ndarray
    person: np.ndarray
    family: np.ndarray
    action: np.ndarray
    file: np.ndarray
    row: np.ndarray
    keypoints_2d: np.ndarray
    pred: np.ndarray
    target: np.ndarray


def family(action: str) -> str:
    """The family of a clip's action; "other" where none is known."""
    return next((name for name, words in FAMILIES if re.search(words, action.lower())), "other")


def batch_of(columns: Columns, config: AugmentConfig | None, rng: np.random.Generator, *, level: bool = False) -> Batch:
    """The samples with the 2D input of a protocol; targets and cameras are those of the file. level: as in `errors`."""
    count = len(columns.info)
    people = People(
        keypoints_2d=columns.keypoints_2d.astype(np.float64),
        joints_3d=columns.joints_3d.astype(np.float64),
        camera=columns.camera,
        size=columns.size.astype(np.float64),
        up=camera_up(columns.rotation),
        bbox=columns.bbox.astype(np.float64),
        affine=np.tile(np.eye(2, 3), (count, 1, 1)),
        free=np.ones(count, dtype=bool),
    )
    if config is not None and config.detector:
        people = detect(people, config, rng, OKS_ERRORS)
    elif config is not None:
        points = people.keypoints_2d.copy()
        points[rng.random(points.shape[:2]) < config.missing] = 0
        # nobody is found by less than a few joints
        points = np.where((points[..., 2:] > 0).sum(1, keepdims=True) >= 5, points, people.keypoints_2d)
        people = replace(people, keypoints_2d=points, bbox=square_bbox(points))
    return collate(
        people,
        torch.zeros(count, 3, 0, 0),
        present=np.array([np.zeros(count), np.ones(count), np.ones(count)], dtype=bool),
        info=columns.info,
        level=level,
    )


def errors(
    model: Lifter,
    files: Sequence[Path],
    config: AugmentConfig | None,
    step: int = 1,
    *,
    device: torch.device | str = "cpu",
    level: bool = False,
) -> Found:
    """Every `step`-th sample of prepared files whose samples all have 2D and 3D poses, with one of INPUTS.

    The model is in evaluation mode. level: its poses are those of the levelled camera (DataConfig.level). Raises
    StoreError for a file that cannot be used.
    """
    rng = np.random.default_rng(SEED)
    parts: dict[str, list[np.ndarray]] = {each.name: [] for each in fields(Found)}
    for number, path in enumerate(files):
        store = Store(path)
        if level:
            check_level(store)
        rows = np.arange(0, len(store), step)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            batch = batch_of(store.read(block, images=False), config, rng, level=level)
            with torch.inference_mode():
                there = batch.to(device)
                pred = model.lift(there.keypoints_2d, there.box).float().cpu()
            target: Tensor = batch.joints_3d[..., :3]
            mean = model.mean_pose.cpu().expand_as(target)
            for name, values in (
                ("mpjpe", mpjpe(pred, target)),
                ("pa", pa_mpjpe(pred, target)),
                ("mean", mpjpe(mean, target)),
                ("mean_pa", pa_mpjpe(mean.contiguous(), target)),
                ("joints", (pred - target).norm(dim=-1)),
            ):
                parts[name].append(values.double().numpy())
            for name, tensor in (("keypoints_2d", batch.keypoints_2d), ("pred", pred), ("target", target)):
                parts[name].append(tensor.numpy())
            parts["person"].append(np.array([f"{store.attributes['dataset']} {who}" for who in batch.info.subject]))
            parts["family"].append(np.array([family(action) for action in batch.info.action]))
            parts["action"].append(np.array(batch.info.action))
            parts["file"].append(np.full(len(block), number))
            parts["row"].append(block)
    return Found(**{name: np.concatenate(values) for name, values in parts.items()})


def means(found: Found, by: str) -> dict[str, dict[str, float]]:
    """Means of ERRORS over the samples of each "family" or "person"."""
    groups, names = {}, getattr(found, by)
    for name in np.unique(names):
        rows = names == name
        groups[str(name)] = {key: float(getattr(found, key)[rows].mean()) for key in ERRORS}
        groups[str(name)]["samples"] = int(rows.sum())
    return groups


def worst(found: Found, count: int = WORST) -> np.ndarray:
    """[count] rows of the largest MPJPE, one a person and action: neighbouring frames look alike."""
    chosen, seen = [], set()
    for row in np.argsort(-found.mpjpe, kind="stable"):
        clip = (found.person[row], found.action[row])
        if clip not in seen:
            seen.add(clip)
            chosen.append(row)
        if len(chosen) == count:
            break
    return np.array(chosen, dtype=np.int64)


def scores(found: Found) -> dict[str, Any]:
    """Means over samples, with intervals over people, and over families; by family, person and joint; the worst."""
    families, people = means(found, "family"), means(found, "person")
    rng, names = np.random.default_rng(SEED), list(people)
    drawn = rng.integers(0, len(names), (BOOTSTRAPS, len(names)))
    weights = np.array([people[name]["samples"] for name in names], np.float64)
    result: dict[str, Any] = {"samples": len(found.mpjpe), "families": families, "people": people}
    for key in ERRORS:
        values = np.array([people[name][key] for name in names])
        bootstrap = (weights * values)[drawn].sum(1) / weights[drawn].sum(1)
        result[key] = float(getattr(found, key).mean())
        result[f"{key}_interval"] = np.quantile(bootstrap, [0.025, 0.975]).tolist()
        result[f"{key}_families"] = float(np.mean([group[key] for group in families.values()]))
    result["joints"] = dict(zip(JOINT_NAMES, found.joints.mean(0).tolist(), strict=True))
    result["worst"] = [
        {
            "person": str(found.person[row]),
            "action": str(found.action[row]),
            "file": int(found.file[row]),
            "row": int(found.row[row]),
            "mpjpe": float(found.mpjpe[row]),
            "pa": float(found.pa[row]),
        }
        for row in worst(found)
    ]
    return result


def lines(name: str, scored: Mapping[str, Any]) -> list[str]:
    """The scores of one input in words."""
    low, high = scored["mpjpe_interval"]
    worse = [who for who, of in scored["people"].items() if of["mpjpe"] > of["mean"]]
    found = [
        f"{TITLES[name]}: MPJPE {scored['mpjpe']:.1f} mm ({low:.0f} to {high:.0f}, 95 % over people), PA-MPJPE "
        f"{scored['pa']:.1f} over {scored['samples']} samples; mean pose {scored['mean']:.1f} / "
        f"{scored['mean_pa']:.1f}; over families {scored['mpjpe_families']:.1f} / {scored['pa_families']:.1f}",
        f"  people worse than the mean pose: {', '.join(worse) or 'none'}",
    ]
    for title, of in scored["families"].items():
        found.append(f"  {title}: {of['mpjpe']:.1f} / {of['pa']:.1f} (mean pose {of['mean']:.1f}), {of['samples']}")
    joints = ", ".join(f"{joint} {value:.0f}" for joint, value in scored["joints"].items() if value)
    return [*found, f"  by joint: {joints}"]


def distance_to(poses: np.ndarray, training: np.ndarray) -> np.ndarray:
    """[N] mm: how far the most similar of the training poses [M, 17, 3] is from each of poses [N, 17, 3].

    Root mean square over pairs of joints of how far apart these are: whichever way people face and stand, and without
    asking which side is left.
    """
    one, two = np.triu_indices(NUM_JOINTS, 1)

    def spans(joints: np.ndarray) -> Tensor:
        return torch.from_numpy(np.linalg.norm(joints[:, one] - joints[:, two], axis=-1).astype(np.float32))

    given, known = spans(poses), spans(training)
    nearest = [torch.cdist(part, known).amin(1) for part in given.split(BLOCK)]
    return (torch.cat(nearest) / len(one) ** 0.5).numpy()


def training_poses(path: Path, count: int = 5000) -> np.ndarray:
    """[count, 17, 3] mm of a prepared file, spread over it."""
    store = Store(path)
    rows = np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).astype(np.int64))
    return store.read(rows, images=False).joints_3d[..., :3]
