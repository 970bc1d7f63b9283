"""Launches of Triton kernels that are made again and again with the same sizes.

Triton finds out at every launch which of a kernel's variants its arguments want; that costs more time on the host than
all else together. A `Launch` asks once. It belongs to a plan, which is kept by all that the variant depends on:
what is not in a plan's key must not change between its calls but for the addresses of tensors, and of these not
their `residues`.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

_P = ParamSpec("_P")
_T = TypeVar("_T")
_MOST_PLANS = 256  # kept, of one kind: sizes may change at every call
_ALIGNED = 16  # bytes; Triton tells pointers apart by whether they are multiples
_caches: list[Any] = []


def planned(make: Callable[_P, _T]) -> Callable[_P, _T]:
    """Keep what a function makes of hashable arguments, the key of a plan."""
    cached: Any = functools.lru_cache(_MOST_PLANS)(make)
    _caches.append(cached)
    return cached


def forget_plans() -> None:
    """For who puts other kernels, or another driver, in the place of those that plans know."""
    for cached in _caches:
        cached.cache_clear()


def residues(*tensors: Tensor | None) -> tuple[int, ...]:
    """Of the addresses of tensors that come from outside, for the key of a plan: -1 for None."""
    return tuple([-1 if tensor is None else tensor.data_ptr() % _ALIGNED for tensor in tensors])


class Parts:
    """How a float32 buffer is divided among what kernels write and read there."""

    def __init__(self, sizes: Sequence[int], start: int = 0) -> None:
        """sizes: numbers of each, from `start` on."""
        self._offsets = list(itertools.accumulate(sizes, initial=start))
        self.end = self._offsets[-1]
        self.size = self.end - start
        self._addresses = [4 * offset for offset in self._offsets[:-1]]

    def of(self, buffer: Tensor, last: "Launch | None") -> list[Any]:
        """The parts as a kernel takes them, for launches of which this is the last: addresses once it is kept, and the
        others with it, for a view costs as much time as a launch; before, views, and always where there is no such
        launch."""
        if last is not None and last.is_kept:
            first = buffer.data_ptr()
            return [first + address for address in self._addresses]
        return [buffer[begin:end] for begin, end in itertools.pairwise(self._offsets)]


class Launch:
    """A kernel with its grid and settings, and, from the second call on, the variant that the first call compiled.

    A variant that is kept takes the address of a tensor as well as the tensor.
    """

    def __init__(self, kernel: Any, grid: tuple[int, ...], **settings: Any) -> None:
        """settings: what is known at compile time, the kernel's own and Triton's."""
        self._kernel, self._grid = kernel, grid
        self._settings = {**settings, "enable_fp_fusion": True}
        self.is_kept = False
        self._compiled: Any = None
        self._constants: tuple[Any, ...] = ()

    def __call__(self, *arguments: Any) -> None:
        """All that is not known at compile time, in the kernel's order."""
        if self.is_kept:
            self._compiled(*arguments, *self._constants)
            return
        variant = self._kernel[self._grid](*arguments, **self._settings)
        if variant is not None:  # the interpreter has none
            names = list(self._kernel.signature.parameters)[len(arguments) :]
            self._constants = tuple(self._settings[name] for name in names)
            self._compiled = variant[(*self._grid, 1, 1)[:3]]
            self.is_kept = True
