"""Fast N-modal singular-value contrastive loss and Procrustes alignment: torch and triton, nothing else.

`unihpe_kernels.metrics` has the pose errors as torchmetrics' metrics, and is imported when it is asked for.
"""

from typing import Any

from unihpe_kernels.procrustes.api import Alignment, Similarity, align, mpjpe, n_mpjpe, pa_mpjpe, procrustes
from unihpe_kernels.small_linalg.gram import gram_singular_values
from unihpe_kernels.small_linalg.svd3x3 import svd3x3
from unihpe_kernels.sv_contrastive.api import singular_value_contrastive_loss
from unihpe_kernels.version import __version__

__all__ = [
    "Alignment",
    "Similarity",
    "__version__",
    "align",
    "gram_singular_values",
    "mpjpe",
    "n_mpjpe",
    "pa_mpjpe",
    "procrustes",
    "singular_value_contrastive_loss",
    "svd3x3",
]


def __getattr__(name: str) -> Any:
    # it needs torchmetrics, which nothing else here does
    if name == "metrics":
        from importlib import import_module

        return import_module(f"{__name__}.metrics")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
