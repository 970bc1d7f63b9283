"""A training that is killed at random moments, again and again."""

import io
import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.support.tiny import tiny
from unihpe_fast.engine.checkpoint import METRICS, checkpoints, load_latest
from unihpe_fast.engine.loop import train


# each takes half a second
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_run_killed_again_and_again_always_resumes_from_a_valid_checkpoint(tmp_path: Path, kills: int) -> None:
    chance, steps = random.Random(0), [0]
    for _ in range(kills):
        child = _begin(tmp_path, resume=steps != [0])
        # let it get past the resume, then strike anywhere, most likely inside a save
        give_up = time.monotonic() + 60
        while int((checkpoints(tmp_path) or [Path("step_0")])[0].stem.split("_")[1]) <= steps[-1]:
            assert not os.waitpid(child, os.WNOHANG)[0], "the run stopped by itself"
            assert time.monotonic() < give_up, "the run hangs"
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(list((tmp_path / "checkpoints").glob(".*"))) <= 1, "temporary files pile up"
        state = load_latest(tmp_path, pytest.fail)
        assert state is not None
        steps.append(state["step"])
    # every run went on from where the killed one had saved, and no step stands in the log twice
    assert all(a < b for a, b in itertools.pairwise(steps))
    logged = [json.loads(line)["step"] for line in (tmp_path / METRICS).read_bytes().splitlines()[:-1]]
    assert logged == list(range(1, len(logged) + 1))


def _begin(run: Path, *, resume: bool) -> int:
    """A process that trains until it is killed."""
    child = os.fork()
    if not child:
        try:
            # threads of OpenMP do not come along with a fork
            torch.set_num_threads(1)
            config = tiny(optim={"steps": 100_000}, run={"checkpoint_every": 1, "log_every": 1})
            train(config, run, resume=resume, console=Console(file=io.StringIO()))
        finally:
            os._exit(3)
    return child
