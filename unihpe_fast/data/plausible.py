"""Whether poses can be those of a person: bone lengths, left against right, knees that bend forward, standing upright.

A wrong joint order, unit or up axis, or a mirrored skeleton, gives numbers that every other part takes without a word.
The limits are wide: people from 1.0 to 2.2 m of stature, whatever the dataset takes for a hip or a shoulder.
"""

from collections.abc import Iterator
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np

from unihpe_fast.data.records import Sample
from unihpe_fast.data.skeleton import JOINT_NAMES, LEFT, NUM_JOINTS, PARENTS, RIGHT, ROOT
from unihpe_fast.data.sources import Tally

# samples of one clip that are judged together
WINDOW = 512
IMPLAUSIBLE = "3D joints that are no person's"
# mm: a share of the stature (Drillis and Contini 1966: thigh 0.245, shin 0.246, upper arm 0.186, forearm 0.146) of
# people of 1.0 to 2.2 m, widened by a fifth for joint definitions; the trunk and the head differ most among datasets
LENGTHS = {
    "hip": (40.0, 220.0), "knee": (195.0, 650.0), "ankle": (195.0, 650.0), "spine": (50.0, 450.0),
    "thorax": (80.0, 450.0), "neck": (15.0, 300.0), "head": (15.0, 300.0), "shoulder": (50.0, 300.0),
    "elbow": (145.0, 490.0), "wrist": (110.0, 390.0),
}  # fmt: skip
BONE_NAMES = {
    "hip": "pelvis to hip", "knee": "thigh", "ankle": "shin", "spine": "pelvis to spine", "thorax": "spine to thorax",
    "neck": "thorax to neck", "head": "neck to head", "shoulder": "collar", "elbow": "upper arm", "wrist": "forearm",
}  # fmt: skip
# the longer of a pair of limbs over the shorter; marker-based skeletons differ by up to 8 %
ASYMMETRY = 1.25
# (bones, bones, least and largest ratio of their summed lengths); of these people have nearly the same, whatever
# their size
RATIOS = (
    (("knee",), ("ankle",), 0.6, 1.67),
    (("elbow",), ("wrist",), 0.6, 2.4),
    (("knee", "ankle"), ("spine", "thorax"), 1.0, 2.8),
    (("knee", "ankle"), ("elbow", "wrist"), 1.1, 2.5),
)
# a knee that is bent by more than this, and how many such frames tell which way knees bend
BENT = np.radians(20.0)
FEWEST_BENT = 20
# a trunk within this of the vertical is upright
UPRIGHT = np.radians(60.0)
# mm: people who lie, sit on the floor or crawl stay below
LOW = 1000.0


class Posture(NamedTuple):
    """stands: the trunk is upright in some frame. low: all joints of all frames lie within `LOW` mm of height."""

    stands: bool
    low: bool


def person_faults(joints_3d: np.ndarray, up: np.ndarray | None = None) -> list[str]:
    """What in the poses of one person is not of a person, as phrases such as "right thigh 178 mm"; empty: nothing.

    joints_3d: [F, 17, 4] mm and validity, any number of frames of one person, in any frame of reference; what is not
    valid is not looked at. up: [3] or [F, 3] unit vector to the sky in that frame, None: not known, and whether the
    person stands is not looked at. Median lengths are judged, so single spoilt frames do not count.
    """
    faults = _phrases(_median(_lengths(joints_3d)))
    backward = _backward_knees(joints_3d)
    if backward > 0.5:
        faults.append(f"knees bend backward in {backward:.0%} of the frames (left and right swapped, or mirrored)")
    if up is not None and (posture := posture_of(joints_3d, up)) and not (posture.stands or posture.low):
        faults.append("never upright (another up axis?)")
    return faults


def odd_people(joints_3d: np.ndarray) -> np.ndarray:
    """[N] bool: whose lengths are no person's, each of the poses [N, 17, 4] judged by itself as in `person_faults`."""
    odd: np.ndarray = np.concatenate(list(_odd(_lengths(joints_3d))), axis=1)
    return np.logical_or.reduce(odd, axis=1)


