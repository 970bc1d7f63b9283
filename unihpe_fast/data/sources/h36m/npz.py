"""VideoPose3D's pair of npz files for Human3.6M: data_3d_h36m.npz (world) and data_2d_h36m_*.npz (each camera)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.npz import Npz
from unihpe_fast.data.formats.untrusted import checked
from unihpe_fast.data.joint_sets import JointMap
from unihpe_fast.data.sources.h36m.cameras import CAMERA_IDS, SUBJECTS
from unihpe_fast.data.sources.h36m.takes import (
    LAYOUTS,
    NUM_RAW_JOINTS,
    Take,
    canonical_action,
    checked_world,
    with_confidence,
)

KEY_3D, KEY_2D = "positions_3d", "positions_2d"


def takes_3d(npz: Npz) -> list[Take]:
    """The takes of data_3d_h36m.npz: subject -> action -> float [F, 32, 3], world metres."""
    takes = []
    for subject, action, array, where in _entries(npz, KEY_3D):
        if not isinstance(array, np.ndarray):
            raise SourceError(f"{where}: want an array, got {type(array).__name__}")
        metres = checked(array, ("F", NUM_RAW_JOINTS, 3), where, "f")
        takes.append(
            Take(
                subject=subject,
                action=action,
                file=npz.path,
                where=where,
                frames=len(metres),
                load=partial(checked_world, metres, 1000, where),
            )
        )
    return takes


class NpzPoints:
    """data_2d_h36m_*.npz: subject -> action -> a list of four float [F, J, 2], one a camera, px.

    takes: what there is, also of subjects without 3D joints.
    """

    def __init__(self, npz: Npz) -> None:
        self.files: Sequence[Path] = (npz.path,)
        self._npz = npz
        self._arrays: dict[tuple[str, str], Sequence[Any]] = {}
        self._joint_map, self._joints = _layout(npz)
        self.takes = []
        for subject, action, arrays, where in _entries(npz, KEY_2D):
            cameras = list(arrays) if isinstance(arrays, np.ndarray) and arrays.ndim else arrays
            if not isinstance(cameras, list | tuple) or len(cameras) != len(CAMERA_IDS):
                count = len(cameras) if isinstance(cameras, list | tuple) else type(arrays).__name__
                raise SourceError(f"{where}: want a list of {len(CAMERA_IDS)} arrays, one a camera, got {count}")
            self._arrays[subject, action] = cameras
            self.takes.append(Take(subject, action, npz.path, where))

    def where(self, take: Take, camera_id: str) -> str:
        return f"{self._npz.where(KEY_2D)}: {take.name}, camera {camera_id}"

    def length(self, take: Take, camera_id: str) -> int:
        return len(self._array(take, camera_id))

    def read(self, take: Take, camera_id: str) -> np.ndarray:
        return with_confidence(self._array(take, camera_id), self._joint_map, self.where(take, camera_id))

    def _array(self, take: Take, camera_id: str) -> np.ndarray:
        arrays = self._arrays.get((take.subject, take.action))
        if arrays is None:
            raise SourceError(f"{self._npz.where(KEY_2D)}: no {take.name}, which the 3D joints have")
        array, where = arrays[CAMERA_IDS.index(camera_id)], self.where(take, camera_id)
        if not isinstance(array, np.ndarray):
            raise SourceError(f"{where}: want an array, got {type(array).__name__}")
        channels = 3 if array.ndim == 3 and array.shape[2] == 3 else 2
        return checked(array, ("F", self._joints or "J", channels), where, "f")


def _layout(npz: Npz) -> tuple[JointMap | None, int | None]:
    """How the file's metadata says its joints are ordered and how many there are; None: it does not."""
    if "metadata" not in npz.keys:
        return None, None
    metadata = npz.object("metadata")
    symmetry = metadata.get("keypoints_symmetry") if isinstance(metadata, dict) else None
    if symmetry is None:
        return None, None
    try:
        left, right = (tuple(int(joint) for joint in side) for side in symmetry)
    except (TypeError, ValueError, OverflowError) as error:
        raise SourceError(f"{npz.where('metadata')}: keypoints_symmetry: want left and right joint numbers") from error
    if (left, right) not in LAYOUTS:
        raise SourceError(f"{npz.where('metadata')}: keypoints_symmetry: {left} {right} is no joint set that is known")
    joints, joint_map = LAYOUTS[left, right]
    return joint_map, joints


def _entries(npz: Npz, key: str) -> list[tuple[str, str, Any, str]]:
    """Subject, canonical action, content and how errors name it, for each entry of a dict of dicts."""
    table = npz.object(key)
    if not isinstance(table, dict):
        raise SourceError(f"{npz.where(key)}: want a dict of subjects, got {type(table).__name__}")
    entries: dict[tuple[str, str], tuple[str, str, Any, str]] = {}
    for subject, actions in table.items():
        if subject not in SUBJECTS or not isinstance(actions, dict):
            raise SourceError(
                f"{npz.where(key)}: want a dict of actions for each of {SUBJECTS[0]} to {SUBJECTS[-1]}, "
                f"got {subject!r}: {type(actions).__name__}"
            )
        for name, content in actions.items():
            where = f"{npz.where(key)}: {subject} {name}"
            action = canonical_action(name, where)
            if (subject, action) in entries:
                raise SourceError(f"{where}: {action} is there twice")
            entries[subject, action] = (subject, action, content, where)
    return list(entries.values())
