"""Which contrastive term, if any, helps image -> 3D to be learned from data of other kinds (docs/results.md says more).

    python -m benchmarks.alignment --clips real-motion/pose2sim.h5 --json benchmarks/results/alignment.json

Every finished run is written at once, and a second call does only what is missing. Runs take one thread.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.alignment.arms import ARMS, BACKBONE, MOTION, PHOTOS, RENDERED, Data, configure, run
from benchmarks.record import provenance
from unihpe_fast.fileio import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motion", default="real-motion/cmu-train.h5", help="prepared motion without pictures")
    parser.add_argument("--rendered", default="real-motion/pictures-train.h5", help="a few rendered pictures of it")
    parser.add_argument("--photos", default="real-motion/lspet.h5", help="photographs with 2D alone")
    parser.add_argument("--val", default="real-motion/pictures-val.h5", help="rendered pictures of unseen people")
    parser.add_argument("--clips", help="pictures of real people; without, the runs are not scored on any")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()

    torch.set_num_threads(1)
    said: dict[str, Any] = {"steps": options.steps, "backbone": BACKBONE}
    said["batch"] = {"motion": MOTION, "rendered": RENDERED, "photos": PHOTOS}
    paths = (options.motion, options.rendered, options.photos, options.val, options.clips)
    said["files"] = [Path(path).name for path in paths if path]
    record: dict[str, Any] = {**provenance(), **said, "runs": []}
    if options.json.exists():
        record = json.loads(options.json.read_text())
        for name, value in said.items():
            if record[name] != value:
                raise SystemExit(f"{options.json}: {name} must be that of its runs, {record[name]}, got {value}")
    done = {(each["arm"], each["seed"]) for each in record["runs"]}
    wanted = [(name, seed) for seed in options.seeds for name in options.arms if (name, seed) not in done]
    data = None
    for name, seed in wanted:
        config = configure(ARMS[name], options.motion, options.steps, seed)
        data = data or Data(config, options.rendered, options.photos, options.val, options.clips)
        found = run(config, ARMS[name], data)
        record["runs"].append({"arm": name, "seed": seed, **found})
        kinds = ("rendered", "photos", "val", *(["clips"] if options.clips else []))
        record["samples"] = {kind: len(getattr(data, kind)) for kind in kinds}
        write_text(options.json, json.dumps(record, indent=1) + "\n")
        print(f"{name} seed {seed}: {found['image']['mpjpe']:.1f} / {found['image']['pa_mpjpe']:.1f} mm", flush=True)


if __name__ == "__main__":
    main()
