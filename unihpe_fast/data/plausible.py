"""Whether poses can be those of a person: bone lengths, left against right, knees that bend forward, standing upright.

A wrong joint order, unit or up axis, or a mirrored skeleton, gives numbers that every other part takes without a word.
The limits are wide: people from 1.0 to 2.2 m of stature, whatever the dataset takes for a hip or a shoulder.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from unihpe_fast.data.records import Sample
from unihpe_fast.data.skeleton import BONES, JOINT_NAMES, LEFT, RIGHT
from unihpe_fast.data.sources import Tally

# samples of one clip that are judged together
WINDOW = 512
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
    lengths = bone_lengths(joints_3d)
    faults = [*_length_faults(lengths), *_side_faults(lengths), *_ratio_faults(lengths)]
    backward = _backward_knees(joints_3d)
    if backward > 0.5:
        faults.append(f"knees bend backward in {backward:.0%} of the frames (left and right swapped, or mirrored)")
    if up is not None and (posture := posture_of(joints_3d, up)) and not (posture.stands or posture.low):
        faults.append("never upright (another up axis?)")
    return faults


def bone_lengths(joints_3d: np.ndarray) -> dict[int, float]:
    """Median mm of the bone that ends in each joint of H36M-17, for the bones whose ends are valid in some frame."""
    lengths = {}
    for parent, child in BONES:
        known = (joints_3d[:, [parent, child], 3] > 0).all(1)
        if known.any():
            bone = joints_3d[known, child, :3] - joints_3d[known, parent, :3]
            lengths[child] = float(np.median(np.linalg.norm(bone.astype(np.float64), axis=1)))
    return lengths


def _kind(joint: int) -> str:
    return JOINT_NAMES[joint].removeprefix("left_").removeprefix("right_")


def _bone_name(joint: int) -> str:
    side = next((side for side in ("left ", "right ") if JOINT_NAMES[joint].startswith(side.strip())), "")
    return side + BONE_NAMES[_kind(joint)]


def _length_faults(lengths: dict[int, float]) -> Iterator[str]:
    for joint, length in lengths.items():
        low, high = LENGTHS[_kind(joint)]
        # NaN fails this comparison
        if not low <= length <= high:
            yield f"{_bone_name(joint)} {length:.3g} mm (people: {low:.0f} to {high:.0f})"


def _side_faults(lengths: dict[int, float]) -> Iterator[str]:
    for left, right in zip(LEFT, RIGHT, strict=True):
        if left in lengths and right in lengths:
            low, high = sorted((lengths[left], lengths[right]))
            if high > ASYMMETRY * low:
                name = BONE_NAMES[_kind(left)]
                yield f"{name} left {lengths[left]:.3g} mm, right {lengths[right]:.3g} mm"


def _ratio_faults(lengths: dict[int, float]) -> Iterator[str]:
    def total(kinds: tuple[str, ...]) -> float:
        """Summed length of these bones, of each the mean of left and right; NaN where one is not known."""
        parts = [[length for joint, length in lengths.items() if _kind(joint) == kind] for kind in kinds]
        return sum(float(np.mean(part)) if part else np.nan for part in parts)

    for over, under, low, high in RATIOS:
        one, two = total(over), total(under)
        if np.isfinite(one) and np.isfinite(two) and not low * two <= one <= high * two:
            names = (" and ".join(BONE_NAMES[kind] for kind in kinds) for kinds in (over, under))
            yield f"{next(names)} {one:.3g} mm against {next(names)} {two:.3g} mm"


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

    Consecutive samples of one named subject, action and camera are one clip, judged by `person_faults` at most `WINDOW`
    at a time; a sample without a subject is judged alone. Samples without 3D joints pass.
    """
    named: set[tuple[str, str, str]] = set()
    window: list[Sample] = []

    def judged() -> Iterator[Sample]:
        faults = _sample_faults(window)
        if not faults:
            yield from window
            return
        first = window[0]
        tally.skip(first.subject, first.action, "3D joints that are no person's", len(window))
        clip = (first.subject, first.action, first.camera_id)
        if clip not in named:
            named.add(clip)
            name = " ".join(word for word in clip if word) or "a sample"
            tally.notes.append(f"{name}, frame {first.frame}: left out, no person has: {'; '.join(faults)}")

    for sample in samples:
        if window and (not _same_clip(window[-1], sample) or len(window) == WINDOW):
            yield from judged()
            window = []
        window.append(sample)
    if window:
        yield from judged()


def _same_clip(one: Sample, two: Sample) -> bool:
    same = (one.subject, one.action, one.camera_id) == (two.subject, two.action, two.camera_id)
    return same and bool(one.subject) and (one.joints_3d is None) == (two.joints_3d is None)


def _sample_faults(window: list[Sample]) -> list[str]:
    joints = [sample.joints_3d for sample in window if sample.joints_3d is not None]
    if not joints:
        return []
    camera = window[0].camera
    # world Z is up
    up = None if camera is None or camera.rotation is None else camera.rotation[:, 2]
    return person_faults(np.stack(joints), up)
