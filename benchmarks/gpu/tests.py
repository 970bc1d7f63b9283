"""Tests dealt out to processes, the longest to compile first: python -m benchmarks.gpu.tests NAME [FILE ..]

Each process takes every N-th test and writes a line of JSON to NAME-k.jsonl when one has ended, so that what was done
stays known when the time is up. As a plugin of pytest (-p benchmarks.gpu.tests) this module does the dealing.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# tests of what compiles longest, by a part of their names; those of the other files are as long as the last
_LONGEST = ("test_device_cases", "test_triton_procrustes", "test_triton_sv_gpu", "test_triton_sv_", "")
# interpreted, compiled or counted without a GPU: `make test` runs them
_WITHOUT_GPU = ("test_triton_benchmarks.py",)


def files() -> list[str]:
    """Those with something for a GPU; of the others the CPU has the last word."""
    found = [p for p in (ROOT / "tests" / "kernels").glob("test_triton_*.py") if p.name not in _WITHOUT_GPU]
    return [str(p.relative_to(ROOT)) for p in (*sorted(found), ROOT / "tests" / "data" / "test_render.py")]


def dealt(names: Sequence[str], part: int, parts: int, every: int = 1) -> list[int]:
    """The numbers of the tests of one process, the longest first; every: of all tests so many are left out but one."""
    order = sorted(range(len(names)), key=lambda k: next(i for i, word in enumerate(_LONGEST) if word in names[k]))
    return order[::every][part::parts]


def results(name: Path) -> dict[str, Any]:
    """How many tests came to what, those that failed and why, and the longest, of what was written by now."""
    outcomes: Counter[str] = Counter()
    failed, lasted = [], []
    for line in _lines(name):
        outcomes[line["outcome"]] += 1
        lasted.append((line["seconds"], line["test"]))
        if line["outcome"] == "failed":
            failed.append({"test": line["test"], "why": line["why"]})
    return {"outcomes": dict(outcomes), "failed": failed, "longest": sorted(lasted, reverse=True)[:5]}


def _lines(name: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(name.parent.glob(f"{name.name}-*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            # the last may have been cut off
            if line.endswith("}"):
                yield json.loads(line)


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--part", nargs=3, type=int, metavar=("K", "N", "EVERY"), help="the K-th of N parts of the tests")
    parser.addoption("--results", type=Path, help="a line of JSON for each test goes to this file")


def pytest_configure(config: Any) -> None:
    if path := config.getoption("--results"):
        config.pluginmanager.register(_Written(path))


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    if part := config.getoption("--part"):
        items[:] = [items[k] for k in dealt([item.nodeid for item in items], *part)]


class _Written:
    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115

    def pytest_runtest_logreport(self, report: Any) -> None:
        # of a test's set-up and end only what went wrong, or that it was skipped
        if report.when != "call" and report.outcome == "passed":
            return
        why = str(report.longrepr or "")
        line = {
            "test": report.nodeid,
            "outcome": report.outcome,
            "seconds": round(report.duration, 2),
            "why": why.strip()[-600:],
        }
        self._file.write(json.dumps(line) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", type=Path)
    parser.add_argument("files", nargs="*", help="the tests (default: all that want a GPU)")
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--every", type=int, default=1, help="only every so many-th test")
    options = parser.parse_args()
    pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "benchmarks.gpu.tests")
    choice = ("-m", "not slow", "-k", "not sanitizer", "--tb=short", "-o", "addopts=--strict-markers")
    running = []
    for k in range(options.processes):
        part = ("--part", str(k), str(options.processes), str(options.every))
        written = ("--results", f"{options.name}-{k}.jsonl")
        with open(f"{options.name}-{k}.log", "w", encoding="utf-8") as log:
            command = (*pytest, *choice, *part, *written, *(options.files or files()))
            running.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT))
    # 5: no test fell to that process
    wrong = [k for k, process in enumerate(running) if process.wait() not in (0, 5)]
    found = results(options.name)
    for failure in found["failed"]:
        print(f"{failure['test']}: {failure['why'].splitlines()[-1] if failure['why'] else ''}")
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found["outcomes"].items())) or "no test ended"
    print(ended + (f"; processes that failed: {wrong}" if wrong else ""))
    return int(bool(wrong) or not found["outcomes"].get("passed"))


if __name__ == "__main__":
    raise SystemExit(main())
