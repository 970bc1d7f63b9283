"""How fast people in pictures become 3D: the lifter alone on one core, with the detector on two.

    python -m benchmarks.predict.speed --json benchmarks/results/predict.json

Pictures are scikit-image's astronaut in a frame of 1280 x 720 px.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import provenance
from unihpe_fast.data.joint_sets import COCO17, to_h36m17
from unihpe_fast.detector import open_detector
from unihpe_fast.engine.checkpoint import load_model
from unihpe_fast.fileio import write_text
from unihpe_fast.models.unihpe import UniHPE

BATCH = 4096
DETECTORS = ("movenet", "movenet-multipose", "movenet-lightning")


def seconds(call: Callable[[], object], rounds: int) -> dict[str, float]:
    """The median and the least of several calls, the first not counted."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {"median_s": statistics.median(times), "least_s": min(times), "rounds": rounds}


def lifting(model: UniHPE, count: int, rounds: int) -> dict[str, float]:
    """2D keypoints in crop units to 3D joints, `count` people at once, on one thread."""
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.randn(count, 17, 3, generator=generator).clamp(-1, 1)
    keypoints[..., 2] = 1
    box = torch.randn(count, 3, generator=generator) / 10

    def call() -> None:
        with torch.inference_mode():
            model.decode(model.encode_pose2d(keypoints, box), "pose2d")

    return seconds(call, rounds)


def frame() -> np.ndarray:
    from skimage.data import astronaut

    picture = np.full((720, 1280, 3), 110, np.uint8)
    picture[104:616, 384:896] = astronaut()
    return picture


def pictures(name: str, model: UniHPE, rounds: int) -> dict[str, Any]:
    """A picture to its people in 3D."""
    detect, picture = open_detector(name), frame()

    def call() -> int:
        found = detect(picture)
        joints = to_h36m17(np.concatenate([found.keypoints_2d, found.confidence[..., None]], axis=-1), COCO17)
        with torch.inference_mode():
            keypoints = torch.from_numpy(joints)
            model.decode(model.encode_pose2d(keypoints, torch.zeros(len(joints), 3)), "pose2d")
        return len(found)

    return {"people": call(), **seconds(call, rounds)}


def measure(model: UniHPE) -> dict[str, Any]:
    cores = min(2, os.cpu_count() or 1)
    torch.set_num_threads(1)
    lifter = {"one": lifting(model, 1, 100), "batch": lifting(model, BATCH, 8)}
    torch.set_num_threads(cores)
    return {"lifting": lifter, "cores": cores, "pictures": {name: pictures(name, model, 6) for name in DETECTORS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lifting", help="a run folder, a file or a name, as load_model takes it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)[0]
    before = os.getloadavg()[0]
    found = measure(model)
    record = {**provenance(), "model": options.model, "load_before": before, **found}
    print(json.dumps(record, indent=1))
    if options.json:
        write_text(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
