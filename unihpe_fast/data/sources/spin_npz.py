"""Image annotations as SPIN, PARE and CLIFF distribute them, with mmpose's and 4D-Humans' variants of the same file.

One .npz has a row a person. 2D joints come from `part`: 24 joints, or 17 in the order of Human3.6M or of MPI-INF-3DHP's
test set, which the photographs' names tell, else the place of the pelvis. What that lacks comes from joints it has
(pelvis between the hips), then from `extra_keypoints_2d` and from the detections of `body_keypoints_2d` or `openpose`.
3D joints come from `S` or `extra_keypoints_3d`. SMPL parameters are not used: without SMPL's own files they give no
joints, so that 3dpw_test.npz is pictures and boxes only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.npz import Npz, open_npz
from unihpe_fast.data.formats.untrusted import LARGEST, known_joints, photo_path, texts
from unihpe_fast.data.joint_sets import (
    BODY25,
    H36M17,
    MPI_INF_3DHP17,
    SPIN24,
    SPIN24_DERIVED,
    JointMap,
    to_h36m17,
)
from unihpe_fast.data.records import Sample
from unihpe_fast.data.skeleton import NUM_JOINTS, ROOT
from unihpe_fast.data.sources import Reading, Request, Tally
from unihpe_fast.data.sources.h36m.photos import LAYOUTS
from unihpe_fast.data.sources.photo_names import HUMAN36M, MPI_INF_3DHP, found_layout, origin

LICENCE = (
    "Annotations of Human3.6M, MPI-INF-3DHP, 3DPW, COCO, MPII or LSP as the authors of SPIN, PARE, CLIFF, mmpose or "
    "4D-Humans distribute them, for non-commercial research; the terms of the annotated dataset hold, and its "
    "photographs come from its own site."
)
# a median above this is in px: 30 * 200 px is no box of a person, and 30 px hardly one
PIXEL_SCALE = 30.0
UNIT = 200.0
# m; a pelvis this far in front of the origin is in camera space, others are relative to it
CAMERA_SPACE = 1.0
# by the number of joints, those to be tried in turn; 19 are the first of the 24, all that Human3.6M's set needs
_MAPS = {19: (SPIN24,), 24: (SPIN24, *SPIN24_DERIVED), 25: (BODY25,)}
# 17 joints are in one of two orders: the map of each, and its pelvis and hips
_ORDERS = {HUMAN36M: (H36M17, (0, 1, 4)), MPI_INF_3DHP: (MPI_INF_3DHP17, (14, 8, 11))}
# the pelvis's distance from the middle of the hips as a share of the whole person, in any pose
_PELVIS = 0.1


@dataclass(frozen=True)
class Options:
    pass


@dataclass(frozen=True)
class Table:
    """The rows of one file: photographs' names [N], bbox [N, 3] px, keypoints_2d [N, 17, 3], joints_3d [N, 17, 4]."""

    path: Path
    names: list[str]
    bbox: np.ndarray
    keypoints_2d: np.ndarray
    joints_3d: np.ndarray


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: .npz files. request.images: the folder to which their `imgname` is relative.

    All files are read at once and kept, 500 bytes a row. See data/sources/__init__.py.
    """
    if not inputs:
        raise ValueError("no input: want .npz annotation files")
    tally = Tally()
    tables = [read_table(path, tally) for path in inputs]
    layouts = ["{}"] * len(tables)
    if request.images is not None:
        for number, table in enumerate(tables):
            for row in range(len(table.names)):
                _photo(request.images, table, "{}", row)
            path_of = partial(_photo, request.images, table)
            layouts[number] = found_layout(("{}", *LAYOUTS), len(table.names), path_of)
    return Reading(
        dataset="spin-npz",
        licence=LICENCE,
        files=list(inputs),
        samples=(
            sample
            for table, layout in zip(tables, layouts, strict=True)
            for sample in _samples(table, request.images, layout, tally)
        ),
        tally=tally,
        total=sum(len(table.names) for table in tables),
    )


def read_table(path: Path, tally: Tally) -> Table:
    """A file, checked; notes about it go to the tally. Raises SourceError naming the key that is wrong, or OSError."""
    archive = open_npz(path)
    names = texts(archive.array("imgname", ("N",), "SUO"), archive.where("imgname"))
    count = len(names)
    if not count:
        raise SourceError(f"{archive.where('imgname')}: no rows")
    center = archive.array("center", (count, 2), "fiu").astype(np.float64)
    side = _side(archive, count, tally)[:, None]
    reader = _Joints(archive, names, tally)
    keypoints, joints = reader.keypoints_2d(), reader.joints_3d()
    if not (keypoints[..., 2] > 0).any() and not (joints[..., 3] > 0).any():
        tally.notes.append(f"{path}: no joints, 2D or 3D; only pictures and boxes")
    bbox = np.concatenate([center, side], axis=1)
    bbox[~(np.abs(bbox) < LARGEST).all(1) | ~(bbox[:, 2] >= 1)] = np.nan
    return Table(path, names, bbox.astype(np.float32), keypoints, joints)


def _side(archive: Npz, count: int, tally: Tally) -> np.ndarray:
    """Sides of the boxes [N] px."""
    scale = archive.array("scale", None, "fiu")
    if scale.shape not in ((count,), (count, 1), (count, 2)):
        wanted = f"want [{count}], [{count}, 1] or [{count}, 2]"
        raise SourceError(f"{archive.where('scale')}: {wanted}, got {list(scale.shape)}")
    # width and height of 4D-Humans' boxes
    scale = scale.astype(np.float64).reshape(count, -1).max(1)
    known = scale[np.isfinite(scale) & (scale > 0)]
    if len(known) and np.median(known) > PIXEL_SCALE:
        tally.notes.append(f"{archive.path}: scale is in px (median {np.median(known):.0f}), as 4D-Humans has it")
        return scale
    return np.where(np.abs(scale) < LARGEST, scale, np.nan) * UNIT


class _Joints:
    """The joints of a file's rows, as H36M-17."""

    def __init__(self, archive: Npz, names: list[str], tally: Tally) -> None:
        self._archive, self._tally = archive, tally
        self._count = len(names)
        # by the names; empty where they do not tell
        self._datasets = np.array([origin(name).dataset for name in names])

    def keypoints_2d(self) -> np.ndarray:
        """[N, 17, 3] float32, each joint from the first place that has it."""
        result = np.zeros((self._count, NUM_JOINTS, 3), np.float32)
        for key, sizes in (
            ("part", (17, 24)),
            ("extra_keypoints_2d", (19,)),
            ("body_keypoints_2d", (25,)),
            ("openpose", (25,)),
        ):
            if (joints := self._known(key, sizes, 3)) is not None:
                for found in self._as_h36m17(joints, key):
                    np.copyto(result, found, where=result[..., 2:] <= 0)
        # OpenPose's confidences may exceed 1 a little
        result[..., 2] = result[..., 2].clip(0, 1)
        return result

    def joints_3d(self) -> np.ndarray:
        """[N, 17, 4] float32 mm; where the camera is unknown the pelvis is at the origin."""
        result = np.zeros((self._count, NUM_JOINTS, 4), np.float32)
        for key, sizes in (("S", (17, 24)), ("extra_keypoints_3d", (19,)), ("body_keypoints_3d", (25,))):
            if (joints := self._known(key, sizes, 4)) is not None:
                # joints of two kinds do not make one pose
                none = ~(result[..., 3] > 0).any(1)
                result[none] = self._as_h36m17(joints, key)[0][none]
        valid = result[..., 3] > 0
        result[..., 3] = valid
        rooted = valid[:, ROOT]
        if rooted.any() and np.median(result[rooted, ROOT, 2]) < CAMERA_SPACE:
            result[rooted, :, :3] -= result[rooted, ROOT, None, :3]
            result[~valid] = 0
            text = "3D joints are relative to the pelvis; how far away it is is not known"
            self._tally.notes.append(f"{self._archive.path}: {text}")
        result[..., :3] *= 1000
        return result

    def _known(self, key: str, sizes: tuple[int, ...], numbers: int) -> np.ndarray | None:
        """[N, J, numbers] float32, J one of the sizes; unknown joints are 0 throughout. None where there is no key."""
        archive, count = self._archive, self._count
        if key not in archive.keys:
            return None
        joints = archive.array(key, None, "fiu")
        if joints.shape not in [(count, size, numbers) for size in sizes]:
            wanted = f"want [{count}, {' or '.join(map(str, sizes))}, {numbers}]"
            raise SourceError(f"{archive.where(key)}: {wanted}, got {list(joints.shape)}")
        result, broken = known_joints(joints)
        if broken:
            text = f"{broken} joints have numbers that are none and count as unknown"
            self._tally.notes.append(f"{archive.where(key)}: {text}")
        return result

    def _as_h36m17(self, joints: np.ndarray, key: str) -> list[np.ndarray]:
        """[N, 17, C] of joints [N, J, C], by each of their maps in turn."""
        if joints.shape[1] != NUM_JOINTS:
            return [to_h36m17(joints, joint_map) for joint_map in _MAPS[joints.shape[1]]]
        result = np.zeros_like(joints)
        for dataset in np.unique(self._datasets):
            rows = self._datasets == dataset
            joint_map = self._order(joints[rows], key, str(dataset))
            result[rows] = to_h36m17(joints[rows], joint_map)
        return [result]

    def _order(self, joints: np.ndarray, key: str, dataset: str) -> JointMap:
        """The map of 17 joints [N, 17, C] of one dataset, or of none that the photographs' names tell."""
        if dataset in _ORDERS:
            return _ORDERS[dataset][0]
        fitting = [name for name, (_, trio) in _ORDERS.items() if _pelvis_between_hips(joints, trio)]
        where = self._archive.where(key)
        if len(fitting) != 1:
            raise SourceError(
                f"{where}: want 17 joints in the order of {' or '.join(_ORDERS)}, got a pelvis between the hips in "
                f"{'either' if fitting else 'neither'}, and names of photographs that do not tell"
            )
        self._tally.notes.append(f"{where}: 17 joints taken for {fitting[0]}'s, by where the pelvis is")
        return _ORDERS[fitting[0]][0]


