"""Block sizes, warps and stages of the loss's kernels by trying them: python -m benchmarks.gpu.tune OUT [--seconds 90]

On a GPU. Writes OUT/tuned-<device>.json, which kernels/unihpe_kernels/tuned takes without the "tuned-". A setting
enters it when it is right, and faster than the one in use by more than the spread of its rounds. The time is shared
among the kernels, the most used first; what it did not reach keeps what it has. --compile-only fills Triton's cache
with what the sweep will ask for, on a machine with or without a GPU.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.cases import REHEARSAL, LossCase
from benchmarks.harness import seconds
from benchmarks.record import commit
from unihpe_fast.fileio import write_text
from unihpe_kernels import tuned
from unihpe_kernels.sv_contrastive import triton_paired

SMALL, LARGE = 1024, (4096, 16_384)  # settings are by sizes up to SMALL, and beyond
ROUNDS = 5
WIDTH = 512
# tile of anchors, tile of samples, depth, warps, stages: what compiled without spills, or nearly, for sm_90
_FEW = [(128, 128, 32, 4, 3), (128, 64, 32, 4, 3), (128, 64, 64, 8, 3), (64, 64, 64, 8, 2), (64, 64, 64, 4, 3),
        (64, 32, 64, 4, 3), (64, 32, 64, 8, 2), (32, 32, 64, 4, 3)]  # fmt: skip
_FEW_FLOAT = [(64, 32, 32, 8, 2), (32, 32, 32, 8, 2), (32, 32, 32, 4, 3), (64, 64, 32, 8, 2)]
_MANY = [(64, 32, 64, 4, 3), (64, 32, 64, 8, 3), (32, 32, 64, 4, 2), (16, 32, 64, 4, 2)]
_MANY_FLOAT = [(16, 32, 16, 8, 2), (32, 32, 16, 8, 2), (16, 32, 16, 4, 2)]


@dataclass(frozen=True)
class Kernel:
    """One entry of a file of settings: forward or backward, so many modalities of one kind of type."""

    direction: str
    count: int
    dtype: str

    @property
    def name(self) -> str:
        return triton_paired.setting_names(self.direction, self.count, False, self.kind)[0]

    @property
    def kind(self) -> str:
        return "float" if self.dtype == "float32" else "half"

    def candidates(self) -> list[dict[str, int]]:
        of = {("half", True): _FEW, ("float", True): _FEW_FLOAT, ("half", False): _MANY, ("float", False): _MANY_FLOAT}
        names = ("tile_i", "tile_j", "depth", "num_warps", "num_stages")
        return [{**dict(zip(names, values, strict=True)), "programs": 512} for values in of[self.kind, self.count <= 3]]


KERNELS = [
    Kernel(direction, count, dtype)
    for count, dtype in (
        (3, "bfloat16"), (3, "float32"), (2, "bfloat16"), (4, "bfloat16"), (2, "float32"), (4, "float32"),
    )
    for direction in ("forward", "backward")
]  # fmt: skip


@contextlib.contextmanager
def in_use(kernel: Kernel, setting: dict[str, int]) -> Iterator[None]:
    """The loss takes this setting for this kernel, whatever the size."""
    chosen = triton_paired.settings

    def settings(names: tuple[str, ...], size: int, device: torch.device) -> dict[str, int]:
        return setting if names[0] == kernel.name else chosen(names, size, device)

    with mock.patch.object(triton_paired, "settings", settings):
        yield


def once(case: LossCase, embeddings: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    return case.results(embeddings, None, "triton")


def sweep(limit: float, device: str, sizes: Sequence[int], rounds: int = ROUNDS) -> dict[str, Any]:
    """Name of a kernel -> "before", "tried" with seconds or why not, and "best" where one is better, at each size."""
    end = time.monotonic() + limit
    found: dict[str, Any] = {}
    for number, (size, kernel) in enumerate(itertools.product(sizes, KERNELS)):
        left = len(sizes) * len(KERNELS) - number
        own_end = time.monotonic() + (end - time.monotonic()) / left
        if time.monotonic() >= end:
            break
        case = LossCase("paired", kernel.count, kernel.dtype, batch=size, width=min(WIDTH, size))
        embeddings = [rows.to(device) for rows in case.inputs()[0]]
        wanted, _ = once(case, embeddings)
        before = timed(case, embeddings, rounds)
        entry = found.setdefault(kernel.name, {})[str(size)] = {"before": before, "tried": []}
        best, best_setting = before, None
        for setting in kernel.candidates():
            if time.monotonic() >= own_end:
                break
            with in_use(kernel, setting):
                row: dict[str, Any] = {"setting": setting}
                entry["tried"].append(row)
                try:
                    loss, _ = once(case, embeddings)  # compiles
                    if not REHEARSAL and not abs(loss - wanted) <= 1e-5 * (1 + abs(wanted)):
                        row["not_timed"] = f"wrong: {loss.item():.7g}, not {wanted.item():.7g}"
                        continue
                    row |= timed(case, embeddings, rounds)
                except Exception as error:
                    # a setting that does not compile or has not the memory is one that is not taken
                    row["not_timed"] = (
                        f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
                    )
                    continue
            if row["median_s"] + row["spread_s"] < best["median_s"]:
                best, best_setting = row, setting
        entry["best"] = best_setting
        gain = before["median_s"] / best["median_s"]
        print(f"{kernel.name}, B = {size}: {len(entry['tried'])} tried, {gain:.2f} x by {best_setting}", flush=True)
    return found


def timed(case: LossCase, embeddings: Sequence[torch.Tensor], rounds: int) -> dict[str, float]:
    """The whole step, of which the kernel is a part: what is chosen is what makes the step faster."""
    taken = sorted(seconds(lambda: once(case, embeddings)) for _ in range(rounds))
    return {"median_s": statistics.median(taken), "spread_s": taken[-2] - taken[1] if rounds > 3 else 0.0}


def settings_file(found: dict[str, Any], measured: str, names: tuple[str, ...], sizes: Sequence[int]) -> dict[str, Any]:
    """A file of settings: every kernel that got a better one, and what it has for sizes that were not tried."""
    table: dict[str, Any] = {"measured": measured}
    for kernel in KERNELS:
        by_size = {size: found.get(kernel.name, {}).get(str(size), {}).get("best") for size in sizes}
        if not any(by_size.values()):
            continue
        keys = triton_paired.setting_names(kernel.direction, kernel.count, False, kernel.kind)
        rows = [{"up_to": SMALL, **tuned.choose(names, keys, SMALL)}]
        for size, chosen in by_size.items():
            rows.append({"up_to": size, **(chosen or tuned.choose(names, keys, size))})
        del rows[-1]["up_to"]
        table[kernel.name] = rows
    return table


def compile_ahead(processes: int) -> None:
    """Fill Triton's cache, by processes that have no GPU."""
    jobs = [(kernel, setting) for kernel in KERNELS for setting in kernel.candidates()]
    # bindings need memory that is asked for but never touched
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for (kernel, setting), why in zip(jobs, pool.map(_compile, jobs), strict=True):
            print(f"{kernel.name} {setting}: {why or 'compiled'}", flush=True)


