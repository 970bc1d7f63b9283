"""Every option of a run, as nested dataclasses, and the named presets."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation; 2D, 3D and camera stay consistent (see data/augment.py)."""

    rotate: float = 0.0
    """largest camera roll, degrees"""
    scale: float = 0.0
    """largest relative change of the bbox side"""
    shift: float = 0.0
    """largest bbox shift, as a share of its side"""
    flip: bool = True
    """mirror half of the samples"""
    color: float = 0.0
    """largest change of brightness, contrast and channel gains, relative"""
    turn: bool = False
    """samples without an image: turn the person about its own vertical axis and re-project"""
    bone_scale: float = 0.0
    """samples without an image: largest relative change of bone lengths, left and right alike, re-projected"""
    noise: float = 0.0
    """simulated 2D detector: standard deviation as a share of the bbox side"""
    missing: float = 0.0
    """simulated 2D detector: chance that a joint is missing"""


@dataclass(frozen=True)
class DataConfig:
    train: tuple[str, ...] = ("synthetic",)
    """prepared HDF5 files, or "synthetic" (made on the fly)"""
    val: tuple[str, ...] = ("synthetic",)
    train_weights: tuple[float, ...] = ()
    """share of each training source in a batch; empty: by their sizes"""
    image_size: int = 96
    """side of the network input, px; 0: no images"""
    batch_size: int = 64
    val_batch_size: int = 128
    val_samples: int = 1024
    """how many validation samples are scored while training, spread evenly; 0: all"""
    workers: int = 0
    """loader processes"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class ImageEncoderConfig:
    backbone: str = "resnet10t"
    """any timm model name"""
    backbone_args: dict[str, str] = field(default_factory=dict)
    """further arguments of timm.create_model, each value a YAML literal, e.g. channels "[32, 64, 128, 256]" """
    pretrained: bool = False
    """fetch timm's weights from the hub"""
    fuse: bool = True
    """fuse the feature maps of all scales; otherwise only the last one is used"""
    fuse_width: int = 128
    """channels of the fused map"""
    heatmap_stride: int = 4
    """input px a heatmap cell, for the 2D head"""


@dataclass(frozen=True)
class PoseEncoderConfig:
    kind: Literal["transformer", "mlp"] = "transformer"
    """one token a joint with attention, or a plain residual MLP (Martinez et al. 2017)"""
    width: int = 128
    depth: int = 3
    heads: int = 4
    dropout: float = 0.0


@dataclass(frozen=True)
class DecoderConfig:
    width: int = 512
    depth: int = 2
    dropout: float = 0.0


@dataclass(frozen=True)
class ModelConfig:
    modalities: tuple[str, ...] = ("image", "pose2d", "pose3d")
    """a subset of image, pose2d, pose3d"""
    width: int = 256
    """D, the shared embedding width"""
    source_tokens: bool = False
    """add a learned token of the source modality to an embedding before decoding (UniHPR)"""
    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    pose2d: PoseEncoderConfig = field(default_factory=PoseEncoderConfig)
    pose3d: PoseEncoderConfig = field(default_factory=PoseEncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms; 0 switches one off."""

    singular_value: float = 0.1
    negatives: Literal["all", "paired"] = "paired"
    pairwise: float = 0.1
    """pairwise cosine InfoNCE over every two modalities"""
    joints_3d: float = 1.0
    """distance of the decoded 3D joints, in metres, mean over joints and the modalities they were read from"""
    joints_2d: float = 1.0
    """distance of the image's 2D head, in half bbox sides"""
    pa_mpjpe: float = 0.0
    """PA-MPJPE of the decoded 3D joints, in metres"""
    temperature: float = 0.07
    learnable_temperature: bool = True


@dataclass(frozen=True)
class OptimConfig:
    steps: int = 1000
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 50
    """steps of linear warm-up; a half cosine to `final_lr` of the peak follows"""
    final_lr: float = 0.01
    clip: float = 1.0
    """largest gradient norm; 0: no clipping"""
    accumulate: int = 1
    """batches a step; the contrastive terms see one batch at a time"""
    ema: float = 0.0
    """decay of the averaged weights that are scored and saved; 0: no averaging"""


@dataclass(frozen=True)
class RunConfig:
    dir: str = ""
    """run folder; empty: runs/<preset>, with a number when it is taken"""
    seed: int = 0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = "auto"
    backend: Literal["auto", "torch", "triton"] = "auto"
    """of the kernels"""
    log_every: int = 20
    eval_every: int = 0
    """steps between validations; 0: only at the end"""
    checkpoint_every: int = 200
    keep: int = 2
    """newest checkpoints kept"""
    tensorboard: bool = False
    plots: bool = True


@dataclass(frozen=True)
class Config:
    """One run. A preset gives the defaults; every option can be set as --section.option VALUE."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
