"""`Keypoints`: the people that a file of 2D keypoints holds, and what its readers share."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.data.bounds import LARGEST_PX
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.untrusted import known_joints
from unihpe_fast.data.joint_sets import KEYPOINT_NAMES, canonical_name, joint_map, to_h36m17

# a layout by the number of its keypoints, where only one is in use
_BY_COUNT = {
    16: "mpii16", 17: "coco17", 18: "openpose18", 25: "body25", 26: "halpe26", 33: "mediapipe33", 133: "wholebody133",
}  # fmt: skip
# Halpe's 136 begin with the 26 of the body
_HALPE136 = 136
_AT_LEAST = 6  # joints of H36M-17 that a layout must give to say anything of a pose


@dataclass(frozen=True)
class ReadOptions:
    """What the user says of a file. layout: name of KEYPOINT_NAMES. size: width and height of the pictures, px.

    joints: the file's names of keypoints -> the usual ones. Each overrules what the file says, None and {}: nothing.
    photographs: the pictures are no video, however they are numbered.
    """

    layout: str | None = None
    size: tuple[int, int] | None = None
    joints: dict[str, str] = field(default_factory=dict)
    photographs: bool = False


@dataclass(frozen=True)
class Keypoints:
    """N people in pictures, in the file's order.

    keypoints_2d: [N, K, 3] float32, px of the full image and confidence; absent keypoints are all 0.
    names: K names, which `joint_map` knows. layout: what the user calls them.
    frame: [N] int64, 0-based. person: [N] int64, the file's own number of the person, -1 where it has none.
    picture: N file names as the file has them, "" where it has none. size: [N, 2] int64 px, 0 where unknown.
    frames: how many frames or pictures the file has, those without people too. fps: frames a second, None: not said.
    sequence: the frames are those of one video. skipped: what was left out, by reason.
    """

    keypoints_2d: np.ndarray
    names: tuple[str, ...]
    layout: str
    frame: np.ndarray
    person: np.ndarray
    picture: list[str]
    size: np.ndarray
    frames: int
    fps: float | None = None
    sequence: bool = True
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.frame)

    def h36m17(self) -> np.ndarray:
        """[N, 17, 3] the joints of Human3.6M, px and confidence; absent joints are all 0."""
        return to_h36m17(self.keypoints_2d, joint_map(self.names))


@dataclass
class People:
    """The people of a file as a reader comes upon them.

    path: what errors name. unit: largest coordinate of normalised ones (see `scaled`), 0: they are px.
    """

    path: Path
    rows: list[np.ndarray] = field(default_factory=list)
    frame: list[int] = field(default_factory=list)
    person: list[int] = field(default_factory=list)
    picture: list[str] = field(default_factory=list)
    size: list[tuple[int, int]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        keypoints: Any,
        frame: int,
        where: str,
        *,
        person: int = -1,
        picture: str = "",
        size: tuple[int, int] = (0, 0),
    ) -> None:
        """One person: [K, 3] numbers, px or normalised, and confidence. where: of the person, for errors."""
        row = np.asarray(keypoints, np.float64)
        if self.rows and len(row) != len(self.rows[0]):
            raise SourceError(
                f"{self.path}: {where}: keypoints must be {len(self.rows[0])}, as of the people before, got {len(row)}"
            )
        self.rows.append(row)
        self.frame.append(frame)
        self.person.append(person)
        self.picture.append(picture)
        self.size.append(size)

    def finished(
        self,
        options: ReadOptions,
        *,
        frames: int,
        names: Sequence[str] | None = None,
        fps: float | None = None,
        sequence: bool = True,
    ) -> Keypoints:
        """All of them as arrays. names: the layout's, where the reader knows; otherwise the number of keypoints tells.

        Raises SourceError where there is no person, the layout cannot be told, or the sizes of pictures are wanted.
        """
        if not self.rows:
            raise SourceError(f"{self.path}: people must be at least one, got none in {frames} frames")
        joints = np.stack(self.rows)
        layout, names, joints = _layout(self.path, joints, names, options)
        size = np.array(self.size, np.int64).reshape(-1, 2)
        if options.size is not None:
            size[:] = options.size
        joints, broken = known_joints(joints)
        skipped = self.skipped
        skipped["keypoints that are no numbers"] += broken
        empty = ~(joints[..., 2] > 0).any(1)
        skipped["people without a keypoint"] += int(empty.sum())
        keep = np.flatnonzero(~empty)
        if not len(keep):
            raise SourceError(
                f"{self.path}: keypoints must be seen for at least one person, within {LARGEST_PX:.0e} px and with a "
                "confidence above 0, got none"
            )
        return Keypoints(
            keypoints_2d=joints[keep],
            names=names,
            layout=layout,
            frame=np.array(self.frame, np.int64)[keep],
            person=self._persons()[keep],
            picture=[self.picture[row] for row in keep.tolist()],
            size=size[keep],
            frames=frames,
            fps=fps,
            sequence=sequence and not options.photographs,
            skipped=+skipped,
        )

    def _persons(self) -> np.ndarray:
        """[N] the file's numbers of the people; -1 for all where two in one picture share one, as without a tracker."""
        person = np.array(self.person, np.int64)
        named = [key for key in zip(self.picture, self.frame, self.person, strict=True) if key[2] >= 0]
        return person if len(set(named)) == len(named) else np.full_like(person, -1)

    def scale(self, options: ReadOptions, *, edges: bool = False) -> None:
        """Turn normalised coordinates into px: [0, 1] or, where some are negative, [-1, 1] over the picture.

        edges: 1 is the centre of the last pixel, as OpenPose has it, and not the picture's far edge. Sizes are the
        user's or each picture's own; SourceError where there is none.
        """
        for index, row in enumerate(self.rows):
            width, height = options.size or self.size[index]
            if width < 1 or height < 1:
                raise SourceError(
                    f"{self.path}: the size of the pictures must be given (--size W,H): coordinates are normalised"
                )
            far = np.array([width, height], np.float64) - (1 if edges else 0)
            row[:, :2] *= far
            self.size[index] = (width, height)

    def normalised(self) -> tuple[bool, bool]:
        """Whether all coordinates are within [-1, 1], and whether some are well below 0."""
        points = self._points()
        # people leave the picture now and then
        inside = len(points) > 0 and bool(np.percentile(np.abs(points), 95) <= 1.0) and float(np.abs(points).max()) < 3
        return inside, inside and float(points.min()) < -0.1

    def share_below(self, limit: float) -> float:
        """Of the coordinates that are seen."""
        points = self._points()
        return float((points < limit).mean()) if len(points) else 0.0

    def _points(self) -> np.ndarray:
        """[n, 2], the keypoints that are seen."""
        seen = [row[row[:, 2] > 0, :2] for row in self.rows]
        points = np.concatenate(seen) if seen else np.zeros((0, 2))
        return points[np.isfinite(points).all(1)]


