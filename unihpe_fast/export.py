"""`python -m unihpe_fast.export RUN OUT.safetensors --data TEXT --licence TEXT`: a trained run as one file.

`load_model`, `Predictor` and the option `--model` of the command `predict` take it.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from unihpe_fast.engine.checkpoint import SUMMARY, CheckpointError, load_model
from unihpe_fast.engine.packaged import SUFFIX, ModelCard, package


@dataclass(frozen=True)
class Arguments:
    """Write a trained run as one safetensors file, with its options, its data, their licence and its scores."""

    run: tyro.conf.Positional[Path]
    """run folder, with config.yaml and model.safetensors"""
    out: tyro.conf.Positional[Path]
    """file to write, .safetensors"""
    data: str
    """what it was trained on, in words"""
    licence: str
    """the terms of the data and of the weights"""
    confidence: Literal["binary", "graded"] = "binary"
    """whether it has seen confidences 0 and 1 only, or a detector's"""


def export(arguments: Arguments) -> str:
    """Write the file and return what is in it, in words. Raises CheckpointError, ValueError or OSError."""
    if arguments.out.suffix != SUFFIX:
        raise ValueError(f"OUT must end in {SUFFIX}, got {arguments.out}")
    model, config = load_model(arguments.run)
    summary = arguments.run / SUMMARY
    try:
        scores = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{summary}: must be JSON as evaluate writes it, got {error}") from error
    package(arguments.out, model, config, ModelCard(arguments.data, arguments.licence, scores, arguments.confidence))
    scored = "with its scores" if scores else f"without scores: {summary} is not there"
    return f"{arguments.out}: {arguments.out.stat().st_size / 2**20:.1f} MiB, {scored}"


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 2 for options and files that cannot be used."""
    parsed = tyro.cli(Arguments, args=arguments, prog="python -m unihpe_fast.export")
    try:
        said = export(parsed)
    except (ValueError, OSError) as error:
        console = Console(stderr=True)
        console.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 2
    Console().print(said, markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
