"""Public functions give the same bits inside and outside of autocast."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_T = TypeVar("_T")


def without_autocast(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function with autocast off inside of it: inputs keep their dtypes, and products are of those.

    `.float()` alone does not shield a product: autocast rounds what goes into it whatever its dtype was made.
    """

    @functools.wraps(function)
    def exact(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return exact


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of two matrices, whose backward pass runs without autocast, too: that of `@` is cast by the autocast that
    the backward pass finds, not by that of the forward pass."""
    return _Product.apply(a, b)


class _Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        wants_a, wants_b = ctx.needs_input_grad
        return (
            exact_product(grad, b.mT) if wants_a else None,
            exact_product(a.mT, grad) if wants_b else None,
        )

    @staticmethod
    def jvp(ctx: Any, d_a: Tensor | None, d_b: Tensor | None) -> Tensor:
        a, b = ctx.saved_tensors
        parts = ([] if d_a is None else [exact_product(d_a, b)]) + ([] if d_b is None else [exact_product(a, d_b)])
        return sum(parts[1:], parts[0])
