"""The joints.mat of Leeds Sports Pose, [3, 14, N], and of its extended training set, [14, 3, N]."""

from pathlib import Path

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.mat5 import numbers, variables
from unihpe_fast.data.formats.untrusted import LARGEST

JOINTS = 14


def read_joints(path: Path) -> np.ndarray:
    """[N, 14, 3] float32, px and confidence 0 or 1, of either layout. Raises SourceError naming the file, or OSError.

    A hidden joint of LSP is labelled, so it counts as known, like one that is seen.
    """
    found = variables(path)
    if "joints" not in found:
        raise SourceError(f"{path}: has no 'joints', only {', '.join(sorted(found)) or 'nothing'}")
    matrix = numbers(path, found["joints"])
    where = f"{path}: joints"
    if matrix.ndim != 3 or {matrix.shape[0], matrix.shape[1]} != {3, JOINTS}:
        raise SourceError(f"{where}: want [{JOINTS}, 3, N] or [3, {JOINTS}, N], got {list(matrix.shape)}")
    extended = matrix.shape[0] == JOINTS
    joints = matrix.astype(np.float64).transpose((2, 0, 1) if extended else (2, 1, 0))
    flags = joints[..., 2]
    if not np.isin(flags, (0, 1)).all():
        number, joint = np.argwhere(~np.isin(flags, (0, 1)))[0].tolist()
        raise SourceError(f"{where}: person {number}, joint {joint}: found flag {flags[number, joint]}, wanted 0 or 1")
    known = np.asarray((np.abs(joints[..., :2]) < LARGEST).all(-1))
    if extended:
        known &= flags == 1
    return np.where(known[..., None], np.concatenate([joints[..., :2], known[..., None]], axis=2), 0).astype(np.float32)
