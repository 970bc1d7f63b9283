"""The square bounding box of a person and the crop around it: one rule, so that they mean the same in every dataset."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

MARGIN = 1.25
# of the crops that are kept beyond the box, so that augmentation can roll, shift and widen it
CROP_MARGIN = 1.25
Array = TypeVar("Array", np.ndarray, Tensor)


def square_bbox(keypoints_2d: Array, margin: float = MARGIN) -> Array:
    """Centre x, y and side in px of the square around the keypoints, `margin` times their larger extent.

    keypoints_2d: [..., J, 2] px, or [..., J, 3] with a confidence; joints of confidence 0 are left out. NumPy or torch.
    Returns [..., 3] of the same kind and dtype. Raises ValueError where a person's visible joints span nothing.
    """
    if keypoints_2d.ndim < 2 or keypoints_2d.shape[-1] not in (2, 3):
        raise ValueError(f"keypoints_2d: want [..., J, 2] or [..., J, 3], got {list(keypoints_2d.shape)}")
    if isinstance(keypoints_2d, np.ndarray):
        # torch takes no negative strides
        forward = min(keypoints_2d.strides) >= 0
        return _square_bbox(torch.from_numpy(keypoints_2d if forward else keypoints_2d.copy()), margin).numpy()
    return _square_bbox(keypoints_2d, margin)


def _square_bbox(keypoints_2d: Tensor, margin: float) -> Tensor:
    # coordinates and joints first: fast where people lie next to each other in memory, which masked_fill would undo
    rows = keypoints_2d.movedim((-1, -2), (0, 1))
    low = high = rows[:2]
    if len(rows) == 3:
        hidden = rows[2] <= 0
        low, high = (torch.where(hidden, edge, low) for edge in (torch.inf, -torch.inf))
    low, high = low.amin(1), high.amax(1)
    side = margin * (high - low).amax(0, keepdim=True)
    # NaN coordinates fail this comparison too
    if not bool((side > 0).all()):
        raise ValueError("keypoints_2d: a person needs two visible joints at different places to have a bbox")
    return torch.cat([(low + high) / 2, side]).movedim(0, -1)


def crop_map(bbox: np.ndarray, size: int, margin: float = CROP_MARGIN) -> np.ndarray:
    """[2, 3] float32 from full-image px to crop px: the crop's edges -0.5 and size - 0.5 lie at margin / 2 sides."""
    scale = size / (margin * float(bbox[2]))
    middle = (size - 1) / 2
    shift = [middle - scale * float(bbox[0]), middle - scale * float(bbox[1])]
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], dtype=np.float32)
