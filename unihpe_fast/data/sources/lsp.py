"""Leeds Sports Pose (joints.mat, 2,000 photographs) and its extended training set (10,000): joints in 2D only.

Johnson and Everingham, BMVC 2010 and CVPR 2011. Both have one matrix of 14 joints: [3, 14, N] in LSP, whose third row
is 1 for a hidden joint, and [14, 3, N] in the extended set, whose third column is 1 for one that is labelled and seen.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.formats.lsp import JOINTS, read_joints
from unihpe_fast.data.joint_sets import LSP14, to_h36m17
from unihpe_fast.data.records import Sample
from unihpe_fast.data.sources import Reading, Request, Tally
from unihpe_fast.data.sources.photo_names import found_layout

LICENCE = (
    "Leeds Sports Pose (Extended): photographs of Flickr users, gathered for research by Johnson and Everingham (BMVC "
    "2010, CVPR 2011); no licence is given."
)
# numbers of the photographs have five digits in the extended set, four in LSP
LAYOUTS = ("im{:05d}.jpg", "images/im{:05d}.jpg", "im{:04d}.jpg", "images/im{:04d}.jpg")


@dataclass(frozen=True)
class Options:
    min_keypoints: int = 1
    """people with fewer labelled joints of the 14 are left out"""
    numbers: str = ""
    """numbers of the photographs to take, first and last, as in 1-2000; empty: all"""


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: joints.mat files. request.images: the folder of im0001.jpg or im00001.jpg, or the one above `images`.

    See data/sources/__init__.py. `frame` is the position in the file, from 0; photograph im00001.jpg has number 0.
    """
    if not 1 <= options.min_keypoints <= JOINTS:
        raise ValueError(f"min_keypoints: want 1 to {JOINTS}, got {options.min_keypoints}")
    if not inputs:
        raise ValueError("no input: want joints.mat files of LSP or LSP Extended")
    first, last = _range(options.numbers)
    tally = Tally()
    tables = [read_joints(path) for path in inputs]
    for path, table in zip(inputs, tables, strict=True):
        if last is not None and last > len(table):
            raise ValueError(f"numbers: want photographs of 1 to {len(table)}, as {path} has, got {options.numbers}")
    rows = [range(first - 1, last or len(table)) for table in tables]
    return Reading(
        dataset="lsp",
        licence=LICENCE,
        files=list(inputs),
        samples=(
            sample
            for joints, taken in zip(tables, rows, strict=True)
            for sample in _samples(joints, taken, options, request.images, tally)
        ),
        tally=tally,
        total=sum(map(len, rows)),
    )


def _range(numbers: str) -> tuple[int, int | None]:
    """The first and the last of "1-2000"; no last where all are meant."""
    if not numbers:
        return 1, None
    found = re.fullmatch(r"(\d{1,9})-(\d{1,9})", numbers)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"numbers: want a first and a last photograph, as in 1-2000, got {numbers!r:.80}")
    return int(found[1]), int(found[2])


def _samples(joints: np.ndarray, rows: range, options: Options, images: Path | None, tally: Tally) -> Iterator[Sample]:
    layout = LAYOUTS[0]
    if images is not None:
        layout = found_layout(LAYOUTS, len(joints), lambda layout, row: images / layout.format(row + 1))
    keypoints = to_h36m17(joints, LSP14)
    for row in rows:
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
