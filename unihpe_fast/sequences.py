"""People through the frames of a video: who is who, gaps filled, jitter taken out."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from unihpe_fast.data.formats.keypoints import Keypoints
from unihpe_fast.detector.interface import Detections
from unihpe_fast.prediction import Prediction, concatenate
from unihpe_fast.video import Tracker, fill_gaps, smooth

# of a person's motion, whose 18 points are worked on at once; of longer ones fewer are
_FRAMES = 4096


def identities(found: Keypoints) -> np.ndarray:
    """[N] int64, the number of each person: the file's own, else by tracking through the frames of a sequence.

    Without a sequence, people are numbered within their picture.
    """
    if (found.person >= 0).all():
        return found.person
    order = np.argsort(found.frame, kind="stable")
    frames, starts = np.unique(found.frame[order], return_index=True)
    groups = np.split(order, starts[1:])
    people = np.zeros(len(found), np.int64)
    if found.sequence and max(map(len, groups)) == 1:
        return people
    tracker = Tracker()
    for frame, rows in zip(frames.tolist(), groups, strict=True):
        people[rows] = tracker.update(as_detections(found, rows), frame) if found.sequence else np.arange(len(rows))
    return people


def as_detections(found: Keypoints, rows: np.ndarray) -> Detections:
    """Some people of a file as a detector would have given them."""
    joints = found.keypoints_2d[rows]
    seen = joints[..., 2:] > 0
    low = np.where(seen, joints[..., :2], np.inf).min(1)
    high = np.where(seen, joints[..., :2], -np.inf).max(1)
    bbox = np.concatenate([low, high], axis=1).astype(np.float32)
    return Detections(joints[..., :2], joints[..., 2], bbox, joints[..., 2].max(1))


def steady(prediction: Prediction, *, max_gap: int, cutoff: float | None) -> Prediction:
    """The poses of each person of a video with gaps of up to max_gap frames filled, and smoothed.

    prediction: flat, its fps known, every pose finite. cutoff: Hz of the zero-lag Butterworth filter, None: no filter.
    Rows of filled frames have 3D poses and no 2D joints. Rows come out by frame, then person.
    """
    if prediction.fps is None:
        raise ValueError("steady: prediction must have fps, got None")
    parts = [
        _stretch(prediction.select(rows[start:end]), max_gap, cutoff)
        for rows in prediction.tracks().values()
        for start, end in _stretches(prediction.frame[rows], max_gap)
    ]
    if not parts:
        return prediction
    if len(parts) == 1:
        return parts[0]
    whole = concatenate(parts)
    return whole.select(np.lexsort((whole.person, whole.frame)))


def _stretches(frame: np.ndarray, max_gap: int) -> list[tuple[int, int]]:
    """First and one past the last row of what lies between the gaps that stay open, of increasing frames [n]."""
    edges = [0, *(np.flatnonzero(np.diff(frame) > max_gap + 1) + 1).tolist(), len(frame)]
    return list(pairwise(edges))


def _stretch(track: Prediction, max_gap: int, cutoff: float | None) -> Prediction:
    """A person's rows, by frame, without a gap that stays open."""
    assert track.fps is not None
    first = int(track.frame[0])
    at = track.frame - first
    count = int(at[-1]) + 1
    times = np.interp(np.arange(count), at, track.time)
    # the root moves through space as an 18th point. Some points at a time: an hour of video has 100,000 frames
    points, known = np.zeros((count, 18, 3), np.float32), np.zeros((count, 18), bool)
    present = np.zeros((count, 18), bool)
    present[at, :17], present[at, 17] = True, np.isfinite(track.root).all(1)
    for some in np.array_split(np.arange(18), min(18, -(-count // _FRAMES))):
        values = np.zeros((count, len(some), 3))
        values[at] = np.concatenate([track.joints_3d, np.nan_to_num(track.root)[:, None]], axis=1)[:, some]
        values, known[:, some] = fill_gaps(values, present[:, some], max_gap=max_gap, times=times)
        if cutoff is not None:
            values = smooth(values, track.fps, cutoff=cutoff, present=known[:, some], times=times)
        points[:, some] = values
    kept = np.flatnonzero(known[:, 0])
    # what a filled frame does not have of its own is that of the frame before it
    source = np.searchsorted(at, kept, side="right") - 1
    filled = ~present[kept, 0]
    result = track.select(source)
    changed: dict[str, Any] = {
        "joints_3d": points[kept, :17],
        "root": np.where(known[kept, 17:], points[kept, 17], np.float32(np.nan)),
        "joints_2d": np.where(filled[:, None, None], np.nan, result.joints_2d),
        "confidence": np.where(filled[:, None], 0, result.confidence),
        "frame": kept + first,
        "time": times[kept],
    }
    return replace(result, **changed)
