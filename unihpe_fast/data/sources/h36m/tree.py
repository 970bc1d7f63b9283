"""Human3.6M as the h5 tree of Martinez et al. (2017): S1/MyPoses/3D_positions/Walking 1.h5 and what stands beside."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.hdf5 import opened_dataset, read_dataset
from unihpe_fast.data.joint_sets import H36M32, MPII16, JointMap
from unihpe_fast.data.sources.h36m.cameras import CAMERA_IDS, SUBJECTS
from unihpe_fast.data.sources.h36m.takes import NUM_RAW_JOINTS, Take, canonical_action, checked_world, with_confidence

FOLDER_3D, KEY_3D = "MyPoses/3D_positions", "3D_positions"
FOLDER_2D, KEY_2D = "MyPoses/2D_positions", "2D_positions"
KEY_DETECTIONS = "poses"
WANTED_3D = (3 * NUM_RAW_JOINTS, "F")


def tree_root(folder: Path) -> Path:
    """The folder that holds S1, S5 ..: the one given, or h36m in it, as the archive unpacks."""
    nested = folder / "h36m"
    return nested if nested.is_dir() and not any((folder / subject).is_dir() for subject in SUBJECTS) else folder


def subjects_of(root: Path) -> set[str]:
    """Of whom there are 3D joints."""
    return {subject for subject in SUBJECTS if (root / subject / FOLDER_3D).is_dir()}


def has_points(root: Path, folder: str) -> bool:
    """Whether anyone's 2D points are there; folder: as of TreePoints."""
    return any((root / subject / (folder or FOLDER_2D)).is_dir() for subject in SUBJECTS)


def takes_3d(root: Path, subjects: Sequence[str]) -> list[Take]:
    """The takes of some subjects of a tree; [96, F] a file, row 3 j + c, world mm."""
    takes: dict[tuple[str, str], Take] = {}
    for subject in subjects:
        for path in _h5_files(root / subject / FOLDER_3D):
            action = canonical_action(path.stem, str(path))
            if (subject, action) in takes:
                raise SourceError(f"{path}: {subject} {action} is there twice, also as {takes[subject, action].where}")
            with opened_dataset(path, KEY_3D, WANTED_3D, "f") as dataset:
                frames = dataset.shape[1]
            takes[subject, action] = Take(subject, action, path, str(path), frames, partial(_joints, path))
    return list(takes.values())


class TreePoints:
    """2D points of a tree: the projections beside the joints, or the detections of a folder such as StackedHourglass.

    roots: folders of subjects. folder: of the detections within a subject's; empty: the projections.
    """

    def __init__(self, roots: Sequence[Path], subjects: Sequence[str], folder: str) -> None:
        self._detections = bool(folder)
        self._paths: dict[tuple[str, str, str], Path] = {}
        for root in roots:
            for subject in subjects:
                for path in _h5_files(root / subject / (folder or FOLDER_2D)):
                    name, _, camera_id = path.stem.rpartition(".")
                    if camera_id not in CAMERA_IDS:
                        raise SourceError(f"{path}: want a name such as Walking 1.{CAMERA_IDS[0]}.h5")
                    self._paths.setdefault((subject, canonical_action(name, str(path)), camera_id), path)
        self._folder = folder or FOLDER_2D
        self.files = list(self._paths.values())

    def where(self, take: Take, camera_id: str) -> str:
        return f"{self._path(take, camera_id)}: {self._key}"

    def length(self, take: Take, camera_id: str) -> int:
        with opened_dataset(self._path(take, camera_id), self._key, self._wanted, "f") as dataset:
            return dataset.shape[0 if self._detections else 1]

    def read(self, take: Take, camera_id: str) -> np.ndarray:
        points = read_dataset(self._path(take, camera_id), self._key, self._wanted, "f")
        joint_map: JointMap = MPII16 if self._detections else H36M32
        points = points if self._detections else _frames_first(points, 2)
        return with_confidence(points, joint_map, self.where(take, camera_id))

    @property
    def _key(self) -> str:
        return KEY_DETECTIONS if self._detections else KEY_2D

    @property
    def _wanted(self) -> tuple[int | str, ...]:
        return ("F", 16, 2) if self._detections else (2 * NUM_RAW_JOINTS, "F")

    def _path(self, take: Take, camera_id: str) -> Path:
        path = self._paths.get((take.subject, take.action, camera_id))
        if path is None:
            raise SourceError(f"{take.where}: no 2D points of camera {camera_id} in {take.subject}/{self._folder}")
        return path


def tree_points(roots: Sequence[Path], subjects: Sequence[str], folder: str) -> TreePoints | None:
    """The detections of a folder, or the projections where a tree has them."""
    points = TreePoints(roots, subjects, folder)
    if folder and not points.files:
        some = subjects[0] + (f" to {subjects[-1]}" if len(subjects) > 1 else "")
        raise SourceError(
            f"detections: no {folder} with .h5 files in {some} of {', '.join(map(str, roots)) or 'no folder'}"
        )
    return points if points.files else None


def _joints(path: Path) -> np.ndarray:
    return checked_world(_frames_first(read_dataset(path, KEY_3D, WANTED_3D, "f"), 3), 1, f"{path}: {KEY_3D}")


def _frames_first(rows: np.ndarray, coordinates: int) -> np.ndarray:
    """[F, 32, C] of [32 C, F]."""
    return rows.reshape(NUM_RAW_JOINTS, coordinates, -1).transpose(2, 0, 1)


def _h5_files(folder: Path) -> list[Path]:
    # _ALL holds all actions at once
    return [path for path in sorted(folder.glob("*.h5")) if not path.stem.startswith("_ALL")]
