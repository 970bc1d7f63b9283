"""C++ for CPU tensors, compiled at its first use, as Triton compiles for a GPU.

A source file stands beside the operation that it is for; what they share is in this folder. It is compiled for this CPU
into a library of C functions that take addresses, in a second or two, once: the library stays in the user's cache
(`XDG_CACHE_HOME`, else ~/.cache, in `unihpe_kernels`) under a name that changes with the source, the compiler and the
CPU. The environment's `UNIHPE_KERNELS_CXX` names the compiler, and empty forbids one; else CXX, c++, g++ or clang++ is
taken. Without a compiler the torch backend does the work.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

_HERE = Path(__file__).parent
# Not -ffast-math: NaN and infinity must stay what they are. The two flags in its place say that nobody reads errno or
# the floating point exceptions, without which comparisons and square roots are not done in vectors.
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")
_TIMEOUT = 120  # seconds


def compiler() -> list[str] | None:
    """The command of the C++ compiler, or None where there is none."""
    wanted = os.environ.get("UNIHPE_KERNELS_CXX")
    names = [wanted] if wanted is not None else [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    for name in names:
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    return None


def obstacle(source: Path) -> str | None:
    """Why the library of `source` cannot be used, or None. Compiles it if that has not been done."""
    return _load(source)[1] or None


@functools.cache
def library(source: Path) -> ctypes.CDLL | None:
    """The compiled `source`; None where it cannot be compiled, with a warning if there is a compiler that failed."""
    loaded, reason = _load(source)
    if loaded is None and compiler() is not None:
        warnings.warn(f"{reason}; plain torch is used instead, which is slower", RuntimeWarning, stacklevel=2)
    return loaded


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Of the first element of a contiguous tensor; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


@functools.cache
def _load(source: Path) -> tuple[ctypes.CDLL | None, str]:
    command = compiler()
    if command is None:
        return None, "no C++ compiler is found (UNIHPE_KERNELS_CXX or CXX may name one)"
    try:
        return _compiled(source, command), ""
    except subprocess.CalledProcessError as error:
        return None, f"{command[0]} cannot compile {source.name}: {error.stderr.strip()[-2000:]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{source.name} cannot be compiled: {error}"


def _compiled(source: Path, command: Sequence[str]) -> ctypes.CDLL:
    texts = [path.read_text() for path in (source, *sorted(_HERE.parent.glob("*/*.h")))]
    version = _run([*command, "--version"])
    key = hashlib.sha256("\0".join([*texts, version, repr((command, _FLAGS)), _cpu()]).encode()).hexdigest()[:20]
    name = f"{source.stem}-{key}.so"
    try:
        folder = _cache()
        if not (folder / name).exists():
            _compile(source, command, folder, name)
    except OSError:  # nothing can be written there: for this process alone, in a folder that nobody else can write to
        with tempfile.TemporaryDirectory(prefix="unihpe_kernels-") as own:
            _compile(source, command, Path(own), name)
            return ctypes.CDLL(str(Path(own, name)))
    return ctypes.CDLL(str(folder / name))


def _compile(source: Path, command: Sequence[str], folder: Path, name: str) -> None:
    """Written beside, then renamed: other processes see the whole file or none."""
    with tempfile.TemporaryDirectory(dir=folder) as part:
        out = Path(part, name)
        _run([*command, *_FLAGS, *_tuning(), "-I", str(_HERE.parent), "-o", str(out), str(source), "-pthread"])
        os.replace(out, folder / name)


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT).stdout


def _tuning() -> list[str]:
    return ["-mcpu=native" if platform.machine().lower() in ("aarch64", "arm64", "ppc64le") else "-march=native"]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base, "unihpe_kernels")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _cpu() -> str:
    """What tells CPUs with different instructions apart: a home directory may be shared by many machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))
