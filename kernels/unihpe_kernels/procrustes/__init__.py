"""Procrustes alignment and the pose errors built on it."""

from unihpe_kernels.procrustes.api import Alignment, Similarity, align, mpjpe, n_mpjpe, pa_mpjpe, procrustes

__all__ = ["Alignment", "Similarity", "align", "mpjpe", "n_mpjpe", "pa_mpjpe", "procrustes"]
