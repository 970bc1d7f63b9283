"""Files that are whole or not there: written under a temporary name, flushed to the disk, then renamed."""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` to write to; on success it replaces `target`, on any error it is removed.

    A reader, or a process killed at any moment, sees the old file or the new one, never a part.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # the rename itself must survive a power cut too
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(target: str | Path, text: str) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_lines(target: str | Path, lines: Iterable[str]) -> None:
    """Each line as it comes, so that a long file is never in memory as a whole."""
    with atomic_path(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def without_nan(value: Any, name: str = "") -> tuple[Any, list[str]]:
    """The value with None in place of NaN and infinities, which JSON does not have, and the names of those."""
    if isinstance(value, Mapping):
        parts = {key: without_nan(part, f"{name}.{key}" if name else str(key)) for key, part in value.items()}
        return {key: part for key, (part, _) in parts.items()}, [bad for _, names in parts.values() for bad in names]
    if isinstance(value, list | tuple):
        listed = [without_nan(part, f"{name}[{number}]") for number, part in enumerate(value)]
        return [part for part, _ in listed], [bad for _, names in listed for bad in names]
    if isinstance(value, float) and not math.isfinite(value):
        return None, [name]
    return value, []
