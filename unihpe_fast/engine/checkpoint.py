"""Checkpoints that are whole or not there, and what a run folder needs to be read back."""

import contextlib
import dataclasses
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unihpe_fast.config import Config, ConfigError, config_of, read_config
from unihpe_fast.engine.faults import RunError
from unihpe_fast.fileio import atomic_path
from unihpe_fast.models.unihpe import UniHPE

CONFIG, WEIGHTS, METRICS, SUMMARY = "config.yaml", "model.safetensors", "metrics.jsonl", "summary.json"
# says which torchrun command made the folder, for its processes to find it after a restart
JOB = ".torchrun"


class CheckpointError(ValueError):
    """A run folder, checkpoint or weights file that cannot be used; the message names the file."""


class SaveError(RunError):
    """A file of the run that could not be written; what was there before is untouched."""


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn what writing to a full or broken disk raises into a SaveError that names the file and the space there is."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's own writer says RuntimeError, and nothing of the reason
        free = shutil.disk_usage(path.parent if path.parent.exists() else path.parent.parent).free
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"{path}: could not be written ({reason}); {free / 2**20:.1f} MiB are free on its disk"
        raise SaveError(message) from error


def checkpoints(run_dir: Path) -> list[Path]:
    """The run's checkpoints, newest first."""
    found = (run_dir / "checkpoints").glob("step_*.pt")
    return sorted((p for p in found if re.fullmatch(r"step_\d+\.pt", p.name)), key=lambda p: p.name, reverse=True)


def save_checkpoint(run_dir: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write `state` (tensors and plain Python values) as the checkpoint of `step`; keep only the newest `keep`.

    Raises SaveError where it cannot be written; the earlier ones are all there then.
    """
    path = run_dir / "checkpoints" / f"step_{step:08d}.pt"
    with saving(path), atomic_path(path) as temporary:
        torch.save(dict(state), temporary)
    # what a kill in the middle of an earlier save left goes too
    for old in [*checkpoints(run_dir)[max(keep, 1) :], *path.parent.glob(".step_*.tmp")]:
        old.unlink(missing_ok=True)
    return path


def load_latest(run_dir: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, on the CPU; None when the run has none.

    A damaged one is skipped after `warn` was told; raises CheckpointError when there are some and none can be read.
    Nothing but tensors and plain values is ever unpickled.
    """
    found = checkpoints(run_dir)
    for number, path in enumerate(found):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (
            RuntimeError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
            EOFError,
            OSError,
            ValueError,
            KeyError,
        ) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warn(f"{path}: damaged, going back to the one before ({reason})")
            continue
        # the run goes on from here: newer, damaged ones would count among those that are kept
        for damaged in found[:number]:
            damaged.rename(damaged.with_suffix(".damaged"))
        return state
    if found:
        raise CheckpointError(f"{run_dir}: none of its {len(found)} checkpoints can be read")
    return None


def run_config(run_dir: Path) -> Config:
    """The options of a run: its config.yaml, or where that is gone those in its newest checkpoint.

    Raises ConfigError where the folder has neither.
    """
    if (run_dir / CONFIG).is_file():
        return read_config(run_dir / CONFIG)
    saved = None
    with contextlib.suppress(CheckpointError):
        saved = load_latest(run_dir, lambda _: None)
    if saved is None or CONFIG not in saved:
        raise ConfigError(f"--resume {run_dir}: no {CONFIG} there; wanted the folder of an earlier run")
    return config_of(str(saved[CONFIG]), f"{checkpoints(run_dir)[0]}: {CONFIG}")


def save_weights(run_dir: Path, state: Mapping[str, Tensor]) -> None:
    with saving(run_dir / WEIGHTS), atomic_path(run_dir / WEIGHTS) as temporary:
        safetensors.torch.save_file({name: x.detach().cpu().contiguous() for name, x in state.items()}, temporary)


def load_model(run_dir: str | Path, device: torch.device | str = "cpu") -> tuple[UniHPE, Config]:
    """The trained model of a run folder, in evaluation mode, and the run's options.

    Raises CheckpointError where the folder lacks config.yaml or model.safetensors, or where they do not fit together.
    """
    run_dir = Path(run_dir)
    for name in (CONFIG, WEIGHTS):
        if not (run_dir / name).is_file():
            raise CheckpointError(f"{run_dir}: no {name} there; wanted the folder of a finished run")
    config = read_config(run_dir / CONFIG)
    # the weights are in the folder: nothing is to be fetched
    image = dataclasses.replace(config.model.image, pretrained=False)
    model = UniHPE(dataclasses.replace(config.model, image=image), image_size=config.data.image_size)
    try:
        model.load_state_dict(safetensors.torch.load_file(run_dir / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{run_dir / WEIGHTS}: {error}") from error
    return model.to(device).eval(), config
