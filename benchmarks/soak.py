"""A long, small training with loader processes, watched for memory and files that grow.

python -m benchmarks.soak [--json FILE] [--steps 2000] [--workers 4]

Resident memory (RSS, of the process and its loader processes added up) and open files are read at every logging step; a
line is fitted through the memory of the last three quarters. Ends with 1 where it rises by 1 MiB in 100 steps or more,
or the number of open files changes.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.record import provenance
from unihpe_fast.config import (
    AugmentConfig,
    Config,
    DataConfig,
    DecoderConfig,
    ImageEncoderConfig,
    ModelConfig,
    OptimConfig,
    PoseEncoderConfig,
    RunConfig,
)
from unihpe_fast.engine.log import RunLog
from unihpe_fast.engine.loop import train
from unihpe_fast.fileio import write_text
from unihpe_fast.prepare import main as prepare

LARGEST_SLOPE = 1.0
PEOPLE = 256


@dataclass(frozen=True)
class Growth:
    """slope: MiB a 100 steps. files: the most that were open in the second, third and last quarter of the steps: every
    tensor on its way from a loader process holds one, so the number is not the same at every moment. The first quarter,
    in which caches fill and processes start, counts for neither."""

    slope: float
    files: list[int]

    @property
    def flat(self) -> bool:
        return self.slope < LARGEST_SLOPE and len(set(self.files)) == 1


def growth(steps: list[int], rss: list[float], files: list[int]) -> Growth:
    """steps, rss (MiB) and files: of each reading, in order."""
    settled = [i for i, step in enumerate(steps) if step > steps[-1] / 4]
    slope = np.polyfit([steps[i] for i in settled], [rss[i] for i in settled], 1)[0]
    return Growth(float(100 * slope), [int(part.max()) for part in np.array_split([files[i] for i in settled], 3)])


def _processes() -> list[Path]:
    """This process and its children in /proc."""
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    return [Path(f"/proc/{pid}") for pid in (me, *children)]


def read_usage() -> tuple[float, int]:
    """MiB resident and files open now, in all processes together."""
    pages = files = 0
    for process in _processes():
        pages += int((process / "statm").read_text().split()[1])
        files += len(os.listdir(process / "fd"))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files


def small_config(data: str, *, steps: int, workers: int) -> Config:
    """A model of some thousand parameters over all three modalities, with pictures decoded from a file."""
    encoder = PoseEncoderConfig(width=16, depth=1)
    image = ImageEncoderConfig(
        backbone="resnet10t", backbone_args={"channels": "[8, 8, 8, 8]", "stem_width": "8"}, fuse_width=8, head_width=16
    )
    return Config(
        data=DataConfig(
            train=(data,),
            val=(data,),
            image_size=32,
            batch_size=8,
            val_batch_size=32,
            val_samples=64,
            workers=workers,
            augment=AugmentConfig(rotate=10, scale=0.1, shift=0.03, color=0.1, noise=0.005),
        ),
        model=ModelConfig(width=16, image=image, pose2d=encoder, pose3d=encoder, decoder=DecoderConfig(16, 1)),
        optim=OptimConfig(steps=steps, warmup=10, ema=0.99),
        run=RunConfig(
            device="cpu",
            compile="off",
            log_every=max(steps // 200, 1),
            eval_every=max(steps // 4, 1),
            checkpoint_every=max(steps // 10, 1),
            plots=False,
        ),
    )


def soak(folder: Path, *, steps: int, workers: int, console: Console) -> tuple[Growth, dict[str, list]]:
    """Train in `folder`; the growth, and the readings it was fitted to: step, rss (MiB), files."""
    file = str(folder / "people.h5")
    if prepare(["synthetic", file, "--n", str(PEOPLE), "--image-size", "64"]):
        raise SystemExit(f"{file} could not be prepared")
    readings: dict[str, list] = {"step": [], "rss": [], "files": []}
    log_step = RunLog.step

    def watched(log: RunLog, step: int, values: dict[str, float]) -> None:
        log_step(log, step, values)
        if step == steps:
            # the loader processes have given all they had and end
            return
        rss, files = read_usage()
        for name, value in {"step": step, "rss": rss, "files": files}.items():
            readings[name].append(value)

    RunLog.step = watched  # type: ignore[method-assign]
    try:
        train(small_config(file, steps=steps, workers=workers), folder / "run", console=console)
    finally:
        RunLog.step = log_step  # type: ignore[method-assign]
    return growth(readings["step"], readings["rss"], readings["files"]), readings


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args(arguments)
    record: dict[str, Any] = provenance()
    with tempfile.TemporaryDirectory() as folder:
        found, readings = soak(Path(folder), steps=options.steps, workers=options.workers, console=Console())
    first, last = readings["rss"][0], readings["rss"][-1]
    print(f"{options.steps} steps, {options.workers} loader processes: {first:.1f} MiB at first, {last:.1f} at last")
    print(f"slope {found.slope:+.3f} MiB a 100 steps (wanted < {LARGEST_SLOPE}); open files {found.files}")
    if options.json:
        record |= {"steps": options.steps, "workers": options.workers, "slope": found.slope, "files": found.files}
        write_text(options.json, json.dumps(record | {"readings": readings}, indent=1) + "\n")
    return 0 if found.flat else 1


if __name__ == "__main__":
    sys.exit(main())
