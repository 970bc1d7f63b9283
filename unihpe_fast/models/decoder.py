"""The 3D decoder that every modality shares."""

import torch.nn.functional as F
from torch import Tensor, nn

from unihpe_fast.config import DecoderConfig
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.models.layers import FullPrecisionLinear, ResidualMLP


class PoseDecoder(nn.Module):
    """Embedding [..., width] -> [..., 17, 3] metres in camera space; joint 0, the root, is exactly 0."""

    def __init__(self, config: DecoderConfig, width: int) -> None:
        super().__init__()
        self.mlp = ResidualMLP(width, config.width, config.depth, config.dropout)
        self.output = FullPrecisionLinear(config.width, (NUM_JOINTS - 1) * 3)
        # starts close to no offset, that is at the mean pose
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        joints = self.output(self.mlp(embedding)).unflatten(-1, (NUM_JOINTS - 1, 3))
        return F.pad(joints, (0, 0, 1, 0))
