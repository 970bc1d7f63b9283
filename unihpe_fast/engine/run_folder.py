"""The folder of a run: claimed by one process, made by mkdir alone, gone again if nothing came of the run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from unihpe_fast.config import ConfigError
from unihpe_fast.engine.checkpoint import CONFIG
from unihpe_fast.locks import InUse, alone

LOCK = ".lock"


@contextlib.contextmanager
def claimed(folder: Path | None, name: str, *, resume: bool) -> Iterator[Path]:
    """Hold a run's folder for as long as the context lasts.

    folder: None takes a new one, runs/<name> or runs/<name>-2 and so on, which nobody else can have taken. resume:
    whether a run that it holds is to go on. Raises ConfigError where another process works in it, or where it holds a
    run that is not to be resumed. A folder that was made here and in which nothing was left is removed.
    """
    made = folder is None or not folder.exists()
    if folder is None:
        folder = _new_folder(name)
    try:
        with alone(folder / LOCK, folder):
            # looked at under the lock: another process may have begun a run since the command line was read
            if not resume and (folder / CONFIG).exists():
                raise ConfigError(f"--run.dir {folder}: holds a run already; --resume goes on with it")
            yield folder
    except InUse as error:
        raise ConfigError(str(error)) from error
    finally:
        if made:
            # rmdir refuses what is not empty
            with contextlib.suppress(OSError):
                folder.rmdir()


def _new_folder(name: str) -> Path:
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
