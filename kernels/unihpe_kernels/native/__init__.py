"""C++ for CPU tensors, compiled at its first use, as Triton compiles for a GPU.

A source file stands beside the operation that it is for; what they share is in this folder. It is compiled for this CPU
into a library of C functions that take addresses, in a few seconds, once: the library stays in the user's cache
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

import torch
from torch import Tensor

_PACKAGE = Path(__file__).parent.parent
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


def obstacle(*sources: str) -> str | None:
    """Why the libraries of these sources cannot be used, or None. Compiles what has not been compiled."""
    return next((reason for reason in map(_reason, sources) if reason), None)


# torch.compiler.assume_constant_result, which imports half of torch: nothing of it is traced
obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]


def call(source: str, name: str, *arguments: Tensor | float | None) -> None:
    """Call a function of a source for which there is no obstacle: tensors go by the address of their first element,
    None as null, integers as int64_t and other numbers as double."""
    function = getattr(_library(source), name)
    function.restype = None
    function(*map(_argument, arguments))


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
def _reason(source: str) -> str:
    command = compiler()
    if command is None:
        return "no C++ compiler is found (the environment's UNIHPE_KERNELS_CXX or CXX may name one)"
    try:
        _library(source)
    except subprocess.CalledProcessError as error:
        reason = f"{command[0]} cannot compile {source}: {error.stderr.strip()[-2000:]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"{source} cannot be compiled: {error}"
    else:
        return ""
    warnings.warn(f"{reason}; plain torch is slower on a CPU", RuntimeWarning, stacklevel=2)
    return reason


@functools.cache
def _library(source: str) -> ctypes.CDLL:
    command, path = compiler(), Path(_PACKAGE, source)
    assert command is not None
    texts = [file.read_text() for file in (path, *sorted(_PACKAGE.glob("*/*.h")))]
    version = _run([*command, "--version"])
    key = hashlib.sha256("\0".join([*texts, version, repr((command, _FLAGS)), _cpu()]).encode()).hexdigest()[:20]
    name = f"{path.stem}-{key}.so"
    try:
        folder = _cache()
        if not (folder / name).exists():
            _compile(path, command, folder, name)
    except (OSError, RuntimeError):  # no home, or nothing can be written there: for this process alone
        with tempfile.TemporaryDirectory(prefix="unihpe_kernels-") as own:
            _compile(path, command, Path(own), name)
            return ctypes.CDLL(str(Path(own, name)))
    return ctypes.CDLL(str(folder / name))


def _compile(source: Path, command: Sequence[str], folder: Path, name: str) -> None:
    """Written beside, then renamed: other processes see the whole file or none."""
    with tempfile.TemporaryDirectory(dir=folder) as part:
        out = Path(part, name)
        _run([*command, *_FLAGS, *_tuning(), "-I", str(_PACKAGE), "-o", str(out), str(source), "-pthread"])
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
