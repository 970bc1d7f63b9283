"""Fast N-modal contrastive losses and Procrustes alignment: torch and triton, nothing else.

`unihpe_kernels.metrics` has the pose errors as torchmetrics' metrics, and is imported when it is asked for.
"""

from typing import Any

from unihpe_kernels.contrastive.api import pairwise_contrastive_loss, tuple_contrastive_loss
from unihpe_kernels.modules import (
    GRAMLoss,
    OpenClipLoss,
    PairwiseInfoNCE,
    SigLIPLoss,
    SingularValueContrastiveLoss,
    SymileLoss,
    TriangleLoss,
)
from unihpe_kernels.procrustes.api import Alignment, Similarity, align, mpjpe, n_mpjpe, pa_mpjpe, procrustes
from unihpe_kernels.small_linalg.gram import gram_singular_values
from unihpe_kernels.small_linalg.svd3x3 import svd3x3
from unihpe_kernels.sv_contrastive.api import singular_value_contrastive_loss
from unihpe_kernels.version import __version__

__all__ = [
    "Alignment",
    "GRAMLoss",
    "OpenClipLoss",
    "PairwiseInfoNCE",
    "SigLIPLoss",
    "Similarity",
    "SingularValueContrastiveLoss",
    "SymileLoss",
    "TriangleLoss",
    "__version__",
    "align",
    "gram_singular_values",
    "mpjpe",
    "n_mpjpe",
    "pa_mpjpe",
    "pairwise_contrastive_loss",
    "procrustes",
    "singular_value_contrastive_loss",
    "svd3x3",
    "tuple_contrastive_loss",
]


def __getattr__(name: str) -> Any:
    # it needs torchmetrics, which nothing else here does
    if name == "metrics":
        from importlib import import_module

        return import_module(f"{__name__}.metrics")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