def bone_lengths(joints_3d: np.ndarray) -> dict[int, float]:
    """Median mm of the bone that ends in each joint of H36M-17, for the bones whose ends are valid in some frame."""
    table = _median(_lengths(joints_3d))
    return {joint: float(length) for joint, length in enumerate(table) if not np.isnan(length)}


def _lengths(joints_3d: np.ndarray) -> np.ndarray:
    """[F, 17] float64 mm of the bone that ends in each joint: NaN where an end is not valid, infinite where an end is
    valid and no number.
    """
    points, known = joints_3d[..., :3].astype(np.float64), joints_3d[..., 3] > 0
    lengths = np.linalg.norm(points - points[:, _PARENT], axis=-1)
    lengths = np.where(np.isnan(lengths), np.inf, lengths)
    return np.where(known & known[:, _PARENT] & (np.arange(NUM_JOINTS) != ROOT), lengths, np.nan)


def _median(lengths: np.ndarray) -> np.ndarray:
    """[17] of [F, 17]; NaN where no frame tells."""
    some = ~np.isnan(lengths).all(0)
    median = np.full(NUM_JOINTS, np.nan)
    median[some] = np.nanmedian(lengths[:, some], axis=0)
    return median


def _kind(joint: int) -> str:
    return JOINT_NAMES[joint].removeprefix("left_").removeprefix("right_")


_PARENT = np.array([max(parent, ROOT) for parent in PARENTS])
# the joints at which the bones of one kind end
_ENDS = {kind: [joint for joint in range(NUM_JOINTS) if _kind(joint) == kind] for kind in LENGTHS}
_LOW, _HIGH = (np.array([LENGTHS.get(_kind(joint), (0.0, np.inf))[k] for joint in range(NUM_JOINTS)]) for k in (0, 1))


def _total(lengths: np.ndarray, kinds: tuple[str, ...]) -> np.ndarray:
    """[N] summed lengths of these bones, of each the mean of left and right; NaN where one is not known."""
    return np.sum([lengths[:, _ENDS[kind]].mean(1) for kind in kinds], axis=0)


