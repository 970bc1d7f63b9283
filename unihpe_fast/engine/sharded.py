"""A model whose weights, gradients and optimiser state are divided among the ranks: torch's FSDP2.

Elementwise work (clipping, averaging of weights) is done on each rank's own part; checkpoints and scores want whole
tensors, which are put together one after the other.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, device: torch.device, ranks: int, *, compile_mode: str | None = None) -> None:
    """Divide the parameters of `model`, in place: those of each block of its Sequentials together, then all others.

    compile_mode: of torch.compile for each block by itself, None: not compiled; what passes between blocks is FSDP's,
    which is no part of a graph. Buffers stay whole on every rank.
    """
    mesh = init_device_mesh(device.type, (ranks,))
    for block in _blocks(model):
        if compile_mode is not None:
            block.compile(dynamic=False, mode=compile_mode)
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost Sequentials that are made of several modules and have parameters."""
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield from (x for x in child if any(True for _ in x.children()) and any(True for _ in x.parameters()))
        else:
            yield from _blocks(child)


@torch.no_grad()
def own_part(x: Tensor) -> Tensor:
    """What this rank holds of a tensor, as a view: all of it where it is not divided."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(tree: Any, *, keep: bool) -> Any:
    """A state dict with its divided tensors put together, one at a time, on the CPU; to be called by all ranks.

    keep: whether this rank is to have them; where not, None stands for each.
    """
    if isinstance(tree, DTensor):
        full = tree.full_tensor()
        return full.cpu() if keep else None
    if isinstance(tree, dict):
        return {key: whole(value, keep=keep) for key, value in tree.items()}
    return tree


def divided(x: Any, like: Any) -> Any:
    """A whole tensor, the same on every rank, divided as `like` is; as it is where that is not divided."""
    if not isinstance(like, DTensor) or not isinstance(x, Tensor) or x.shape != like.shape:
        return x
    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