def _layout(
    path: Path, joints: np.ndarray, names: Sequence[str] | None, options: ReadOptions
) -> tuple[str, tuple[str, ...], np.ndarray]:
    count = joints.shape[1]
    if options.layout is not None:
        known = layout_names(options.layout)
        if count != len(known):
            raise SourceError(f"{path}: layout {options.layout} must have {len(known)} keypoints, got {count}")
        return _renamed(path, joints, options.layout, options.joints)
    if names is not None:
        return _named(path, joints, names, options.joints)
    if count == _HALPE136:
        count, joints = 26, joints[:, :26]
    if count not in _BY_COUNT:
        kinds = ", ".join(f"{number} ({name})" for number, name in _BY_COUNT.items())
        raise SourceError(f"{path}: keypoints must be {kinds}, or of a --layout, got {count}")
    return _renamed(path, joints, _BY_COUNT[count], options.joints)


def _renamed(
    path: Path, joints: np.ndarray, layout: str, renamed: dict[str, str]
) -> tuple[str, tuple[str, ...], np.ndarray]:
    """A layout of KEYPOINT_NAMES, some of whose keypoints the user knows by other names."""
    names = KEYPOINT_NAMES[layout]
    return _named(path, joints, names, renamed) if renamed else (layout, names, joints)


def layout_names(layout: str) -> tuple[str, ...]:
    """The keypoint names of a layout; ValueError listing the layouts where there is none of that name."""
    if layout not in KEYPOINT_NAMES:
        raise ValueError(f"layout must be one of {', '.join(KEYPOINT_NAMES)}, got {layout!r}")
    return KEYPOINT_NAMES[layout]


def _named(
    path: Path, joints: np.ndarray, names: Sequence[str], renamed: dict[str, str]
) -> tuple[str, tuple[str, ...], np.ndarray]:
    """Those keypoints whose names are a person's, after the user's renaming."""
    if unknown := sorted(set(renamed) - set(names)):
        raise SourceError(f"{path}: --joints must name keypoints of the file ({', '.join(names)}), got {unknown[0]!r}")
    usual = [renamed.get(name, name) for name in names]
    keep = []
    for index, name in enumerate(usual):
        try:
            joint_map([name, "pelvis" if canonical_name(name) != "pelvis" else "nose"])
        except ValueError:
            if names[index] in renamed:
                raise SourceError(f"{path}: --joints {names[index]}={name} must name a joint of a person") from None
            continue
        keep.append(index)
    kept = tuple(usual[index] for index in keep)
    try:
        found = sum(bool(sources) for sources in joint_map(kept)) if kept else 0
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    if found < _AT_LEAST:
        raise SourceError(
            f"{path}: keypoint names must give at least {_AT_LEAST} joints of a person, got {found} from "
            f"{', '.join(names)}; --joints THEIRS=OURS,.. says which is which"
        )
    return "named", kept, joints[:, keep]


def frame_numbers(names: Sequence[str]) -> list[int] | None:
    """The frame of each of a video's file names, the last number in it; None where names have none or share one."""
    found = [re.findall(r"\d+", Path(name).stem) for name in names]
    if not all(found):
        return None
    numbers = [int(digits[-1]) for digits in found]
    stems = {re.sub(r"\d+(?!.*\d)", "", Path(name).stem) for name in names}
    if len(stems) > 1 or len(set(numbers)) < len(numbers) or max(numbers) >= 1 << 62:
        return None
    return numbers


def natural(paths: Iterable[Path]) -> list[Path]:
    """Sorted so that frame 10 comes after frame 9."""
    return sorted(paths, key=lambda p: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", p.name)])
