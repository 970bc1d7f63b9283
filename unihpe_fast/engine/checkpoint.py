"""Checkpoints that are whole or not there, and what a run folder needs to be read back."""

import contextlib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from unihpe_fast.config import Config, ConfigError, config_of, read_config
from unihpe_fast.engine.faults import CheckpointError, RunError
from unihpe_fast.engine.packaged import SUFFIX, build, load_packaged, shipped
from unihpe_fast.fileio import atomic_path
from unihpe_fast.models.unihpe import UniHPE

CONFIG, WEIGHTS, METRICS, SUMMARY = "config.yaml", "model.safetensors", "metrics.jsonl", "summary.json"
# says which torchrun command made the folder, for its processes to find it after a restart
JOB = ".torchrun"


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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"{path}: could not be written ({reason}); {free / 2**20:.1f} MiB are free on its disk"
        raise SaveError(message) from error


def checkpoints(run_dir: Path) -> list[Path]:
    """The run's checkpoints, newest first."""
    numbers = {
        path: int(match[1])
        for path in (run_dir / "checkpoints").glob("step_*.pt")
        if (match := re.fullmatch(r"step_(\d{1,18})\.pt", path.name)) and path.is_file()
    }
    return sorted(numbers, key=numbers.__getitem__, reverse=True)


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


def load_latest(
    run_dir: Path, warn: Callable[[str], None], fault: Callable[[Path, Any], str] = lambda path, state: ""
) -> dict[str, Any] | None:
    """The newest checkpoint that can be read and has no `fault`, on the CPU; None when the run has none.

    fault: what is wrong with a file's state, empty for nothing; what it raises comes out. A damaged checkpoint is
    skipped after `warn` was told; raises CheckpointError when there are some and none is sound. Nothing but tensors and
    plain values is ever unpickled.
    """
    found = checkpoints(run_dir)
    reason = ""
    for number, path in enumerate(found):
        try:
            _check_sums(path)
            state = _unpickled(path)
        except _Damaged as error:
            reason = str(error)
        else:
            reason = fault(path, state)
        if reason:
            warn(f"{path}: damaged, going back to the one before ({reason})")
            continue
        # the run goes on from here: newer, damaged ones would count among those that are kept
        for damaged in found[:number]:
            damaged.rename(damaged.with_suffix(".damaged"))
        return state
    if found:
        raise CheckpointError(f"{run_dir}: none of its {len(found)} checkpoints can be read; the oldest: {reason}")
    return None


class _Damaged(ValueError):
    """A checkpoint that cannot be read; the message says why, without its name."""


def _check_sums(path: Path) -> None:
    """_Damaged where a byte is not what was written.

    A checkpoint is a zip archive with a CRC-32 of every part, which torch writes but does not look at: weights with a
    flipped bit would be taken. Its parts are not compressed; one that is could unpack to fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise _Damaged("a part of it is compressed, which torch does not do")
            if part := archive.testzip():
                raise _Damaged(f"{part}: its bytes are not those that its checksum is of")
    except _Damaged:
        raise
    except Exception as error:  # zipfile raises whatever the damage leads to
        raise _Damaged(_reason(error)) from error


def _unpickled(path: Path, *, mmap: bool = False) -> Any:
    """mmap: read nothing of a tensor until its numbers are asked for."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises whatever the damage leads to: struct.error, IndexError, AttributeError ..
        raise _Damaged(_reason(error)) from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def run_config(run_dir: Path) -> Config:
    """The options of a run: its config.yaml, or where that is gone those in its newest checkpoint, of which nothing
    else is read.

    Raises ConfigError where the folder has neither.
    """
    if (run_dir / CONFIG).is_file():
        return read_config(run_dir / CONFIG)
    for path in checkpoints(run_dir):
        with contextlib.suppress(_Damaged):
            saved = _unpickled(path, mmap=True)
            if isinstance(saved, dict) and isinstance(saved.get(CONFIG), str):
                return config_of(saved[CONFIG], f"{path}: {CONFIG}")
    raise ConfigError(f"--resume {run_dir}: no {CONFIG} there; wanted the folder of an earlier run")


def save_weights(run_dir: Path, state: Mapping[str, Tensor]) -> None:
    with saving(run_dir / WEIGHTS), atomic_path(run_dir / WEIGHTS) as temporary:
        safetensors.torch.save_file({name: x.detach().cpu().contiguous() for name, x in state.items()}, temporary)


def load_model(source: str | Path, device: torch.device | str = "cpu") -> tuple[UniHPE, Config]:
    """A trained model in evaluation mode, and the options it was trained with.

    source: the name of a model that comes with the package ("lifting"), a run folder, or a file written by
    `python -m unihpe_fast.export`. Raises CheckpointError where there is none, or where its parts do not fit together.
    """
    path = Path(source)
    if path.is_dir():
        model, config = _load_run(path)
    elif path.is_file():
        model, config = load_packaged(path)
    elif str(source) in shipped():
        model, config = load_packaged(shipped()[str(source)])
    else:
        names = ", ".join(shipped())
        wanted = f"a run folder, a {SUFFIX} file of unihpe_fast.export or one of {names}"
        raise CheckpointError(f"{source}: must be {wanted}; there is no such file or folder")
    return model.to(device), config


def _load_run(run_dir: Path) -> tuple[UniHPE, Config]:
    for name in (CONFIG, WEIGHTS):
        if not (run_dir / name).is_file():
            raise CheckpointError(f"{run_dir}: no {name} there; wanted the folder of a finished run")
    config = read_config(run_dir / CONFIG)
    return build(config, run_dir / WEIGHTS), config
