"""What the JSON of OpenPose, AlphaPose, mmpose and COCO shares: lists [x, y, c, x, y, c, ..], numbers of people."""

from typing import Any

import numpy as np

from unihpe_fast.data.errors import SourceError


def triples(value: Any, where: str) -> np.ndarray:
    """[K, 3] float64; a keypoint at (0, 0), which these writers give to those not found, has confidence 0.

    Raises SourceError, beginning with `where`, for what is no list of numbers in threes. null is a number that is none.
    """
    if not isinstance(value, list) or not value or len(value) % 3:
        found = f"{len(value)} values" if isinstance(value, list) else type(value).__name__
        raise SourceError(f"{where}: must be x, y, confidence of each keypoint in turn, got {found}")
    return with_absent(numbers(value, where).reshape(-1, 3))


def numbers(value: Any, where: str) -> np.ndarray:
    """A (nested) list of numbers as float64, null as NaN; SourceError for anything else."""
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SourceError(f"{where}: must be numbers, got {error}") from error


def identity(value: Any) -> int:
    """The number that a tracker gave a person, which some put into a list of one; -1 where there is none."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
    return value if fits else -1


def with_absent(joints: np.ndarray) -> np.ndarray:
    """Keypoints [.., 3] at exactly (0, 0) lose their confidence."""
    joints[(joints[..., :2] == 0).all(-1), 2] = 0
    return joints
