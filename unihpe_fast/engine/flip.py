"""Test-time flipping, as VideoPose3D does it: the poses of a sample and of its mirror image, averaged."""

from dataclasses import replace

import torch
from torch import Tensor

from unihpe_fast.data.records import Batch
from unihpe_fast.data.skeleton import FLIP
from unihpe_fast.models.unihpe import Outputs


def _mirrored(points: Tensor) -> Tensor:
    """[..., 17, C], x first: left and right joints swapped and x negated."""
    points = points[..., torch.from_numpy(FLIP).to(points.device), :]
    return torch.cat([-points[..., :1], points[..., 1:]], dim=-1)


def mirrored(batch: Batch) -> Batch:
    """What the encoders would be given if all were mirrored at the principal point; the truth stays as it is."""
    sign = torch.tensor([-1.0, 1.0, 1.0], device=batch.box.device)
    return replace(
        batch,
        image=batch.image.flip(-1),
        keypoints_2d=_mirrored(batch.keypoints_2d),
        joints_3d=_mirrored(batch.joints_3d),
        box=batch.box * sign,
    )


def averaged(outputs: Outputs, of_mirrored: Outputs) -> Outputs:
    """Poses and keypoints averaged with those of the mirrored batch, mirrored back; the embeddings of `outputs`."""
    keypoints = outputs.pred_keypoints_2d
    if keypoints is not None and of_mirrored.pred_keypoints_2d is not None:
        keypoints = (keypoints + _mirrored(of_mirrored.pred_keypoints_2d)) / 2
    return Outputs(outputs.embeddings, (outputs.pred_joints_3d + _mirrored(of_mirrored.pred_joints_3d)) / 2, keypoints)
