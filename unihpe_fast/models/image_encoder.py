"""The image encoder: any timm backbone or MoveNet's, a fused feature map, a 2D head and a pooled embedding."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from unihpe_fast.config import ImageEncoderConfig, parse_yaml
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.models.heatmap import soft_argmax
from unihpe_fast.models.layers import FullPrecisionLinear, ResidualMLP
from unihpe_fast.models.movenet_backbone import MOVENETS, MoveNetBackbone

SIZE_STEP = 32
# arguments of timm.create_model that name files
_LOADING = ("checkpoint_path", "cache_dir")
_FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# of the features read at a joint, before all joints are put side by side
JOINT_FEATURES = 32


class ImageFeatures(NamedTuple):
    """embedding: [B, D]. keypoints_2d: [B, 17, 2] in crop units, the crop spans [-1, 1]. log_heatmaps: [B, 17, H, W],
    logarithms of probabilities over the cells of the crop."""

    embedding: Tensor
    keypoints_2d: Tensor
    log_heatmaps: Tensor


class ImageEncoder(nn.Module):
    """Crops [B, 3, S, S] and box context [B, 3] -> `ImageFeatures`.

    The maps of all scales are brought to one width and added up from the coarsest to the heatmap's stride (Lin et al.
    2017); residual blocks may follow. One softmax heatmap a joint gives the 2D keypoints (soft-argmax) and says where
    the fused map is read for that joint, so the embedding knows both where each joint is and what is seen there,
    besides the pooled last map. With `modulate`, what the embedding is made from scales and shifts the channels of the
    fused map (FiLM, Perez et al. 2018), and what is read there is added to the heatmaps of the 2D keypoints.
    """

    def __init__(self, config: ImageEncoderConfig, *, image_size: int, width: int) -> None:
        super().__init__()
        if image_size < SIZE_STEP or image_size % SIZE_STEP:
            raise ValueError(f"image_size must be a positive multiple of {SIZE_STEP} px, got {image_size}")
        if config.heatmap_stride < 1 or image_size % config.heatmap_stride:
            raise ValueError(f"heatmap_stride must divide image_size {image_size}, got {config.heatmap_stride}")
        if config.fuse_depth < 0:
            raise ValueError(f"fuse_depth must not be negative, got {config.fuse_depth}")
        self.image_size = image_size
        self.backbone = _build_backbone(config, image_size)
        self.frozen = config.frozen
        if self.frozen:
            self.backbone.requires_grad_(False).eval()
        self.channels_last = str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC")
        info: Any = self.backbone.feature_info
        channels, strides = info.channels(), info.reduction()
        self.scales = _chosen_scales(strides, config)
        self.grid = image_size // config.heatmap_stride
        # no biases where BatchNorm or a softmax over cells follows: they would change nothing
        self.laterals = nn.ModuleList(nn.Conv2d(channels[i], config.fuse_width, 1, bias=False) for i in self.scales)
        self.norm = nn.BatchNorm2d(config.fuse_width)
        # which side a limb is on is said by the coarse maps, where it is by the fine ones
        self.refine = nn.Sequential(
            *(BasicBlock(config.fuse_width, config.fuse_width) for _ in range(config.fuse_depth))
        )
        self.heatmaps = nn.Conv2d(config.fuse_width, NUM_JOINTS, 1, bias=False)
        self.joint_features = nn.Linear(config.fuse_width, JOINT_FEATURES)
        pooled = channels[-1] + NUM_JOINTS * (JOINT_FEATURES + 2) + 3
        self.mlp = ResidualMLP(pooled, config.head_width, config.head_depth)
        self.modulation: nn.Linear | None = None
        if config.modulate:
            self.modulation = nn.Linear(config.head_width, 2 * config.fuse_width)
            # starts close to no change of the fused map
            nn.init.normal_(self.modulation.weight, std=0.01)
            nn.init.zeros_(self.modulation.bias)
            self.modulated_heatmaps = nn.Conv2d(config.fuse_width, NUM_JOINTS, 1, bias=False)
        self.head = FullPrecisionLinear(config.head_width, width)

    def train(self, mode: bool = True) -> "ImageEncoder":
        super().train(mode)
        if self.frozen:
            # its batch statistics stay too
            self.backbone.eval()
        return self

    def forward(self, image: Tensor, box: Tensor) -> ImageFeatures:
        maps = self.backbone(image)
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        fused = self._fuse(maps)
        logits = self.heatmaps(fused)
        log_heatmaps, keypoints = _read(logits)
        # [B, 17, HW] x [B, HW, C]: the fused map read at each joint
        heatmaps = log_heatmaps.exp().flatten(2).to(fused.dtype)
        joints = self.joint_features(heatmaps @ fused.flatten(2).transpose(1, 2))
        pooled = maps[-1].mean((-2, -1))
        x = self.mlp(torch.cat([pooled.float(), joints.flatten(1).float(), keypoints.flatten(1), box], dim=1))
        if self.modulation is not None:
            # which way a person faces, and where on the picture there is a knee, say together which knee it is
            scale, shift = self.modulation(x)[..., None, None].chunk(2, dim=1)
            log_heatmaps, keypoints = _read(logits + self.modulated_heatmaps(F.relu(fused * (1 + scale) + shift)))
        return ImageFeatures(self.head(x), keypoints, log_heatmaps)

    def _fuse(self, maps: list[Tensor]) -> Tensor:
        fused: Tensor | None = None
        for i, lateral in zip(self.scales, self.laterals, strict=True):
            x = lateral(maps[i])
            fused = x if fused is None else x + _resize(fused, x.shape[-2:])
        assert fused is not None
        return self.refine(F.relu(self.norm(_resize(fused, (self.grid, self.grid)))))


def _read(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the heatmaps, a softmax over the cells of [B, 17, H, W], and the keypoints that they stand for."""
    # fp32: thousands of small numbers are added up
    log_heatmaps = logits.flatten(2).float().log_softmax(-1).unflatten(-1, logits.shape[-2:])
    return log_heatmaps, soft_argmax(log_heatmaps.exp())


