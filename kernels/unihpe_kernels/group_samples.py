"""The samples of a process group, as the losses over one see them."""

import torch
from torch import Tensor

from unihpe_kernels.collectives import Collectives
from unihpe_kernels.sv_contrastive.arguments import modality_codes

# Bytes of the gathered embeddings and their gradients up to which "paired" gathers: fewer and larger transfers and
# matrix products than in a ring. Beyond, the ring: memory for some five blocks of one rank.
GATHERED_BYTES = 2**31


def codes_of_ranks(collectives: Collectives, own: Tensor, present: Tensor | None) -> Tensor:
    """int64 [total], bit m: has modality m. own: [a, M, D]; present: of these, None: they have all."""
    count = own.shape[1]
    codes = torch.full((len(own),), 2**count - 1, dtype=torch.uint8, device=own.device)
    if present is not None:
        codes = modality_codes(present, torch.uint8)
    return collectives.gather(codes).long()


def weights_of(weights: Tensor | None, own: Tensor) -> Tensor:
    """In the compute dtype, ones for None."""
    dtype = torch.float64 if own.dtype == torch.float64 else torch.float32
    return torch.ones(len(own), dtype=dtype, device=own.device) if weights is None else weights.to(dtype)


def gathers_in(collectives: Collectives, own: Tensor, most: int) -> bool:
    """Whether all samples [total, M, D] and their gradients take at most so many bytes."""
    return collectives.total * own.shape[1] * own.shape[2] * (own.element_size() + max(4, own.element_size())) <= most


def slices_of_ranks(collectives: Collectives) -> list[slice]:
    """Of every rank's samples among all."""
    ends = torch.tensor(collectives.sizes).cumsum(0).tolist()
    return [slice(end - size, end) for end, size in zip(ends, collectives.sizes, strict=True)]
