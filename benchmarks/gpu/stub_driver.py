"""A GPU's driver in its absence, under Triton's own binder: kernels are bound, and compiled or not, and never launched.

`installed(compiles=True)` compiles what is asked for, for `ARCHITECTURE`, into Triton's cache, as on the GPU itself;
with compiles=False a launch costs what its binding costs, and `asked` tells what would have been compiled. Tensors are
those of the CPU, whose addresses are as aligned as a GPU's; what the kernels would have written is
uninitialised, and the matrix products of "paired" are left out.
"""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton.compiler
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from unihpe_kernels import checks, tuned
from unihpe_kernels.launching import forget_plans
from unihpe_kernels.sv_contrastive import triton_paired

ARCHITECTURE = 90
CARD = "NVIDIA H200"
_SHARED, _THREADS = 227 * 1024, 1024  # bytes and threads that a block may take


class _Driver:
    """What Triton asks a driver for, with one device and one stream."""

    def __init__(self) -> None:
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": _SHARED, "multiprocessor_count": 132},
            load_binary=lambda *arguments: (None, 0, 0, 0, _THREADS),
            unload_module=lambda module: None,
        )
        # made of a kernel once, called with every launch
        self.launcher_cls = lambda source, metadata: lambda *arguments: None

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        return divmod(ARCHITECTURE, 10)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", ARCHITECTURE, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class _Uncompiled:
    """In place of a compiled kernel."""

    function = packed_metadata = None
    hash = ""

    def launch_metadata(self, *arguments: Any) -> None:
        return None

    def run(self, *arguments: Any) -> None:
        return None

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments: None


@contextlib.contextmanager
def installed(compiles: bool = True) -> Iterator[list[tuple[str, str]]]:
    """backend="triton" takes CPU tensors as it takes those of a GPU of `CARD`'s kind. Yields a list that grows by the
    name and the hash of every kernel that is compiled, or would be; not in a process with TRITON_INTERPRET=1."""
    asked: list[tuple[str, str]] = []
    compile_kernel = triton.compiler.compile

    def compiled(source: Any, target: Any = None, options: Any = None, **more: Any) -> Any:
        kernel = compile_kernel(source, target=target, options=options, **more) if compiles else _Uncompiled()
        asked.append((source.fn.__name__, kernel.hash))
        return kernel

    def as_on_the_card(dtype: torch.dtype, device: torch.device) -> torch.dtype:
        return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32

    tables = ("default", f"sm_{ARCHITECTURE}", CARD.lower().replace(" ", "-"))
    with contextlib.ExitStack() as stack:
        for where, name, value in (
            (driver, "_active", _Driver()),
            (triton.compiler, "compile", compiled),
            (checks, "_TRITON_INTERPRETED", True),
            (tuned, "_names", lambda device: tables),
            (triton_paired, "_stack_dtype", as_on_the_card),
            # torch's own work, which a CPU cannot do in these types
            (triton_paired, "_product", lambda *arguments, **options: None),
        ):
            stack.enter_context(mock.patch.object(where, name, value))
        _forget_binders()
        stack.callback(_forget_binders)
        yield asked


def _forget_binders() -> None:
    """Kernels keep what they compiled by device, and plans what they launched; the device is another now."""
    forget_plans()
    for kernel in every_kernel():
        kernel.device_caches.clear()


def every_kernel() -> list[JITFunction]:
    """The jit functions of this package, those that kernels call too."""
    import importlib
    import pkgutil

    import unihpe_kernels

    found = {}
    for module in pkgutil.walk_packages(unihpe_kernels.__path__, "unihpe_kernels."):
        # no other module has any, and some need packages that are not everywhere
        if not any(word in module.name.split(".")[-1] for word in ("kernels", "triton")):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, JITFunction):
                found[id(value)] = value
    return list(found.values())
