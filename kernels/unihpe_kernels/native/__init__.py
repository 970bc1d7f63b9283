"""C++ for CPU tensors, compiled at its first use, as Triton compiles for a GPU.

A source file stands beside the operation that it is for; what they share is in this folder. It is compiled for this CPU
into a library of C functions that take addresses, in about ten seconds, once: the library stays in the user's cache
(`XDG_CACHE_HOME`, else ~/.cache, in `unihpe_kernels`) under a name that changes with the source, the compiler and the
CPU. The environment's `UNIHPE_KERNELS_CXX` names the compiler, and empty forbids one; else CXX, c++, g++ or clang++ is
taken. Without a compiler the torch backend does the work.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.caller import warn

_PACKAGE = Path(__file__).parent.parent
# Not -ffast-math: NaN and infinity must stay what they are. The two flags in its place say that nobody reads errno or
# the floating point exceptions, without which comparisons and square roots are not done in vectors.
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")
_TUNING = "-mcpu=native" if platform.machine().lower() in ("aarch64", "arm64", "ppc64le") else "-march=native"
_TIMEOUT = 120  # seconds
_UNREAD = 30 * 24 * 3600  # seconds after which a library goes when another of its source is compiled
_without_cache: dict[str, str] = {}  # why sources were compiled for this process alone
_NOT_FOUND = "no C++ compiler is found (the environment's UNIHPE_KERNELS_CXX or CXX may name one)"


class Source(NamedTuple):
    """A library: a file, compiled with definitions that tell it from others of that file by a name."""

    file: str
    name: str = ""
    defines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file} ({self.name})" if self.name else self.file

    @property
    def stem(self) -> str:
        """Of the library's file."""
        return "-".join(filter(None, (Path(self.file).stem, self.name)))


def compiler() -> list[str] | None:
    """The command of the C++ compiler, or None where there is none."""
    with contextlib.suppress(ValueError):
        return _command()
    return None


def obstacle(*sources: "Source | str") -> str | None:
    """Why the libraries of these sources cannot be used, or None. Compiles what has not been compiled."""
    return _obstacle(sources)


# torch.compiler.assume_constant_result, which imports half of torch: nothing of it is traced
obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]


def call(source: "Source | str", name: str, *arguments: Tensor | float | None) -> None:
    """Call a function of a source: tensors go by the address of their first element, None as null, integers as int64_t
    and other numbers as double.

    Raises:
        RuntimeError: there is an obstacle, as in a process that runs a graph which another has exported.
    """
    _function(source, name)(*map(_argument, arguments))


def single(tensor: Tensor) -> Tensor:
    """In float32, contiguous."""
    return tensor.to(torch.float32).contiguous()


def _argument(value: Tensor | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p()
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_double(value)


@functools.cache
def _function(source: "Source | str", name: str) -> Callable[..., None]:
    if reason := obstacle(source):
        raise RuntimeError(f'backend="native": {reason}')
    function = getattr(_library(source), name)
    function.restype = None
    return function


@functools.cache
def _obstacle(sources: tuple[Source | str, ...]) -> str | None:
    with ThreadPoolExecutor(len(sources)) as pool:
        reason = next(filter(None, pool.map(_reason, sources)), None)
    if reason not in (None, _NOT_FOUND):
        warn(f"{reason}; plain torch is slower on a CPU", RuntimeWarning)
    elif failed := sorted({_without_cache[str(source)] for source in sources if str(source) in _without_cache}):
        warn(
            f"C++ is compiled anew in every process: no cache can be used (XDG_CACHE_HOME, else ~/.cache): {failed[0]}",
            RuntimeWarning,
        )
    return reason


@functools.cache
def _reason(source: "Source | str") -> str:
    try:
        _library(source)
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} cannot compile {source}: {error.stderr.strip()[-2000:] or error}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{source} cannot be compiled: {error}"
    except ValueError as error:  # of _command
        return str(error)
    return ""


def _command() -> list[str]:
    wanted = "UNIHPE_KERNELS_CXX"
    variable = wanted if wanted in os.environ else "CXX"
    try:
        named = shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise ValueError(f"the environment's {variable} is {os.environ[variable]!r}: {error}") from None
    for command in [named] if variable == wanted else [named, ["c++"], ["g++"], ["clang++"]]:
        if command and shutil.which(command[0]):
            return command
    raise ValueError(_NOT_FOUND)


@functools.cache
def _library(source: "Source | str") -> ctypes.CDLL:
    source = Source(source) if isinstance(source, str) else source
    command, path = _command(), Path(_PACKAGE, source.file)
    texts = [file.read_bytes() for file in (path, *sorted(_PACKAGE.rglob("*.h")))]
    version = _run([*command, "--version"])
    settings = repr((command, _FLAGS, source.defines))
    prefix = f"{source.stem}-{_digest(*texts, version.encode(), settings.encode(), _cpu().encode())}"
    # where there is no home, or nothing can be written, locked or loaded there: for this process alone
    try:
        return ctypes.CDLL(str(_cached(source, command, prefix)))
    except (OSError, RuntimeError, ImportError) as error:
        _without_cache[str(source)] = str(error)  # this may be a thread of its own, which has no caller to warn
    with tempfile.TemporaryDirectory(prefix="unihpe_kernels-") as own:
        return ctypes.CDLL(str(_compile(source, command, Path(own), prefix)))


def _cached(source: Source, command: Sequence[str], prefix: str) -> Path:
    folder = _cache()
    if found := _find(folder, prefix):
        return found
    with _locked(folder / f"{source.stem}.lock"):
        if found := _find(folder, prefix):  # by the process that had the lock
            return found
        for old in folder.glob(f"{source.stem}-*"):
            unread = old.suffix == ".so" and old.stat().st_atime < time.time() - _UNREAD
            if unread or old.suffix == ".part" or old.name.startswith(prefix):  # of killed compilers, or damaged
                old.unlink()
        return _compile(source, command, folder, prefix)


def _find(folder: Path, prefix: str) -> Path | None:
    """A library whose bytes are those that its name tells of: loading a damaged one can kill the process."""
    return next((file for file in folder.glob(f"{prefix}-*.so") if file.name == _name(prefix, file)), None)


def _name(prefix: str, file: Path) -> str:
    return f"{prefix}-{_digest(file.read_bytes())}.so"


def _compile(source: Source, command: Sequence[str], folder: Path, prefix: str) -> Path:
    """Written beside, then renamed: other processes see the whole file or none."""
    part = folder / f"{source.stem}-{secrets.token_hex(8)}.part"
    whole = [*command, *_FLAGS, "-I", str(_PACKAGE), "-o", str(part), str(_PACKAGE / source.file), "-pthread"]
    whole += [f"-D{define}" for define in source.defines]
    try:
        try:
            _run([*whole, _TUNING])
        except subprocess.CalledProcessError:
            _run(whole)  # not every compiler knows every CPU
        with part.open("rb") as written:
            os.fsync(written.fileno())
        return part.rename(folder / _name(prefix, part))
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    import fcntl  # Windows has none

    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        try:
            yield
        finally:  # a forked process may still have it open
            fcntl.flock(opened, fcntl.LOCK_UN)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=_TIMEOUT)
    return done.stdout


def _cache() -> Path:
    """Raises OSError or RuntimeError where there is none that only this user can write to: what lies there is run."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path.home() / ".cache"
    folder = base / "unihpe_kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_mode & 0o022 or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise PermissionError(f"{folder} can be written by others")
    return folder


def _digest(*texts: bytes) -> str:
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:20]


def _cpu() -> str:
    """What tells CPUs with different instructions apart: a home directory may be shared by many machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    kept = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))
