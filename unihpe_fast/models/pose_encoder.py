"""The encoders of 2D keypoints and 3D joints."""

import torch
from torch import Tensor, nn

from unihpe_fast.config import PoseEncoderConfig
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.models.layers import FullPrecisionLinear, ResidualMLP, TransformerBlock


class PoseEncoder(nn.Module):
    """17 joints of `coordinates` numbers and a confidence, plus `context` numbers a sample -> embedding [B, width].

    A joint of confidence 0 is missing: its coordinates are never read (NaN may stand there) and learned values take
    their place.
    """

    def __init__(self, config: PoseEncoderConfig, *, coordinates: int, context: int, width: int) -> None:
        super().__init__()
        self.coordinates, self.context = coordinates, context
        trunk: type[_Transformer] | type[_MLP]
        if config.kind == "transformer":
            trunk = _Transformer
        elif config.kind == "mlp":
            trunk = _MLP
        else:
            raise ValueError(f'kind must be "transformer" or "mlp", got {config.kind!r}')
        self.trunk = trunk(config, coordinates + 1, context)
        self.head = FullPrecisionLinear(self.trunk.out_features, width)

    def forward(self, joints: Tensor, context: Tensor | None = None) -> Tensor:
        """joints: [B, 17, coordinates + 1], confidence last; context: [B, context], None where there is none."""
        confidence = joints[..., -1:]
        seen = confidence > 0
        values = torch.where(seen, joints, 0)
        return self.head(self.trunk(values, seen, context))


class _MLP(nn.Module):
    """All joints as one vector through a residual MLP."""

    def __init__(self, config: PoseEncoderConfig, channels: int, context: int) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(NUM_JOINTS, channels))
        self.mlp = ResidualMLP(NUM_JOINTS * channels + context, config.width, config.depth, config.dropout)
        self.out_features = config.width

    def forward(self, values: Tensor, seen: Tensor, context: Tensor | None) -> Tensor:
        x = torch.where(seen, values, self.missing).flatten(1)
        return self.mlp(x if context is None else torch.cat([x, context], dim=1))


class _Transformer(nn.Module):
    """One token a joint, and one for the context."""

    def __init__(self, config: PoseEncoderConfig, channels: int, context: int) -> None:
        super().__init__()
        width = config.width
        self.token = FullPrecisionLinear(channels, width)
        self.joint = nn.Parameter(torch.randn(NUM_JOINTS, width) * width**-0.5)
        self.missing = nn.Parameter(torch.zeros(width))
        self.context = FullPrecisionLinear(context, width) if context else None
        self.blocks = nn.ModuleList(TransformerBlock(width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        # every joint keeps its own place in the result: a mean over tokens would mix them
        self.out_features = (NUM_JOINTS + (1 if context else 0)) * width

    def forward(self, values: Tensor, seen: Tensor, context: Tensor | None) -> Tensor:
        x = torch.where(seen, self.token(values), self.missing) + self.joint
        if self.context is not None and context is not None:
            x = torch.cat([x, self.context(context)[:, None]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).flatten(1)
