"""People and pictures in, `Batch` out: the conventions of data/records.py, in one place."""

from dataclasses import fields, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unihpe_fast.config import AugmentConfig
from unihpe_fast.data.augment import People, simulate_detector
from unihpe_fast.data.level import level_rotation
from unihpe_fast.data.records import Batch, SampleInfo
from unihpe_fast.data.skeleton import ROOT


def input_crop(bbox: np.ndarray, image_size: int) -> np.ndarray:
    """Maps [N, 2, 3] from full-image px to px of a network input whose span -0.5 .. S - 0.5 is the bbox [N, 3]."""
    scale = image_size / bbox[:, 2]
    crop = np.zeros((len(bbox), 2, 3))
    crop[:, 0, 0] = crop[:, 1, 1] = scale
    crop[:, :, 2] = (bbox[:, 2:] / 2 - bbox[:, :2]) * scale[:, None] - 0.5
    return crop


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Affine maps [N, 2, 3] that apply `inner` first and `outer` then."""
    result = outer[:, :, :2] @ inner
    result[:, :, 2] += outer[:, :, 2]
    return result


def inverse(affine: np.ndarray) -> np.ndarray:
    """Inverses of affine maps [N, 2, 3], in float64."""
    linear = np.linalg.inv(affine[:, :, :2].astype(np.float64))
    return np.concatenate([linear, -linear @ affine[:, :, 2:]], axis=2)


def collate(
    people: People,
    image: Tensor,
    *,
    present: np.ndarray,
    info: SampleInfo,
    detector: AugmentConfig | None = None,
    rng: np.random.Generator | None = None,
    level: bool = False,
) -> Batch:
    """The Batch of augmented people and their normalised pictures.

    image: [N, 3, S, S] float32. present: [3, N] bool. detector: noise to put on the 2D input, drawn from rng.
    level: the 3D poses are turned to the axes of the levelled cameras.
    """
    present = present.copy()
    # a pose without its root has no root-relative form
    present[2] &= people.joints_3d[:, ROOT, 3] > 0
    target_2d = crop_units(people)
    target_2d[~present[1]] = 0
    keypoints_2d = target_2d
    if detector is not None and rng is not None:
        keypoints_2d = simulate_detector(target_2d, detector, rng)
        keypoints_2d[keypoints_2d[..., 2] <= 0] = 0
    told = people
    if detector is not None and rng is not None and detector.unknown_focal:
        camera = people.camera.copy()
        camera[rng.random(len(info)) < detector.unknown_focal, :4] = np.nan
        told = replace(people, camera=camera)

    root = people.joints_3d[:, ROOT, :3] * present[2][:, None]
    # no one stands in the camera: data/records.py
    unknown = present[2] & (root == 0).all(1)
    joints_3d = people.joints_3d.copy()
    joints_3d[..., :3] -= root[:, None]
    if level:
        joints_3d[..., :3] = joints_3d[..., :3] @ level_rotation(people.up).swapaxes(1, 2)
    joints_3d[~present[2]] = 0
    joints_3d[joints_3d[..., 3] <= 0] = 0
    return Batch(
        image=image,
        keypoints_2d=_float(keypoints_2d),
        target_2d=_float(target_2d),
        joints_3d=_float(joints_3d),
        root=_float(np.where(unknown[:, None], np.nan, root)),
        camera=_float(people.camera),
        crop=_float(input_crop(people.bbox, image.shape[-1])),
        box=_float(box_context(told)),
        present=torch.from_numpy(present),
        weights=torch.ones(len(info)),
        scale_2d=_float(people.bbox[:, 2] / 2),
        info=info,
    )


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def crop_units(people: People) -> np.ndarray:
    """[N, 17, 3], the 2D keypoints in half bbox sides about its centre, and confidence; a missing joint is all 0."""
    # in the memory order of the keypoints
    keypoints = people.keypoints_2d.copy(order="K")
    points = keypoints[..., :2]
    points -= people.bbox[:, None, :2]
    points /= people.bbox[:, None, 2:] / 2
    np.copyto(keypoints, 0, where=~(keypoints[..., 2:] > 0))
    return keypoints


def box_context(people: People) -> np.ndarray:
    """[N, 3], see Batch.box; zero where neither the camera nor the size of the image is known."""
    diagonal = np.linalg.norm(people.size, axis=1, keepdims=True)
    focal = np.where(np.isnan(people.camera[:, :2]), diagonal, people.camera[:, :2])
    known = focal > 0
    focal = np.where(known, focal, 1.0)
    box = np.concatenate(
        [(people.bbox[:, :2] - people.center) / focal, people.bbox[:, 2:] / focal.mean(1, keepdims=True)], axis=1
    )
    return box * known.all(1, keepdims=True)


def merge(batches: list[Batch]) -> Batch:
    """One batch of several, in their order."""
    if len(batches) == 1:
        return batches[0]
    merged: dict[str, Any] = {}
    for f in fields(Batch):
        parts = [getattr(batch, f.name) for batch in batches]
        if f.name == "present":
            merged[f.name] = torch.cat(parts, dim=1)
        elif isinstance(parts[0], Tensor):
            merged[f.name] = torch.cat(parts)
        elif isinstance(parts[0], SampleInfo):
            merged[f.name] = SampleInfo.joined(parts)
        else:
            merged[f.name] = list(chain.from_iterable(parts))
    return Batch(**merged)
