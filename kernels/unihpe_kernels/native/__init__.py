"""C++ for CPU tensors, compiled at its first use, as Triton compiles for a GPU.

A source file stands beside the operation that it is for; what they share is in this folder. It is compiled for this CPU
into a library of C functions that take addresses, in about ten seconds, once: the library stays in the user's cache
(`XDG_CACHE_HOME`, else ~/.cache, in `unihpe_kernels`), if nobody else can write there, under a name that changes with
the source, the compiler and the CPU. The environment's `UNIHPE_KERNELS_CXX` names the compiler, and empty forbids one;
else CXX, c++, g++ or clang++ is taken. Without a compiler the torch backend does the work.
"""

import contextlib
import ctypes
import functools
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.caller import warn
from unihpe_kernels.native import compiling, folders
from unihpe_kernels.native.compiling import CompilerError

_PACKAGE = Path(__file__).parent.parent
_TUNING = "-mcpu=native" if platform.machine().lower() in ("aarch64", "arm64", "ppc64le") else "-march=native"
_UNREAD = 30 * 24 * 3600  # seconds after which a library goes when another of its source is compiled
_PATIENCE = compiling.TIMEOUT + 10  # seconds for which a process that compiles is waited for
_VERDICT = 600  # seconds for which a compiler that failed is not asked again
_without_cache: dict[str, str] = {}  # why sources were compiled for this process alone


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
        return compiling.command()
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
    pool = ThreadPoolExecutor(len(sources))
    try:
        reason = next(filter(None, pool.map(_reason, sources)), None)
    except BaseException:
        compiling.stop()
        raise
    finally:
        pool.shutdown()
    if reason not in (None, compiling.NOT_FOUND):
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
    except CompilerError as error:
        return _printable(f"{compiling.command()[0]} cannot compile {source}: {error}")
    except OSError as error:
        return _printable(f"{source} cannot be compiled: {error}")
    except ValueError as error:  # of compiling.command
        return _printable(str(error))
    return ""


def _printable(text: str) -> str:
    """Of a path that is no UTF-8, what can be written to any file."""
    return text.encode("utf-8", "replace").decode()


@functools.cache
def _library(source: "Source | str") -> ctypes.CDLL:
    source = Source(source) if isinstance(source, str) else source
    command, path = compiling.command(), Path(_PACKAGE, source.file)
    text = path.read_bytes()
    parts = [text, *(file.read_bytes() for file in sorted(_PACKAGE.rglob("*.h")))]
    version = compiling.run([*command, "--version"], compiling.VERSION_TIMEOUT)
    setting = repr((command, compiling.FLAGS, source.defines))
    prefix = f"{source.stem}-{compiling.digest(*parts, version.encode(), setting.encode(), _cpu().encode())}"
    # where there is no home, or nothing can be written, locked or loaded there: for this process alone
    try:
        folder = folders.cache()
        lacking = _find(folder, prefix)
        if lacking:
            with contextlib.suppress(CompilerError):
                return _loaded(lacking, text)
        return _loaded(_cached(source, command, folder, prefix, lacking), text)
    except (OSError, RuntimeError, ImportError) as error:
        # this may be a thread of its own, which has no caller to warn
        _without_cache[str(source)] = _printable(str(error))
    folders.trusted(Path(tempfile.gettempdir()).absolute())
    with tempfile.TemporaryDirectory(prefix="unihpe_kernels-") as own:
        return _loaded(_compiled(source, command, Path(own), prefix), text)


def _loaded(file: Path, text: bytes) -> ctypes.CDLL:
    """The library; CompilerError where it lacks a function that the text of its source has, OSError for no library."""
    library = ctypes.CDLL(str(file))
    exported = text[max(text.find(b'extern "C"'), 0) :].decode()
    for name in re.findall(r'^(?:extern "C" )?void (\w+)\(', exported, re.MULTILINE):
        if not hasattr(library, name):
            raise CompilerError(f"the library lacks a function: {name}")
    return library


def _cached(source: Source, command: list[str], folder: Path, prefix: str, lacking: Path | None) -> Path:
    """A library other than `lacking`: that of the process which had the lock before, or one that is compiled now."""
    with folders.locked(folder / f"{source.stem}.lock", _PATIENCE):
        found = _find(folder, prefix)
        if found and found != lacking:
            return found
        verdict = folder / f"{prefix}.failed"
        _raise_verdict(verdict)
        for old in folder.glob(f"{source.stem}-*"):
            unread = old.suffix in (".so", ".failed") and old.lstat().st_atime < time.time() - _UNREAD
            if unread or old.suffix == ".part" or old.name.startswith(prefix):  # of killed compilers, or damaged
                old.unlink()
        try:
            return _compiled(source, command, folder, prefix)
        except CompilerError as error:
            descriptor = os.open(verdict, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
                file.write(str(error))
            raise


def _compiled(source: Source, command: list[str], folder: Path, prefix: str) -> Path:
    defines = [f"-D{define}" for define in source.defines]
    return compiling.compiled(_PACKAGE / source.file, [*command, *defines], _TUNING, _PACKAGE, folder, prefix)


def _raise_verdict(file: Path) -> None:
    """What the compiler said to another process a while ago, so that a process need not wait for a compiler that hangs
    because another one did."""
    with contextlib.suppress(OSError):
        folders.digest_of(file)  # that it is a file, and ours
        age = time.time() - file.stat().st_mtime
        if 0 <= age < _VERDICT:
            text = file.read_text(encoding="utf-8", errors="replace")
            raise CompilerError(f"{text} (so it was {age:.0f} seconds ago; without {file} it is tried again)")


def _find(folder: Path, prefix: str) -> Path | None:
    """A library whose bytes are those that its name tells of: loading a damaged one can kill the process."""
    for file in folder.glob(f"{prefix}-*.so"):
        with contextlib.suppress(OSError):
            if file.name == f"{prefix}-{folders.digest_of(file)}.so":
                return file
    return None


def _cpu() -> str:
    """What tells CPUs with different instructions apart: a home directory may be shared by many machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    kept = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))
