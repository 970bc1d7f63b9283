"""Argument checks shared by every operation: each raises naming the argument, what came and what was wanted."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from types import EllipsisType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unihpe_kernels import native
from unihpe_kernels.scores import SCORES

Backend = Literal["auto", "triton", "native", "torch"]

_BACKENDS = get_args(Backend)

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Operations that have Triton kernels, and the dtypes those take; "auto" picks Triton for CUDA tensors of these alone.
TRITON_KERNELS: dict[str, tuple[torch.dtype, ...]] = {
    "singular_value_contrastive_loss": (torch.float32, torch.bfloat16, torch.float16),
    **dict.fromkeys((score.loss for score in SCORES.values()), (torch.float32, torch.bfloat16, torch.float16)),
    "gram_singular_values": (torch.float32, torch.bfloat16, torch.float16),
    "procrustes": (torch.float32, torch.bfloat16, torch.float16),
    "pa_mpjpe": (torch.float32, torch.bfloat16, torch.float16),
    "svd3x3": (torch.float32, torch.bfloat16, torch.float16),
}

# Operations that have C++ for a CPU, which takes the same dtypes, and the files that it is in.
NATIVE_SOURCES: dict[str, tuple[native.Source | str, ...]] = {
    "singular_value_contrastive_loss": (
        "sv_contrastive/triples.cpp",
        "sv_contrastive/pairs.cpp",
        SCORES["singular_value"].native,
    ),
    **{score.loss: (score.native,) for score in SCORES.values()},
    "procrustes": ("procrustes/poses.cpp",),
    "pa_mpjpe": ("procrustes/poses.cpp",),
    "svd3x3": ("small_linalg/svd3x3.cpp",),
}
NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Read once: triton itself fixes the interpreter when the kernel modules are imported.
_TRITON_FOUND = importlib.util.find_spec("triton") is not None
_TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def check_tensor(
    name: str,
    value: object,
    shape: tuple[int | str | EllipsisType, ...],
    *,
    dtypes: tuple[torch.dtype, ...] = FLOATING,
    like: Tensor | None = None,
) -> None:
    """Raise unless `value` is a tensor of the wanted shape and dtype, on the device of `like` if that is given.

    Args:
        name: how the caller knows the argument.
        shape: an int must match, a str is a free size with a name for the message, a leading `...` is any batch.
        dtypes: the dtypes allowed.
        like: a tensor whose device must be shared.
    """
    if (
        isinstance(value, Tensor)
        and value.shape == shape
        and value.dtype in dtypes
        and (like is None or value.device == like.device)
    ):
        return  # the usual case, at once
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape {_show(shape)}, got {type(value).__name__}")
    batched = bool(shape) and shape[0] is ...
    tail = shape[1:] if batched else shape
    fits = value.dim() >= len(tail) if batched else value.dim() == len(tail)
    if fits:
        sizes = value.shape[value.dim() - len(tail) :]
        for size, want in zip(sizes, tail, strict=True):
            if not isinstance(want, str) and size != want:
                fits = False
    if not fits:
        raise ValueError(f"{name} must have shape {_show(shape)}, got {_show(tuple(value.shape))}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} must have dtype {' or '.join(str(d) for d in dtypes)}, got {value.dtype}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name} must be on {like.device} with the other arguments, got {value.device}")


def is_readable(*tensors: Tensor) -> bool:
    """Whether the values of tensors may be looked at: on a CPU, outside of torch.compile, export and vmap.

    A GPU would be waited for.
    """
    if torch.compiler.is_compiling():
        return False
    return all(
        tensor.device.type == "cpu"
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        for tensor in tensors
    )


def check_weights(weights: Tensor) -> Tensor:
    """Refuse negative and NaN weights, which are bool or floating point.

    Returns:
        The weights; where they may not be looked at, with NaN in place of the negative ones: so the result is NaN.
    """
    if weights.dtype == torch.bool:
        return weights
    allowed = weights.detach() >= 0
    if not is_readable(weights):
        return torch.where(allowed, weights, torch.nan)
    if not allowed.all():
        raise ValueError(f"weights must not be negative or NaN, got {weights.detach()[~allowed][0].item():.6g}")
    return weights


def check_backend(backend: Backend, tensor: Tensor, op: str) -> Literal["triton", "native", "torch"]:
    """Resolve `backend` for an operation on `tensor`: the backend that will run.

    "auto" is Triton for CUDA tensors and C++ for CPU tensors, where the operation has them for their dtype and they can
    run; torch otherwise.

    Raises:
        ValueError: the name is unknown, or the one that was asked for cannot run; the message says why.
    """
    check_backend_name(backend)
    if backend == "torch":
        return "torch"
    if backend == "auto":
        if tensor.device.type == "cuda" and _triton_obstacle(tensor, op) is None:
            return "triton"
        return "native" if tensor.device.type == "cpu" and _native_obstacle(tensor, op) is None else "torch"
    obstacle = (_triton_obstacle if backend == "triton" else _native_obstacle)(tensor, op)
    if obstacle is not None:
        raise ValueError(f'backend="{backend}" cannot run {op}: {obstacle}; use backend="torch" or "auto"')
    return backend


def check_backend_name(backend: str) -> None:
    if backend not in _BACKENDS:
        raise ValueError(f'backend must be "auto", "triton", "native" or "torch", got {backend!r}')


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device: make it the tensor's.

    While a CUDA graph is captured a kernel that is not compiled yet is refused: loading it would end the capture with
    an error of the driver that names neither.
    """
    if tensor.device.type != "cuda":
        return contextlib.nullcontext()
    if torch.cuda.is_current_stream_capturing():
        return _compiled_before(torch.cuda.device(tensor.device))
    return torch.cuda.device(tensor.device)


@contextlib.contextmanager
def _compiled_before(device: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    """Within it a kernel that Triton would have to compile, or to load from its cache, raises RuntimeError."""
    from triton import knobs  # not above: triton may be missing

    def refuse(*, fn: Any, **_: Any) -> bool:
        raise RuntimeError(
            f"a CUDA graph must capture kernels that are compiled already, got {fn.name} for the first time with "
            "arguments of these types and sizes: run the step once before the capture"
        )

    former, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, refuse
    try:
        with device:
            yield
    finally:
        knobs.runtime.jit_cache_hook = former


def _triton_obstacle(tensor: Tensor, op: str) -> str | None:
    dtypes = TRITON_KERNELS.get(op)
    if dtypes is None:
        return "it has no Triton kernels in this version"
    if not _TRITON_FOUND:
        return "the triton package is not installed"
    if tensor.dtype not in dtypes:
        return f"its Triton kernels take {', '.join(str(d) for d in dtypes)}, got {tensor.dtype}"
    if tensor.device.type != "cuda" and not (_TRITON_INTERPRETED and tensor.device.type == "cpu"):
        return f"Triton needs CUDA tensors (or TRITON_INTERPRET=1 set before the import), got {tensor.device.type}"
    return None


def _native_obstacle(tensor: Tensor, op: str) -> str | None:
    sources = NATIVE_SOURCES.get(op)
    if sources is None:
        return "it has no C++ in this version"
    if tensor.device.type != "cpu":
        return f"C++ needs CPU tensors, got {tensor.device.type}"
    if tensor.dtype not in NATIVE_DTYPES:
        return f"its C++ takes {', '.join(str(d) for d in NATIVE_DTYPES)}, got {tensor.dtype}"
    return native.obstacle(*sources)


def _show(shape: tuple[object, ...]) -> str:
    return "[" + ", ".join("..." if size is ... else str(size) for size in shape) + "]"
