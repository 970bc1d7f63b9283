"""Powers of two that keep squares within the range of a dtype."""

import torch
from torch import Tensor


def inverse_power(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """A power of two for each slice along `dim`, which is kept, that takes its largest magnitude into [1/2, 1).

    Multiplication by it is exact, and neither squares nor their sums overflow after it, nor do those underflow that
    count. It is a normal number for any slice, whose largest magnitude then comes to less than 4 near the end of the
    range; it is 1 for a slice that is empty or zero, or has a NaN or an infinity in it. It is a constant to autograd.
    """
    values = values.detach()
    if values.numel() == 0:
        dims = {d % values.dim() for d in ((dim,) if isinstance(dim, int) else dim)}
        return values.new_ones([1 if d in dims else size for d, size in enumerate(values.shape)])
    largest = values.abs().amax(dim, keepdim=True)
    limits = torch.finfo(values.dtype)
    held = largest.clamp(limits.tiny, 0.5 / limits.tiny)
    # the quotient is a power of two, and so divided without error
    return torch.where((largest > 0) & largest.isfinite(), torch.frexp(held).mantissa / held, 1)
