"""Flat lists [x, y, c, x, y, c, ..] in JSON, as OpenPose, AlphaPose and COCO have them."""

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


def with_absent(joints: np.ndarray) -> np.ndarray:
    """Keypoints [.., 3] at exactly (0, 0) lose their confidence."""
    joints[(joints[..., :2] == 0).all(-1), 2] = 0
    return joints
