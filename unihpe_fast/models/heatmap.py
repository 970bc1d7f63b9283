"""Heatmaps and the coordinates that they stand for."""

import torch
from torch import Tensor


def cell_centers(cells: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[cells]: the middle of each cell in crop units, where the cells together span [-1, 1]."""
    return (torch.arange(cells, device=device, dtype=dtype) * 2 + 1) / cells - 1


def soft_argmax(heatmaps: Tensor) -> Tensor:
    """Expected position under each heatmap (integral regression, Sun et al. 2018).

    heatmaps: [B, J, H, W], non-negative, each summing to 1 over its cells. Returns [B, J, 2]: x, y in crop units.
    """
    x = cell_centers(heatmaps.shape[-1], heatmaps.device, heatmaps.dtype)
    y = cell_centers(heatmaps.shape[-2], heatmaps.device, heatmaps.dtype)
    # sums of products, not matrix products: autocast would round those to half precision
    return torch.stack([(heatmaps.sum(-2) * x).sum(-1), (heatmaps.sum(-1) * y).sum(-1)], dim=-1)
