"""`python -m unihpe_fast.export RUN [OUT] --to onnx`: a trained run as files for others.

`--to safetensors` (and `--data TEXT --licence TEXT`) writes one file with options, data, licence and scores, which
`load_model`, `Predictor` and the option `--model` of the command `predict` take. `--to onnx`, `--to pt2` (torch.export)
and `--to aoti` (AOTInductor) write a file a part of the model into the folder OUT, each compared with the model first.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from unihpe_fast.engine.checkpoint import SUMMARY, CheckpointError, load_model
from unihpe_fast.engine.exported import OPSET, SAMPLES, SUFFIXES, ExportError, PartName, export_part, parts_of
from unihpe_fast.engine.packaged import SUFFIX, ModelCard, package


@dataclass(frozen=True)
class Arguments:
    """Write a trained run in a form for others: one safetensors file, or its parts as ONNX, torch.export or AOTInductor
    files, which take any batch size."""

    run: tyro.conf.Positional[Path]
    """run folder, with config.yaml and model.safetensors; for parts also a file of --to safetensors, or "lifting" """
    out: tyro.conf.Positional[Path | None] = None
    """safetensors: the file to write; otherwise a folder, exported/NAME where it is not given"""
    to: Literal["safetensors", "onnx", "pt2", "aoti"] = "safetensors"
    """pt2 is read by torch.export.load; aoti is machine code, for torch._inductor.aoti_load_package and C++"""
    parts: tuple[PartName, ...] = ()
    """which of lifting, image and whole to write; all that the model has, where none is named"""
    device: str = "cpu"
    """pt2 and aoti: the device that the files are for"""
    data: str = ""
    """safetensors: what it was trained on, in words"""
    licence: str = ""
    """safetensors: the terms of the data and of the weights"""
    confidence: Literal["binary", "graded"] = "binary"
    """safetensors: whether it has seen confidences 0 and 1 only, or a detector's"""


def export(arguments: Arguments) -> Iterator[str]:
    """Write the files; after each, what is in it, in words. Raises CheckpointError, ValueError or OSError."""
    if arguments.to == "safetensors":
        yield _package(arguments)
        return
    model, config = load_model(arguments.run, "cpu" if arguments.to == "onnx" else arguments.device)
    there = parts_of(model)
    if strange := set(arguments.parts) - set(there):
        raise ExportError(f"--parts must be among {', '.join(there)} for this model, got {', '.join(sorted(strange))}")
    folder = arguments.out or Path("exported") / arguments.run.resolve().stem
    for name in arguments.parts or there:
        path = folder / f"{name}{SUFFIXES[arguments.to]}"
        error = export_part(path, there[name], arguments.to, config, next(model.parameters()).device)
        opset = f", opset {OPSET}" if arguments.to == "onnx" else ""
        inputs = ", ".join(there[name].inputs)
        yield (
            f"{path}: {path.stat().st_size / 2**20:.1f} MiB{opset}, of {inputs}; "
            f"joints at most {error:.1e} mm from the model's, over {SAMPLES} samples"
        )


def _package(arguments: Arguments) -> str:
    if arguments.out is None or arguments.out.suffix != SUFFIX:
        raise ValueError(f"OUT must end in {SUFFIX}, got {arguments.out}")
    for option in ("data", "licence"):
        if not getattr(arguments, option):
            raise ValueError(f"--{option} must be given with --to safetensors, in words")
    model, config = load_model(arguments.run)
    summary = arguments.run / SUMMARY
    try:
        scores = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{summary}: must be JSON as evaluate writes it, got {error}") from error
    card = ModelCard(arguments.data, arguments.licence, scores, arguments.confidence)
    package(arguments.out, model, config, card)
    scored = "with its scores" if scores else f"without scores: {summary} is not there"
    return f"{arguments.out}: {arguments.out.stat().st_size / 2**20:.1f} MiB, {scored}"


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 2 for options and files that cannot be used."""
    parsed = tyro.cli(Arguments, args=arguments, prog="python -m unihpe_fast.export")
    try:
        for said in export(parsed):
            Console().print(said, markup=False, highlight=False, soft_wrap=True)
    except (ValueError, OSError) as error:
        console = Console(stderr=True)
        console.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
