"""`python -m unihpe_fast.train [PRESET] [--section.option VALUE ..]`: train, score and leave a run folder.

`torchrun --nproc-per-node N -m unihpe_fast.train ..` is the same on N devices.
"""

import contextlib
import io
import re
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console

from unihpe_fast.config import Config, ConfigError, check, check_resumed, read_config
from unihpe_fast.data.batches import LoaderError
from unihpe_fast.data.store import StoreError
from unihpe_fast.engine.checkpoint import CONFIG, JOB, CheckpointError, run_config
from unihpe_fast.engine.distributed import DEFAULT_TIMEOUT, Ranks, SessionError, restarts, session, torchrun_job
from unihpe_fast.engine.faults import RunError, Stopped, failed
from unihpe_fast.engine.loop import train
from unihpe_fast.engine.report import print_report
from unihpe_fast.engine.run_folder import claimed
from unihpe_fast.presets import PRESETS
from unihpe_fast.terminal import Terminal

USAGE = f"""Train UniHPE. The presets: {", ".join(PRESETS)} (the default: synthetic, which needs no file).

[PRESET]        the first argument, a name from above
--config FILE   start from a config.yaml instead of a preset
--resume RUN    go on with the run in this folder, with its own options

`torchrun --nproc-per-node N -m unihpe_fast.train ..` trains on N devices; see docs/training.md."""


@dataclass(frozen=True)
class Job:
    """A command line. run_dir: None takes a new folder in runs/, named after `name`."""

    config: Config
    name: str
    run_dir: Path | None
    resume: bool


def _take(arguments: list[str], option: str) -> str | None:
    """Remove `option VALUE` from the arguments and return the value."""
    if joined := [word for word in arguments if word.startswith(f"{option}=")]:
        at = arguments.index(joined[0])
        arguments[at : at + 1] = joined[0].split("=", 1)
    if option not in arguments:
        return None
    at = arguments.index(option)
    if at + 1 == len(arguments):
        raise ConfigError(f"{option}: wanted a path after it")
    value = arguments[at + 1]
    del arguments[at : at + 2]
    return value


def _without_given_mappings(config: Config, arguments: list[str]) -> Config:
    """The configuration whose mappings are empty where the command line gives them: only then tyro takes any name."""
    given = {word.replace("_", "-") for word in arguments}
    data, image = config.data, config.model.image
    if "--data.augment-for" in given:
        data = replace(data, augment_for={})
    if "--model.image.backbone-args" in given:
        image = replace(image, backbone_args={})
    return replace(config, data=data, model=replace(config.model, image=image))


def _own_folder(name: str) -> Path | None:
    """The folder that this torchrun command made before it was restarted, if it came so far."""
    number, found = 1, None
    folder = Path("runs") / name
    while folder.exists():
        if (folder / JOB).is_file() and (folder / JOB).read_text(encoding="utf-8") == torchrun_job():
            found = folder
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return found


def parse(arguments: list[str]) -> Job:
    """The command line as a job; ConfigError for names and values that cannot be used.

    When torchrun starts the same command again after a failure, the job is to go on with what it had begun.
    """
    arguments = list(arguments)
    resume, file = _take(arguments, "--resume"), _take(arguments, "--config")
    preset = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if sum(x is not None for x in (resume, file, preset)) > 1:
        raise ConfigError("give one of PRESET, --config and --resume")
    if resume is not None:
        default = run_config(Path(resume))
    elif file is not None:
        default = read_config(file)
    else:
        preset = preset or "synthetic"
        if preset not in PRESETS:
            raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        default = PRESETS[preset]
    start = _without_given_mappings(default, arguments)
    config = check(tyro.cli(Config, default=start, args=arguments, description=USAGE, prog="unihpe_fast.train"))
    if resume is not None:
        check_resumed(default, config)
        return Job(config, "", Path(resume), resume=True)
    name = preset or "run"
    if restarts() > 0:
        folder = Path(config.run.dir) if config.run.dir else _own_folder(name)
        if folder and (folder / CONFIG).is_file():
            check_resumed(read_config(folder / CONFIG), config)
            return Job(config, name, folder, resume=True)
    elif config.run.dir and (Path(config.run.dir) / CONFIG).exists():
        raise ConfigError(f"--run.dir {config.run.dir}: holds a run already; --resume goes on with it")
    return Job(config, name, Path(config.run.dir) if config.run.dir else None, resume=False)


def main(arguments: list[str] | None = None) -> int:
    """0 when the run is done, 1 when it cannot go on, 2 for what cannot be used; see Stopped.exit_code for a signal."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console = Terminal()
    try:
        with session(_timeout(arguments)) as ranks:
            return _run(arguments, console, ranks)
    except SessionError as error:
        return failed(error, Ranks(), 2)


def _run(arguments: list[str], console: Console, ranks: Ranks) -> int:
    """The command, as one of the processes that have met."""
    with contextlib.ExitStack() as held:
        try:
            job = ranks.from_first(lambda: _parsed_together(arguments, ranks))
            claim = claimed(job.run_dir, job.name, resume=job.resume)
            run_dir = ranks.from_first(lambda: held.enter_context(claim))
            scores = train(job.config, run_dir, resume=job.resume, console=console, ranks=ranks)
        except Stopped as stopped:
            if ranks.first:
                name = signal.Signals(stopped.signum).name
                text = f"stopped by {name}, saved; go on with --resume {run_dir}"
                console.print(text, highlight=False, markup=False, soft_wrap=True)
            return stopped.exit_code
        except (ConfigError, CheckpointError, StoreError, FileNotFoundError) as error:
            return failed(error, ranks, 2)
        except (RunError, LoaderError, OSError) as error:
            return failed(error, ranks, 1)
        if ranks.first:
            print_report(scores, console=console)
            console.print(f"run folder: {run_dir}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _parsed_together(arguments: list[str], ranks: Ranks) -> Job:
    """`parse`; among several processes the parser's own words are an error that all of them have, on one line."""
    if ranks.size == 1:
        return parse(arguments)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse(arguments)
    except SystemExit as end:
        if not end.code:
            raise
        words = re.sub(r"[^\x20-\x7e]+", " ", said.getvalue())
        raise ConfigError(" ".join(words.split())) from None


def _timeout(arguments: list[str]) -> float:
    """--run.timeout, looked for before the options are parsed: processes must have met to be told what was parsed."""
    words = [part for word in arguments for part in word.split("=", 1)]
    with contextlib.suppress(ValueError, IndexError):
        value = float(words[words.index("--run.timeout") + 1])
        if value > 0:
            return value
    return DEFAULT_TIMEOUT


if __name__ == "__main__":
    sys.exit(main())
