"""Warnings that point to the line outside of this package, and of torch that dispatches to it, that called it."""

import os
import sys
import warnings
from pathlib import Path

import torch

_OWN = tuple(str(Path(module).parent) + os.sep for module in (__file__, torch.__file__))


def warn(message: str, category: type[Warning]) -> None:
    """Warn of something that the first caller outside of both is to know, however deep the call lies."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_code.co_filename.startswith(_OWN):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
