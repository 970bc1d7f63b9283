"""Poses for the metrics, and what a rank does with them; imported by the ranks, so without the pipeline."""

from typing import Any

import torch
from torch import Tensor

from unihpe_kernels.metrics import MPJPE, NMPJPE, PAMPJPE

METRICS = {"mpjpe": MPJPE, "pa_mpjpe": PAMPJPE, "n_mpjpe": NMPJPE}


def poses() -> tuple[Tensor, Tensor, Tensor]:
    """Seven poses of a metre or so, in mm; a fifth of the joints unknown and NaN, the last pose unknown altogether."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(7, 17, 3, generator=generator) * 400
    pred = 0.9 * target + torch.randn(7, 17, 3, generator=generator) * 50 + 100
    valid = torch.rand(7, 17, generator=generator) > 0.2
    valid[:, 0], valid[6] = True, False
    target[~valid] = torch.nan
    # the root of the last is where the others' is, as in a file
    target[6, 0] = 0
    return pred, target, valid


def synchronised(group: Any, rank: int) -> list[Any]:
    """What each of two ranks computes, the first of them with one pose and the second with the rest."""
    pred, target, valid = poses()
    rows = slice(0, 1) if rank == 0 else slice(1, 7)
    found = []
    for make in METRICS.values():
        metric = make(per_joint=17, process_group=group)
        total = make(process_group=group)
        for each in (metric, total):
            each.update(pred[rows], target[rows], weights=valid[rows])
        found.append((metric.compute(), total.compute()))
    return found
