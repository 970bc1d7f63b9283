"""Where weights that were fetched lie, and how a folder of them appears: whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/unihpe_fast, or ~/.cache/unihpe_fast; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the specification: a path that is not absolute is to be ignored
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "unihpe_fast"


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to fill; on success it becomes `target`, on any error it is removed.

    Several processes may do so at once: each fills a folder of its own, the first to end gives `target`, and those of
    the others are removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        # mkdtemp's folder is for its owner alone; the cache is as open as the user's umask says
        umask = os.umask(0)
        os.umask(umask)
        for file in temporary.iterdir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
            file.chmod(0o666 & ~umask)
        temporary.chmod(0o777 & ~umask)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
