"""2D keypoints as other programs save them (data/formats/keypoints): people in 2D only, their confidences kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import Camera, unknown_camera
from unihpe_fast.data.formats.keypoints import FORMATS, Keypoints, ReadOptions, read_keypoints
from unihpe_fast.data.formats.untrusted import photo_path
from unihpe_fast.data.records import Sample
from unihpe_fast.data.sources import Reading, Request, Tally

LICENCE = "That of the files the keypoints come from, and of the pictures they were found in."


@dataclass(frozen=True)
class Options:
    format: str = ""
    """format of the files; by default their content tells"""
    layout: str = ""
    """keypoint layout, where the files do not say it: coco17, halpe26, body25, .."""
    joints: str = ""
    """names of keypoints in the files and ours, theirs=ours,.."""
    size: tuple[int, int] = (0, 0)
    """width and height of the pictures in px, for files that do not say it"""
    min_confidence: float = 0.0
    """keypoints less sure than this are absent"""


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: files or folders of keypoints. See data/sources/__init__.py; all of them are read at once."""
    if not inputs:
        raise ValueError(f"no input: want files or folders of keypoints ({', '.join(FORMATS)})")
    if options.size != (0, 0) and min(options.size) < 1:
        raise ValueError(f"size: must be width and height in px, got {options.size}")
    pairs = [part.split("=") for part in options.joints.split(",")] if options.joints else []
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(f"joints: must be theirs=ours,.., got {options.joints!r}")
    said = ReadOptions(options.layout or None, options.size if options.size != (0, 0) else None, dict(pairs))
    tally = Tally()
    found = [(path, read_keypoints(path, said, options.format or None)) for path in inputs]
    for path, keypoints in found:
        for reason, count in keypoints.skipped.items():
            tally.skip("", path.name, reason, count)
        if not (keypoints.size > 0).all():
            tally.notes.append(
                f"{path}: the pictures' size is unknown, so the model is told nothing of the place in it"
            )
    return Reading(
        dataset="keypoints",
        licence=LICENCE,
        files=list(inputs),
        samples=(sample for path, keypoints in found for sample in _samples(path, keypoints, options, request, tally)),
        tally=tally,
        total=sum(len(keypoints) for _, keypoints in found),
    )


def _samples(path: Path, keypoints: Keypoints, options: Options, request: Request, tally: Tally) -> Iterator[Sample]:
    joints = keypoints.h36m17()
    joints[joints[..., 2] < options.min_confidence] = 0
    cameras: dict[tuple[int, int], Camera] = {}
    for row, person in enumerate(joints):
        seen = person[person[:, 2] > 0, :2]
        if len(seen) < 2 or not np.ptp(seen, axis=0).max() > 0:
            tally.skip("", path.name, "fewer than two joints")
            continue
        width, height = keypoints.size[row].tolist()
        if width and (width, height) not in cameras:
            cameras[width, height] = unknown_camera(width, height)
        name = keypoints.picture[row]
        photo = None if request.images is None or not name else photo_path(request.images, name, f"{path}: picture")
        # scores of some detectors exceed 1
        person[:, 2] = person[:, 2].clip(max=1)
        yield Sample(
            bbox=square_bbox(person),
            keypoints_2d=person,
            camera=cameras.get((width, height)),
            photo=photo,
            subject=str(keypoints.person[row]) if keypoints.person[row] >= 0 else "",
            action=path.stem,
            frame=int(keypoints.frame[row]),
        )
