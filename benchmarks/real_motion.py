"""Lifting scored on `real-motion` v2: unseen people in motion of many kinds, exact 2D, a detector's, and with gaps.

    python -m benchmarks.real_motion MODEL cmu-val.h5 accad-val.h5 --json benchmarks/results/real-motion.json

MODEL: as `load_model` takes it. The files are those that `make real-motion DATA=..` writes. Three inputs: the exact
projections; "detector": a standard deviation of 2 % of the box side, by joint as OKS has it (data/augment.OKS_ERRORS),
5 % of limbs taken for the other side's, 10 % of joints missing; "quarter": exact, a quarter of the joints missing.
Means over samples and over families of actions, with the bootstrap's 95 % interval over people.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.provenance import provenance
from unihpe_fast import load_model
from unihpe_fast.config import AugmentConfig
from unihpe_fast.data.augment import OKS_ERRORS, People, camera_up, detect
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.collate import collate
from unihpe_fast.data.records import Batch
from unihpe_fast.data.store import Columns, Store
from unihpe_fast.fileio import write_text
from unihpe_kernels import mpjpe, pa_mpjpe

BLOCK = 1024
SEED = 0
INPUTS: dict[str, AugmentConfig | None] = {
    "exact": None,
    "detector": AugmentConfig(detector=0.02, swap=0.05, missing=0.1),
    "quarter": AugmentConfig(missing=0.25),
}
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


def family(action: str) -> str:
    """The family of a clip's action; "other" where none is known."""
    return next((name for name, words in FAMILIES if re.search(words, action.lower())), "other")


def batch_of(columns: Columns, config: AugmentConfig | None, rng: np.random.Generator) -> Batch:
    """The samples with the 2D input of a protocol; targets and cameras are those of the file."""
    count = len(columns.index)
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
        index=columns.index,
        frame=columns.frame,
        subject=columns.subject,
        action=columns.action,
        camera_id=columns.camera_id,
    )


def errors(model: Any, files: Sequence[Path], config: AugmentConfig | None, step: int) -> dict[str, np.ndarray]:
    """Every `step`-th sample: its person, family, MPJPE and PA-MPJPE, and those of the mean pose of training."""
    rng = np.random.default_rng(SEED)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("person", "family", "mpjpe", "pa", "mean", "mean_pa")}
    for path in files:
        store = Store(path)
        rows = np.arange(0, len(store), step)
        for start in range(0, len(rows), BLOCK):
            batch = batch_of(store.read(rows[start : start + BLOCK], images=False), config, rng)
            with torch.inference_mode():
                pred = model.decode(model.encode_pose2d(batch.keypoints_2d, batch.box), "pose2d")
            target: Tensor = batch.joints_3d[..., :3]
            mean = model.mean_pose.expand_as(target)
            for name, values in (
                ("mpjpe", mpjpe(pred, target)),
                ("pa", pa_mpjpe(pred, target)),
                ("mean", mpjpe(mean, target)),
                ("mean_pa", pa_mpjpe(mean.contiguous(), target)),
            ):
                parts[name].append(values.double().numpy())
            parts["person"].append(np.array([f"{store.attributes['dataset']} {who}" for who in batch.subject]))
            parts["family"].append(np.array([family(action) for action in batch.action]))
    return {name: np.concatenate(values) for name, values in parts.items()}


def means(found: dict[str, np.ndarray], by: str) -> dict[str, dict[str, float]]:
    groups = {}
    for name in np.unique(found[by]):
        rows = found[by] == name
        groups[str(name)] = {key: float(found[key][rows].mean()) for key in ("mpjpe", "pa", "mean", "mean_pa")}
        groups[str(name)]["samples"] = int(rows.sum())
    return groups


def scores(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over samples, with intervals over people, and over families; by family and by person."""
    families, people = means(found, "family"), means(found, "person")
    rng, names = np.random.default_rng(SEED), list(people)
    drawn = rng.integers(0, len(names), (2000, len(names)))
    weights = np.array([people[name]["samples"] for name in names], np.float64)
    result: dict[str, Any] = {"samples": len(found["mpjpe"]), "families": families, "people": people}
    for key in ("mpjpe", "pa", "mean", "mean_pa"):
        values = np.array([people[name][key] for name in names])
        bootstrap = (weights * values)[drawn].sum(1) / weights[drawn].sum(1)
        result[key] = float(found[key].mean())
        result[f"{key}_interval"] = np.quantile(bootstrap, [0.025, 0.975]).tolist()
        result[f"{key}_families"] = float(np.mean([group[key] for group in families.values()]))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--step", type=int, default=1, help="score every STEP-th sample")
    parser.add_argument("--trained", default="", help="what is known of the training, kept in the record")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model, config = load_model(arguments.model)
    record: dict[str, Any] = {
        **provenance(),
        "model": Path(arguments.model).name,
        "trained": arguments.trained,
        "steps": config.optim.steps,
        "step": arguments.step,
        "files": [path.name for path in arguments.files],
        "inputs": {
            name: scores(errors(model, arguments.files, detector, arguments.step)) for name, detector in INPUTS.items()
        },
    }
    for name, found in record["inputs"].items():
        print(
            f"{name}: {found['mpjpe']:.1f} / {found['pa']:.1f} mm over {found['samples']} samples; mean pose "
            f"{found['mean']:.1f} / {found['mean_pa']:.1f}; over families {found['mpjpe_families']:.1f} / "
            f"{found['pa_families']:.1f}"
        )
        worse = [who for who, of in found["people"].items() if of["mpjpe"] > of["mean"]]
        print(f"  people worse than the mean pose: {', '.join(worse) or 'none'}")
        for family_name, of in found["families"].items():
            print(f"  {family_name}: {of['mpjpe']:.1f} / {of['pa']:.1f} (mean pose {of['mean']:.1f}), {of['samples']}")
    if arguments.json:
        write_text(arguments.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
