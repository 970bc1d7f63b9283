"""JSON: the names and units once, then an object a person in a frame; null is what is absent or unknown."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.data.skeleton import BONES
from unihpe_fast.fileio import atomic_path
from unihpe_fast.prediction import Prediction

# rows that become Python's numbers at once
_ROWS = 1024
_AXES = {
    "camera": "camera: x right, y down, z away from it",
    "level": "level: the camera's, its pitch and roll taken out: x right, y down the vertical, z away from it",
}
# of each array: the digits after the point
_DIGITS = {"time": 6, "camera": 6, "roll": 6, "root": 3, "joints_3d": 3, "joints_2d": 3, "confidence": 4}


def write(prediction: Prediction, path: Path) -> list[Path]:
    """One file, written a person at a time: an hour of video needs no more memory than its arrays."""
    about = {
        "unit": "mm",
        "axes": f"{_AXES[prediction.axes]}; joints_3d are relative to the root, joint 0",
        "joint_names": list(prediction.joint_names),
        "bones": [list(bone) for bone in BONES],
        "layout": prediction.layout,
        "fps": prediction.fps,
    }
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        head = json.dumps(about, ensure_ascii=False, allow_nan=False)
        file.write(head[:-1] + ', "poses": [')
        for number, pose in enumerate(_poses(prediction)):
            file.write(",\n" if number else "\n")
            json.dump(pose, file, ensure_ascii=False, allow_nan=False)
        file.write("\n]}\n")
    return [path]


def _poses(p: Prediction) -> Iterator[dict[str, Any]]:
    for start in range(0, len(p), _ROWS):
        rows = p.select(np.arange(start, min(start + _ROWS, len(p))))
        columns = {name: _numbers(rows.arrays[name], digits) for name, digits in _DIGITS.items()}
        for row in range(len(rows)):
            size = rows.size[row].tolist()
            yield {
                "source": str(rows.source[row]),
                "frame": int(rows.frame[row]),
                "person": int(rows.person[row]),
                "size": size if all(size) else None,
                **{name: column[row] for name, column in columns.items()},
            }


def _numbers(values: np.ndarray, digits: int) -> Any:
    """Nested lists of rounded numbers; a last list that has a NaN is null as a whole: half a point is none."""
    if values.ndim == 1:
        return [number if np.isfinite(number) else None for number in _rounded(values, digits)]
    known = np.isfinite(values).all(-1).ravel().tolist()
    points = _rounded(values.reshape(-1, values.shape[-1]), digits)
    found = [point if good else None for point, good in zip(points, known, strict=True)]
    if values.ndim == 2:
        return found
    count = values.shape[1]
    return [found[start : start + count] for start in range(0, len(found), count)]


def _rounded(values: np.ndarray, digits: int) -> list[Any]:
    return np.round(values.astype(np.float64), digits).tolist()
