"""What files of motion (TRC, BVH, C3D) share: one person's frames, evenly in time, Y up."""

from dataclasses import dataclass

import numpy as np

from unihpe_fast.outputs import OutputError
from unihpe_fast.prediction import Prediction

# camera axes (x right, y down, z away) to x right, y up, z towards the camera
TO_Y_UP = np.array([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Motion:
    """One person, from the first frame to the last. first: the number of the first frame. rate: frames a second.

    joints: [F, 17, 3] float64 mm, Y up, relative to the root. present: [F] bool; the other rows are NaN.
    """

    first: int
    joints: np.ndarray
    present: np.ndarray
    rate: float


def motions(prediction: Prediction, path: object) -> dict[int, Motion]:
    """The motion of each person of a flat prediction.

    Raises OutputError, naming path, where its rows are not the frames of a video.
    """
    if not prediction.is_sequence or prediction.fps is None:
        raise OutputError(f"{path}: poses must be frames of one video to be a motion, got pictures")
    found = {}
    for person, rows in prediction.tracks().items():
        rows = rows[np.isfinite(prediction.joints_3d[rows]).all((1, 2))]
        if not len(rows):
            continue
        frames = prediction.frame[rows]
        first, count = int(frames[0]), int(frames[-1] - frames[0]) + 1
        joints = np.full((count, *prediction.joints_3d.shape[1:]), np.nan)
        joints[frames - first] = prediction.joints_3d[rows] * TO_Y_UP
        found[person] = Motion(first, joints, np.asarray(np.isfinite(joints).all((1, 2))), prediction.fps)
    if not found:
        raise OutputError(f"{path}: people must have 3D poses, got none")
    return found
