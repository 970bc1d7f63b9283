"""For test_kill.py: forks a training run per trial, so that torch is imported once, and kills it at random."""

import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from tests.support.tiny import tiny
from unihpe_fast.engine.checkpoint import checkpoints, load_latest
from unihpe_fast.engine.loop import train


def main() -> None:
    run_dir, trials = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    config = tiny(optim={"steps": 100_000}, run={"checkpoint_every": 1, "log_every": 1})
    chance, steps = random.Random(0), []
    for trial in range(trials):
        child = os.fork()
        if child == 0:
            train(config, run_dir, resume=trial > 0, console=Console(file=io.StringIO()))
            os._exit(3)  # it must have been killed long before
        before = steps[-1] if steps else 0
        # let it get past the resume, then strike anywhere, most likely inside a save
        give_up = time.monotonic() + 60
        while int((checkpoints(run_dir) or [Path("step_0")])[0].stem.split("_")[1]) <= before:
            if os.waitpid(child, os.WNOHANG)[0] or time.monotonic() > give_up:
                raise SystemExit(f"trial {trial}: the run stopped by itself or hangs at step {before}")
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(list((run_dir / "checkpoints").glob(".*"))) <= 1, "temporary files pile up"
        warnings: list[str] = []
        state = load_latest(run_dir, warnings.append)
        assert state is not None
        assert not warnings, warnings
        steps.append(state["step"])
    lines = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_bytes().splitlines()[:-1]]
    print(json.dumps({"steps": steps, "metrics": lines}))


if __name__ == "__main__":
    main()
