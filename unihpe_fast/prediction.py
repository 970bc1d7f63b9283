"""`Prediction`: what comes back from keypoints, photographs and videos, and what every output format takes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from unihpe_fast.config import Axes
from unihpe_fast.data.skeleton import JOINT_NAMES


@dataclass(frozen=True)
class Prediction:
    """3D poses of people in pictures. The arrays share a leading shape [..]; `flat` makes it [N], a row a person.

    joints_3d: [.., 17, 3] float32, mm in the `axes` (x right, y down, z away from the camera) relative to the root,
        which is exactly 0. NaN where too few joints were seen to say anything.
    joints_2d: [.., 17, 2] float32, px of the full image, NaN where the joint is absent; the same joints as joints_3d.
    confidence: [.., 17] float32 of joints_2d, 0 where the joint is absent.
    root: [.., 3] float32, camera-space mm of the pelvis: the place from which joints_3d project best onto joints_2d.
        As exact as the camera is known; NaN where neither camera nor size of the image are, and with axes "level".
    roll: [..] float32, radians by which the picture was turned about the principal point (x towards y) before lifting.
    person: [..] int64, the same number for the same person within a video. frame: [..] int64, 0-based.
    time: [..] float64 seconds, NaN where unknown. source: [..] str, the file each comes from.
    size: [.., 2] int64, width and height of the full image in px, 0 where unknown.
    camera: [.., 9] float64 of unihpe_fast.data.camera; without a given one, the assumed one.
    fps: frames a second of a video, None for photographs and where unknown. layout: name of the keypoints' layout.
    axes: "camera", those of the camera that took the picture, turned by `roll`; "level", those of the levelled camera:
        its pitch and roll are taken out, and -y is the world's up (models trained with `data.level`).
    """

    joints_3d: np.ndarray
    joints_2d: np.ndarray
    confidence: np.ndarray
    root: np.ndarray
    roll: np.ndarray
    person: np.ndarray
    frame: np.ndarray
    time: np.ndarray
    source: np.ndarray
    size: np.ndarray
    camera: np.ndarray
    fps: float | None = None
    layout: str = ""
    axes: Axes = "camera"
    joint_names: tuple[str, ...] = JOINT_NAMES

    def __len__(self) -> int:
        return len(self.person)

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading shape."""
        return self.person.shape

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), np.ndarray)}

    def flat(self) -> "Prediction":
        """The same poses as N rows."""
        return self.shaped((self.person.size,))

    def shaped(self, lead: tuple[int, ...]) -> "Prediction":
        """The same poses with another leading shape."""
        changed: dict[str, Any] = {
            name: x.reshape((*lead, *x.shape[self.person.ndim :])) for name, x in self.arrays.items()
        }
        return replace(self, **changed)

    def select(self, rows: np.ndarray) -> "Prediction":
        """Some of the rows, by index or bool mask of the leading axis."""
        changed: dict[str, Any] = {name: x[rows] for name, x in self.arrays.items()}
        return replace(self, **changed)

    def tracks(self) -> dict[int, np.ndarray]:
        """The rows of each person in the order of their frames, of a flat prediction: person -> [n] int64."""
        order = np.lexsort((self.frame, self.person))
        people, starts = np.unique(self.person[order], return_index=True)
        return dict(zip(people.tolist(), np.split(order, starts[1:]), strict=True))

    def frames(self) -> dict[tuple[str, int], list[int]]:
        """The rows of each frame of each source, of a flat prediction, in its order: (source, frame) -> rows."""
        rows: dict[tuple[str, int], list[int]] = {}
        for row, key in enumerate(zip(map(str, self.source), self.frame.tolist(), strict=True)):
            rows.setdefault(key, []).append(row)
        return rows

    @property
    def is_sequence(self) -> bool:
        """Whether the rows are frames of one video, so that a person's rows make a motion."""
        return self.fps is not None and len(np.unique(self.source)) == 1


def concatenate(parts: Sequence[Prediction]) -> Prediction:
    """The rows of several predictions as one, in their order; layout and fps are the first one's.

    Raises ValueError where there is none.
    """
    if not parts:
        raise ValueError("concatenate: parts must hold at least one prediction, got none")
    flat = [part.flat() for part in parts]
    joined: dict[str, Any] = {name: np.concatenate([part.arrays[name] for part in flat]) for name in flat[0].arrays}
    return replace(flat[0], **joined)
