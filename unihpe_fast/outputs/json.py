"""JSON: the names and units once, then an object a person in a frame; null is what is absent or unknown."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.data.skeleton import BONES
from unihpe_fast.fileio import atomic_path
from unihpe_fast.prediction import Prediction


def write(prediction: Prediction, path: Path) -> list[Path]:
    """One file, written a person at a time: an hour of video needs no more memory than its arrays."""
    about = {
        "unit": "mm",
        "axes": "camera: x right, y down, z away from it; joints_3d are relative to the root, joint 0",
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
    for row in range(len(p)):
        size = p.size[row].tolist()
        yield {
            "source": str(p.source[row]),
            "frame": int(p.frame[row]),
            "time": _numbers(p.time[row], 6),
            "person": int(p.person[row]),
            "size": size if all(size) else None,
            "camera": _numbers(p.camera[row], 6),
            "roll": _numbers(p.roll[row], 6),
            "root": _numbers(p.root[row], 3),
            "joints_3d": _numbers(p.joints_3d[row], 3),
            "joints_2d": _numbers(p.joints_2d[row], 3),
            "confidence": _numbers(p.confidence[row], 4),
        }


def _numbers(values: np.ndarray, digits: int) -> Any:
    """Nested lists of rounded numbers; a list that has a NaN is null as a whole: half a point is none."""
    if values.ndim > 1:
        return [_numbers(row, digits) for row in values]
    if not np.isfinite(values).all():
        return None
    return np.round(values.astype(np.float64), digits).tolist()
