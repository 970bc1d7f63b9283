"""Block functions of "paired" by Triton kernels."""

from unihpe_kernels.contrastive.triton.backend import BACKEND

__all__ = ["BACKEND"]
