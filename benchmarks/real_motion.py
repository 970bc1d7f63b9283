"""Lifting scored on `real-motion` v2 (unihpe_fast/real_motion.py says how), kept with commit and versions.

    python -m benchmarks.real_motion MODEL cmu-val.h5 accad-val.h5 --json benchmarks/results/real-motion.json

MODEL: as `load_model` takes it. The files are those that `make real-motion DATA=..` writes. Besides, each sample's 3D
pose is looked up by its exact 2D pose among GALLERY_SIZE of them (unihpe_fast/retrieval.py).
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import provenance
from unihpe_fast import load_model
from unihpe_fast.config import DataConfig
from unihpe_fast.data.loader import row_batches
from unihpe_fast.data.store import Store
from unihpe_fast.engine.evaluation import predict
from unihpe_fast.fileio import write_text
from unihpe_fast.models.unihpe import UniHPE
from unihpe_fast.real_motion import INPUTS, errors, lines, scores
from unihpe_fast.retrieval import GALLERY_SIZE, retrieve


def retrieval(model: UniHPE, data: DataConfig, step: int) -> dict[str, float | None]:
    """Of 3D poses by 2D ones, over every `step`-th sample of each of data.val, all of which have both."""
    lengths = [len(Store(name)) for name in data.val]
    starts = np.cumsum([0, *lengths])
    rows = np.concatenate([start + np.arange(0, n, step) for start, n in zip(starts, lengths, strict=False)])
    found = predict(model, row_batches(data, rows), device="cpu")
    return retrieve(found.embeddings["pose2d"], found.embeddings["pose3d"], found.target_3d[..., :3], found.valid_3d)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--step", type=int, default=1, help="score every STEP-th sample")
    parser.add_argument("--trained", default="", help="what is known of the training, kept in the record")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model, config = load_model(arguments.model)
    data = replace(config.data, val=tuple(map(str, arguments.files)), image_size=0)
    record: dict[str, Any] = {
        **provenance(),
        "model": Path(arguments.model).name,
        "trained": arguments.trained,
        "steps": config.optim.steps,
        "step": arguments.step,
        "files": [path.name for path in arguments.files],
        "inputs": {
            name: scores(errors(model, arguments.files, detector, arguments.step, level=config.data.level))
            for name, detector in INPUTS.items()
        },
        "retrieval": {"gallery": GALLERY_SIZE, **retrieval(model, data, arguments.step)},
    }
    for name, found in record["inputs"].items():
        print("\n".join(lines(name, found)))
    print(f"2D -> 3D: {record['retrieval']}")
    if arguments.json:
        write_text(arguments.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