def _odd(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is out of its limits in tables [N, 17] of bone lengths: bones [N, 17], pairs [N, 6] and RATIOS [N, 4]."""
    # comparisons with NaN, the unknown, are false
    bones = (lengths < _LOW) | (lengths > _HIGH)
    left, right = lengths[:, LEFT], lengths[:, RIGHT]
    with np.errstate(invalid="ignore"):
        pairs = np.maximum(left, right) > ASYMMETRY * np.minimum(left, right)
        ratios = np.stack([_total(lengths, over) / _total(lengths, under) for over, under, _, _ in RATIOS], axis=1)
    low, high = (np.array([limits[k] for limits in RATIOS]) for k in (2, 3))
    return bones, pairs, (ratios < low) | (ratios > high)


def _phrases(lengths: np.ndarray) -> list[str]:
    """The faults of one table [17]."""
    bones, pairs, ratios = (odd[0] for odd in _odd(lengths[None]))
    found = []
    for joint in np.flatnonzero(bones).tolist():
        side = next((f"{side} " for side in ("left", "right") if JOINT_NAMES[joint].startswith(side)), "")
        limits = f"people: {_LOW[joint]:.0f} to {_HIGH[joint]:.0f}"
        found.append(f"{side}{BONE_NAMES[_kind(joint)]} {lengths[joint]:.3g} mm ({limits})")
    for pair in np.flatnonzero(pairs).tolist():
        name = BONE_NAMES[_kind(LEFT[pair])]
        found.append(f"{name} left {lengths[LEFT[pair]]:.3g} mm, right {lengths[RIGHT[pair]]:.3g} mm")
    for number in np.flatnonzero(ratios).tolist():
        over, under = (
            f"{' and '.join(BONE_NAMES[kind] for kind in kinds)} {_total(lengths[None], kinds)[0]:.3g} mm"
            for kinds in RATIOS[number][:2]
        )
        found.append(f"{over} against {under}")
    return found


def _backward_knees(joints_3d: np.ndarray) -> float:
    """The share of clearly bent knees that bend backward; 0 where too few are bent to tell."""
    points, known = joints_3d[..., :3].astype(np.float64), joints_3d[..., 3] > 0
    front = np.cross(points[:, 4] - points[:, 1], points[:, 8] - points[:, 0])
    backward, count = 0, 0
    for hip, knee, ankle in ((1, 2, 3), (4, 5, 6)):
        thigh, shin = points[:, knee] - points[:, hip], points[:, ankle] - points[:, knee]
        scale = np.linalg.norm(thigh, axis=1) * np.linalg.norm(shin, axis=1)
        bent = known[:, [0, 1, 4, 8, hip, knee, ankle]].all(1) & ((thigh * shin).sum(1) < np.cos(BENT) * scale)
        # the knee lies ahead of the line from the hip to the ankle
        ahead = ((thigh - shin) * front).sum(1)
        backward += int((bent & (ahead < 0)).sum())
        count += int(bent.sum())
    return backward / count if count >= FEWEST_BENT else 0.0


def posture_of(joints_3d: np.ndarray, up: np.ndarray) -> Posture | None:
    """Whether a person stands or stays low; None where no frame has what tells. See `person_faults`."""
    points, known = joints_3d[..., :3].astype(np.float64), joints_3d[..., 3] > 0
    up = np.broadcast_to(np.asarray(up, np.float64), (len(points), 3))
    trunk = points[:, 8] - points[:, 0]
    rows = known[:, [0, 8]].all(1)
    if not rows.any():
        return None
    upright = (trunk * up).sum(1) > np.cos(UPRIGHT) * np.linalg.norm(trunk, axis=1)
    heights = np.where(known, (points * up[:, None]).sum(-1), np.nan)[rows]
    # in each frame: the camera's own height is not known, and may change
    extent = np.nanmax(heights, axis=1) - np.nanmin(heights, axis=1)
    return Posture(bool((upright & rows).any()), bool((extent < LOW).all()))


def keep_plausible(samples: Iterator[Sample], tally: Tally) -> Iterator[Sample]:
    """The samples without those whose 3D joints cannot be a person's; these are counted and the clips named in `tally`.

    Consecutive samples of one subject, action and camera are one clip, judged by `person_faults` at most `WINDOW` at a
    time; where no subject is named, each sample is judged alone. Samples without 3D joints pass.
    """
    named: set[tuple[str, str, str]] = set()

    def left_out(group: list[Sample], faults: list[str]) -> None:
        first = group[0]
        tally.skip(first.subject, first.action, IMPLAUSIBLE, len(group))
        clip = (first.subject, first.action, first.camera_id)
        if clip not in named:
            named.add(clip)
            name = " ".join(word for word in clip if word) or "a sample"
            tally.notes.append(f"{name}, frame {first.frame}: left out, no person has: {'; '.join(faults)}")

    for window in _windows(samples):
        if window[0].joints_3d is None:
            yield from window
        elif window[0].subject:
            if faults := person_faults(_joints(window), _up(window[0])):
                left_out(window, faults)
            else:
                yield from window
        else:
            for sample, odd in zip(window, odd_people(_joints(window)), strict=True):
                if odd:
                    left_out([sample], person_faults(_joints([sample])))
                else:
                    yield sample


def _windows(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    """Up to WINDOW samples in a row that are alike in whose they are and in whether they have 3D joints."""

    def key(sample: Sample) -> tuple[object, ...]:
        return sample.subject, sample.action, sample.camera_id, sample.joints_3d is None

    for _, group in groupby(samples, key):
        while window := list(islice(group, WINDOW)):
            yield window


def _joints(window: list[Sample]) -> np.ndarray:
    return np.stack([sample.joints_3d for sample in window if sample.joints_3d is not None])


def _up(sample: Sample) -> np.ndarray | None:
    """To the sky in camera space: the world's Z."""
    rotation = None if sample.camera is None else sample.camera.rotation
    return None if rotation is None else rotation[:, 2]
