"""The records one sample passes through: `Sample` (one person, one frame) and `Batch` (what a training step eats);
`SampleInfo` says of many samples which they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unihpe_fast.data.camera import Camera

MODALITIES = ("image", "pose2d", "pose3d")
# as tables and plots call them
LABELS = {"image": "image", "pose2d": "2D pose", "pose3d": "3D pose", "image+pose2d": "image + 2D"}
# an embedding fused of these two (UniHPE.fuse), which scores give a row of its own
FUSED = "image+pose2d"


@dataclass
class Sample:
    """One person in one frame, as a source yields it; what the source lacks is None.

    bbox: [3] float32, centre x, y and side in px of the full image.
    keypoints_2d: [17, 3] float32, px of the full image and confidence in [0, 1] (0: missing).
    joints_3d: [17, 4] float32, camera-space mm and validity 0/1. Not root-centred, unless the source does not know how
        far away the person is: then the root is exactly at the origin.
    photo: file of the full image, from which `prepare` cuts the next two.
    image: JPEG bytes of the crop with margin; crop: [2, 3] float32 takes full-image px to crop px.
    frame: 0-based in the source's video or sequence.
    """

    bbox: np.ndarray
    keypoints_2d: np.ndarray | None = None
    joints_3d: np.ndarray | None = None
    camera: Camera | None = None
    photo: Path | None = None
    image: bytes | None = None
    crop: np.ndarray | None = None
    subject: str = ""
    action: str = ""
    camera_id: str = ""
    frame: int = 0


@dataclass(frozen=True, eq=False)
class SampleInfo:
    """Which samples these N are; it is carried whole from the file to the scores and stays on the host.

    index: [N] int64 rows in the dataset. frame: [N] int64, 0-based in the source's video or sequence. subject, action,
    camera_id: N names, empty where the source has none.
    """

    index: np.ndarray
    frame: np.ndarray
    subject: list[str]
    action: list[str]
    camera_id: list[str]

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def unnamed(cls, count: int) -> "SampleInfo":
        """Rows 0 .. count - 1 of which no more is known."""
        return cls(np.arange(count), np.zeros(count, np.int64), *([""] * count for _ in range(3)))

    @classmethod
    def joined(cls, parts: "Sequence[SampleInfo]") -> "SampleInfo":
        """Several as one, in their order."""
        names = [(part.subject, part.action, part.camera_id) for part in parts]
        return cls(
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.frame for part in parts]),
            *(list(chain.from_iterable(column)) for column in zip(*names, strict=True)),
        )


@dataclass
class Batch:
    """B samples ready for the model, after cropping and augmentation. Absent parts are zero, and False in `present`.

    image: [B, 3, S, S] float32 RGB, ImageNet mean and standard deviation taken out.
    keypoints_2d: [B, 17, 3] the 2D encoder's input: (px - bbox centre) / (side / 2), so the crop spans [-1, 1], with
        confidence; carries the simulated detector noise. Joints of confidence 0 have coordinates 0.
    target_2d: [B, 17, 3] the same without noise: what the image's 2D head should say.
    joints_3d: [B, 17, 4] root-relative camera-space mm and validity; invalid joints are 0. With DataConfig.level the
        axes are those of the levelled camera (data/level.py).
    root: [B, 3] camera-space mm of joint 0; NaN where the source does not know it.
    camera: [B, 9] of unihpe_fast.data.camera, after augmentation; NaN where unknown.
    crop: [B, 2, 3] full-image px (after augmentation) to network-input px, pixel centres at integers:
        input x = -0.5 .. S - 0.5 spans the bbox.
    box: [B, 3] ((bbox centre - principal point) / focal length, side / focal length), the CLIFF context
        (Li et al. 2022, eq. 5); an unknown camera counts as one of focal length sqrt(w^2 + h^2).
    present: [3, B] bool in MODALITIES order. weights: [B].
    scale_2d: [B] px of the full image for one unit of keypoints_2d (half the bbox side).
    info: which samples these are.
    broken: what could not be read, a line for each; in training other samples of the file stand in for those, in
        validation they are without their image.
    """

    image: Tensor
    keypoints_2d: Tensor
    target_2d: Tensor
    joints_3d: Tensor
    root: Tensor
    camera: Tensor
    crop: Tensor
    box: Tensor
    present: Tensor
    weights: Tensor
    scale_2d: Tensor
    info: SampleInfo
    broken: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.keypoints_2d.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}

    def to(self, device: torch.device | str) -> "Batch":
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {name: change(x) for name, x in self.tensors().items()}
        return replace(self, **changed)
