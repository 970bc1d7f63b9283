"""The building blocks that the encoders and the decoder share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FullPrecisionLinear(nn.Linear):
    """A linear layer that autocast leaves alone.

    bfloat16 keeps 8 bits: a coordinate of 1 m would be rounded to 4 mm where it enters the network or leaves it.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class ResidualMLP(nn.Module):
    """[..., in_features] -> [..., width]: a full-precision input layer and `depth` residual blocks of two layers.

    The lifting network of Martinez et al. 2017 in the pre-norm form: the residual path stays clean, and LayerNorm in
    place of BatchNorm makes a sample's output independent of its batch (batches of one and absent samples work).
    """

    def __init__(self, in_features: int, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.input = FullPrecisionLinear(in_features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(width, width),
                nn.Dropout(dropout),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a GELU MLP of 4 times the width: [B, T, width] -> same (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}")
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        # [B, T, 3 * width] -> three of [B, heads, T, width / heads]
        q, k, v = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.projection(mixed))
        return x + self.mlp(x)
