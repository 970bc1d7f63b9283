"""How fast the exported lifter is beside the model in eager mode, on one core.

    python -m benchmarks.export_speed --json benchmarks/results/export.json

Every form takes its turn in every round, so that a machine that others use too slows all alike.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import provenance
from unihpe_fast.engine.checkpoint import load_model
from unihpe_fast.engine.exported import SUFFIXES, example, export_part, open_exported, parts_of
from unihpe_fast.fileio import write_text

SIZES = (1, 64, 4096)
ROUNDS = 30


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """The median and the least of the seconds of each call; a first one of each is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: {"median_s": statistics.median(t), "least_s": min(t)} for name, t in times.items()}


def measure(source: str, rounds: int) -> dict[str, Any]:
    model, config = load_model(source)
    part = parts_of(model)["lifting"]
    runs: dict[str, Callable[[Any], object]] = {"eager": lambda inputs: part.module(**inputs)}
    errors = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, suffix in SUFFIXES.items():
            path = Path(folder) / f"lifting{suffix}"
            errors[kind] = export_part(path, part, kind, config)
            runs[kind] = open_exported(path, kind, part)
        found = {}
        with torch.inference_mode():
            for size in SIZES:
                inputs = example(part, size, config.data.image_size)
                calls = {name: lambda run=run, inputs=inputs: run(inputs) for name, run in runs.items()}
                found[str(size)] = in_turns(calls, rounds)
    return {"batches": found, "errors_mm": errors, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lifting", help="a run folder, a file or a name, as load_model takes it")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    origin = provenance()
    record = {**origin, "model": options.model, "load_before": before, **measure(options.model, options.rounds)}
    print(json.dumps(record, indent=1))
    if options.json:
        write_text(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
