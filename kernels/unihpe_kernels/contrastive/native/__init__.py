"""The losses on a CPU in C++, in float32: blocks of pairs (block.cpp, a library a score) and triples."""

from unihpe_kernels.contrastive.native.backend import BACKEND

__all__ = ["BACKEND"]
