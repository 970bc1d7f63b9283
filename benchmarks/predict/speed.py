"""How fast people in pictures become 3D: the lifter alone on one core and on two, with the detector on two.

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
from unihpe_fast import Predictor
from unihpe_fast.fileio import write_text

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


def lifting(predictor: Predictor, count: int, rounds: int) -> dict[str, float]:
    """2D keypoints in px to a Prediction, `count` people at once."""
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(100, 900, (count, 17, 2)).astype(np.float32)
    confidence = rng.uniform(0.3, 1, (count, 17)).astype(np.float32)
    return seconds(lambda: predictor.lift(keypoints, confidence, size=(1920, 1080)), rounds)


def frame() -> np.ndarray:
    from skimage.data import astronaut

    picture = np.full((720, 1280, 3), 110, np.uint8)
    picture[104:616, 384:896] = astronaut()
    return picture


def pictures(name: str, model: str, rounds: int) -> dict[str, Any]:
    """A picture to its people in 3D."""
    predictor, picture = Predictor(model, detector=name, device="cpu"), frame()
    return {"people": len(predictor.image(picture)), **seconds(lambda: predictor.image(picture), rounds)}


def measure(model: str) -> dict[str, Any]:
    cores = min(2, os.cpu_count() or 1)
    lifter = []
    for threads in range(1, cores + 1):
        torch.set_num_threads(threads)
        for dtype in ("float32", "bfloat16"):
            predictor = Predictor(model, device="cpu", dtype=dtype)
            one, batch = lifting(predictor, 1, 300), lifting(predictor, BATCH, 20)
            lifter.append({"cores": threads, "dtype": dtype, "one": one, "batch": batch})
    by_detector = {name: pictures(name, model, 6) for name in DETECTORS}
    return {"batch_size": BATCH, "lifting": lifter, "cores": cores, "pictures": by_detector}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lifting", help="a run folder, a file or a name, as load_model takes it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    origin = {**provenance(), "model": options.model, "load_before": os.getloadavg()[0]}
    record = {**origin, **measure(options.model)}
    print(json.dumps(record, indent=1))
    if options.json:
        write_text(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
