"""What a figure needs beside it to mean anything: commit, versions, device, clocks, date."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

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
