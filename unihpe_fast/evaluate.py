"""`python -m unihpe_fast.evaluate RUN --data FILE.h5`: score a trained run.

`torchrun --nproc-per-node N -m unihpe_fast.evaluate ..` is the same on N devices.
"""

import dataclasses
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from unihpe_fast.config import Config, ConfigError
from unihpe_fast.data.describe import caveat_section, source_line
from unihpe_fast.data.loader import SYNTHETIC, row_batches, val_batches
from unihpe_fast.data.store import Store, StoreError
from unihpe_fast.engine.checkpoint import METRICS, SUMMARY, CheckpointError, load_model
from unihpe_fast.engine.distributed import Ranks, SessionError, session
from unihpe_fast.engine.evaluation import predict_together, scorable, score
from unihpe_fast.engine.faults import failed
from unihpe_fast.engine.report import draw_plots, print_report, write_summary
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.fileio import write_text
from unihpe_fast.plots import MetricsError
from unihpe_fast.protocols import PROTOCOLS, ProtocolError, protocol_scores, select
from unihpe_fast.terminal import Terminal


@dataclass(frozen=True)
class Arguments:
    """Score a trained run on prepared data; print the scores and write them to RUN/evaluations/DATA/summary.json.

    Those on the run's own validation data, scored as training scores it, go to RUN/summary.json.
    """

    run: tyro.conf.Positional[Path]
    """run folder, with config.yaml and model.safetensors"""
    data: str
    """prepared HDF5 file, or "synthetic" """
    protocol: Literal["", "h36m-lifting", "h36m-p1", "h36m-p2", "3dpw", "3dhp"] = ""
    """a published protocol: only its samples are scored, and its own errors and means are given too"""
    flip_test: bool = False
    """average the poses of each sample and of its mirror image"""
    drop_bad_s9: bool = False
    """with a Human3.6M protocol: leave out the three sequences of S9 whose 3D annotations are wrong"""
    json: Path | None = None
    """write the scores here too"""
    plots: bool = True
    """draw plots/*.png beside the scores"""
    device: str = "auto"
    """where to run"""


# in a folder of scores: whose they are
DATA = "data.txt"


def scores_folder(arguments: Arguments, config: Config) -> Path:
    """Where the scores belong: the run's folder for those that training ends with, else one of their own."""
    protocol = f"{arguments.protocol}{'-without-bad-s9' if arguments.drop_bad_s9 else ''}"
    variant = [word for word in (protocol, "flip" if arguments.flip_test else "") if word]
    data = _identity(arguments.data)
    if not variant and [_identity(name) for name in config.data.val] == [data]:
        return arguments.run
    name = "-".join([Path(data).stem, *variant])
    for number in count(1):
        folder = arguments.run / "evaluations" / (name if number == 1 else f"{name}-{number}")
        # files of one name may lie in several places
        if not (folder / DATA).exists() or (folder / DATA).read_text(encoding="utf-8").rstrip("\n") == data:
            return folder
    raise AssertionError("count does not end")


def _identity(data: str) -> str:
    return data if data == SYNTHETIC else str(Path(data).resolve())


def evaluate(arguments: Arguments, console: Console, ranks: Ranks | None = None) -> None:
    """ranks: this process among those that score together; all of them call this, and rank 0 speaks and writes.

    Raises ConfigError, CheckpointError, StoreError, ProtocolError, MetricsError or OSError for what cannot be used.
    """
    ranks = ranks or Ranks()
    protocol = PROTOCOLS.get(arguments.protocol)
    if arguments.drop_bad_s9 and (protocol is None or "S9" not in protocol.subjects):
        raise ConfigError("--drop-bad-s9: wanted one of the Human3.6M protocols beside it")
    if protocol and arguments.data == SYNTHETIC:
        raise ConfigError(f"--protocol {protocol.name}: wanted a prepared file as --data")
    model, config = load_model(arguments.run)
    folder = scores_folder(arguments, config)
    data = dataclasses.replace(config.data, val=(arguments.data,))
    config = dataclasses.replace(config, data=data, run=dataclasses.replace(config.run, device=arguments.device))
    try:
        runtime = choose_runtime(config.run)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"--device {arguments.device}: {error}") from error
    lines = [*runtime.lines()[:2], f"data: {source_line(arguments.data)}"]
    if arguments.flip_test:
        lines.append("flip test: on")
    if ranks.first:
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    model.to(runtime.device)
    share = {"rank": ranks.rank, "world_size": ranks.size}
    selection = None
    if protocol:
        selection = select(protocol, Store(arguments.data), drop_bad_s9=arguments.drop_bad_s9)
        batches = row_batches(data, selection.rows, **share)
    else:
        batches = val_batches(data, limit=0, **share)
    predictions = predict_together(
        model, batches, ranks, device=runtime.device, dtype=runtime.dtype, flip_test=arguments.flip_test
    )
    if predictions is None:
        return
    scores = score(predictions, model.mean_pose) | caveat_section(data.val)
    if protocol and selection:
        dropped = "without the three bad sequences of S9" if arguments.drop_bad_s9 else ""
        variant = "; ".join(filter(None, (dropped, Store(arguments.data).caveat)))
        scores["protocol"] = protocol_scores(
            protocol, predictions, lacking=selection.lacking, variant=variant, flip_test=arguments.flip_test
        )
    # files first: a terminal may be in no state to be printed to
    written = [folder / SUMMARY, *([arguments.json] if arguments.json else [])]
    if folder != arguments.run:
        write_text(folder / DATA, _identity(arguments.data) + "\n")
    for path in written:
        write_summary(path, scores)
    if arguments.plots:
        metrics = arguments.run / METRICS if folder == arguments.run else None
        written += draw_plots(folder / "plots", config, model, runtime, metrics=metrics)
    print_report(scores, console=console, rows=scorable(predictions))
    console.print("\nwritten: " + ", ".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    parsed = tyro.cli(Arguments, args=arguments, prog="unihpe_fast.evaluate")
    try:
        with session() as ranks:
            try:
                evaluate(parsed, Terminal(), ranks)
            except (ConfigError, CheckpointError, StoreError, ProtocolError, MetricsError, OSError) as error:
                return failed(error, ranks, 2)
    except SessionError as error:
        return failed(error, Ranks(), 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
