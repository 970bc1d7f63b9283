"""PA-MPJPE as a metric over batches and ranks, and as a loss with an exact gradient.

python examples/pa_mpjpe.py
"""

import torch

from unihpe_kernels import align, pa_mpjpe
from unihpe_kernels.metrics import PAMPJPE


def main(steps: int = 60) -> tuple[float, float]:
    torch.manual_seed(0)
    # predictions that are turned, too small, and off by some centimetres; a fifth of the joints is not labelled
    target = torch.randn(64, 17, 3) * 300
    rotation = torch.linalg.qr(torch.randn(64, 3, 3)).Q
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    pred = 0.8 * target @ rotation + torch.randn(64, 17, 3) * 40 + 1000
    labelled = torch.rand(64, 17) > 0.2

    metric = PAMPJPE()
    by_joint = PAMPJPE(per_joint=17)
    for rows in torch.arange(64).split(16):
        for each in (metric, by_joint):
            each.update(pred[rows], target[rows], weights=labelled[rows])
    before = metric.compute().item()
    worst = by_joint.compute().argmax().item()
    print(f"PA-MPJPE {before:.1f} mm; the worst joint is number {worst}")

    # as a loss: it cares for the shape alone, and leaves rotation, scale and place as they are
    pred.requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=2.0)
    for _ in range(steps):
        loss = pa_mpjpe(pred, target, weights=labelled).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scale = align(pred.detach(), target, weights=labelled).similarity.scale.mean().item()
    print(f"after {steps} steps of it as a loss {loss.item():.1f} mm, at 1 / {scale:.2f} of the size as before")
    return before, loss.item()


if __name__ == "__main__":
    main()