def _pelvis_between_hips(joints: np.ndarray, trio: tuple[int, int, int]) -> bool:
    """Whether three of the joints [N, J, C], last a confidence, are mostly a pelvis with a hip on each side of it."""
    points, known = joints[..., :-1].astype(np.float64), joints[..., -1] > 0
    rows = known[:, list(trio)].all(1)
    if not rows.any():
        return False
    points, shown = points[rows], known[rows][..., None]
    extent = np.where(shown, points, -np.inf).max(1) - np.where(shown, points, np.inf).min(1)
    pelvis, right, left = (points[:, joint] for joint in trio)
    off = np.linalg.norm(pelvis - (right + left) / 2, axis=1)
    return bool(np.median(off / np.maximum(extent.max(1), 1e-9)) < _PELVIS)


def _samples(table: Table, images: Path | None, layout: str, tally: Tally) -> Iterator[Sample]:
    has_2d = np.asarray((table.keypoints_2d[..., 2] > 0).any(1))
    has_3d = np.asarray((table.joints_3d[..., 3] > 0).any(1))
    for row, name in enumerate(table.names):
        known = origin(name)
        if np.isnan(table.bbox[row]).any():
            tally.skip(known.subject, known.action, "box that is empty or no number")
            continue
        if images is None and not has_2d[row] and not has_3d[row]:
            tally.skip(known.subject, known.action, "neither joints nor a picture")
            continue
        yield Sample(
            bbox=table.bbox[row],
            keypoints_2d=table.keypoints_2d[row] if has_2d[row] else None,
            joints_3d=table.joints_3d[row] if has_3d[row] else None,
            photo=None if images is None else _photo(images, table, layout, row),
            subject=known.subject,
            action=known.action,
            camera_id=known.camera_id,
            frame=known.frame,
        )


def _photo(images: Path, table: Table, layout: str, row: int) -> Path:
    """The photograph of a row: where `imgname` says, or by one of the layouts of Human3.6M's frames."""
    name, where = table.names[row], f"{table.path}: imgname: row {row}"
    path = photo_path(images, name, where)
    if layout == "{}" or origin(name).dataset != HUMAN36M:
        return path
    base, _, number = path.name.rpartition("_")
    return photo_path(images, layout.format(base=base, subject=base.partition("_")[0]) + f"_{number}", where)
