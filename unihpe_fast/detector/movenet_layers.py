"""What MoveNet's three networks share: MobileNetV2 with a feature pyramid, and the heads of CenterNet.

Rebuilt from the published graphs (MoveNet, Google, Apache-2.0), batch norm folded into the convolutions as there.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# 2 / 255 in the float16 that the graphs keep it in
_PIXEL_SCALE = 0.007843017578125
_LATERALS = (2, 5, 9)  # MobileNetV2's last blocks at strides 4, 8 and 16
_STRIDED = (1, 3, 6, 13)
# MobileNetV2's blocks (Sandler et al. 2018): how many of each width
_REPEATS = (2, 3, 4, 3, 3, 1)


class Conv(nn.Module):
    """A convolution padded as TensorFlow's SAME does, and what follows it: "", "relu" or "relu6"."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        then: str = "",
        depthwise: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        groups = inputs if depthwise else 1
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups, bias=bias
        )
        # an even side and a stride of two: SAME pads the lower and right edge alone
        self.pad = stride > 1
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad else x)
        return F.relu6(y, inplace=True) if self.then == "relu6" else F.relu(y, inplace=True) if self.then else y


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 6) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = Conv(inputs, hidden, then="relu6") if expansion > 1 else None
        self.depthwise = Conv(hidden, hidden, 3, stride, "relu6", depthwise=True)
        self.project = Conv(hidden, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.residual else y


class Separable(nn.Module):
    """A 3x3 convolution of each channel by itself, then one across channels, then ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = Conv(inputs, inputs, 3, depthwise=True, bias=False)
        self.pointwise = Conv(inputs, outputs, then="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class Head(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.separable = Separable(24, 96)
        self.out = Conv(96, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.separable(x))


class Backbone(nn.Module):
    """uint8-valued float [B, 3, H, W] RGB, H and W multiples of 32 -> features [B, 24, H / 4, W / 4].

    stem: channels of the first convolution. widths: channels of MobileNetV2's seven groups of blocks.
    """

    def __init__(self, stem: int, widths: Sequence[int]) -> None:
        super().__init__()
        first, *others = widths
        self.stem = Conv(3, stem, 3, 2, "relu6")
        blocks, inputs = [InvertedResidual(stem, first, 1, expansion=1)], first
        for width, repeats in zip(others, _REPEATS, strict=True):
            for _ in range(repeats):
                blocks.append(InvertedResidual(inputs, width, 2 if len(blocks) in _STRIDED else 1))
                inputs = width
        self.blocks = nn.ModuleList(blocks)
        self.last = Conv(inputs, 1280, then="relu6")
        pyramid = (24, 32, 64)
        self.laterals = nn.ModuleList(Conv(widths[2 - 1 + i], width) for i, width in enumerate(pyramid))
        self.top = Conv(1280, 64)
        self.merges = nn.ModuleList([Separable(64, 32), Separable(32, 24), Separable(24, 24)])

    def forward(self, pixels: Tensor) -> Tensor:
        return self.maps(pixels)[0]

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The features of `forward`, and MobileNetV2's own maps at strides 8, 16 and 32."""
        x = self.stem(pixels * _PIXEL_SCALE - 1)
        sides: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _LATERALS:
                sides.append(x)
        last = self.last(x)
        x = self.top(last)
        for merge, lateral, side in zip(self.merges, reversed(self.laterals), reversed(sides), strict=True):
            x = merge(F.interpolate(x, scale_factor=2, mode="bilinear") + lateral(side))
        return [x, *sides[1:], last]


def grid(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [H, 1] and columns [1, W] of a map's cells."""
    rows = torch.arange(height, dtype=like.dtype, device=like.device)
    columns = torch.arange(width, dtype=like.dtype, device=like.device)
    return rows[:, None], columns[None, :]


def pairs(x: Tensor) -> Tensor:
    """A head's [..., 2 K] channels as [..., K, 2], row then column."""
    return x.unflatten(-1, (-1, 2))
