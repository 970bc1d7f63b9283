"""A small model of every kind and batches for it."""

from dataclasses import replace

import torch
from torch import Tensor

from unihpe_fast.config import DecoderConfig, ImageEncoderConfig, ModelConfig, PoseEncoderConfig

SIZE = 64

# blocks that start as nothing would have gradients of nothing
TINY_BACKBONE = {"channels": "[8, 8, 16, 16]", "stem_width": "8", "zero_init_last": "false"}
TINY_IMAGE = ImageEncoderConfig(
    "resnet10t", TINY_BACKBONE, fuse_width=16, heatmap_stride=4, head_width=32, head_depth=1
)
TINY_MLP = PoseEncoderConfig("mlp", width=32, depth=2)
TINY_TRANSFORMER = PoseEncoderConfig("transformer", width=16, depth=2, heads=2)


def tiny_config(*modalities: str, pose: PoseEncoderConfig = TINY_MLP, **changes: object) -> ModelConfig:
    config = ModelConfig(
        modalities=modalities or ("image", "pose2d", "pose3d"),
        width=24,
        image=TINY_IMAGE,
        pose2d=pose,
        pose3d=pose,
        decoder=DecoderConfig(width=32, depth=1),
    )
    return replace(config, **changes)


def make_batch(size: int, seed: int = 0, present: Tensor | None = None) -> dict[str, Tensor]:
    """The tensors of a `Batch` that model and criterion read; a fifth of the joints is missing, as zeros."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    confidence = (uniform(size, 17, 1) > -0.6).float()
    valid = (uniform(size, 17, 1) > -0.6).float()
    joints = uniform(size, 17, 3) * 800
    joints[:, 0] = 0
    valid[:, 0] = 1
    target_2d = uniform(size, 17, 2)
    seen = confidence * (uniform(size, 17, 1) / 4 + 0.75)
    return {
        "image": uniform(size, 3, SIZE, SIZE) * 2,
        "keypoints_2d": torch.cat([(target_2d + 0.01 * uniform(size, 17, 2)) * confidence, seen], dim=-1),
        "target_2d": torch.cat([target_2d * confidence, seen], dim=-1),
        "joints_3d": torch.cat([joints * valid, valid], dim=-1),
        "box": uniform(size, 3) / 3,
        "present": torch.ones(3, size, dtype=torch.bool) if present is None else present,
        "weights": uniform(size) / 2 + 1,
    }


def poisoned(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same batch with NaN wherever a modality is absent, and in the coordinates of missing joints."""
    image, pose2d, pose3d = batch["present"]

    def spoil(tensor: Tensor, present: Tensor) -> Tensor:
        spoilt = tensor.clone()
        spoilt[~present] = torch.nan
        return spoilt

    def spoil_joints(joints: Tensor, present: Tensor) -> Tensor:
        spoilt = spoil(joints, present)
        spoilt[..., :-1][joints[..., -1] == 0] = torch.nan
        return spoilt

    return batch | {
        "image": spoil(batch["image"], image),
        "keypoints_2d": spoil_joints(batch["keypoints_2d"], pose2d),
        "target_2d": spoil_joints(batch["target_2d"], pose2d),
        "joints_3d": spoil_joints(batch["joints_3d"], pose3d),
    }


def model_inputs(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(batch[name] for name in ("image", "keypoints_2d", "joints_3d", "box", "present"))
