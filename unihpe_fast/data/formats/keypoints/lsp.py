"""Leeds Sports Pose: `joints` of a joints.mat, [3, 14, N] (LSP) or [14, 3, N] (its extended training set)."""

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import KEYPOINT_NAMES, Keypoints, People, ReadOptions
from unihpe_fast.data.formats.mat5 import numbers, variables

_JOINTS = 14


def recognises(found: Found) -> bool:
    # MATLAB v5 begins with a text of 116 characters
    return found.suffix == ".mat" and found.head.startswith("MATLAB 5.0") and "joints" in variables(found.first)


def read(found: Found, options: ReadOptions) -> Keypoints:
    """A file; its pictures are im0001.jpg and so on, and no video.

    LSP's third row says whether a joint is hidden: all are well placed. In the extended set it says whether the joint
    is labelled at all.
    """
    path = found.first
    there = variables(path)
    if "joints" not in there:
        raise SourceError(f"{path}: must have joints, got {', '.join(there) or 'nothing'}")
    joints = np.asarray(numbers(path, there["joints"]), np.float64)
    if joints.ndim == 3 and joints.shape[:2] == (3, _JOINTS):
        joints = joints.transpose(2, 1, 0).copy()
        joints[..., 2] = 1
    elif joints.ndim == 3 and joints.shape[:2] == (_JOINTS, 3):
        joints = joints.transpose(2, 0, 1).copy()
    else:
        raise SourceError(f"{path}: joints must be [3, {_JOINTS}, N] or [{_JOINTS}, 3, N], got {list(joints.shape)}")
    people = People(found.path)
    digits = 5 if len(joints) > 9999 else 4
    for index, row in enumerate(joints):
        people.add(row, index, f"joints {index}", picture=f"im{index + 1:0{digits}}.jpg")
    return people.finished(options, frames=len(joints), names=KEYPOINT_NAMES["lsp14"], sequence=False)