def _resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _chosen_scales(strides: list[int], config: ImageEncoderConfig) -> list[int]:
    """Indices of the maps to fuse, coarsest first; those finer than the heatmap are left out."""
    if not config.fuse:
        return [len(strides) - 1]
    order = sorted(range(len(strides)), key=lambda i: strides[i], reverse=True)
    return [i for i in order if strides[i] >= config.heatmap_stride] or order[:1]


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Some versions of timm unpickle what they fetch; torch.load obeys this whatever its caller says."""
    before = os.environ.get(_FORCE_WEIGHTS_ONLY)
    os.environ[_FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE_WEIGHTS_ONLY]
        else:
            os.environ[_FORCE_WEIGHTS_ONLY] = before


def _build_backbone(config: ImageEncoderConfig, image_size: int) -> nn.Module:
    if config.backbone in MOVENETS:
        if config.backbone_args:
            raise ValueError(f"backbone_args must be empty for {config.backbone}, got {config.backbone_args}")
        return MoveNetBackbone(config.backbone, pretrained=config.pretrained)
    arguments: dict[str, Any] = {}
    for name, text in config.backbone_args.items():
        if name in _LOADING or name.startswith("pretrained"):
            raise ValueError(f"backbone_args must not hold {name!r}: it makes timm read files that others wrote")
        arguments[name] = parse_yaml(text, f"backbone_args[{name!r}] must be a YAML literal, got {text!r:.80}")
    if not timm.is_model(config.backbone):
        names = f"a timm model (timm.list_models()) or one of {', '.join(MOVENETS)}"
        raise ValueError(f"backbone must be the name of {names}, got {config.backbone!r}")
    pretrained_config = timm.get_pretrained_cfg(config.backbone, allow_unregistered=True)
    if pretrained_config is not None and pretrained_config.fixed_input_size:
        # vision transformers are built for one size of input
        arguments.setdefault("img_size", image_size)
    try:
        with _weights_only():
            return timm.create_model(config.backbone, pretrained=config.pretrained, features_only=True, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"backbone {config.backbone!r} cannot be built with {arguments}: {error}") from error
