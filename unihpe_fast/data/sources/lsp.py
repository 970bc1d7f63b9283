"""Leeds Sports Pose (joints.mat, 2,000 photographs) and its extended training set (10,000): joints in 2D only.

Johnson and Everingham, BMVC 2010 and CVPR 2011. Both have one matrix of 14 joints: [3, 14, N] in LSP, whose third row
is 1 for a hidden joint, and [14, 3, N] in the extended set, whose third column is 1 for one that is labelled and seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.mat5 import numbers, variables
from unihpe_fast.data.formats.untrusted import LARGEST
from unihpe_fast.data.joint_sets import LSP14, to_h36m17
from unihpe_fast.data.records import Sample
from unihpe_fast.data.sources import Reading, Request, Tally
from unihpe_fast.data.sources.photo_names import found_layout

LICENCE = (
    "Leeds Sports Pose (Extended): photographs of Flickr users, gathered for research by Johnson and Everingham (BMVC "
    "2010, CVPR 2011); no licence is given."
)
JOINTS = 14
# numbers of the photographs have five digits in the extended set, four in LSP
LAYOUTS = ("im{:05d}.jpg", "images/im{:05d}.jpg", "im{:04d}.jpg", "images/im{:04d}.jpg")


@dataclass(frozen=True)
class Options:
    min_keypoints: int = 1
    """people with fewer labelled joints of the 14 are left out"""


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: joints.mat files. request.images: the folder of im0001.jpg or im00001.jpg, or the one above `images`.

    See data/sources/__init__.py. `frame` is the position in the file, from 0; photograph im00001.jpg has number 0.
    """
    if not 1 <= options.min_keypoints <= JOINTS:
        raise ValueError(f"min_keypoints: want 1 to {JOINTS}, got {options.min_keypoints}")
    if not inputs:
        raise ValueError("no input: want joints.mat files of LSP or LSP Extended")
    tally = Tally()
    tables = [read_joints(path) for path in inputs]
    return Reading(
        dataset="lsp",
        licence=LICENCE,
        files=list(inputs),
        samples=(sample for joints in tables for sample in _samples(joints, options, request.images, tally)),
        tally=tally,
        total=sum(map(len, tables)),
    )


def read_joints(path: Path) -> np.ndarray:
    """[N, 14, 3] float32, px and confidence 0 or 1, of either layout. Raises SourceError naming the file, or OSError.

    A hidden joint of LSP is labelled, so it counts as known, like one that is seen.
    """
    found = variables(path)
    if "joints" not in found:
        raise SourceError(f"{path}: has no 'joints', only {', '.join(sorted(found)) or 'nothing'}")
    matrix = numbers(path, found["joints"])
    where = f"{path}: joints"
    if matrix.ndim != 3 or {matrix.shape[0], matrix.shape[1]} != {3, JOINTS}:
        raise SourceError(f"{where}: want [{JOINTS}, 3, N] or [3, {JOINTS}, N], got {list(matrix.shape)}")
    extended = matrix.shape[0] == JOINTS
    joints = matrix.astype(np.float64).transpose((2, 0, 1) if extended else (2, 1, 0))
    flags = joints[..., 2]
    if not np.isin(flags, (0, 1)).all():
        number, joint = np.argwhere(~np.isin(flags, (0, 1)))[0].tolist()
        raise SourceError(f"{where}: person {number}, joint {joint}: found flag {flags[number, joint]}, wanted 0 or 1")
    known = np.asarray((np.abs(joints[..., :2]) < LARGEST).all(-1))
    if extended:
        known &= flags == 1
    return np.where(known[..., None], np.concatenate([joints[..., :2], known[..., None]], axis=2), 0).astype(np.float32)


def _samples(joints: np.ndarray, options: Options, images: Path | None, tally: Tally) -> Iterator[Sample]:
    layout = LAYOUTS[0]
    if images is not None:
        layout = found_layout(LAYOUTS, len(joints), lambda layout, row: images / layout.format(row + 1))
    keypoints = to_h36m17(joints, LSP14)
    for row in range(len(joints)):
        labelled = joints[row][joints[row, :, 2] > 0, :2]
        if len(labelled) < options.min_keypoints:
            tally.skip("", "", f"fewer than {options.min_keypoints} labelled joints")
            continue
        if len(np.unique(labelled, axis=0)) < 2:
            tally.skip("", "", "joints that span no box")
            continue
        yield Sample(
            keypoints_2d=keypoints[row],
            bbox=square_bbox(joints[row]),
            photo=None if images is None else images / layout.format(row + 1),
            frame=row,
        )
