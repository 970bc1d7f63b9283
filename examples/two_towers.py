"""Train two towers the way CLIP is trained, with the singular-value loss beside a cosine term.

python examples/two_towers.py

The towers see the same hidden content through views of their own, as a picture and its caption would.
"""

import torch
from torch import nn

from unihpe_fast import SingularValueContrastiveLoss
from unihpe_kernels import PairwiseInfoNCE


def recall(a: torch.Tensor, b: torch.Tensor) -> float:
    """The share of rows of a whose most similar row of b is their own."""
    similarity = nn.functional.normalize(a, dim=-1) @ nn.functional.normalize(b, dim=-1).T
    return (similarity.argmax(1) == torch.arange(len(a))).float().mean().item()


def main(steps: int = 150) -> tuple[float, float]:
    torch.manual_seed(0)
    views = [nn.Sequential(nn.Linear(16, 64), nn.Tanh()).requires_grad_(False) for _ in range(2)]
    towers = nn.ModuleList(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32)) for _ in range(2))
    # CLIP's learned logit_scale is 1 / temperature, and is learned here too. A singular value does not tell an
    # embedding from its negative; a cosine term beside it, CLIP's own loss for two towers, settles the sign
    criteria = nn.ModuleList([SingularValueContrastiveLoss(temperature=0.07), PairwiseInfoNCE(temperature=0.07)])
    optimizer = torch.optim.AdamW([*towers.parameters(), *criteria.parameters()], lr=2e-3)

    def embed(content: torch.Tensor) -> list[torch.Tensor]:
        return [tower(view(content)) for tower, view in zip(towers, views, strict=True)]

    unseen = torch.randn(256, 16)
    with torch.no_grad():
        before = recall(*embed(unseen))
    for _ in range(steps):
        embeddings = embed(torch.randn(256, 16))
        loss = sum(criterion(*embeddings) for criterion in criteria)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = recall(*embed(unseen))
    print(f"loss {loss.item():.3f}; recall@1 of 256 unseen pairs {before:.2f} -> {after:.2f}")
    return before, after


if __name__ == "__main__":
    main()
