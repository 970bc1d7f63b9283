"""`python -m unihpe_fast.train [PRESET] [--section.option VALUE ..]`: train, score and leave a run folder."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console

from unihpe_fast.config import PRESETS, Config, ConfigError, check, check_resumed, read_config
from unihpe_fast.data.store import StoreError
from unihpe_fast.engine.checkpoint import CONFIG, CheckpointError
from unihpe_fast.engine.loop import train
from unihpe_fast.engine.report import print_report

USAGE = f"""Train UniHPE. The presets: {", ".join(PRESETS)} (the default: synthetic, which needs no file).

[PRESET]        the first argument, a name from above
--config FILE   start from a config.yaml instead of a preset
--resume RUN    go on with the run in this folder, with its own options"""


@dataclass(frozen=True)
class Job:
    config: Config
    run_dir: Path
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


def _free_folder(name: str) -> Path:
    """runs/<name>, or runs/<name>-2 and so on when that is taken."""
    number, folder = 1, Path("runs") / name
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def _without_given_mappings(config: Config, arguments: list[str]) -> Config:
    """The configuration whose mappings are empty where the command line gives them: only then tyro takes any name."""
    given = {word.replace("_", "-") for word in arguments}
    data, image = config.data, config.model.image
    if "--data.augment-for" in given:
        data = replace(data, augment_for={})
    if "--model.image.backbone-args" in given:
        image = replace(image, backbone_args={})
    return replace(config, data=data, model=replace(config.model, image=image))


def parse(arguments: list[str]) -> Job:
    """The command line as a job; ConfigError for names and values that cannot be used."""
    arguments = list(arguments)
    resume, file = _take(arguments, "--resume"), _take(arguments, "--config")
    preset = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if sum(x is not None for x in (resume, file, preset)) > 1:
        raise ConfigError("give one of PRESET, --config and --resume")
    if resume is not None:
        if not (Path(resume) / CONFIG).is_file():
            raise ConfigError(f"--resume {resume}: no {CONFIG} there; wanted the folder of an earlier run")
        default = read_config(Path(resume) / CONFIG)
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
        return Job(config, Path(resume), resume=True)
    if config.run.dir and (Path(config.run.dir) / CONFIG).exists():
        raise ConfigError(f"--run.dir {config.run.dir}: holds a run already; --resume goes on with it")
    return Job(config, Path(config.run.dir) if config.run.dir else _free_folder(preset or "run"), resume=False)


def main(arguments: list[str] | None = None) -> int:
    console = Console()
    try:
        job = parse(sys.argv[1:] if arguments is None else arguments)
        scores = train(job.config, job.run_dir, resume=job.resume, console=console)
    except (ConfigError, CheckpointError, StoreError, FileNotFoundError) as error:
        errors = Console(stderr=True)
        errors.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 2
    print_report(scores, console=console)
    console.print(f"run folder: {job.run_dir}", highlight=False, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
