"""`python -m unihpe_fast.evaluate RUN --data FILE.h5`: score a trained run.

`torchrun --nproc-per-node N -m unihpe_fast.evaluate ..` is the same on N devices.
"""

import dataclasses
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from unihpe_fast import real_motion
from unihpe_fast.config import Config, ConfigError
from unihpe_fast.data.batches import LoaderError
from unihpe_fast.data.describe import data_section, source_line
from unihpe_fast.data.loader import SYNTHETIC, row_batches, val_batches
from unihpe_fast.data.store import Store, StoreError
from unihpe_fast.engine.checkpoint import METRICS, SUMMARY, CheckpointError, load_model
from unihpe_fast.engine.distributed import Ranks, SessionError, session
from unihpe_fast.engine.evaluation import predict_some, predict_together, scorable, score
from unihpe_fast.engine.faults import failed
from unihpe_fast.engine.report import axes_line, draw_plots, print_report, write_summary
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.fileio import write_text
from unihpe_fast.plots import MetricsError
from unihpe_fast.protocols import PROTOCOLS, ProtocolError, protocol_scores, select
from unihpe_fast.real_motion import INPUTS
from unihpe_fast.terminal import Terminal


@dataclass(frozen=True)
class Arguments:
    """Score a trained run on prepared data; print the scores and write them to RUN/evaluations/DATA/summary.json.

    Those on the run's own validation data, scored as training scores it, go to RUN/summary.json.
    """

    run: tyro.conf.Positional[Path]
    """run folder, with config.yaml and model.safetensors"""
    data: str
    """prepared HDF5 file, or "synthetic"; with real-motion one or several files with commas between them"""
    protocol: Literal["", "h36m-lifting", "h36m-p1", "h36m-p2", "3dpw", "3dhp", "real-motion"] = ""
    """a published protocol: only its samples are scored, and its own errors and means are given too; real-motion:
    lifting alone, with exact 2D, a detector's and with gaps, by family of actions, person and joint"""
    step: int = 1
    """with real-motion: score every so many samples"""
    training: Path | None = None
    """with real-motion: the prepared file that was trained on, to plot the error by the distance from its poses"""
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


REAL_MOTION = "real-motion"
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
    if arguments.protocol == REAL_MOTION:
        if ranks.first:
            evaluate_real_motion(arguments, console)
        return
    if arguments.step != 1 or arguments.training is not None:
        raise ConfigError(f"--{'step' if arguments.step != 1 else 'training'}: wanted --protocol real-motion beside it")
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
    scores = score(predictions, model.mean_pose) | data_section(data)
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
        written += draw_plots(folder / "plots", *predict_some(model, config.data, runtime), metrics=metrics)
    print_report(scores, console=console, rows=scorable(predictions))
    console.print("\nwritten: " + ", ".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)


def evaluate_real_motion(arguments: Arguments, console: Console) -> None:
    """Raises as `evaluate` does; it runs in one process, and whatever has a 2D encoder can be scored."""
    if arguments.flip_test:
        raise ConfigError("--flip-test: must be off with --protocol real-motion, got on")
    if arguments.step < 1:
        raise ConfigError(f"--step {arguments.step}: must be at least 1")
    if arguments.data == SYNTHETIC:
        raise ConfigError("--protocol real-motion: wanted prepared files as --data")
    model, config = load_model(arguments.run)
    if "pose2d" not in model.modalities:
        raise ConfigError(f"--protocol real-motion: the model must read 2D poses, got {', '.join(model.modalities)}")
    try:
        device = choose_runtime(dataclasses.replace(config.run, device=arguments.device)).device
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"--device {arguments.device}: {error}") from error
    files = [Path(name) for name in arguments.data.split(",")]
    for path in files:
        complete = Store(path).present[1:].all()
        if not complete:
            raise StoreError(f"{path}: present: wanted 2D and 3D poses of all samples for --protocol real-motion")
    model.to(device)
    options: dict[str, Any] = {"device": device, "level": config.data.level}
    found = {name: real_motion.errors(model, files, of, arguments.step, **options) for name, of in INPUTS.items()}
    inputs = {name: real_motion.scores(of) for name, of in found.items()}
    folder = arguments.run / "evaluations" / REAL_MOTION
    result = {
        "protocol": REAL_MOTION,
        "axes": config.data.axes,
        "files": [path.name for path in files],
        "step": arguments.step,
        "inputs": inputs,
    }
    written = [folder / SUMMARY, *([arguments.json] if arguments.json else [])]
    for path in written:
        write_summary(path, result)
    if arguments.plots:
        from unihpe_fast.real_motion_plots import plot_errors, plot_worst

        distance = None
        if arguments.training is not None:
            known = real_motion.training_poses(arguments.training)
            distance = real_motion.distance_to(found["exact"].target, known)
        written.append(plot_errors(inputs, found["exact"], distance, folder / "plots" / "errors.png"))
        written += [plot_worst(of, folder / "plots" / f"worst-{name}.png") for name, of in found.items()]
    console.print(axes_line(config.data.axes), highlight=False, markup=False, soft_wrap=True)
    for name, scored in inputs.items():
        for line in real_motion.lines(name, scored):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print("\nwritten: " + ", ".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    parsed = tyro.cli(Arguments, args=arguments, prog="unihpe_fast.evaluate")
    try:
        with session() as ranks:
            try:
                evaluate(parsed, Terminal(), ranks)
            except (ConfigError, CheckpointError, StoreError, ProtocolError, MetricsError, OSError) as error:
                return failed(error, ranks, 2)
            except LoaderError as error:
                return failed(error, ranks, 1)
    except SessionError as error:
        return failed(error, Ranks(), 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
