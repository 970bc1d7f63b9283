"""From 2D keypoints to 3D joints in as few steps as the trained weights allow: for prediction, where they are fixed."""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unihpe_fast.models.layers import ResidualMLP
from unihpe_fast.models.unihpe import UniHPE
from unihpe_fast.units import MM_PER_METRE


class _Linear(NamedTuple):
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def to(self, dtype: torch.dtype) -> "_Linear":
        return _Linear(self.weight.to(dtype), self.bias.to(dtype))


class FoldedLifter:
    """`model.lift(keypoints_2d, box)` of a UniHPE whose 2D encoder is an MLP.

    What no activation separates is one product: LayerNorm's gain and bias with the layer after them, the encoder's head
    with the source token and the decoder's input, the decoder's output with the mean pose and the unit. Weights are
    cast to `dtype` once, and what runs through the blocks is kept in it; the first product, the last one and the rays
    meet coordinates and stay float32. The weights are those at the time of folding. In float32 it agrees with the model
    to rounding.
    """

    def __init__(self, model: UniHPE, dtype: torch.dtype) -> None:
        encoder, decoder = model.pose2d_encoder, model.decoder
        trunk: Any = encoder.trunk.mlp
        self.dtype = dtype
        self.missing = encoder.trunk.missing.detach()
        self.rays = None if model.rays is None else copy.deepcopy(model.rays).float()
        self.encoder = _blocks(trunk, dtype)
        self.decoder = _blocks(decoder.mlp, dtype)
        self.input = _linear(trunk.input).to(torch.float32)
        head, entry = _after_norm(trunk.norm, encoder.head), _linear(decoder.mlp.input)
        if model.source_tokens is not None:
            token = model.source_tokens[model.modalities.index("pose2d")].detach().double()
            head = _Linear(head.weight, head.bias + token)
        self.between = _Linear(entry.weight @ head.weight, entry(head.bias)).to(dtype)
        # a row for each coordinate of all joints but the root: x of 16, y of 16, z of 16
        weight, bias = (x * MM_PER_METRE for x in _after_norm(decoder.mlp.norm, decoder.output))
        bias = bias + model.mean_pose[1:].flatten().double()
        weight, bias = (x.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1) for x in (weight, bias[:, None]))
        self.output = _Linear(weight, bias).to(torch.float32)

    @staticmethod
    def fits(model: UniHPE) -> bool:
        """Whether a model has a 2D encoder that can be folded."""
        return "pose2d" in model.modalities and model.config.pose2d.kind == "mlp"

    @torch.inference_mode()
    def __call__(self, keypoints_2d: Tensor, box: Tensor) -> Tensor:
        """[B, 17, 3] crop units and confidence, and [B, 3] of `Batch` -> [B, 17, 3] float32 mm, the root exactly 0."""
        seen = keypoints_2d[..., 2:] > 0
        keypoints = torch.where(seen, keypoints_2d, self.missing).permute(1, 2, 0).flatten(0, 1)
        x = torch.cat([keypoints, box.T]).T
        x = _residual(self.input(x).to(self.dtype), self.encoder)
        x = _residual(self.between(_normed(x)), self.decoder)
        pose = torch.addmm(self.output.bias, self.output.weight, _normed(x.float()).T).unflatten(0, (3, -1))
        pose = F.pad(pose, (0, 0, 1, 0)).permute(2, 1, 0)
        return pose if self.rays is None else self.rays(pose, keypoints_2d, box)


def _residual(x: Tensor, blocks: list[tuple[_Linear, _Linear]]) -> Tensor:
    for first, second in blocks:
        x += second(F.gelu(first(_normed(x))))
    return x


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _linear(layer: nn.Linear) -> _Linear:
    return _Linear(layer.weight.detach().double(), layer.bias.detach().double())


def _after_norm(norm: nn.LayerNorm, layer: nn.Linear) -> _Linear:
    """The layer with the gain and the bias of the norm before it, float64."""
    weight, bias = _linear(layer)
    return _Linear(weight * norm.weight.detach().double(), bias + weight @ norm.bias.detach().double())


def _blocks(mlp: ResidualMLP, dtype: torch.dtype) -> list[tuple[_Linear, _Linear]]:
    blocks: list[Any] = list(mlp.blocks.children())
    # a block is norm, layer, GELU, dropout, layer, dropout
    return [(_after_norm(block[0], block[1]).to(dtype), _linear(block[4]).to(dtype)) for block in blocks]
