"""How much memory a long video takes from its frames to its files.

    python -m benchmarks.predict.memory [--minutes 5] --json benchmarks/results/predict-memory.json

One person walks through frames of 320 x 240 px at 30 a second, each made anew; a stand-in for the detector knows where.
What is kept grows by the poses alone, and the frames are gone when they have been looked at.
"""

import argparse
import json
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.record import provenance
from unihpe_fast.data.skeleton import JOINT_NAMES
from unihpe_fast.detector import Detections
from unihpe_fast.fileio import write_text
from unihpe_fast.outputs import write
from unihpe_fast.predictor import Predictor

FPS = 30
SIZE = (320, 240)
FORMATS = ("npz", "csv", "json", "html", "trc", "bvh")


class Walker:
    """A person of H36M's joints who walks to and fro."""

    name, layout, licence, keypoint_names = "walker", "h36m17", "", JOINT_NAMES

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._body = rng.uniform(-40, 40, (17, 2)) + np.array([160, 120])
        self._frame = 0

    def __call__(self, image: np.ndarray) -> Detections:
        points = self._body[None] + 30 * np.sin(self._frame / 40)
        self._frame += 1
        bbox = np.concatenate([points.min(1), points.max(1)], axis=1)
        return Detections(points.astype(np.float32), np.full((1, 17), 0.9, np.float32), bbox.astype(np.float32),
                          np.ones(1, np.float32))  # fmt: skip


def frames(count: int) -> Iterator[Any]:
    for index in range(count):
        image = np.full((SIZE[1], SIZE[0], 3), index % 256, np.uint8)
        yield SimpleNamespace(index=index, time=index / FPS, image=image)


def peak() -> float:
    """MiB that the process has held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    count = round(options.minutes * 60 * FPS)
    record = {**provenance(), "load_before": os.getloadavg()[0], "frames": count, "size": SIZE}
    predictor = Predictor(device="cpu", detector=Walker())
    # what libraries and the model take is there before the measurement
    predictor.video(frames(100), fps=FPS, smooth=6.0, max_gap=10)
    peaks = {"before": peak()}
    found = predictor.video(frames(count), fps=FPS, smooth=6.0, max_gap=10)
    peaks["all poses"] = peak()
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            write(found, Path(folder) / "clip", name)
            peaks[name] = peak()
    record["peak_mib"] = peaks
    print(json.dumps(record, indent=1))
    if options.json:
        write_text(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
