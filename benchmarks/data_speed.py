"""How fast photographs become a prepared file, and prepared crops become training batches, against bare OpenCV.

    python -m benchmarks.data_speed --json benchmarks/results/data.json

Preparing: crops of 320 px and the whole file, against a thread pool on all cores that reads, decodes, cuts, shrinks and
encodes the same pictures and keeps nothing. Loading: augmented batches of 224 px out of the file, against a loop that
decodes the same JPEGs from memory, warps and normalises them. Both take turns, and the median of the rounds' ratios is
what counts. Memory: of the process and its loader workers (proportional set size) at the end of each epoch.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.provenance import provenance
from unihpe_fast.config import AugmentConfig, DataConfig
from unihpe_fast.data.crop_cache import CropCache
from unihpe_fast.data.crop_photos import CROP_SIZE, crop_photos
from unihpe_fast.data.images import JPEG_QUALITY, MEAN, STD
from unihpe_fast.data.loader import train_batches
from unihpe_fast.data.records import Sample
from unihpe_fast.data.store import Store, write_store
from unihpe_fast.fileio import write_text

# distinct pictures; they are read again and again, out of the page cache for both sides
PHOTOS = 16
INPUT, BATCH = 224, 64
AUGMENT = AugmentConfig(rotate=30, scale=0.25, shift=0.05, color=0.2, noise=0.005, missing=0.02)


def photograph(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Smooth areas, edges and a little noise: compresses to about as many bytes a pixel as a photograph does."""
    rough = rng.integers(0, 255, (height // 40, width // 40, 3), dtype=np.uint8)
    picture = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(40):
        corner = tuple(rng.integers(0, min(width, height), 2).tolist())
        cv2.circle(picture, corner, int(rng.integers(10, 90)), rng.integers(0, 255, 3).tolist(), -1)
    noise = rng.normal(0, 4, picture.shape).astype(np.float32)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def people(folder: Path, count: int, width: int, height: int, side: float) -> list[Sample]:
    """One person a picture, `side` px of its height, all within the picture."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(PHOTOS):
        path = folder / f"{width}-{number}.jpg"
        cv2.imwrite(str(path), photograph(rng, width, height), [cv2.IMWRITE_JPEG_QUALITY, 90])
        paths.append(path)
    half = 0.625 * side
    keypoints = np.ones((17, 3), np.float32)
    return [
        Sample(
            bbox=np.array([rng.uniform(half, width - half), rng.uniform(half, height - half), side], np.float32),
            keypoints_2d=keypoints,
            photo=paths[number % PHOTOS],
            frame=number,
        )
        for number in range(count)
    ]


def prepare_file(samples: list[Sample], out: Path) -> None:
    with CropCache(out, CROP_SIZE) as cache:
        write_store(out, crop_photos(iter(samples), cache=cache), dataset="speed", split="train")


def bare_prepare(samples: list[Sample]) -> None:
    def one(sample: Sample) -> int:
        assert sample.photo is not None
        picture = cv2.imdecode(np.frombuffer(sample.photo.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        x, y, side = sample.bbox.tolist()
        half = 0.625 * side
        cut = picture[int(y - half) : int(y + half), int(x - half) : int(x + half)]
        small = cv2.resize(cut, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
        return len(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])

    cv2.setNumThreads(0)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        assert min(pool.map(one, samples)) > 0


class BareBatches(Dataset[torch.Tensor]):
    """Step -> [batch, 3, INPUT, INPUT] float32, decoded from memory, rotated, scaled, shifted, coloured, normalised."""

    def __init__(self, jpegs: list[np.ndarray], batch: int = BATCH) -> None:
        self.jpegs, self.batch = jpegs, batch

    def __getitem__(self, step: int) -> torch.Tensor:
        rng = np.random.default_rng(step)
        pixels = np.empty((self.batch, INPUT, INPUT, 3), np.uint8)
        for out, row in zip(pixels, rng.integers(0, len(self.jpegs), self.batch), strict=True):
            picture = cv2.imdecode(self.jpegs[row], cv2.IMREAD_COLOR)
            scale = INPUT / (CROP_SIZE / 1.25) * rng.uniform(0.75, 1.25)
            matrix = cv2.getRotationMatrix2D((CROP_SIZE / 2, CROP_SIZE / 2), rng.uniform(-30, 30), scale)
            matrix[:, 2] += (INPUT - CROP_SIZE) / 2 + rng.uniform(-10, 10, 2)
            cv2.warpAffine(picture, matrix, (INPUT, INPUT), dst=out)
            cv2.cvtColor(out, cv2.COLOR_BGR2RGB, dst=out)
        gain = torch.from_numpy(rng.uniform(0.8, 1.2, (self.batch, 3)) / STD / 255).float()[:, :, None, None]
        bias = torch.from_numpy(-MEAN / STD).float()[None, :, None, None]
        image = torch.empty(self.batch, 3, INPUT, INPUT).copy_(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        return image.mul_(gain).add_(bias)


def through(batches: Iterator[Any], steps: int) -> float:
    """Seconds of that many steps, after the first two."""
    for _ in range(2):
        next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return time.perf_counter() - start


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name: str, count: int, ours: Callable[[], float], bare: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Rates a second of both, measured in turns, and the median of the ratios."""
    pairs = [(ours(), bare()) for _ in range(rounds)]
    ratio = statistics.median(other / mine for mine, other in pairs)
    result = {
        "ours_per_s": count / statistics.median(mine for mine, _ in pairs),
        "bare_per_s": count / statistics.median(other for _, other in pairs),
        "ratio": ratio,
        "ratios": [other / mine for mine, other in pairs],
    }
    print(f"{name}: {result['ours_per_s']:.0f}/s, bare {result['bare_per_s']:.0f}/s, ratio {ratio:.2f}", flush=True)
    return result


def loader_config(path: Path, workers: int, batch: int = BATCH) -> DataConfig:
    return DataConfig(train=(str(path),), image_size=INPUT, batch_size=batch, workers=workers, augment=AUGMENT)


def loading(path: Path, workers: int, steps: int, rounds: int) -> dict[str, Any]:
    jpegs = Store(path).read(np.arange(len(Store(path)))).images
    cv2.setNumThreads(0)

    def ours() -> float:
        batches = train_batches(loader_config(path, workers), seed=0, start_step=0, steps=steps + 2)
        return through(iter(batches), steps)

    def bare() -> float:
        loader = DataLoader(BareBatches(jpegs), sampler=range(steps + 2), batch_size=None, num_workers=workers)
        return through(iter(loader), steps)

    return compare(f"loading, {workers} workers", steps * BATCH, ours, bare, rounds)


def megabytes() -> float:
    """Proportional set size of this process and its children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    total = 0
    for process in ("self", *children):
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def memory(path: Path, workers: int, epochs: int) -> dict[str, Any]:
    steps = len(Store(path)) // BATCH
    batches = iter(train_batches(loader_config(path, workers), seed=0, start_step=0, steps=steps * epochs))
    held = []
    for _ in range(epochs):
        for _ in range(steps):
            next(batches)
        held.append(round(megabytes(), 1))
    print(f"memory, {workers} workers: MB after each epoch {held}", flush=True)
    return {"epochs": epochs, "steps": steps, "megabytes": held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--count", type=int, default=600, help="pictures that are prepared in a round")
    parser.add_argument("--steps", type=int, default=16, help=f"batches of {BATCH} that are loaded in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6, help="of the memory measurement")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    record: dict[str, Any] = {**provenance(), "cores": cores}
    record["versions"]["opencv"] = cv2.__version__
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "speed.h5"
        record["prepare"] = {}
        for width, height, side in ((2048, 2048, 1000), (1000, 1002, 480)):
            samples = people(folder, options.count * 1000 // width, width, height, side)
            record["prepare"][f"{width}x{height}"] = compare(
                f"preparing, {width} x {height} px",
                len(samples),
                lambda samples=samples: timed(lambda: prepare_file(samples, out)),
                lambda samples=samples: timed(lambda: bare_prepare(samples)),
                options.rounds,
            )
        record["loading"] = {
            str(workers): loading(out, workers, options.steps, options.rounds) for workers in (0, cores)
        }
        record["memory"] = {str(workers): memory(out, workers, options.epochs) for workers in (0, cores)}
    if options.json:
        write_text(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
