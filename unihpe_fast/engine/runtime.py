"""What a run computes on: device, dtype, compile mode and kernel backend, each chosen once, with the reason."""

import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from unihpe_fast.config import ConfigError, RunConfig
from unihpe_fast.engine.distributed import local_rank
from unihpe_kernels import native
from unihpe_kernels.checks import Backend


@dataclass(frozen=True)
class Runtime:
    """device: where tensors live; dtype: of autocast (float32: none); compile_mode: of torch.compile, None: eager;
    backend: of the kernels; reasons: for each of the four, why."""

    device: torch.device
    dtype: torch.dtype
    compile_mode: str | None
    backend: Backend
    reasons: dict[str, str]

    def lines(self) -> list[str]:
        chosen = {
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "compile": self.compile_mode or "off",
            "kernels": self.backend,
        }
        return [f"{name}: {value} ({self.reasons[name]})" for name, value in chosen.items()]


def _device(wanted: str) -> tuple[torch.device, str]:
    if wanted != "auto":
        try:
            device = torch.device(wanted)
        except RuntimeError as error:
            raise ConfigError(f"--run.device: must be auto or a device of torch, got {wanted!r}") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"--run.device {wanted}: torch {torch.__version__} sees no CUDA device here")
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", local_rank()), "asked for"
        return device, "asked for"
    if torch.cuda.is_available():
        index = local_rank()
        return torch.device("cuda", index), torch.cuda.get_device_name(index)
    return torch.device("cpu"), "no CUDA device"


def _dtype(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    if wanted != "auto":
        return getattr(torch, wanted), "asked for"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return torch.bfloat16, "this GPU has bfloat16"
        return torch.float32, "this GPU has no bfloat16"
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        # measured on AVX-512 BF16: 1.7 times the images a second of float32
        return torch.bfloat16, "this CPU multiplies bfloat16 in hardware"
    return torch.float32, "this CPU has no bfloat16 arithmetic"


def compiler_missing() -> str | None:
    """Why torch.compile cannot build C++ for the CPU here, or None when it can."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"no C++ compiler ({compiler}) found"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python.h is missing (Debian: python3-dev)"
    return None


def _compile_mode(wanted: str, device: torch.device) -> tuple[str | None, str]:
    if wanted == "off":
        return None, "asked for"
    if device.type == "cpu" and (missing := compiler_missing()):
        if wanted != "auto":
            raise ConfigError(f"--run.compile {wanted}: {missing}")
        return None, missing
    if wanted != "auto":
        return wanted, "asked for"
    if device.type == "cpu":
        return None, "on a CPU it takes a minute and makes the steps no faster"
    return "default", "the whole model-plus-loss step is one graph"


def _backend(wanted: Backend, device: torch.device) -> tuple[Backend, str]:
    if wanted != "auto":
        return wanted, "asked for"
    if device.type == "cuda":
        return "auto", "CUDA tensors: the fastest that the kernels have"
    if native.compiler() is None:
        return "torch", "CPU tensors, and no C++ compiler is found"
    return "auto", "CPU tensors: C++ where there is some, compiled at its first use"


def leave_cores(workers: int) -> int:
    """Take as many threads as this process may use cores, less one for each loader process, but one at least; returns
    how many. A thread that shares its core makes all the others wait for it. OMP_NUM_THREADS is obeyed where it is set.
    """
    if workers and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) - workers)))
    return torch.get_num_threads()


def choose_runtime(config: RunConfig) -> Runtime:
    """Resolve the "auto" options of a run. Raises ConfigError for what is not there."""
    device, why_device = _device(config.device)
    if device.type == "cuda":
        # kernels are launched on the current one, and each rank has its own
        torch.cuda.set_device(device)
    dtype, why_dtype = _dtype(config.dtype, device)
    compile_mode, why_compile = _compile_mode(config.compile, device)
    backend, why_backend = _backend(config.backend, device)
    reasons = {"device": why_device, "dtype": why_dtype, "compile": why_compile, "kernels": why_backend}
    return Runtime(device, dtype, compile_mode, backend, reasons)
