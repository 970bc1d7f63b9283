"""One process at a time in a run folder and at an output file."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path


class InUse(ValueError):
    """A folder or file that another process is at work in; the message names both."""


@contextlib.contextmanager
def alone(path: Path, what: Path) -> Iterator[None]:
    """Hold the lock file `path` for as long as the context lasts; `what` is what it stands for, to be named.

    Raises InUse at once, naming the process and machine that hold it. The kernel frees the lock of a process that
    dies, however it does; the file is removed at the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "a process that just began"
            os.close(descriptor)
            raise InUse(f"{what}: must be used by one process at a time, got this one beside {holder}") from None
        except BaseException:
            os.close(descriptor)
            raise
        # the one before removed the file between our opening and locking it: ours is a file without a name
        if _is_still(path, descriptor):
            break
        os.close(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        if _is_still(path, descriptor):
            path.unlink()
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
