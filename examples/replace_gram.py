"""Replace GRAM's volume by the singular values of the same Gram matrix, in a loop that stays as it is.

python examples/replace_gram.py

GRAM (Cicchetti et al. 2024) scores a tuple by the volume of its unit embeddings, the root of their Gram matrix's
determinant, and so the product of their singular values. It is 0 as soon as any two of them agree, whatever the third
says. The singular-value loss looks at the largest one, which is at its maximum where all of them agree.
"""

import torch
import torch.nn.functional as F

from unihpe_kernels import gram_singular_values, singular_value_contrastive_loss


def volume(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """[B, B] volumes of (a_i, b_j, c_j), as GRAM's code forms them."""
    unit = [F.normalize(x, dim=-1) for x in (a, b, c)]
    count = len(a)
    first = unit[0][:, None].expand(-1, count, -1)
    stack = torch.stack([first, unit[1].expand_as(first), unit[2].expand_as(first)], dim=-2)  # [B, B, 3, D]
    return torch.linalg.det(stack @ stack.transpose(-1, -2)).clamp(min=1e-12).sqrt()


def gram_loss(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, temperature: float = 0.07) -> torch.Tensor:
    """GRAM's contrastive loss: the least volume for the own tuple, against rows and columns."""
    logits, own = -volume(a, b, c) / temperature, torch.arange(len(a))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def ours(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, temperature: float = 0.07) -> torch.Tensor:
    """The line that takes its place: any number of modalities, in O(B D) memory."""
    return singular_value_contrastive_loss([a, b, c], temperature=temperature)


def main(steps: int = 100) -> dict[str, float]:
    torch.manual_seed(0)
    views = [torch.randn(8, 32) for _ in range(3)]
    found = {}
    for name, loss_of in (("GRAM's volume", gram_loss), ("singular values", ours)):
        torch.manual_seed(1)
        towers = torch.nn.ModuleList(torch.nn.Linear(32, 16) for _ in range(3))
        optimizer = torch.optim.AdamW(towers.parameters(), lr=1e-2)
        for _ in range(steps):
            content = torch.randn(64, 8)
            embeddings = [tower(content @ view) for tower, view in zip(towers, views, strict=True)]
            optimizer.zero_grad()
            loss_of(*embeddings).backward()
            optimizer.step()
        with torch.no_grad():
            content = torch.randn(64, 8)
            embeddings = [tower(content @ view) for tower, view in zip(towers, views, strict=True)]
            unit = [F.normalize(x, dim=-1) for x in embeddings]
        # of three unit vectors: 3 where all agree, 1 where they are at right angles
        found[name] = gram_singular_values(unit)[:, 0].square().mean().item()
        print(f"{name}: the largest eigenvalue of a tuple's Gram matrix is {found[name]:.2f} of 3")
    return found


if __name__ == "__main__":
    main()
