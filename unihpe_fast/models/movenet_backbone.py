"""MoveNet's eyes as a backbone of the image encoder: MobileNetV2 with a feature pyramid, trained on photographs."""

import torch
from torch import Tensor, nn

from unihpe_fast.data.images import MEAN, STD
from unihpe_fast.detector.movenet_fetch import load
from unihpe_fast.detector.movenet_layers import Backbone
from unihpe_fast.detector.movenet_nets import build

# name of the backbone -> name of the published graph
MOVENETS = {"movenet_thunder": "movenet-thunder", "movenet_lightning": "movenet-lightning"}


class FeatureInfo:
    """What timm's feature_info answers."""

    def __init__(self, channels: list[int]) -> None:
        self._channels = channels

    def channels(self) -> list[int]:
        return self._channels

    def reduction(self) -> list[int]:
        return [4, 8, 16, 32]


class MoveNetBackbone(nn.Module):
    """Crops [B, 3, S, S], ImageNet-normalised RGB -> the pyramid's map at stride 4 and MobileNetV2's at 8, 16 and 32.

    name: one of MOVENETS. pretrained: take the weights from the cache folder; raises DetectorError, one line that says
    what to run, where they are not there. Otherwise they are random, for a checkpoint to be loaded into. There is no
    batch normalisation: the published graphs have it folded into the convolutions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, pretrained: bool) -> None:
        super().__init__()
        graph = MOVENETS[name]
        net = load(graph) if pretrained else build(graph)
        assert isinstance(net.backbone, Backbone)
        self.backbone = net.backbone.requires_grad_(True)
        strided = [conv.get_submodule("conv").in_channels for conv in self.backbone.laterals][1:]
        self.feature_info = FeatureInfo([24, *strided, self.backbone.last.conv.out_channels])  # type: ignore[list-item]
        for key, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(key, torch.as_tensor(value, dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.backbone.maps((image * self.std + self.mean) * 255)
