"""The square bounding box every source gives a person: one rule, so that boxes mean the same in every dataset."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

MARGIN = 1.25
Array = TypeVar("Array", np.ndarray, Tensor)


def square_bbox(keypoints_2d: Array, margin: float = MARGIN) -> Array:
    """Centre x, y and side in px of the square around the keypoints, `margin` times their larger extent.

    keypoints_2d: [..., J, 2] px, or [..., J, 3] with a confidence; joints of confidence 0 are left out. NumPy or torch.
    Returns [..., 3] of the same kind and dtype. Raises ValueError where a person's visible joints span nothing.
    """
    if keypoints_2d.ndim < 2 or keypoints_2d.shape[-1] not in (2, 3):
        raise ValueError(f"keypoints_2d: want [..., J, 2] or [..., J, 3], got {list(keypoints_2d.shape)}")
    if isinstance(keypoints_2d, np.ndarray):
        return _square_bbox(torch.from_numpy(np.ascontiguousarray(keypoints_2d)), margin).numpy()
    return _square_bbox(keypoints_2d, margin)


def _square_bbox(keypoints_2d: Tensor, margin: float) -> Tensor:
    points = keypoints_2d[..., :2]
    low = high = points
    if keypoints_2d.shape[-1] == 3:
        hidden = keypoints_2d[..., 2:] <= 0
        low, high = points.masked_fill(hidden, torch.inf), points.masked_fill(hidden, -torch.inf)
    low, high = low.amin(-2), high.amax(-2)
    side = margin * (high - low).amax(-1, keepdim=True)
    # NaN coordinates fail this comparison too
    if not bool((side > 0).all()):
        raise ValueError("keypoints_2d: a person needs two visible joints at different places to have a bbox")
    return torch.cat([(low + high) / 2, side], dim=-1)
