"""Three modalities over two ranks: the negatives of a sample come from both.

torchrun --nproc-per-node 2 examples/two_ranks.py

The loss is that of the whole batch on every rank, and the gradients, averaged over ranks as DistributedDataParallel
does, are those of one process with the whole batch. Embeddings are exchanged in pieces; no rank holds all of them.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unihpe_fast import SingularValueContrastiveLoss


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList(nn.Linear(size, 32) for size in (48, 34, 51))

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        return [tower(x) for tower, x in zip(self.towers, inputs, strict=True)]


def train(group: dist.ProcessGroup, rank: int, steps: int = 20) -> float:
    """What every rank of a group does; returns the last loss."""
    ranks = dist.get_world_size(group)
    torch.manual_seed(0)
    model, views = DistributedDataParallel(Towers(), process_group=group), [torch.randn(8, n) for n in (48, 34, 51)]
    # its temperature is learned: the gradient of that is averaged as the model's are
    criterion = DistributedDataParallel(SingularValueContrastiveLoss(group=group), process_group=group)
    optimizer = torch.optim.AdamW([*model.parameters(), *criterion.parameters()], lr=1e-2)
    for step in range(steps):
        whole = torch.randn(64, 8, generator=torch.Generator().manual_seed(step))
        mine = whole.tensor_split(ranks)[rank]
        loss = criterion(*model(*(mine @ view for view in views)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and (step + 1) % 10 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f} over {ranks} ranks", flush=True)
    return loss.item()


def main() -> None:
    dist.init_process_group("gloo")
    train(dist.group.WORLD, dist.get_rank())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
