"""What is common to the files that Human3.6M comes in: names, one recording, one set of 2D points, checks."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from unihpe_fast.data.bounds import LARGEST_PX
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.joint_sets import COCO17, H36M17, MPII16, JointMap, to_h36m17

TRAIN, TEST = ("S1", "S5", "S6", "S7", "S8"), ("S9", "S11")
# of the release, which has two names for two actions, and of the literature
RENAMED = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}
# one of its four videos is damaged: VideoPose3D leaves all four out, SPIN the one, as its counts of samples tell
DAMAGED, DAMAGED_CAMERA = ("S11", "Directions"), "54138969"
TAKES = 30
NUM_RAW_JOINTS = 32
_ACTION = re.compile(r"([A-Za-z]{1,40})(?:[ _](\d{1,4}))?", re.ASCII)

# 2D layouts by their left and right joints, as VideoPose3D's metadata has them
LAYOUTS: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, JointMap]] = {
    ((4, 5, 6, 11, 12, 13), (1, 2, 3, 14, 15, 16)): (17, H36M17),
    ((1, 3, 5, 7, 9, 11, 13, 15), (2, 4, 6, 8, 10, 12, 14, 16)): (17, COCO17),
    ((3, 4, 5, 13, 14, 15), (0, 1, 2, 10, 11, 12)): (16, MPII16),
}
# where a file does not say
DEFAULT_LAYOUT = {17: H36M17, 16: MPII16}


@dataclass(frozen=True)
class Take:
    """A recording of one subject: "Walking 1" is another take of Walking.

    file: what it is in; where: how errors name it. load: reads the joints [F, 32, 3] float64, world mm, of its
    `frames` frames; None where there are 2D points alone.
    """

    subject: str
    action: str
    file: Path
    where: str
    frames: int = 0
    load: Callable[[], np.ndarray] | None = None

    @property
    def name(self) -> str:
        return f"{self.subject} {self.action}"


class Points(Protocol):
    """A file or tree of 2D points for each take and camera."""

    @property
    def files(self) -> Sequence[Path]: ...

    def where(self, take: Take, camera_id: str) -> str: ...

    def length(self, take: Take, camera_id: str) -> int:
        """Frames there are; SourceError where the take or the camera is missing or malformed."""
        ...

    def read(self, take: Take, camera_id: str) -> np.ndarray:
        """[F', 17, 3] float64: px of the full image and confidence, joints that there are not 0."""
        ...


def canonical_action(name: object, where: str) -> str:
    """The name of a take as VideoPose3D has it: "TakingPhoto_1" is "Photo 1"; SourceError for what is none."""
    if not isinstance(name, str) or not (match := _ACTION.fullmatch(name)):
        raise SourceError(f"{where}: want an action and its take, such as Walking or Walking 1, got {name!r}")
    first, take = match.groups()
    return RENAMED.get(first, first) + (f" {take}" if take else "")


def released_actions(action: str) -> list[str]:
    """The names the release may have for a take, the canonical one first."""
    first, *rest = action.split()
    return [" ".join([name, *rest]) for name in (first, *(old for old, new in RENAMED.items() if new == first))]


def checked_world(joints: np.ndarray, unit: float, where: str) -> np.ndarray:
    """Joints [F, 32, 3] of any float as float64 mm, if they are those of a person in a studio; SourceError where not.

    unit: mm of one unit of theirs.
    """
    # what overflows or is a NaN of an odd kind is found by the next line
    with np.errstate(all="ignore"):
        joints = joints.astype(np.float64) * unit
    if not np.isfinite(joints).all():
        raise SourceError(f"{where}: {np.count_nonzero(~np.isfinite(joints))} numbers of the joints are not finite")
    farthest = np.abs(joints).max(initial=0)
    # metres would be below, pixels or micrometres are not of a studio
    if len(joints) and not 100 < farthest < 100_000:
        raise SourceError(f"{where}: the farthest coordinate is {farthest:g} mm; is the unit another?")
    return joints


def with_confidence(points: np.ndarray, joint_map: JointMap | None, where: str) -> np.ndarray:
    """[F, 17, 3] float64 of [F, J, 2] px or [F, J, 3] with a confidence, which is 1 where there is none.

    A joint that is not finite counts as one that was not found. joint_map: None is the usual one for J joints.
    """
    joint_map = joint_map or DEFAULT_LAYOUT.get(points.shape[1])
    if joint_map is None:
        raise SourceError(f"{where}: {points.shape[1]} joints, want one of {sorted(DEFAULT_LAYOUT)}")
    found = np.isfinite(points).all(-1)
    if len(points) and not found.any():
        raise SourceError(f"{where}: no joint is finite")
    points = np.where(found[..., None], points, points.dtype.type(0))
    if len(points) and (farthest := np.abs(points).max()) > LARGEST_PX:
        raise SourceError(f"{where}: a joint at {farthest:g} px; the images have 1000")
    points = points.astype(np.float64)
    if points.shape[-1] == 2:
        points = np.concatenate([points, found[..., None]], axis=-1)
    elif not ((points[..., 2] >= 0) & (points[..., 2] <= 1)).all():
        low, high = points[..., 2].min(), points[..., 2].max()
        raise SourceError(f"{where}: want confidences in [0, 1], found {low:g} to {high:g}")
    return to_h36m17(points, joint_map)
