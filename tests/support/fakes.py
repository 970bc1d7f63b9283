"""Batches of upright stick people, and predictions of them that are wrong by a known amount."""

import numpy as np
import torch

from unihpe_fast.data.records import FUSED, Batch, SampleInfo
from unihpe_fast.engine.evaluation import Predictions

# mm, camera axes: x right, y down
STANDING = torch.tensor(
    [
        [0, 0, 0], [-130, 0, 0], [-140, 430, 10], [-140, 870, 60], [130, 0, 0], [140, 430, 10], [150, 870, 60],
        [0, -230, 10], [0, -480, 20], [0, -560, -20], [0, -680, 0], [160, -450, 20], [300, -230, 0], [330, 0, -80],
        [-160, -450, 20], [-310, -250, 30], [-340, -10, -50],
    ],
    dtype=torch.float32,
)  # fmt: skip
ACTIONS = ("Walking 1", "Sitting", "SittingDown", "Walking")


def people(count: int, *, image_size: int = 16, seed: int = 0, start: int = 0) -> Batch:
    """`count` people with everything present; image_size 0: no images. Actions take turns."""
    g = torch.Generator().manual_seed(seed)
    joints = STANDING + 60 * torch.randn(count, 17, 3, generator=g)
    joints = joints - joints[:, :1]
    keypoints = torch.cat([joints[..., :2] / 1000, torch.ones(count, 17, 1)], dim=-1)
    present = torch.ones(3, count, dtype=torch.bool)
    present[0] = image_size > 0
    return Batch(
        image=torch.randn(count, 3, image_size, image_size, generator=g),
        keypoints_2d=keypoints,
        target_2d=keypoints.clone(),
        joints_3d=torch.cat([joints, torch.ones(count, 17, 1)], dim=-1),
        root=torch.tensor([0.0, 0.0, 4000.0]).expand(count, 3).clone(),
        camera=torch.full((count, 9), torch.nan),
        crop=torch.eye(2, 3).expand(count, 2, 3).clone(),
        box=torch.zeros(count, 3),
        present=present,
        weights=torch.ones(count),
        scale_2d=torch.linspace(100, 200, count),
        info=SampleInfo(
            index=np.arange(start, start + count),
            frame=np.arange(start, start + count),
            subject=[f"S{row % 2}" for row in range(count)],
            action=[ACTIONS[row % len(ACTIONS)] for row in range(count)],
            camera_id=[str(row % 2) for row in range(count)],
        ),
    )


def truth(batch: Batch, modalities: tuple[str, ...] = ("image", "pose2d", "pose3d")) -> Predictions:
    """Predictions that are right in everything: equal embeddings of all modalities, different for each sample."""
    embedding = torch.eye(len(batch))
    rows = (*modalities, FUSED) if {"image", "pose2d"} <= set(modalities) else modalities
    return Predictions(
        embeddings={m: embedding.clone() for m in rows},
        joints_3d={m: batch.joints_3d[..., :3].clone() for m in rows},
        keypoints_2d=batch.target_2d[..., :2].clone() if "image" in modalities else None,
        target_3d=batch.joints_3d,
        target_2d=batch.target_2d,
        present=batch.present,
        scale_2d=batch.scale_2d,
        info=batch.info,
    )
