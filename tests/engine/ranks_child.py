"""For test_ranks.py: the two-process side of its scenarios, in one start of torchrun."""

import io
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.engine.poison import poison
from unihpe_fast.config import read_config
from unihpe_fast.engine import runtime
from unihpe_fast.engine.distributed import Ranks, session
from unihpe_fast.engine.loop import train
from unihpe_fast.evaluate import Arguments, evaluate


def main() -> None:
    folder, batch_number, row = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)

    def run(name: str, ranks: Ranks, *, resume: bool) -> None:
        console = Console(file=io.StringIO(), width=200)
        train(read_config(folder / f"{name}.yaml"), folder / name, resume=resume, console=console, ranks=ranks)

    with session() as ranks, pytest.MonkeyPatch.context() as patch:
        poison(patch, batch_number, row)
        for name in ("two", "divided", "images", "images-divided"):
            run(name, ranks, resume=False)
        images = folder / "images"
        evaluate(
            Arguments(images, str(folder / "a.h5"), json=images / "evaluated.json", plots=False, device="cpu"),
            Console(file=io.StringIO()),
            ranks,
        )
        for name in ("one-two", "one-divided"):
            run(name, ranks, resume=True)
        compile_module = torch.compile
        # without the compiler of C++, which would take a minute: graphs are found and run as they are
        patch.setattr(torch, "compile", lambda x, mode, **given: compile_module(x, backend="aot_eager", **given))
        patch.setattr(runtime, "compiler_missing", lambda: None)
        for name in ("compiled", "compiled-divided"):
            run(name, ranks, resume=False)
    print("done", flush=True)


if __name__ == "__main__":
    main()
