"""What the ranks of a group tell each other first: that they want the same loss of tuples, and of how many samples."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unihpe_kernels.collectives import Header, exchange_headers
from unihpe_kernels.contrastive.options import Arguments

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


_Checked = TypeVar("_Checked")


def checked(group: "ProcessGroup", check: Callable[[], _Checked]) -> _Checked:
    """What `check` returns; where it raises, the other ranks raise, too, when they come to `agree`."""
    if dist.get_world_size(group) < 0:
        raise ValueError("group must hold this process, got one of other ranks")
    try:
        return check()
    except (TypeError, ValueError):
        exchange_headers(group, (0, 0), None)
        raise


def agree(group: "ProcessGroup", given: Arguments, negatives: str = "paired") -> tuple[list[int], bool]:
    """The number of samples of every rank, and whether some of them lack modalities."""
    first, spec = given.embeddings[0], given.spec
    inputs = [*given.embeddings, *(x for x in (given.temperature, given.bias, given.weights) if isinstance(x, Tensor))]
    shared: Header = {
        "the number of embeddings": len(given.embeddings),
        "the width of embeddings": first.shape[1],
        "the dtype of embeddings": str(first.dtype),
        "negatives": negatives,
        "normalize": str(spec.normalize),
        "temperature": "a tensor" if isinstance(given.temperature, Tensor) else float(given.temperature),
        "backend": spec.backend,
        "whether a gradient is needed": str(torch.is_grad_enabled() and any(x.requires_grad for x in inputs)),
        "score": spec.score,
        "direction": "both" if spec.both else "anchor",
        "form": "sigmoid" if spec.sigmoid else "softmax",
        "label_smoothing": spec.smoothing,
        "anchors, a bit each": sum(1 << m for m in spec.anchors),
        "whether losses are pairwise": str(spec.pairwise),
        "bias": "None" if given.bias is None else "a tensor" if isinstance(given.bias, Tensor) else "a float",
    }
    headers = exchange_headers(group, (len(first), int(given.present is not None)), shared)
    return [samples for samples, _ in headers], any(masked for _, masked in headers)
