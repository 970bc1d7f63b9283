"""MoveNet's two kinds of network: one person in a crop, up to six in a picture."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unihpe_fast.detector.movenet_layers import Backbone, Head, grid, pairs

NUM_KEYPOINTS = 17
MOST_PEOPLE = 6
CELL = 4  # px of the input
# the graphs' own constants, in their float16
_NEAR = 1.7998046875
_SPREAD = 0.300048828125
_SEEN = 0.126953125
_SAME = 1.0132789611816406e-06


class SinglePose(nn.Module):
    """Thunder and lightning: uint8 [B, S, S, 3] RGB -> [B, 17, 3], row and column in [0, 1] and a score."""

    centrality: Tensor

    def __init__(self, stem: int, widths: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.size = size
        # 1 / 48 is rounded in the graph of lightning: 0.05 px, kept so that its numbers come out
        self.cell = torch.tensor(CELL / size).half().item()
        self.backbone = Backbone(stem, widths)
        self.center, self.heatmap = Head(1), Head(NUM_KEYPOINTS)
        self.regress, self.offset = Head(2 * NUM_KEYPOINTS), Head(2 * NUM_KEYPOINTS)
        # how near the middle of the picture each cell is: the person in the middle is meant
        self.register_buffer("centrality", torch.zeros(size // CELL, size // CELL))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.backbone(_channels_first(pixels))
        heat = self.heatmap(x).sigmoid()  # [B, 17, H, W]
        _, _, height, width = heat.shape
        center = (self.center(x).sigmoid()[:, 0] * self.centrality).flatten(1).argmax(1, keepdim=True)  # [B, 1]
        rough = _cells(center, width) + pairs(_at(self.regress(x), center))  # [B, 1, 17, 2]
        rows, columns = grid(height, width, heat)
        rough = rough[:, 0, :, :, None, None]  # [B, 17, 2, 1, 1]
        distance = ((rows - rough[:, :, 0]).square() + (columns - rough[:, :, 1]).square()).sqrt()
        found = (heat / (distance + _NEAR)).flatten(2).argmax(2)  # [B, 17]
        score = heat.flatten(2).gather(2, found[:, :, None])
        place = (_cells(found, width)[:, :, 0] + _own_offset(self.offset(x), found)) * self.cell
        return torch.cat([place, score], dim=-1)


class MultiPose(nn.Module):
    """uint8 [B, H, W, 3] RGB, sides multiples of 32 -> [B, 6, 56]: 17 rows, columns and scores, then box and score.

    A box is top, left, bottom, right. All but scores are fractions of the picture's sides.
    """

    def __init__(self, stem: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = Backbone(stem, widths)
        self.center, self.heatmap = Head(1), Head(NUM_KEYPOINTS)
        self.regress, self.offset = Head(2 * NUM_KEYPOINTS), Head(2 * NUM_KEYPOINTS)
        self.box_scale, self.box_offset = Head(2), Head(2)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.backbone(_channels_first(pixels))
        heat, center = self.heatmap(x).sigmoid(), self.center(x).sigmoid()
        height, width = heat.shape[2:]
        sides = torch.tensor([height, width], dtype=heat.dtype, device=heat.device)
        peaks = (center - F.max_pool2d(center, 5, 1, 2)).abs() < _SAME
        found, where = (center * peaks).flatten(1).topk(MOST_PEOPLE)  # [B, 6]
        cells = _cells(where, width)  # [B, 6, 1, 2]
        half = _at(self.box_scale(x), where).clamp(min=0) / 2
        middle = cells[:, :, 0] + _at(self.box_offset(x), where)
        low, high = (edge.clamp(min=0).minimum(sides) for edge in (middle - half, middle + half))  # [B, 6, 2]

        rough = cells + pairs(_at(self.regress(x), where))  # [B, 6, 17, 2]
        rows, columns = grid(height, width, heat)
        at = rough[..., None, None]
        distance2 = (rows - at[:, :, :, 0]).square() + (columns - at[:, :, :, 1]).square()  # [B, 6, 17, H, W]
        lowest, highest = low[..., None, None], high[..., None, None]
        inside = (rows >= lowest[:, :, 0]) & (rows < highest[:, :, 0])
        inside = inside & (columns >= lowest[:, :, 1]) & (columns < highest[:, :, 1])  # [B, 6, H, W]
        # a zero-width minimum cannot be: sides are multiples of 32 px
        near = torch.exp(-distance2 / (min(height, width) * _SPREAD))
        likely = (heat[:, None] * near * inside[:, :, None]).flatten(3)  # [B, 6, 17, H * W]
        places = likely.argmax(3)
        # as the graph has it: a place that two people claim has the score of whoever claims it more
        score = likely.amax(1).gather(2, places.transpose(1, 2)).transpose(1, 2)  # [B, 6, 17]
        offsets = _own_offset(self.offset(x), places.flatten(1)).unflatten(1, (MOST_PEOPLE, NUM_KEYPOINTS))
        keypoints = (
            _cells(places.flatten(1), width)[:, :, 0].unflatten(1, (MOST_PEOPLE, NUM_KEYPOINTS)) + offsets
        ) / sides

        seen = score > _SEEN
        total = (found[..., None] * torch.where(seen, score, 0)).sum(-1) / seen.sum(-1).clamp(min=1)
        boxes = torch.cat([low, high], dim=-1) / torch.cat([sides, sides])
        flat = torch.cat([keypoints, score[..., None]], dim=-1).flatten(2)
        return torch.cat([flat, boxes.clamp(0, 1), total[..., None]], dim=-1)


def _channels_first(pixels: Tensor) -> Tensor:
    # a permuted NHWC tensor is channels-last already, which is what depthwise convolutions are quick in
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)


def _cells(index: Tensor, width: int) -> Tensor:
    """Flat cells [B, N] -> row and column [B, N, 1, 2]."""
    return torch.stack([index // width, index % width], dim=-1)[:, :, None].float()


def _at(x: Tensor, index: Tensor) -> Tensor:
    """[B, C, H, W] at flat cells [B, N] -> [B, N, C]."""
    flat = x.flatten(2)
    return flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def _own_offset(offset: Tensor, index: Tensor) -> Tensor:
    """Offsets [B, 34, H, W] at flat cells [B, N], N a multiple of 17 in joint order -> each joint's own [B, N, 2]."""
    found = pairs(_at(offset, index))  # [B, N, 17, 2]
    joint = torch.arange(index.shape[1], device=index.device) % NUM_KEYPOINTS
    return found.gather(2, joint[None, :, None, None].expand(len(found), -1, 1, 2))[:, :, 0]


def build(name: str) -> nn.Module:
    """The network of one of the three published graphs, without its weights."""
    if name == "movenet-multipose":
        return MultiPose(48, (24, 40, 48, 96, 144, 240, 480))
    if name == "movenet-thunder":
        return SinglePose(56, (32, 40, 56, 112, 168, 280, 560), 256)
    if name == "movenet-lightning":
        return SinglePose(32, (16, 24, 32, 64, 96, 160, 320), 192)
    raise ValueError(f"name must be one of the three MoveNets, got {name!r}")
