"""What every 2D detector is: a callable from a picture to the people in it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

COCO17_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip


class DetectorError(ValueError):
    """A detector that cannot be had: unknown, not installed, or without its weights. One line says what to do."""


@dataclass(frozen=True)
class Detections:
    """P people in one picture, the surest first; P may be 0. All float32.

    keypoints_2d: [P, K, 2] px of the picture, x to the right and y down from its upper left corner; they may lie
        outside it. Always finite.
    confidence: [P, K] in [0, 1], what the detector says of each keypoint.
    bbox: [P, 4] px, left, top, right, bottom.
    score: [P] in [0, 1], what the detector says of each person.
    """

    keypoints_2d: np.ndarray
    confidence: np.ndarray
    bbox: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def none(cls, num_keypoints: int) -> "Detections":
        """No people."""
        shapes = ((0, num_keypoints, 2), (0, num_keypoints), (0, 4), (0,))
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))


class Detector(Protocol):
    """A 2D keypoint detector.

    name: as users ask for it. layout: the name of its joint set, "coco17", "halpe26" or "wholebody133".
    keypoint_names: K names in the order of the keypoints. licence: one line on the code and the weights.
    """

    name: str
    layout: str
    keypoint_names: tuple[str, ...]
    licence: str

    def __call__(self, image: np.ndarray) -> Detections:
        """image: uint8 [H, W, 3], RGB, of any size from 1 px. Raises ValueError for anything else."""


def check_image(image: np.ndarray) -> tuple[int, int]:
    """Height and width of a picture; ValueError where it is not uint8 [H, W, 3]."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"detector: image must be uint8 [H, W, 3] RGB, got {found}")
    height, width, _ = image.shape
    if not height or not width:
        raise ValueError(f"detector: image must have pixels, got {list(image.shape)}")
    return height, width
