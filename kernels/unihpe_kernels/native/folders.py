"""The folder of compiled libraries: what lies there is run, so nobody but its user may have put it there."""

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

_LARGEST = 1 << 28  # bytes of a library
_MOST_LINKS = 40  # on the way to a folder, as the kernel has it


def cache() -> Path:
    """The folder, made where it is missing. Raises OSError or RuntimeError where there is none that is trusted."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        home = Path.home()
        if not home.is_absolute():
            raise OSError(f"the home folder must be an absolute path, got {str(home)!r}")
        base = home / ".cache"
    folder = base / "unihpe_kernels"
    _make(folder)
    folder = trusted(folder)
    _check_own(folder, os.stat(folder))
    return folder


def trusted(folder: Path) -> Path:
    """The folder without links on its way, if nobody but root and this user can put another in its place.

    Raises PermissionError naming what on the way there belongs to another user, or is a folder that others can write to
    without the sticky bit, by which they can only add to it.
    """
    pending, here, links = list(reversed(folder.parts[1:])), Path(folder.anchor), 0
    _check_passage(here, os.lstat(here))
    while pending:
        part = pending.pop()
        if part == "..":
            here = here.parent
            continue
        step = here / part
        status = os.lstat(step)
        _check_passage(step, status)
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        target = Path(os.readlink(step))
        if target.is_absolute():
            here = Path(target.anchor)
        pending += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    return here


def digest_of(file: Path) -> str:
    """Of its bytes; OSError for what is no regular file of this user, or can be written to by others."""
    # a pipe would be waited for, and a link may lead anywhere
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise OSError(f"{file} is no regular file of at most {_LARGEST >> 20} MiB")
        _check_own(file, status)
        return hashlib.sha256(opened.read()).hexdigest()[:20]


def sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


@contextlib.contextmanager
def locked(file: Path, seconds: float) -> Iterator[None]:
    """Raises TimeoutError, an OSError, where another process holds it for longer."""
    import fcntl  # Windows has none

    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(file, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{file} is no regular file")
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise TimeoutError(f"{file} has been held by another process for {seconds:.3g} seconds") from None
                time.sleep(0.05)
        try:
            yield
        finally:  # a forked process may still have it open
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    """With what is missing of its parents, for this user alone whatever the umask; in a place that is trusted."""
    if os.path.lexists(folder):
        return
    _make(folder.parent)
    trusted(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)


def _check_passage(path: Path, status: os.stat_result) -> None:
    if not hasattr(os, "getuid"):
        return
    if status.st_uid not in (0, os.getuid()):
        raise PermissionError(f"{path} belongs to another user (uid {status.st_uid})")
    if stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_ISVTX:
        others = status.st_mode & 0o002
        group = status.st_mode & 0o020 and not _is_private(status.st_gid)
        if others or group:
            raise PermissionError(f"{path} can be written by others")


def _check_own(path: Path, status: os.stat_result) -> None:
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user (uid {status.st_uid})")
    if os.name == "posix" and status.st_mode & 0o022:
        raise PermissionError(f"{path} can be written by others")


def _is_private(group: int) -> bool:
    """Whether only this user is in it, as where umask 002 goes with a group for every user."""
    import grp
    import pwd

    try:
        user, members = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and members.gr_name == user.pw_name and set(members.gr_mem) <= {user.pw_name}
