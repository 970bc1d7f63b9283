"""Fast N-modal contrastive losses and Procrustes alignment: torch and triton, nothing else."""

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
