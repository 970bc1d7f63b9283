"""Frames in which a person or a joint is missing."""

import numpy as np


def runs(present: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last index of every stretch of True in bool [T]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def alike(present: np.ndarray) -> list[np.ndarray]:
    """The columns of bool [T, J] in groups that are the same in every row, so that each group is worked on at once."""
    _, group = np.unique(present, axis=1, return_inverse=True)
    group = group.reshape(-1)
    return [np.flatnonzero(group == number) for number in range(int(group.max(initial=-1)) + 1)]


def fill_gaps(
    values: np.ndarray, present: np.ndarray, *, max_gap: int, times: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Straight lines through gaps of at most `max_gap` frames that have something on either side.

    values: [T, ..., C]. present: bool [T], or [T, ...] as values without the last axis; what stands in values where it
    is False is not looked at. times: [T] s, increasing; None: frames are equally far apart. Returns the values, in
    their floating dtype, and `present` with what was filled. Longer gaps, the beginning and the end stay as they are.
    Raises ValueError for shapes that do not fit.
    """
    if present.shape not in (values.shape[:1], values.shape[:-1]):
        wanted = f"{list(values.shape[:1])} or {list(values.shape[:-1])}"
        raise ValueError(f"fill_gaps: present must have shape {wanted}, got {list(present.shape)}")
    if max_gap < 0:
        raise ValueError(f"fill_gaps: max_gap must be 0 or more, got {max_gap}")
    at = np.arange(len(values), dtype=np.float64) if times is None else np.asarray(times, np.float64)
    if at.shape != values.shape[:1]:
        raise ValueError(f"fill_gaps: times must have shape {list(values.shape[:1])}, got {list(at.shape)}")
    filled, known = values.copy(), present.copy()
    if not len(values):
        return filled, known
    # each joint of C numbers; of [T] all numbers are one joint's
    joints = known.reshape(len(values), -1)
    numbers = filled.reshape(len(values), joints.shape[1], -1)
    for group in alike(joints):
        for start, end in runs(~joints[:, group[0]]):
            if start == 0 or end == len(values) or end - start > max_gap:
                continue
            before, after = start - 1, end
            share = ((at[start:end] - at[before]) / (at[after] - at[before]))[:, None, None]
            low, high = numbers[before, group], numbers[after, group]
            numbers[start:end, group] = low + share * (high - low)
            joints[start:end, group] = True
    return filled, known
