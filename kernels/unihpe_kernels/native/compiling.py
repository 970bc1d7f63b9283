"""Running a compiler whose time, output and children are bounded, whatever it is."""

import contextlib
import hashlib
import os
import secrets
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from unihpe_kernels.native.folders import digest_of, sync

# Not -ffast-math: NaN and infinity must stay what they are. The two flags in its place say that nobody reads errno or
# the floating point exceptions, without which comparisons and square roots are not done in vectors.
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")
TIMEOUT = 120.0  # seconds of all attempts at a source together
VERSION_TIMEOUT = 20.0  # seconds until a compiler has said what it is
_MOST = 16 << 20  # bytes that a compiler may print
_KEPT = 2000  # bytes of them, the last ones, that an error shows
NOT_FOUND = "no C++ compiler is found (the environment's UNIHPE_KERNELS_CXX or CXX may name one)"
_running: set[subprocess.Popen[bytes]] = set()


class CompilerError(Exception):
    """A source that cannot be compiled; the message says what the compiler did, and what it said."""


class Interrupted(Exception):
    """A compiler that `stop` ended: no fault of its own."""


def command() -> list[str]:
    """The compiler's; ValueError where there is none, or where the environment names one in words that are none."""
    wanted = "UNIHPE_KERNELS_CXX"
    variable = wanted if wanted in os.environ else "CXX"
    try:
        named = shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise ValueError(f"the environment's {variable} is {os.environ[variable]!r}: {error}") from None
    for words in [named] if variable == wanted else [named, ["c++"], ["g++"], ["clang++"]]:
        if words and shutil.which(words[0]):
            return words
    raise ValueError(NOT_FOUND)


def compiled(source: Path, compiler: Sequence[str], tuning: str, package: Path, folder: Path, prefix: str) -> Path:
    """The library of a source in `folder`. It is written beside, then renamed: other processes see all of it or none.

    Raises CompilerError, and OSError where the folder cannot be written to.
    """
    part, end = folder / f"{source.stem}-{secrets.token_hex(8)}.part", time.monotonic() + TIMEOUT
    whole = [*compiler, *FLAGS, "-I", str(package), "-o", str(part), str(source), "-pthread"]
    try:
        try:
            said = run([*whole, tuning], end - time.monotonic())
        except CompilerError:
            if time.monotonic() >= end:
                raise
            said = run(whole, end - time.monotonic())  # not every compiler knows every CPU
        try:
            digest = digest_of(part)
        except OSError as error:
            raise CompilerError(f"it wrote no library ({error}): {said or 'it said nothing'}") from error
        sync(part)
        return part.rename(folder / f"{prefix}-{digest}.so")
    finally:
        part.unlink(missing_ok=True)


def run(words: Sequence[str], seconds: float) -> str:
    """The last of what a command prints, which has `seconds` to end.

    Its own children end with it. Raises CompilerError where it fails, takes longer or prints more than 16 MiB.
    """
    posix = os.name == "posix"
    # a group of its own, to be killed with whatever it has started; umask 0 must not let others write to a library
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0 if posix else None,
        umask=0o077 if posix else -1,
    )
    _running.add(process)
    try:
        said, fault = _listen(process, time.monotonic() + seconds, seconds)
    finally:
        _kill(process)
        stopped = process not in _running
        _running.discard(process)
    if stopped:
        raise Interrupted
    text = said.decode("utf-8", "replace").strip()
    if fault or process.returncode:
        raise CompilerError(f"it {fault or f'ended with {process.returncode}'}: {text or 'it said nothing'}")
    return text


def _listen(process: subprocess.Popen[bytes], end: float, seconds: float) -> tuple[bytes, str]:
    """The last bytes of what it prints until it ends, and what is wrong with it where it does not."""
    said, size = b"", 0
    assert process.stdout is not None
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        # a child that it leaves behind may keep the pipe open, so that its own end counts too
        while process.poll() is None or ready.select(0):
            if time.monotonic() >= end:
                return said, f"did not end within {seconds:.3g} seconds"
            if not ready.select(0.05):
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            said, size = (said + chunk)[-_KEPT:], size + len(chunk)
            if size > _MOST:
                return said, f"printed more than {_MOST >> 20} MiB"
    try:
        process.wait(max(end - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired:
        return said, f"did not end within {seconds:.3g} seconds"
    return said, ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and all of its group, which may outlive it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def stop() -> None:
    """End the compilers of this process: Ctrl-C does not reach groups of their own."""
    for process in list(_running):
        _running.discard(process)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def digest(*texts: bytes) -> str:
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:20]
