"""Everything that needs a GPU, in one go and within eight minutes: python -m benchmarks.gpu OUT

Installs nothing. A part that fails or runs out of its time does not stop the others, and none takes another's time:
each ends by its own mark on the clock, early ones leave theirs to the next. OUT gets at most four files, all but the
last rewritten after every part: gpu.json, which benchmarks/results takes as it is, summary.txt, which is printed last,
logs.tgz with every part's output, and tuned-<device>.json. Exit status 1 when a part failed.

What Triton compiled before (`python -m benchmarks.gpu.cache build/triton-cache`, on any machine) is taken from
build/triton-cache.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import tests as gpu_tests
from benchmarks.gpu.cache import relocate
from benchmarks.gpu.summary import summary
from benchmarks.record import clocks, provenance
from unihpe_fast.fileio import write_text

ROOT = Path(__file__).parents[2]
BUDGET = 470.0  # seconds in all
CACHE = ROOT / "build" / "triton-cache"
_PYTEST = "-m pytest -q -p no:cacheprovider"
_BENCHMARK = f"{_PYTEST} --benchmark-only --benchmark-columns=median --record {{out}}/{{name}}.json"
_SANITIZER = f"{_PYTEST} -rs tests/kernels/test_triton_sv_gpu.py -k"


@dataclass(frozen=True)
class Step:
    """One command of Python, by the second of the run at which it must have ended.

    {out} in it is the folder of working files, {name} the step's own name. What it leaves as {name}.json there enters
    gpu.json: "records" are added up, other keys taken over. informational: a failure is told and not counted.
    interpreted: without a GPU it goes through Triton's interpreter. rehearsal: what stands behind the command then.
    """

    name: str
    until: float
    command: str
    informational: bool = False
    interpreted: bool = False
    rehearsal: str = ""


# one after the other; a new part is one more line
STEPS = (
    Step("environment", 12, "-m unihpe_fast.env"),
    Step("rates", 20, "-m benchmarks.gpu.rates --json {out}/{name}.json"),
    Step("correctness", 60, "-m benchmarks.gpu.tests {out}/{name} tests/kernels/test_device_cases.py --processes 14",
         interpreted=True, rehearsal="--processes 1 --every 5"),
    Step("tests", 110, "-m benchmarks.gpu.tests {out}/{name} --processes 12",
         interpreted=True, rehearsal="--processes 1 --every 150"),
    Step("loss", 170, f"{_BENCHMARK} --peers ours benchmarks/test_sv_loss.py", rehearsal="--smallest"),
    Step("ceilings", 185, f"{_BENCHMARK} benchmarks/test_ceilings.py", rehearsal="--smallest"),
    Step("alignment", 200, f"{_BENCHMARK} benchmarks/test_procrustes.py", rehearsal="--smallest"),
    Step("loss-peers", 218, f"{_BENCHMARK} --peers eager benchmarks/test_sv_loss.py", rehearsal="--smallest"),
    Step("loss-compiled", 230, f"{_BENCHMARK} --peers compiled benchmarks/test_sv_loss.py", rehearsal="--smallest"),
    Step("sweep", 315, "-m benchmarks.gpu.tune {out} --seconds 80", rehearsal="--seconds 20"),
    Step("drop_in", 350, f"{_BENCHMARK} benchmarks/test_drop_in.py", rehearsal="--smallest"),
    Step("train_step", 420, f"{_BENCHMARK} benchmarks/test_train_step.py", rehearsal="--smallest"),
    Step("memcheck", 438, f"{_SANITIZER} memcheck"),
    Step("profile", 455, "-m benchmarks.gpu.profile_step --json {out}/{name}.json"),
    Step("racecheck", 465, f"{_SANITIZER} racecheck", informational=True),
)  # fmt: skip
# beside them from the start, on cores that are idle; stopped when their time is up, and what they compiled stays
BESIDE = (
    # once each, untimed: torch.compile finds on the disk later what it compiles here. It uses the GPU, so not beside
    # what is timed
    Step("ahead-train_step", 110, f"{_PYTEST} --benchmark-disable --peers compiled benchmarks/test_train_step.py",
         True, rehearsal="--smallest"),
    Step("ahead-sweep", 230, "-m benchmarks.gpu.tune {out} --compile-only", True, rehearsal="--help"),
)  # fmt: skip


@dataclass
class Part:
    """What became of one step. status: of its process; "out of time" when it was stopped."""

    name: str
    status: str
    seconds: float
    last_line: str
    informational: bool = False
    tests: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return self.status != "ok" and not self.informational


class Child:
    """A running command with its output in FOLDER/NAME.log."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self.name, self._log, self._start = name, folder / f"{name}.log", time.monotonic()
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def ended(self, limit: float) -> Part:
        """Wait for its end, or stop it and its children after `limit` seconds; what it wrote by then counts."""
        try:
            status = "ok" if self._process.wait(max(limit, 0.0)) == 0 else f"failed, status {self._process.returncode}"
        except subprocess.TimeoutExpired:
            status = f"out of time after {time.monotonic() - self._start:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return Part(self.name, status, time.monotonic() - self._start, lines[-1][:300] if lines else "")