def _compile(job: tuple[Kernel, dict[str, int]]) -> str:
    from benchmarks.gpu import stub_driver

    kernel, setting = job
    case = LossCase("paired", kernel.count, kernel.dtype, batch=2048, width=WIDTH)
    try:
        with stub_driver.installed(), in_use(kernel, setting):
            once(case, case.inputs()[0])
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--compile-only", action="store_true")
    options = parser.parse_args()
    if options.compile_only:
        compile_ahead(max(1, min(4, (os.cpu_count() or 2) // 3)))
        return
    if REHEARSAL:
        from benchmarks.gpu import stub_driver

        with stub_driver.installed(compiles=False):
            card, sizes = stub_driver.CARD, (64, 128)
            found = sweep(options.seconds, "cpu", sizes, rounds=1)
            names = tuned._names(torch.device("cpu"))
        measured = "nothing: a rehearsal without a GPU"
    else:
        card, sizes = torch.cuda.get_device_name(), LARGE
        found = sweep(options.seconds, "cuda", sizes)
        names = tuned._names(torch.device("cuda", 0))
        measured = f"by benchmarks.gpu.tune on {card} at commit {commit()[:10]}, B = {' and '.join(map(str, sizes))}"
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "sweep.json", json.dumps({"sweep": found}, indent=1) + "\n")
    table = settings_file(found, measured, names, sizes)
    write_text(options.out / f"tuned-{tuned.file_name(card)}.json", json.dumps(table, indent=1) + "\n")
    print(f"{len(table) - 1} of {len(KERNELS)} kernels got other settings")


if __name__ == "__main__":
    main()
