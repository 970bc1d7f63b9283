"""Triton's cache for a GPU, filled on a machine without one: python -m benchmarks.gpu.cache FOLDER [--processes N]

`make gpu` takes what is in build/triton-cache, wherever it was made: with the same Triton and the same sources its
kernels have the keys that are asked for on the GPU, and what has another key is compiled there as ever. Binaries alone
are kept, which are a tenth of the whole.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import LARGE, LOSSES, POSES, LossCase, PoseCase

_GROUP = "__grp__"


def fill(case: LossCase | PoseCase) -> list[tuple[str, str]]:
    """Compile what a case asks for into Triton's cache; name and hash of each kernel."""
    from benchmarks.gpu import stub_driver

    with stub_driver.installed() as asked:
        run(case)
    return list(asked)


def run(case: LossCase | PoseCase) -> None:
    """The case's launches, whose results mean nothing without a GPU."""
    if isinstance(case, LossCase):
        case.results(*case.inputs(), backend="triton")
    else:
        case.results(case.inputs(), backend="triton")


def relocate(folder: Path) -> int:
    """Have the groups of files in a cache name those that lie beside them: they hold whole paths. Returns how many."""
    groups = sorted(folder.glob(f"*/{_GROUP}*.json"))
    for group in groups:
        held = json.loads(group.read_text(encoding="utf-8"))
        here = {name: str(group.parent / name) for name in held["child_paths"] if (group.parent / name).exists()}
        if here != held["child_paths"]:
            group.write_text(json.dumps({"child_paths": here}), encoding="utf-8")
    return len(groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="the cases whose names hold this")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"TRITON_CACHE_DIR": str(folder), "TRITON_STORE_BINARY_ONLY": "1"}
    os.environ.pop("TRITON_INTERPRET", None)
    # what is timed, then what is checked, few modalities first: they compile in less time and are wanted more, should
    # this be stopped early
    wanted: tuple[Any, ...] = (*reversed(LARGE), *POSES, *reversed(LOSSES))
    cases = [case for case in wanted if options.only in str(case)]
    start, failed = time.monotonic(), 0
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn"), max_tasks_per_child=8) as pool:
        jobs = {pool.submit(fill, case): case for case in cases}
        for job in as_completed(jobs):
            if error := job.exception():
                failed += 1
                print(f"{jobs[job]}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{relocate(folder)} kernels of {len(cases)} cases, {size / 2**20:.1f} MiB, {time.monotonic() - start:.0f} s")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
