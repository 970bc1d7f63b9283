"""CSV: a row a person in a frame; cells of what is absent or unknown are empty."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unihpe_fast.fileio import atomic_path
from unihpe_fast.prediction import Prediction


def write(prediction: Prediction, path: Path) -> list[Path]:
    """One file: source, frame, time_s, person, the root and 17 joints in mm, their px and confidences."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_header(prediction))
        writer.writerows(_rows(prediction))
    return [path]


def _header(prediction: Prediction) -> list[str]:
    names = ["source", "frame", "time_s", "person", "width_px", "height_px", *(f"root_{axis}_mm" for axis in "xyz")]
    names += [f"{joint}_{axis}_mm" for joint in prediction.joint_names for axis in "xyz"]
    names += [f"{joint}_{axis}_px" for joint in prediction.joint_names for axis in "xy"]
    return [*names, *(f"{joint}_confidence" for joint in prediction.joint_names)]


def _rows(p: Prediction) -> Iterator[list[Any]]:
    for row in range(len(p)):
        numbers = [*p.root[row], *p.joints_3d[row].ravel(), *p.joints_2d[row].ravel()]
        yield [
            p.source[row],
            p.frame[row],
            "" if np.isnan(p.time[row]) else f"{p.time[row]:.6f}",
            p.person[row],
            *("" if side == 0 else side for side in p.size[row].tolist()),
            *("" if np.isnan(number) else f"{number:.3f}" for number in numbers),
            *(f"{number:.4f}" for number in p.confidence[row]),
        ]
