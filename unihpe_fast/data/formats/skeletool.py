"""Cameras of MPI-INF-3DHP's training sequences: camera.calibration, "Skeletool Camera Calibration File V1.0"."""

import re
from pathlib import Path

import numpy as np

from unihpe_fast.data.camera import Camera
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.motion import parse_numbers
from unihpe_fast.data.formats.untrusted import read_bytes

LARGEST_FILE = 1 << 20  # bytes; 14 cameras take 10 thousand
LARGEST_IMAGE = 1 << 16  # px
_HEADER = "Skeletool Camera Calibration File"
_COUNTS = {"size": 2, "animated": 1, "intrinsic": 16, "extrinsic": 16, "radial": 1}


def read_calibration(path: Path, prefix: str) -> dict[int, Camera]:
    """Cameras by number, named prefix and number; SourceError naming the line where one is malformed, OSError.

    A camera is a line "name N" and lines with its sensor, size, intrinsic [4, 4] px, extrinsic [4, 4], which takes
    world to camera in mm, and lens distortion, which is to be 0.
    """
    lines = read_bytes(path, LARGEST_FILE).decode("latin-1").splitlines()
    if not lines or not lines[0].startswith(_HEADER):
        raise SourceError(f"{path}: line 1: found {lines[0][:40] if lines else 'nothing'!r}, wanted {_HEADER!r}")
    blocks: dict[int, dict[str, list[float]]] = {}
    block: dict[str, list[float]] = {}
    for number, line in enumerate(lines[1:], 2):
        words = line.split()
        where = f"{path}: line {number}"
        if words[:1] == ["name"]:
            if len(words) != 2 or not re.fullmatch(r"\d{1,4}", words[1], re.ASCII) or int(words[1]) in blocks:
                raise SourceError(f"{where}: found {line[:40]!r}, wanted 'name' and the number of a further camera")
            block = blocks[int(words[1])] = {}
        elif words and words[0] in _COUNTS:
            if len(words) != 1 + _COUNTS[words[0]]:
                raise SourceError(f"{where}: {words[0]}: found {len(words) - 1} values, wanted {_COUNTS[words[0]]}")
            try:
                block[words[0]] = parse_numbers(words[1:], where)
            except ValueError as error:
                raise SourceError(str(error)) from error
    return {
        number: _camera(values, f"{prefix}{number}", f"{path}: camera {number}") for number, values in blocks.items()
    }


def _camera(values: dict[str, list[float]], name: str, where: str) -> Camera:
    missing = [key for key in _COUNTS if key not in values]
    if missing:
        raise SourceError(f"{where}: no {', '.join(missing)}; cut short?")
    if values["animated"] != [0] or values["radial"] != [0]:
        found = values["animated"] + values["radial"]
        raise SourceError(f"{where}: animated, radial: found {found}, wanted a camera at rest without distortion")
    width, height = values["size"]
    if not (0 < width <= LARGEST_IMAGE and 0 < height <= LARGEST_IMAGE):
        raise SourceError(f"{where}: size: found {width} x {height}, wanted px")
    intrinsic, extrinsic = (np.array(values[key]).reshape(4, 4) for key in ("intrinsic", "extrinsic"))
    focal = intrinsic[[0, 1], [0, 1]]
    if not (focal > 0).all():
        raise SourceError(f"{where}: intrinsic: found focal lengths {focal.tolist()}, wanted positive ones")
    rotation = extrinsic[:3, :3]
    if not (np.abs(rotation) <= 2).all() or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3:
        raise SourceError(f"{where}: extrinsic: found {rotation.tolist()}, wanted a rotation")
    vector = np.array([*focal, intrinsic[0, 2], intrinsic[1, 2], 0, 0, 0, 0, 0])
    return Camera(name, vector, int(width), int(height), rotation, extrinsic[:3, 3])