class Run:
    """The steps of one run, and the files that tell of it."""

    def __init__(
        self, out: Path, rehearsal: bool, clock: float, steps: Sequence[Step], beside: Sequence[Step] = ()
    ) -> None:
        self._out, self._rehearsal, self._clock = out, rehearsal, clock
        self._steps, self._all_beside = steps, beside
        self._work = Path(tempfile.mkdtemp(prefix="unihpe-gpu-"))
        self._start = time.monotonic()
        self._record = {**provenance(), "parts": [], "records": []}
        self.parts: list[Part] = []

    def __call__(self) -> None:
        self._take_cache()
        beside = {step: self._begin(step) for step in self._all_beside}
        try:
            for step in self._steps:
                for other in [b for b in beside if step.until > b.until]:
                    self._end(other, beside.pop(other), 0)
                left = step.until * self._clock - self._seconds()
                if left <= 0:
                    self._add(Part(step.name, "not begun, the time was up", 0.0, "", step.informational))
                    continue
                self._end(step, self._begin(step), left)
        finally:
            for other in list(beside):
                self._end(other, beside.pop(other), 0)
            self._record["clocks_after"] = clocks()
            self._write()
            shutil.rmtree(self._work, ignore_errors=True)

    def _seconds(self) -> float:
        return time.monotonic() - self._start

    def _begin(self, step: Step) -> Child:
        words = step.command.format(out=self._work, name=step.name).split()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([".", "kernels"]),
            "PYTHONUNBUFFERED": "1",
            # many processes on few cores
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_COMPILE_THREADS": "2",
            "UNIHPE_COMMIT": self._record["commit"],
            "TRITON_CACHE_DIR": str(self._work / "triton-cache"),
        }
        if self._rehearsal:
            words += step.rehearsal.split()
            environment["UNIHPE_REHEARSAL"] = "1"
            if step.interpreted:
                environment["TRITON_INTERPRET"] = "1"
        return Child(step.name, (sys.executable, *words), self._work, environment)

    def _end(self, step: Step, child: Child, limit: float) -> None:
        part = child.ended(limit)
        part.informational = step.informational
        if found := gpu_tests.results(self._work / step.name)["outcomes"]:
            part.tests = gpu_tests.results(self._work / step.name)
            # a process that was stopped has no last line
            part.last_line = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.items()))
        self._add(part)

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        print(f"{part.name}: {part.status}, {part.seconds:.0f} s: {part.last_line}", flush=True)
        self._write()

    def _take_cache(self) -> None:
        """A copy of what was compiled before, which the parts add to."""
        cache = self._work / "triton-cache"
        if CACHE.is_dir():
            shutil.copytree(CACHE, cache)
            print(f"{relocate(cache)} kernels compiled before, from {CACHE}", flush=True)

    def _write(self) -> None:
        """Everything that is known by now."""
        self._record |= {"parts": [asdict(part) for part in self.parts], "records": self._records()}
        for step in self._steps:
            self._record |= {key: value for key, value in self._of(step).items() if key not in self._record}
        write_text(self._out / "gpu.json", json.dumps(self._record, indent=1) + "\n")
        write_text(self._out / "summary.txt", summary(self._record))
        for file in self._work.glob("tuned-*.json"):
            shutil.copy(file, self._out)
        whole = self._out / "logs.tgz"
        with tarfile.open(whole.with_suffix(".part"), "w:gz") as archive:
            for file in sorted(p for p in self._work.iterdir() if p.suffix in (".log", ".jsonl", ".json")):
                archive.add(file, file.name)
        whole.with_suffix(".part").replace(whole)

    def _of(self, step: Step) -> dict[str, Any]:
        """What a step left, or part of it where it was stopped."""
        try:
            return json.loads((self._work / f"{step.name}.json").read_text())
        except (OSError, ValueError):
            return {}

    def _records(self) -> list[dict[str, Any]]:
        """Of all steps; those of one group and size, with other competitors, are one record, whose ratios are each to
        the time of ours beside it."""
        merged: dict[tuple[str, int], dict[str, Any]] = {}
        for step in self._steps:
            for record in self._of(step).get("records", []):
                first = merged.setdefault((record["group"], record["size"]), record)
                first["competitors"] = {**record["competitors"], **first["competitors"]}
        return list(merged.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="go through all of it on a CPU, at small sizes")
    parser.add_argument("--clock", type=float, default=1.0, help="all times by so much (default: %(default)s)")
    parser.add_argument("--steps", nargs="+", metavar="NAME", help="only these, and nothing beside")
    options = parser.parse_args()
    if unknown := set(options.steps or ()) - {step.name for step in STEPS}:
        parser.error(f"--steps must be of {', '.join(step.name for step in STEPS)}, got {', '.join(sorted(unknown))}")
    if not torch.cuda.is_available() and not options.rehearse:
        print("make gpu: torch sees no CUDA device", file=sys.stderr)
        return 1
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    steps = STEPS if options.steps is None else [step for step in STEPS if step.name in options.steps]
    run = Run(out, options.rehearse, options.clock, steps, () if options.steps else BESIDE)
    run()
    print("\n" + (out / "summary.txt").read_text(encoding="utf-8"))
    return int(any(part.failed for part in run.parts))
