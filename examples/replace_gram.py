"""Replace GRAM's published formula by `GRAMLoss`, or by the singular values of the same Gram matrix; the loop stays.

python examples/replace_gram.py

GRAM (Cicchetti et al. 2025) scores a tuple by the volume of its unit embeddings, the root of their Gram matrix's
determinant, and so the product of their singular values. `GRAMLoss` computes the same loss without the B x B matrices,
and with a gradient where the volume is 0. The volume is 0 as soon as any two of the three agree, whatever the third
says. The singular-value loss looks at the largest one, which is at its maximum where all of them agree.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unihpe_kernels import GRAMLoss, SingularValueContrastiveLoss, gram_singular_values

# a float32 holds it exactly
TEMPERATURE = 1 / 16


def published(a: Tensor, b: Tensor, c: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """GRAM's loss as its code forms it: a_i against (b_j, c_j), from the [B, B, 3, 3] Gram matrices."""
    a, b, c = (F.normalize(x, dim=-1) for x in (a, b, c))
    count = len(a)
    aa, bb, cc, bc = ((x * y).sum(-1) for x, y in ((a, a), (b, b), (c, c), (b, c)))
    aa = aa[:, None].expand(count, count)
    bb, cc, bc = (x.expand(count, count) for x in (bb, cc, bc))
    ab, ac = a @ b.T, a @ c.T
    gram = torch.stack([torch.stack(row, -1) for row in ((aa, ab, ac), (ab, bb, bc), (ac, bc, cc))], -2)
    logits, positive = -gram.det().abs().sqrt() / temperature, torch.arange(count)
    return sum(F.cross_entropy(x, positive, label_smoothing=0.1) for x in (logits, logits.T)) / 2


# the line that takes its place, with the same temperature and smoothing
gram_loss = GRAMLoss(temperature=TEMPERATURE, learnable_temperature=False)
singular_value_loss = SingularValueContrastiveLoss(temperature=TEMPERATURE, learnable_temperature=False)


def value_and_gradients(loss, embeddings: list[Tensor]) -> tuple[Tensor, list[Tensor], int]:
    """The third is the bytes that autograd keeps between forward and backward."""
    leaves, kept = [x.clone().requires_grad_() for x in embeddings], {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        value = loss(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves)), sum(kept.values())


def compare(batch: int = 1024, dim: int = 64) -> dict[str, float]:
    """How far the two are apart in float64, relative to the largest entry; what each keeps in float32, in MiB; and
    whether gradients are finite at a volume of 0."""
    torch.manual_seed(0)
    embeddings = [torch.randn(batch, dim, dtype=torch.float64) for _ in range(3)]
    theirs, their_gradients, _ = value_and_gradients(published, embeddings)
    ours, our_gradients, _ = value_and_gradients(gram_loss, embeddings)
    pairs = [(theirs, ours), *zip(their_gradients, our_gradients, strict=True)]
    found = {"apart": max(((x - y).abs().max() / x.abs().max()).item() for x, y in pairs)}
    for name, loss in (("published", published), ("ours", gram_loss)):
        found[f"{name} MiB"] = value_and_gradients(loss, [x.float() for x in embeddings])[2] / 2**20
    # the text's embedding and the video's agree: det is 0, and the root has no slope
    same = torch.eye(4, dim, dtype=torch.float64)
    for name, loss in (("published", published), ("ours", gram_loss)):
        gradients = value_and_gradients(loss, [same, same, same.roll(1, 0)])[1]
        found[f"{name} finite"] = all(x.isfinite().all() for x in gradients)
    return found


def train(loss, steps: int) -> float:
    """Three towers on three views of one content; the largest eigenvalue of a tuple's Gram matrix at the end."""
    torch.manual_seed(0)
    views = [torch.randn(8, 32) for _ in range(3)]
    towers = torch.nn.ModuleList(torch.nn.Linear(32, 16) for _ in range(3))
    optimizer = torch.optim.AdamW(towers.parameters(), lr=1e-2)

    def embeddings() -> list[Tensor]:
        content = torch.randn(64, 8)
        return [tower(content @ view) for tower, view in zip(towers, views, strict=True)]

    for _ in range(steps):
        optimizer.zero_grad()
        loss(*embeddings()).backward()
        optimizer.step()
    with torch.no_grad():
        # of three unit vectors: 3 where all agree, 1 where they are at right angles
        return gram_singular_values([F.normalize(x, dim=-1) for x in embeddings()])[:, 0].square().mean().item()


def main(steps: int = 100) -> dict[str, float]:
    found = compare()
    print(f"GRAMLoss against GRAM's formula, values and gradients: {found['apart']:.1e} apart")
    print(f"kept for the backward pass: {found['published MiB']:.1f} MiB, GRAMLoss {found['ours MiB']:.1f} MiB")
    print(f"gradients at a volume of 0 finite: {found['published finite']}, GRAMLoss {found['ours finite']}")
    for name, loss in (("GRAM's volume", gram_loss), ("singular values", singular_value_loss)):
        found[name] = train(loss, steps)
        print(f"{name}: the largest eigenvalue of a tuple's Gram matrix is {found[name]:.2f} of 3")
    return found


if __name__ == "__main__":
    main()
