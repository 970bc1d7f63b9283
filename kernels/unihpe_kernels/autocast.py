"""Public functions give the same bits inside and outside of autocast."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

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
