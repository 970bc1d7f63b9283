"""Block functions of "paired" by Triton kernels."""
