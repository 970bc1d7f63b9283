"""MPII Human Pose as HRNet's json annotations (annot/{train,valid,trainval}.json): joints in 2D only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.data.bbox import MARGIN, square_bbox
from unihpe_fast.data.bounds import LARGEST_PX
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.json_records import field_of, numbers_of, records
from unihpe_fast.data.formats.untrusted import photo_path
from unihpe_fast.data.joint_sets import MPII16, to_h36m17
from unihpe_fast.data.records import Sample
from unihpe_fast.data.sources import Reading, Request, Tally
from unihpe_fast.data.sources.photo_names import found_layout

LICENCE = "MPII Human Pose: free for research; other uses by agreement with the authors. See human-pose.mpi-inf.mpg.de."
JOINTS = 16
PIXELS = 200  # of a person of scale 1


@dataclass(frozen=True)
class Options:
    min_keypoints: int = 1
    """people with fewer labelled joints of the 16 are left out"""


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: annotation files. request.images: the folder of the photographs, or the one that holds `images`.

    See data/sources/__init__.py. All of the annotations are read at once, the photographs are not. `frame` is the
    position in the file.
    """
    if not 1 <= options.min_keypoints <= JOINTS:
        raise ValueError(f"min_keypoints: want 1 to {JOINTS}, got {options.min_keypoints}")
    if not inputs:
        raise ValueError("no input: want train.json, valid.json or trainval.json of HRNet's MPII annotations")
    tally = Tally()
    samples = [sample for path in inputs for sample in _people(path, options.min_keypoints, request.images, tally)]
    if request.images is not None:
        samples = _found(samples, request.images)
    return Reading("mpii", LICENCE, list(inputs), iter(samples), tally, total=len(samples))


def person_box(center: np.ndarray, scale: float) -> np.ndarray:
    """HRNet's box of a person as centre and side [3] px, of pixels counted from 0.

    center: [2] px, of MATLAB's pixels, counted from 1. scale: the person's height / 200 px. The box is moved down and
    enlarged so as not to cut off limbs.
    """
    return np.array([center[0] - 1, center[1] + 15 * scale - 1, PIXELS * MARGIN * scale], np.float32)


def _found(samples: list[Sample], root: Path) -> list[Sample]:
    """The samples with their photographs below `images`, where they are there and not where the root says."""
    names = [sample.photo.relative_to(root) for sample in samples if sample.photo is not None]
    layout = found_layout(("{}", "images/{}"), len(names), lambda layout, row: root / layout.format(names[row]))
    return [replace(sample, photo=root / layout.format(name)) for sample, name in zip(samples, names, strict=True)]


def _people(path: Path, least: int, root: Path | None, tally: Tally) -> Iterator[Sample]:
    index = -1
    for name, index, record in records(path):
        where = f"{path}: {name}[{index}]"
        if name or not isinstance(record, dict):
            raise SourceError(f"{where}: found {type(record).__name__}, wanted a list of objects, HRNet's MPII json")
        joints = _joints(record, where)
        labelled = int((joints[:, 2] > 0).sum())
        keypoints = to_h36m17(joints, MPII16)
        box = _box(record, joints, where)
        if labelled < least:
            tally.skip("", "", f"fewer than {least} labelled joints", 1)
        elif not keypoints[:, 2].any():
            tally.skip("", "", "none of the 17 joints labelled", 1)
        elif box is None:
            tally.skip("", "", "no box", 1)
        else:
            image = field_of(record, "image", (str,), where)
            photo = None if root is None else photo_path(root, image, f"{where}: image")
            yield Sample(keypoints_2d=keypoints, bbox=box, photo=photo, frame=index)
    if index < 0:
        raise SourceError(f"{path}: found no records, wanted a list of objects, HRNet's MPII json")


def _joints(record: dict[str, Any], where: str) -> np.ndarray:
    """[16, 3] float32: px counted from 0 and whether it is labelled; zero where it is not."""
    if "joints" not in record:
        raise SourceError(f"{where}: no joints: test.json has none; want train.json, valid.json or trainval.json")
    rows = field_of(record, "joints", (list,), where)
    visible = np.array(numbers_of(record, "joints_vis", JOINTS, where))
    if len(rows) != JOINTS:
        raise SourceError(f"{where}: joints: found {len(rows)}, wanted {JOINTS}")
    if not np.isin(visible, (0, 1)).all():
        raise SourceError(f"{where}: joints_vis: found {visible.tolist()}, wanted 0 or 1")
    joints = np.zeros((JOINTS, 3), np.float32)
    for joint, row in enumerate(rows):
        joints[joint, :2] = numbers_of({"joints": row}, "joints", 2, f"{where}: {joint}")
    joints[:, :2] -= 1
    joints[:, 2] = visible
    joints[visible == 0] = 0
    return joints


def _box(record: dict[str, Any], joints: np.ndarray, where: str) -> np.ndarray | None:
    """[3]; that of the joints for a person without centre, which is one at -1."""
    center = np.array(numbers_of(record, "center", 2, where))
    (scale,) = numbers_of({"scale": [record.get("scale")]}, "scale", 1, where)
    if center[0] != -1 and scale > 0:
        box = person_box(center, scale)
        if np.abs(box).max() > LARGEST_PX:
            found = f"center {center.tolist()} and scale {scale:g}"
            raise SourceError(f"{where}: found {found}, wanted a box within {LARGEST_PX:.0e} px")
        return box
    try:
        return square_bbox(joints)
    except ValueError:
        return None
