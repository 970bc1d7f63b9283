"""What a figure needs beside it to mean anything: commit, versions, device, date."""

import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def _git(*arguments: str) -> str:
    root = Path(__file__).parent.parent
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def provenance() -> dict[str, Any]:
    """commit (with "+" when the tree differs from it), versions, device and UTC date of a measurement."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    # the results themselves are not what is measured
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {
        "commit": (_git("rev-parse", "HEAD") or "unknown") + ("+" if changed else ""),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "device": gpu or f"{_cpu()}, {torch.get_num_threads()} threads",
    }
