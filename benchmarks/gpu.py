"""Everything that needs a GPU, in one go and within eight minutes: python -m benchmarks.gpu OUT

Installs nothing. A part that fails or runs out of its time does not stop the others. OUT gets each part's log and
results, and gpu.json, which benchmarks/results takes as it is; the summary is printed last. Exit status 1 when a part
failed.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.provenance import clocks, provenance
from unihpe_fast.fileio import write_text

ROOT = Path(__file__).parent.parent
BUDGET = 470.0  # seconds in all
# compiled or counted without a GPU: `make test` runs them
_WITHOUT_GPU = {"test_compile.py", "test_sv_cost.py", "test_import.py"}
_PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
_BENCHMARK = (*_PYTEST, "--benchmark-only", "--benchmark-columns=median")
_TESTS = (*_PYTEST, "--durations=5", "-k", "not sanitizer")
_SANITIZED = "tests/kernels/test_triton_sv_gpu.py"
# part -> its file and its time, seconds
_TIMED = {
    "loss": ("benchmarks/test_sv_loss.py", 110.0),
    "drop_in": ("benchmarks/test_drop_in.py", 60.0),
    "alignment": ("benchmarks/test_procrustes.py", 30.0),
    "ceilings": ("benchmarks/test_ceilings.py", 30.0),
    "train_step": ("benchmarks/test_train_step.py", 110.0),
}
_AHEAD = "ahead"
_COMPILED = {name: _TIMED[name][0] for name in ("loss", "train_step")}


@dataclass
class Part:
    """What became of one command. status: of its process; "out of time" when it was stopped."""

    name: str
    status: str
    seconds: float
    last_line: str


def run(name: str, command: Sequence[str], limit: float, out: Path) -> Part:
    """Run one part with its output in OUT/NAME.log; what it wrote by then counts when its time is up."""
    if limit <= 0:
        return Part(name, "not begun, the time was up", 0.0, "")
    start = time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", "kernels"]), "PYTHONUNBUFFERED": "1"}
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = "ok" if child.wait(limit) == 0 else f"failed, status {child.returncode}"
        except subprocess.TimeoutExpired:
            status = f"out of time after {limit:.0f} s"
        finally:
            # its children too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    lines = (out / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    part = Part(name, status, time.monotonic() - start, lines[-1] if lines else "")
    print(f"{part.name}: {part.status}, {part.seconds:.0f} s: {part.last_line}", flush=True)
    return part


def test_files(parts: int) -> list[list[str]]:
    """The GPU's test files dealt out, the largest first."""
    files = [p for p in (ROOT / "tests" / "kernels").glob("test_*.py") if p.name not in _WITHOUT_GPU]
    files += [ROOT / "tests" / "data" / "test_render.py"]
    dealt: list[list[str]] = [[] for _ in range(parts)]
    for k, path in enumerate(sorted(files, key=lambda p: -p.stat().st_size)):
        dealt[k % parts].append(str(path.relative_to(ROOT)))
    return [files for files in dealt if files]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--without-gpu", action="store_true", help="go through the parts on a CPU, to see that they run"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.without_gpu:
        print("make gpu: torch sees no CUDA device", file=sys.stderr)
        return 1
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    record = provenance()
    end = time.monotonic() + BUDGET
    parts: list[Part] = []

    def step(name: str, command: Sequence[str], limit: float) -> None:
        parts.append(run(name, command, min(limit, end - time.monotonic()), out))

    step("environment", (sys.executable, "-m", "unihpe_fast.env"), 30)
    beside = {
        f"tests-{k}": (*_TESTS, f"--junitxml={out}/tests-{k}.xml", *files)
        for k, files in enumerate(test_files(max(2, min(8, (os.cpu_count() or 2) // 2))))
    }
    # once each, untimed: torch.compile finds on the disk later what it compiles here
    beside |= {f"{_AHEAD}-{name}": (*_PYTEST, "--benchmark-disable", file) for name, file in _COMPILED.items()}
    limit = min(120, end - time.monotonic())
    with ThreadPoolExecutor(len(beside)) as pool:
        parts += pool.map(lambda name: run(name, beside[name], limit, out), beside)
    # one process at a time from here on: the GPU's time is measured
    for name, (file, limit) in _TIMED.items():
        step(name, (*_BENCHMARK, file, "--record", str(out / f"{name}.json")), limit)
    step("profile", (sys.executable, "-m", "benchmarks.profile_step", "--json", str(out / "profile.json")), 40)
    step("sanitizer", (*_PYTEST, "-rs", _SANITIZED, "-k", "sanitizer"), 25)

    record |= {"clocks_after": clocks(), "parts": [asdict(part) for part in parts], "records": []}
    for name in _TIMED:
        if (file := out / f"{name}.json").exists():
            record["records"] += json.loads(file.read_text())["records"]
    if (file := out / "profile.json").exists():
        record["profile"] = json.loads(file.read_text())["profile"]
    write_text(out / "gpu.json", json.dumps(record, indent=1) + "\n")
    print(f"\n{record['device']}, commit {record['commit'][:10]}; results in {out}/gpu.json")
    for part in parts:
        print(f"  {part.name:16} {part.status:24} {part.seconds:5.0f} s  {part.last_line[:100]}")
    # what was not compiled ahead is compiled when it is timed
    return int(any(part.status != "ok" for part in parts if not part.name.startswith(_AHEAD)))


if __name__ == "__main__":
    raise SystemExit(main())
