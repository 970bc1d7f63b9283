"""Procrustes alignment and the pose errors built on it."""

from unihpe_kernels.procrustes.api import Similarity, mpjpe, n_mpjpe, pa_mpjpe, procrustes

__all__ = ["Similarity", "mpjpe", "n_mpjpe", "pa_mpjpe", "procrustes"]
