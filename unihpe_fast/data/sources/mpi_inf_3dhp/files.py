"""The annotation files of MPI-INF-3DHP: annot.mat (MATLAB v5) and the test set's annot_data.mat (v7.3, HDF5)."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unihpe_fast.data.bounds import LARGEST_MM, LARGEST_PX
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.hdf5 import read_dataset
from unihpe_fast.data.formats.mat5 import Variable, cells, variables
from unihpe_fast.data.joint_sets import MPI_INF_3DHP17, MPI_INF_3DHP28, JointMap

CAMERAS = 14
TRAIN_JOINTS, TEST_JOINTS = 28, 17
# names of the test set's activities by number (mpii_get_activity_name.m, which comes with it); 0: not given
ACTIVITIES = (
    "", "Standing/Walking", "Exercising", "Sitting", "Reaching/Crouching", "On The Floor", "Sports", "Miscellaneous",
)  # fmt: skip
MOST_FRAMES = 100_000
FITTED = 2.0  # px, root mean square: the training set's own cameras come that near


@dataclass(frozen=True)
class Poses:
    """F poses of one camera, joints as in H36M-17: pixels [F, 17, 2] px, joints [F, 17, 3] mm in camera space.

    frames: [F], 0-based. What is not finite, or too large to be a coordinate, is NaN.
    """

    pixels: np.ndarray
    joints: np.ndarray
    frames: np.ndarray


def train_variables(path: Path, key: str) -> dict[str, Variable]:
    """What an annot.mat begins with; SourceError unless annot2 and the 3D joints of that key are there."""
    found = variables(path)
    for name in ("annot2", key):
        if name not in found:
            raise SourceError(f"{path}: {name}: found nothing, only {', '.join(found) or 'an empty file'}")
        shape = found[name].shape
        if not found[name].cells or sorted(shape) != [1, CAMERAS]:
            kind = "cells" if found[name].cells else "numbers"
            raise SourceError(f"{path}: {name}: found {list(shape)} {kind}, wanted [{CAMERAS}, 1] cells, one a camera")
    return found


def read_train(path: Path, key: str, cameras: Collection[int], step: int) -> dict[int, Poses]:
    """Every step-th pose of each camera; memory is that of the poses kept and of one camera's."""
    found = train_variables(path, key)
    parts: dict[tuple[str, int], np.ndarray] = {}
    for name, width in (("annot2", 2), (key, 3)):
        for number, cell in zip(range(max(cameras) + 1), cells(path, found[name]), strict=False):
            if number in cameras:
                where = f"{path}: {name}: cell {number}"
                if cell.ndim != 2 or cell.shape[1] != TRAIN_JOINTS * width or not len(cell) <= MOST_FRAMES:
                    raise SourceError(f"{where}: found {list(cell.shape)}, wanted [F, {TRAIN_JOINTS * width}]")
                parts[name, number] = _joints(cell[::step].reshape(-1, TRAIN_JOINTS, width), MPI_INF_3DHP28)
    poses = {}
    for number in sorted(cameras):
        pixels, joints = parts["annot2", number], parts[key, number]
        if len(pixels) != len(joints):
            found_frames = f"{len(pixels)} and {len(joints)}"
            raise SourceError(f"{path}: camera {number}: annot2, {key}: found {found_frames} poses, wanted as many")
        poses[number] = Poses(pixels, joints, np.arange(len(pixels)) * step)
    return poses


def read_test(path: Path, key: str) -> tuple[Poses, np.ndarray, list[int], int]:
    """The valid frames of a test sequence: poses, annot3 as [F, 17, 3], activity numbers; and the number of frames."""
    shapes = {"annot2": ("F", 1, TEST_JOINTS, 2), "annot3": ("F", 1, TEST_JOINTS, 3), key: ("F", 1, TEST_JOINTS, 3)}
    arrays = {name: read_dataset(path, name, shape, "f") for name, shape in shapes.items()}
    flags = {name: read_dataset(path, name, ("F", "G"), "fiu") for name in ("valid_frame", "activity_annotation")}
    frames = len(arrays["annot2"])
    for name, found in (arrays | flags).items():
        per_frame = found.size if name in flags else len(found)
        if per_frame != frames or frames > MOST_FRAMES:
            raise SourceError(f"{path}: {name}: found {list(found.shape)}, wanted as many as annot2's {frames} frames")
    for name, most in (("valid_frame", 1), ("activity_annotation", len(ACTIVITIES) - 1)):
        if not np.isin(flags[name], range(most + 1)).all():
            found_values = np.unique(flags[name])[:10].tolist()
            raise SourceError(f"{path}: {name}: found {found_values}, wanted integers from 0 to {most}")
    valid = np.flatnonzero(flags["valid_frame"].ravel())
    pixels, true_joints, joints = (
        _joints(arrays[name][valid, 0], MPI_INF_3DHP17) for name in ("annot2", "annot3", key)
    )
    activities = flags["activity_annotation"].ravel()[valid].astype(int).tolist()
    return Poses(pixels, joints, valid), true_joints, activities, frames


def fit_camera(pixels: np.ndarray, joints: np.ndarray, name: str, width: int, height: int) -> Camera | None:
    """The pinhole camera that takes joints [F, 17, 3] to pixels [F, 17, 2], None where none does within FITTED.

    The test set's files have no cameras, but both sides of the projection; mmpose finds its cameras so too.
    """
    good = np.isfinite(joints).all(-1) & np.isfinite(pixels).all(-1) & (joints[..., 2] > 0)
    points, targets = joints[good].astype(np.float64), pixels[good].astype(np.float64)
    if len(points) < TEST_JOINTS:
        return None
    vector = np.zeros(9)
    errors = np.empty_like(targets)
    for axis in range(2):
        ratio = points[:, axis] / points[:, 2]
        system = np.stack([ratio, np.ones_like(ratio)], axis=1)
        solution, _, rank, _ = np.linalg.lstsq(system, targets[:, axis], rcond=None)
        if rank < 2:
            return None
        vector[axis], vector[2 + axis] = solution
        errors[:, axis] = system @ solution - targets[:, axis]
    if not (vector[:2] > 0).all() or np.sqrt(np.square(errors).sum(1).mean()) > FITTED:
        return None
    return Camera(name, vector, width, height)


def _joints(values: np.ndarray, joint_map: JointMap) -> np.ndarray:
    """[F, J, C] as [F, 17, C] float32 of H36M-17; NaN for what is no coordinate."""
    joints = values[:, [joint for (joint,) in joint_map]].astype(np.float64)
    # px or mm: the bounds are the same number
    joints[~(np.abs(joints) <= max(LARGEST_PX, LARGEST_MM))] = np.nan
    return joints.astype(np.float32)
