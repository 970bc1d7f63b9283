"""Which contrastive term helps: none, pairwise, singular-value or both, several seeds each, the rest alike.

    python -m benchmarks.ablation --train cmu-train.h5 --val cmu-val.h5 --json benchmarks/results/ablation.json

Runs go in parallel, one CPU thread each; every finished run is written at once, and a second call does only what is
missing.
"""

import argparse
import dataclasses
import io
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.record import provenance
from unihpe_fast.config import Config
from unihpe_fast.fileio import write_text
from unihpe_fast.presets import PRESETS

VARIANTS = {
    "none": {"singular_value": 0.0, "pairwise": 0.0},
    "pairwise": {"singular_value": 0.0},
    "singular-value": {"pairwise": 0.0},
    "both": {},
}


def configure(options: argparse.Namespace, variant: str, seed: int) -> Config:
    config = PRESETS[options.preset]
    steps = options.steps or config.optim.steps
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train=(options.train,), val=(options.val,)),
        loss=dataclasses.replace(config.loss, **VARIANTS[variant]),
        optim=dataclasses.replace(config.optim, steps=steps),
        run=dataclasses.replace(config.run, seed=seed, plots=False, keep=1, compile=options.compile),
    )


def one(config: Config) -> dict[str, Any]:
    import torch
    from rich.console import Console

    from unihpe_fast.engine.loop import train

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return train(config, Path(folder), console=Console(file=io.StringIO()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default="cmu-train.h5")
    parser.add_argument("--val", default="cmu-val.h5")
    parser.add_argument("--preset", default="cmu-images")
    parser.add_argument("--steps", type=int, help="default: the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--compile", default="off", help="of torch.compile; off saves compiling in every process")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()

    steps = options.steps or PRESETS[options.preset].optim.steps
    record = {**provenance(), "preset": options.preset, "steps": steps, "runs": []}
    if options.json.exists():
        record = json.loads(options.json.read_text())
        if (record["preset"], record["steps"]) != (options.preset, steps):
            raise SystemExit(f"{options.json}: holds runs of {record['preset']}, {record['steps']} steps")
    done = {(run["variant"], run["seed"]) for run in record["runs"]}
    wanted = [(v, s) for s in options.seeds for v in options.variants if (v, s) not in done]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        jobs = {pool.submit(one, configure(options, v, s)): (v, s) for v, s in wanted}
        for job in as_completed(jobs):
            variant, seed = jobs[job]
            scores = job.result()
            record["runs"].append({"variant": variant, "seed": seed, "scores": scores})
            write_text(options.json, json.dumps(record, indent=1) + "\n")
            print(f"{variant} seed {seed}: image {scores['image']} pose2d {scores['pose2d']}", flush=True)


if __name__ == "__main__":
    main()
