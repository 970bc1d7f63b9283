"""`python -m unihpe_fast.evaluate RUN --data FILE.h5`: score a trained run."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from unihpe_fast.config import ConfigError
from unihpe_fast.data.loader import val_batches
from unihpe_fast.data.store import StoreError
from unihpe_fast.engine.checkpoint import SUMMARY, CheckpointError, load_model
from unihpe_fast.engine.evaluation import predict, scorable, score
from unihpe_fast.engine.report import draw_plots, print_report, write_summary
from unihpe_fast.engine.runtime import choose_runtime


@dataclass(frozen=True)
class Arguments:
    """Score a trained run on prepared data; print the scores and write them to RUN/summary.json."""

    run: tyro.conf.Positional[Path]
    """run folder, with config.yaml and model.safetensors"""
    data: str
    """prepared HDF5 file, or "synthetic" """
    json: Path | None = None
    """write the scores here too"""
    plots: bool = True
    """draw RUN/plots/*.png"""
    device: str = "auto"
    """where to run"""


def evaluate(arguments: Arguments, console: Console) -> None:
    """Raises ConfigError, CheckpointError, StoreError or OSError for what cannot be read or written."""
    model, config = load_model(arguments.run)
    data = dataclasses.replace(config.data, val=(arguments.data,))
    config = dataclasses.replace(config, data=data, run=dataclasses.replace(config.run, device=arguments.device))
    try:
        runtime = choose_runtime(config.run)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"--device {arguments.device}: {error}") from error
    for line in runtime.lines()[:2]:
        console.print(line, highlight=False, soft_wrap=True)
    model.to(runtime.device)
    predictions = predict(model, val_batches(data, limit=0), device=runtime.device, dtype=runtime.dtype)
    scores = score(predictions, model.mean_pose)
    print_report(scores, console=console, rows=scorable(predictions))
    written = [arguments.run / SUMMARY, *([arguments.json] if arguments.json else [])]
    for path in written:
        write_summary(path, scores)
    if arguments.plots:
        written += draw_plots(arguments.run, config, model, runtime)
    console.print("\nwritten: " + ", ".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    parsed = tyro.cli(Arguments, args=arguments, prog="unihpe_fast.evaluate")
    try:
        evaluate(parsed, Console())
    except (ConfigError, CheckpointError, StoreError, OSError) as error:
        errors = Console(stderr=True)
        errors.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
