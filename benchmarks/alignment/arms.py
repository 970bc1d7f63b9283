"""The arms, and a run of one: trained on three kinds of data, scored on unseen people, rendered and real."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from benchmarks.alignment.pictures import Pictures, Remembered, joined
from unihpe_fast.config import (
    AugmentConfig,
    Config,
    DataConfig,
    DecoderConfig,
    ImageEncoderConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PoseEncoderConfig,
    RunConfig,
    check,
)
from unihpe_fast.data.loader import mean_pose, train_batches
from unihpe_fast.data.records import Batch
from unihpe_fast.engine.evaluation import Predictions, predict, score
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.engine.trainer import Trainer
from unihpe_fast.losses import CONTRASTIVE
from unihpe_fast.models.image_encoder import ImageEncoder
from unihpe_fast.models.unihpe import UniHPE
from unihpe_kernels import mpjpe, pa_mpjpe

BACKBONE = "movenet_lightning"
IMAGE_SIZE = 128
# samples of a batch: motion without pictures, rendered pictures, photographs
MOTION, RENDERED, PHOTOS = 96, 64, 48
WEIGHT = 0.1
_SEED_DOMAIN = 5


@dataclass(frozen=True)
class Arm:
    """terms: weights of the contrastive terms, the others are off. mixed: motion and photographs beside rendered
    pictures. two_steps: half of the steps for the encoders, by the contrastive terms and the 2D head, half for the
    decoder behind encoders that stay."""

    terms: dict[str, float] = field(default_factory=dict)
    source_tokens: bool = False
    mixed: bool = True
    two_steps: bool = False


_OFF: dict[str, Any] = dict.fromkeys(CONTRASTIVE, 0.0)
_BOTH = {"singular_value": WEIGHT, "pairwise": WEIGHT}
ARMS = {
    "none": Arm(),
    "pairwise": Arm({"pairwise": WEIGHT}),
    "singular value": Arm({"singular_value": WEIGHT}),
    "both": Arm(_BOTH),
    "volume": Arm({"volume": WEIGHT}),
    "area": Arm({"area": WEIGHT}),
    "both, two steps": Arm(_BOTH, two_steps=True),
    "none, source tokens": Arm(source_tokens=True),
    "both, source tokens": Arm(_BOTH, source_tokens=True),
    "none, rendered pictures alone": Arm(mixed=False),
    "both, rendered pictures alone": Arm(_BOTH, mixed=False),
}


def configure(arm: Arm, motion: str, steps: int, seed: int) -> Config:
    """The run of an arm, which differs from the others by what `arm` says and nothing else. motion: prepared file."""
    small = PoseEncoderConfig(width=256, depth=2)
    return check(
        Config(
            data=DataConfig(
                train=(motion,),
                image_size=IMAGE_SIZE,
                batch_size=MOTION,
                augment=AugmentConfig(rotate=5, yaw=True, bone_scale=0.1, body_scale=0.02, noise=0.01),
            ),
            model=ModelConfig(
                source_tokens=arm.source_tokens,
                image=ImageEncoderConfig(
                    BACKBONE, pretrained=True, frozen=True, fuse_width=64, heatmap_stride=8, head_width=256
                ),
                pose2d=small,
                pose3d=small,
                decoder=DecoderConfig(width=256, depth=1),
            ),
            loss=replace(LossConfig(heatmaps=0.1), **_OFF | arm.terms),
            optim=OptimConfig(steps=steps, warmup=min(50, steps // 4)),
            run=RunConfig(seed=seed, device="cpu", dtype="float32", compile="off"),
        )
    )


class Data:
    """The pictures of all runs: rendered ones to train on, photographs, rendered ones of unseen people, and, where
    there is such a file, clips of real people."""

    def __init__(self, config: Config, rendered: str, photos: str, val: str, clips: str | None = None) -> None:
        encoder = ImageEncoder(config.model.image, image_size=IMAGE_SIZE, width=1)
        found: list[Pictures] = []
        for path in (rendered, photos, val, *([clips] if clips else [])):
            first = sum(map(len, found))
            found.append(Pictures(path, encoder.backbone, image_size=IMAGE_SIZE, scales=encoder.scales, first=first))
        self.rendered, self.photos, self.val = found[:3]
        self.clips = found[3] if clips else None
        each = zip(*(pictures.maps for pictures in found), strict=True)
        self.remembered = Remembered([torch.cat(maps) for maps in each])
        for pictures in found:
            pictures.maps.clear()


def run(config: Config, arm: Arm, data: Data) -> dict[str, Any]:
    """Train an arm and score it."""
    start = time.perf_counter()
    model, bad = _trained(config, arm, data)
    seconds = time.perf_counter() - start
    found = _predicted(model, data.val, config)
    scores = score(found, model.mean_pose)
    kept = {name: scores[name] for name in ("mean_pose", "image", "pose2d", "keypoints2d")}
    kept["retrieval"] = scores["retrieval"]["image->pose3d"]
    if data.clips is not None:
        of_clips = score(_predicted(model, data.clips, config), model.mean_pose)
        kept["clips"] = {name: of_clips[name] for name in ("mean_pose", "image", "keypoints2d")}
    return {"seconds": seconds, "bad_steps": bad, "people": _people(found), **kept}


def _predicted(model: UniHPE, pictures: Pictures, config: Config) -> Predictions:
    rows = np.array_split(np.arange(len(pictures)), -(-len(pictures) // config.data.val_batch_size))
    return predict(model, (pictures.take(part) for part in rows), device="cpu")


def _trained(config: Config, arm: Arm, data: Data) -> tuple[UniHPE, int]:
    """The model, and how many of its steps were skipped because they were not finite."""
    stages = [config]
    if arm.two_steps:
        half = replace(config, optim=replace(config.optim, steps=config.optim.steps // 2))
        encoders = replace(half.loss, joints_3d=0.0)
        decoder = replace(half.loss, **_OFF, joints_2d=0.0, heatmaps=0.0)
        stages = [replace(half, loss=encoders), replace(half, loss=decoder)]
    bad, before = 0, None
    for number, stage in enumerate(stages):
        trainer = Trainer(stage, choose_runtime(stage.run))
        model = trainer.model
        data.remembered.take_over(model.image_encoder)
        if before is None:
            model.set_mean_pose(mean_pose(config.data, seed=config.run.seed))
        else:
            model.load_state_dict(before.state_dict())
            for name, module in model.named_children():
                module.requires_grad_(not name.endswith("_encoder"))
        model.train()
        batches = _batches(stage, arm, data, number)
        for _ in range(stage.optim.steps):
            trainer.advance(batches)
        bad += int(trainer.bad_steps.counts[2])
        before = model
    return model, bad


def _batches(config: Config, arm: Arm, data: Data, stage: int) -> Iterator[Batch]:
    rng, steps = np.random.default_rng([_SEED_DOMAIN, config.run.seed, stage]), config.optim.steps
    # the second of two stages goes on where the first ended
    poses = train_batches(
        replace(config.data, image_size=0), seed=config.run.seed, start_step=stage * steps, steps=(stage + 1) * steps
    )
    for motion in poses:
        rendered = data.rendered.take(rng.integers(0, len(data.rendered), RENDERED))
        photos = data.photos.take(rng.integers(0, len(data.photos), PHOTOS))
        yield joined([motion, rendered, photos]) if arm.mixed else rendered


def _people(found: Predictions) -> dict[str, dict[str, float]]:
    """Means over each person's samples, image -> 3D."""
    pred, target, valid = found.joints_3d["image"], found.target_3d[..., :3], found.valid_3d.float()
    errors = {"mpjpe": mpjpe(pred, target, weights=valid), "pa": pa_mpjpe(pred, target, weights=valid)}
    people = {}
    for name in sorted(set(found.info.subject)):
        rows = torch.tensor([subject == name for subject in found.info.subject])
        people[name] = {"samples": int(rows.sum())} | {key: x[rows].mean().item() for key, x in errors.items()}
    return people
