"""What files of motion (TRC, BVH, C3D) share: one person's frames, evenly in time, Y up.

Where the times of the frames are not even, as in videos of a varying rate, poses are put on an even clock by straight
lines between neighbours; frames are then those of that clock.
"""

from dataclasses import dataclass

import numpy as np

from unihpe_fast.outputs import OutputError
from unihpe_fast.prediction import Prediction

# camera axes (x right, y down, z away) to x right, y up, z towards the camera
TO_Y_UP = np.array([1.0, -1.0, -1.0])
# times that differ by less of a frame are even
_JITTER = 0.1
# frames for each pose: numbers further apart are no frames of a video
_SPARSEST = 100


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
    clock = _clock(prediction)
    for person, rows in prediction.tracks().items():
        rows = rows[np.isfinite(prediction.joints_3d[rows]).all((1, 2))]
        if not len(rows):
            continue
        frames, poses = prediction.frame[rows], prediction.joints_3d[rows] * TO_Y_UP
        if clock is not None:
            frames, poses = _even(frames, poses, clock[rows])
        first, count = int(frames[0]), int(frames[-1] - frames[0]) + 1
        if count > _SPARSEST * (len(rows) + 1):
            raise OutputError(f"{path}: frames must be those of a video, got {len(rows)} poses over {count} frames")
        joints = np.full((count, *poses.shape[1:]), np.nan)
        joints[frames - first] = poses
        found[person] = Motion(first, joints, np.asarray(np.isfinite(joints).all((1, 2))), prediction.fps)
    if not found:
        raise OutputError(f"{path}: people must have 3D poses, got none")
    return found


def _clock(prediction: Prediction) -> np.ndarray | None:
    """[N] when each row is, in even frames from the first; None where the frames are even already, or times unknown."""
    assert prediction.fps is not None
    if not len(prediction) or not np.isfinite(prediction.time).all():
        return None
    clock = (prediction.time - prediction.time.min()) * prediction.fps + prediction.frame.min()
    return None if np.abs(clock - prediction.frame).max() < _JITTER else clock


def _even(frames: np.ndarray, poses: np.ndarray, clock: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The poses [n, 17, 3] of frames [n] that are taken at `clock` [n], on whole numbers of that clock."""
    at = np.arange(np.ceil(clock[0] - _JITTER), np.floor(clock[-1] + _JITTER) + 1)
    # not across frames in which the person is missing
    after = np.searchsorted(clock, at).clip(1, len(clock) - 1) if len(clock) > 1 else np.zeros(len(at), np.int64)
    near = np.minimum(np.abs(at - clock[after]), np.abs(at - clock[after - 1])) < _JITTER
    at = at[near | (frames[after] - frames[after - 1] <= 1)] if len(clock) > 1 else np.round(clock)
    flat = poses.reshape(len(poses), -1)
    even = np.stack([np.interp(at, clock, column) for column in flat.T], axis=1)
    return at.astype(np.int64), even.reshape(len(at), *poses.shape[1:])
