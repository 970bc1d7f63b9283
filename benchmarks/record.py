"""What a figure needs beside it to mean anything, and the files that keep both; as a command, a run and its scores.

python -m benchmarks.record synthetic --json benchmarks/results/synthetic.json [--section.option VALUE ..]
"""

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unihpe_fast.fileio import write_text

ROOT = Path(__file__).parent.parent


def _git(*arguments: str) -> str:
    """What git says of this checkout; nothing where there is no git, or no history."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def commit() -> str:
    """The commit that is measured, with "+" when the tree differs from it.

    Where git does not know: the environment's UNIHPE_COMMIT, else the first line of build/commit, else "unknown".
    """
    if found := _git("rev-parse", "HEAD"):
        # the results themselves are not what is measured
        return found + "+" * bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results"))
    if given := os.environ.get("UNIHPE_COMMIT", "").strip():
        return given
    with contextlib.suppress(OSError, IndexError):
        return (ROOT / "build" / "commit").read_text(encoding="utf-8").splitlines()[0].strip()
    return "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _optional_versions() -> dict[str, str]:
    """Of what a figure may depend on, where it is installed."""
    found = {}
    for name in ("triton", "numpy", "roma", "symile"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def clocks() -> dict[str, str]:
    """How fast the device runs: nvidia-smi's word on a GPU, else the MHz that the kernel sees on each CPU."""
    if torch.cuda.is_available() and shutil.which("nvidia-smi"):
        fields = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,mig.mode.current"
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return dict(zip(fields.split(","), map(str.strip, done.stdout.strip().split(",")), strict=False))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    return {"cpu MHz": ", ".join(line.split(":", 1)[1].strip() for line in lines if line.startswith("cpu MHz"))}


def provenance() -> dict[str, Any]:
    """commit (with "+" when the tree differs from it), versions, device, clocks and UTC date of a measurement."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **_optional_versions()},
        "device": gpu or f"{_cpu()}, {torch.get_num_threads()} threads",
        "clocks": clocks(),
    }


def write_records(path: Path, records: Sequence[dict[str, Any]], **more: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps({**provenance(), **more, "records": list(records)}, indent=1) + "\n")


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Slope of log(value) in log(size), least squares; None for fewer than four sizes, which say nothing."""
    points = [(math.log(s), math.log(v)) for s, v in zip(sizes, values, strict=True) if v and v > 0]
    if len(points) < 4:
        return None
    x_mean, y_mean = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread


def growth(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How each competitor of each group grows: exponents of time and memory over the sizes that it ran at, and those
    that its algorithm has. Over the larger half of the sizes, at least four: small ones cost their calls alone."""
    rows = []
    for group in dict.fromkeys(record["group"] for record in records):
        of_group = sorted((r for r in records if r["group"] == group), key=lambda r: r["size"])
        for name in of_group[0]["competitors"]:
            ran = [r for r in of_group if "median_s" in r["competitors"].get(name, {})]
            kept = ran[-max(4, len(ran) // 2) :]
            sizes = [r["size"] for r in kept]
            of_name = [r["competitors"][name] for r in kept]
            expected = of_group[0]["expected"].get(name, of_group[0]["expected"].get(""))
            rows.append(
                {
                    "group": group,
                    "name": name,
                    "sizes": sizes,
                    "time": exponent(sizes, [entry["median_s"] for entry in of_name]),
                    "memory": exponent(sizes, [entry["peak_bytes"] or 0 for entry in of_name]),
                    "expected": expected,
                }
            )
    return rows


def main() -> None:
    # here, so that machines without what the pipeline needs can measure the kernels
    from rich.console import Console

    from unihpe_fast.engine.loop import train
    from unihpe_fast.engine.report import print_report
    from unihpe_fast.engine.run_folder import claimed
    from unihpe_fast.train import parse

    arguments = sys.argv[1:]
    if "--json" not in arguments or arguments[-1] == "--json":
        raise SystemExit(__doc__)
    at = arguments.index("--json")
    target = Path(arguments[at + 1])
    del arguments[at : at + 2]
    # before the run, so that a commit made meanwhile is not taken for the one that was measured
    record = {**provenance(), "command": ["unihpe_fast.train", *arguments]}
    job = parse(arguments)
    start = time.perf_counter()
    with claimed(job.run_dir, job.name, resume=job.resume) as run_dir:
        scores = train(job.config, run_dir, resume=job.resume)
    record |= {"seconds": time.perf_counter() - start, "scores": scores}
    write_text(target, json.dumps(record, indent=1) + "\n")
    print_report(scores, console=Console())


if __name__ == "__main__":
    main()
