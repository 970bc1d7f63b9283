"""Image annotations as SPIN, PARE and CLIFF distribute them, with mmpose's and 4D-Humans' variants of the same file.

One .npz has a row a person. 2D joints come from `part` (24 joints, or the 17 of Human3.6M), what that lacks from joints
it has (pelvis between the hips), then from `extra_keypoints_2d` and from the detections of `body_keypoints_2d` or
`openpose`. 3D joints come from `S` or `extra_keypoints_3d`. SMPL parameters are not used: without SMPL's own files they
give no joints, so that 3dpw_test.npz is pictures and boxes only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.npz import Npz, open_npz
from unihpe_fast.data.formats.untrusted import LARGEST, known_joints, photo_path, texts
from unihpe_fast.data.joint_sets import BODY25, H36M17, SPIN24, SPIN24_DERIVED, to_h36m17
from unihpe_fast.data.records import Sample
from unihpe_fast.data.skeleton import NUM_JOINTS, ROOT
from unihpe_fast.data.sources import Reading, Request, Tally
from unihpe_fast.data.sources.photo_names import origin

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
_MAPS = {17: (H36M17,), 19: (SPIN24,), 24: (SPIN24, *SPIN24_DERIVED), 25: (BODY25,)}


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
    if request.images is not None:
        for table in tables:
            for row in range(len(table.names)):
                _photo(request.images, table, row)
    return Reading(
        dataset="spin-npz",
        licence=LICENCE,
        files=list(inputs),
        samples=(sample for table in tables for sample in _samples(table, request.images, tally)),
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
    keypoints = _keypoints(archive, count, tally)
    joints = _joints(archive, count, tally)
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


def _keypoints(archive: Npz, count: int, tally: Tally) -> np.ndarray:
    """[N, 17, 3] float32, each joint from the first place that has it."""
    result = np.zeros((count, NUM_JOINTS, 3), np.float32)
    for key, sizes in (
        ("part", (17, 24)),
        ("extra_keypoints_2d", (19,)),
        ("body_keypoints_2d", (25,)),
        ("openpose", (25,)),
    ):
        if (joints := _known(archive, key, count, sizes, 3, tally)) is not None:
            for joint_map in _MAPS[joints.shape[1]]:
                found = to_h36m17(joints, joint_map)
                np.copyto(result, found, where=result[..., 2:] <= 0)
    # OpenPose's confidences may exceed 1 a little
    result[..., 2] = result[..., 2].clip(0, 1)
    return result


def _joints(archive: Npz, count: int, tally: Tally) -> np.ndarray:
    """[N, 17, 4] float32 mm; where the camera is unknown the pelvis is at the origin."""
    result = np.zeros((count, NUM_JOINTS, 4), np.float32)
    for key, sizes in (("S", (17, 24)), ("extra_keypoints_3d", (19,)), ("body_keypoints_3d", (25,))):
        if (joints := _known(archive, key, count, sizes, 4, tally)) is not None:
            # joints of two kinds do not make one pose
            none = ~(result[..., 3] > 0).any(1)
            result[none] = to_h36m17(joints, _MAPS[joints.shape[1]][0])[none]
    valid = result[..., 3] > 0
    result[..., 3] = valid
    rooted = valid[:, ROOT]
    if rooted.any() and np.median(result[rooted, ROOT, 2]) < CAMERA_SPACE:
        result[rooted, :, :3] -= result[rooted, ROOT, None, :3]
        result[~valid] = 0
        tally.notes.append(f"{archive.path}: 3D joints are relative to the pelvis; how far away it is is not known")
    result[..., :3] *= 1000
    return result


def _known(archive: Npz, key: str, count: int, sizes: tuple[int, ...], numbers: int, tally: Tally) -> np.ndarray | None:
    """[N, J, numbers] float32, J one of the sizes; unknown joints are 0 throughout. None where there is no such key."""
    if key not in archive.keys:
        return None
    joints = archive.array(key, None, "fiu")
    if joints.shape not in [(count, size, numbers) for size in sizes]:
        wanted = f"want [{count}, {' or '.join(map(str, sizes))}, {numbers}]"
        raise SourceError(f"{archive.where(key)}: {wanted}, got {list(joints.shape)}")
    result, broken = known_joints(joints)
    if broken:
        tally.notes.append(f"{archive.where(key)}: {broken} joints have numbers that are none and count as unknown")
    return result


def _samples(table: Table, images: Path | None, tally: Tally) -> Iterator[Sample]:
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
            photo=None if images is None else _photo(images, table, row),
            subject=known.subject,
            action=known.action,
            camera_id=known.camera_id,
            frame=known.frame,
        )


def _photo(images: Path, table: Table, row: int) -> Path:
    return photo_path(images, table.names[row], f"{table.path}: imgname: row {row}")
