"""YOLO's pose files, a .txt a picture: `class cx cy w h (px py [visibility]) x K [confidence] [track]`, normalised."""

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import Keypoints, People, ReadOptions, frame_numbers, layout_names
from unihpe_fast.data.formats.keypoints.triples import with_absent
from unihpe_fast.data.formats.untrusted import read_bytes

LARGEST_FILE = 16 << 20
_BOX = 5
# COCO's 17 first: 56 numbers are 17 keypoints with visibility, not 25 without and a track
_COUNTS = (17, 133, 26, 33, 25, 18, 16)


def recognises(found: Found) -> bool:
    if found.suffix != ".txt":
        return False
    line = next((line for line in found.head.splitlines() if line.strip()), "")
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return False
    return len(values) > _BOX and all(0 <= value <= 1.5 for value in values[1:_BOX]) and values[0] == int(values[0])


def read(found: Found, options: ReadOptions) -> Keypoints:
    """A file, or the files of a folder; their last number is the frame where all have one, as a video's have."""
    files = found.files[".txt"]
    numbers = frame_numbers([file.name for file in files])
    people = People(found.path)
    shape: tuple[int, int, int] | None = None
    for order, file in enumerate(files):
        frame = order if numbers is None or not found.folder else numbers[order]
        text = read_bytes(file, LARGEST_FILE).decode("utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words:
                continue
            where = f"{file.name}, line {number}"
            try:
                values = np.array([float(word) for word in words])
            except ValueError as error:
                raise SourceError(f"{found.path}: {where}: must be numbers, got {error}") from error
            if shape is None or len(values) != shape[2]:
                shape = _shape(len(values), options, f"{found.path}: {where}")
            count, per_keypoint, _ = shape
            rest = values[_BOX : _BOX + count * per_keypoint].reshape(count, per_keypoint)
            joints = np.ones((count, 3))
            joints[:, :per_keypoint] = rest
            after = values[_BOX + count * per_keypoint :]
            # a track is a whole number; what comes before it is the confidence of the box
            track = int(after[-1]) if len(after) and after[-1] == int(after[-1]) and after[-1] >= 0 else -1
            joints[:, 2] = joints[:, 2].clip(max=1)
            people.add(with_absent(joints), frame, where, person=track, picture=file.stem)
    people.scale(options)
    sequence = found.folder and numbers is not None
    return people.finished(options, frames=len(files), sequence=sequence)


def _shape(length: int, options: ReadOptions, where: str) -> tuple[int, int, int]:
    """Keypoints, numbers of each, and the line's length."""
    counts = _COUNTS if options.layout is None else (len(layout_names(options.layout)),)
    for count in counts:
        for extra in (0, 1, 2):
            for per_keypoint in (3, 2):
                if length == _BOX + count * per_keypoint + extra:
                    return count, per_keypoint, length
    kinds = ", ".join(map(str, counts))
    raise SourceError(f"{where}: must have a class, a box and {kinds} keypoints, got {length} numbers; --layout helps")
