"""Lifting scored on `real-motion` v2 (unihpe_fast/real_motion.py says how), kept with commit and versions.

    python -m benchmarks.real_motion MODEL cmu-val.h5 accad-val.h5 --json benchmarks/results/real-motion.json

MODEL: as `load_model` takes it. The files are those that `make real-motion DATA=..` writes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.record import provenance
from unihpe_fast import load_model
from unihpe_fast.fileio import write_text
from unihpe_fast.real_motion import INPUTS, errors, lines, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--step", type=int, default=1, help="score every STEP-th sample")
    parser.add_argument("--trained", default="", help="what is known of the training, kept in the record")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model, config = load_model(arguments.model)
    record: dict[str, Any] = {
        **provenance(),
        "model": Path(arguments.model).name,
        "trained": arguments.trained,
        "steps": config.optim.steps,
        "step": arguments.step,
        "files": [path.name for path in arguments.files],
        "inputs": {
            name: scores(errors(model, arguments.files, detector, arguments.step)) for name, detector in INPUTS.items()
        },
    }
    for name, found in record["inputs"].items():
        print("\n".join(lines(name, found)))
    if arguments.json:
        write_text(arguments.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
