"""For test_ranks.py: what each of two processes does in its scenarios."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.engine.poison import poison
from unihpe_fast.config import read_config
from unihpe_fast.engine import runtime
from unihpe_fast.engine.distributed import session
from unihpe_fast.engine.loop import train
from unihpe_fast.evaluate import Arguments, evaluate


def run_among_ranks(folder: Path, batch_number: int, row: int, names: Sequence[str]) -> None:
    """Train as `folder/NAME.yaml` says in `folder/NAME`, one after the other; "one-.." goes on with what is there.

    "images" is evaluated too.
    """
    with session() as ranks, pytest.MonkeyPatch.context() as patch:
        poison(patch, batch_number, row)
        compile_module = torch.compile
        # without the compiler of C++, which would take a minute: graphs are found and run as they are
        patch.setattr(torch, "compile", lambda x, mode, **given: compile_module(x, backend="aot_eager", **given))
        patch.setattr(runtime, "compiler_missing", lambda: None)
        for name in names:
            config, console = read_config(folder / f"{name}.yaml"), Console(file=io.StringIO(), width=200)
            train(config, folder / name, resume=name.startswith("one-"), console=console, ranks=ranks)
        if "images" in names:
            images = folder / "images"
            evaluate(
                Arguments(images, str(folder / "a.h5"), json=images / "evaluated.json", plots=False, device="cpu"),
                Console(file=io.StringIO()),
                ranks,
            )
