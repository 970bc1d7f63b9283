"""For test_ranks.py: the two-process side of its scenarios, in one start of torchrun."""

import io
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.engine.poison import poison
from unihpe_fast.config import read_config
from unihpe_fast.engine.distributed import Ranks, session
from unihpe_fast.engine.loop import train


def main() -> None:
    folder, batch_number, row = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)

    def run(name: str, ranks: Ranks, *, resume: bool) -> None:
        console = Console(file=io.StringIO(), width=200)
        train(read_config(folder / f"{name}.yaml"), folder / name, resume=resume, console=console, ranks=ranks)

    with session() as ranks, pytest.MonkeyPatch.context() as patch:
        poison(patch, batch_number, row)
        run("two", ranks, resume=False)
        run("one-two", ranks, resume=True)
        run("images", ranks, resume=False)
    print("done", flush=True)


if __name__ == "__main__":
    main()
