"""TRC in pixels, as Sports2D writes it: five header lines separated by tabs, then Frame#, Time, X1 Y1 Z1 .."""

import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import Keypoints, People, ReadOptions
from unihpe_fast.data.formats.untrusted import read_bytes

LARGEST_FILE = 1 << 30
_HEADER = 5


def recognises(found: Found) -> bool:
    return found.head.startswith("PathFileType")


def read(found: Found, options: ReadOptions) -> Keypoints:
    """One person. Empty cells are keypoints that were not found; all others have confidence 1."""
    path = found.first
    lines = read_bytes(path, LARGEST_FILE).decode("utf-8-sig", errors="replace").splitlines()
    if len(lines) <= _HEADER:
        raise SourceError(f"{path}: must have {_HEADER} header lines and frames, got {len(lines)} lines; cut short?")
    about = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=False))
    units = about.get("Units", "").strip()
    if units.lower() not in ("px", "pixel", "pixels"):
        raise SourceError(f"{path}: Units must be px, got {units!r}: these are positions in space already")
    names = [name.strip() for name in lines[3].split("\t")[2::3] if name.strip()]
    people = People(found.path)
    frames = 0
    for number, line in enumerate(lines[_HEADER:], _HEADER + 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        where = f"line {number}"
        try:
            frame = int(float(cells[0]))
            values = [float(cell) if cell.strip() else np.nan for cell in cells[2 : 2 + 3 * len(names)]]
        except (ValueError, OverflowError, IndexError) as error:
            raise SourceError(f"{path}: {where}: must be numbers, got {error}") from error
        # writers leave out the tabs after the last empty cell
        values += [np.nan] * (3 * len(names) - len(values))
        joints = np.array(values).reshape(-1, 3)
        joints[:, 2] = np.isfinite(joints[:, :2]).all(1)
        joints[joints[:, 2] == 0] = 0
        people.add(joints, frame, where, person=0)
        frames += 1
    if people.frame:
        # frames are counted from 1 by some, from a first frame of the video by others
        first = people.frame[0]
        people.frame = [frame - 1 for frame in people.frame] if first == 1 else people.frame
    return people.finished(options, frames=frames, names=names, fps=_rate(about.get("DataRate", ""), path))


def _rate(text: str, path: object) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = np.nan
    if not 0 < rate < 1e5:
        raise SourceError(f"{path}: DataRate must be frames a second, got {text!r}")
    return rate
