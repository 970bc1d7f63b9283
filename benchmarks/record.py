"""Train one run and keep its scores with commit, versions and device, as benchmarks/report wants them.

python -m benchmarks.record synthetic --json benchmarks/results/synthetic.json [--section.option VALUE ..]
"""

import json
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.provenance import provenance
from unihpe_fast.engine.loop import train
from unihpe_fast.engine.report import print_report
from unihpe_fast.fileio import write_text
from unihpe_fast.train import parse


def main() -> None:
    arguments = sys.argv[1:]
    if "--json" not in arguments or arguments[-1] == "--json":
        raise SystemExit(__doc__)
    at = arguments.index("--json")
    target = Path(arguments[at + 1])
    del arguments[at : at + 2]
    # before the run, so that a commit made meanwhile is not taken for the one that was measured
    record = {**provenance(), "command": ["unihpe_fast.train", *arguments]}
    job = parse(arguments)
    start = time.perf_counter()
    scores = train(job.config, job.run_dir, resume=job.resume)
    record |= {"seconds": time.perf_counter() - start, "scores": scores}
    write_text(target, json.dumps(record, indent=1) + "\n")
    print_report(scores, console=Console())


if __name__ == "__main__":
    main()
