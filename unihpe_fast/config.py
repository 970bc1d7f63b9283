"""Every option of a run, as nested dataclasses, and what is allowed together."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml

if TYPE_CHECKING:
    import cattrs


# of 3D poses: the camera's (x right, y down, z away from it), or those of the levelled camera, where -y is up
Axes = Literal["camera", "level"]


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
    yaw: bool = False
    """samples without an image: turn the person about its own vertical axis and re-project"""
    bone_scale: float = 0.0
    """samples without an image: largest relative change of bone lengths, left and right alike, re-projected"""
    body_scale: float = 0.0
    """samples without an image: largest relative change of the whole person's size, re-projected"""
    noise: float = 0.0
    """simulated 2D detector: standard deviation as a share of the bbox side"""
    missing: float = 0.0
    """simulated 2D detector: chance that a joint is missing"""
    refilm: float = 0.0
    """samples without an image: share filmed by cameras of other labs (focal length, height, pitch, roll, distance)"""
    tumble: float = 0.0
    """share of those who are turned any way round before, as people who lie, crawl or turn over are seen"""
    detector: float = 0.0
    """samples without an image: error of a 2D detector, standard deviation as a share of the bbox side, mean over
    joints; it differs by joint and person, has a heavy tail, and shows in the confidence of half of the people"""
    swap: float = 0.0
    """of that detector: chance that it takes a person's left arm or leg for the right one"""
    halves: float = 0.0
    """of that detector: chance that it sees the upper half of a person only"""
    coco: float = 0.0
    """of that detector: share of people whose head and trunk are derived from COCO's nose, eyes, shoulders and hips"""
    sure: float = 0.0
    """of that detector: share of people whose joints it finds exactly where they are (`missing` and `halves` apart)"""
    unknown_focal: float = 0.0
    """share of samples whose focal length the model is not told"""


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
    """samples of a training batch, those of all processes together"""
    val_batch_size: int = 128
    val_samples: int = 1024
    """how many validation samples are scored while training, spread evenly; 0: all"""
    level: bool = False
    """3D poses in the axes of the levelled camera, its pitch and roll taken out, so that -y is the world's up; else in
    the camera's own. Every sample with a 3D pose must have its camera's rotation"""
    workers: int = 0
    """loader processes, of each training process"""
    timeout: float = 300.0
    """seconds that the run waits for a batch of its loader processes before it takes them for stuck"""
    max_broken: float = 0.01
    """largest share of training samples that may fail to decode; each is named, and another stands in for it"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    augment_for: dict[str, str] = field(default_factory=dict)
    """what is different for one of the training sources: its name and options of `augment` as a YAML mapping, e.g.
    coco-train.h5 "{rotate: 45, noise: 0}" """

    @property
    def axes(self) -> Axes:
        """Those of the 3D poses, in a word."""
        return "level" if self.level else "camera"


@dataclass(frozen=True)
class ImageEncoderConfig:
    backbone: str = "resnet10t"
    """any timm model name, movenet_thunder or movenet_lightning"""
    backbone_args: dict[str, str] = field(default_factory=dict)
    """further arguments of timm.create_model, each value a YAML literal, e.g. channels "[32, 64, 128, 256]" """
    pretrained: bool = False
    """begin from published weights: timm's, fetched from the hub, or MoveNet's, which
    `python -m unihpe_fast.detector fetch movenet` brings"""
    frozen: bool = False
    """leave the backbone as it begins: no gradients, and batch statistics stay"""
    fuse: bool = True
    """fuse the feature maps of all scales; otherwise only the last one is used"""
    fuse_width: int = 128
    """channels of the fused map"""
    fuse_depth: int = 0
    """residual blocks of 3 x 3 convolutions on it"""
    modulate: bool = False
    """let what the embedding is made from scale and shift the channels that the 2D head reads (FiLM), so that it can
    say which side a limb is on"""
    heatmap_stride: int = 4
    """input px a heatmap cell, for the 2D head"""
    head_width: int = 512
    head_depth: int = 2
    """residual blocks between the pooled features and the embedding"""


@dataclass(frozen=True)
class PoseEncoderConfig:
    kind: Literal["transformer", "mlp"] = "mlp"
    """a plain residual MLP (Martinez et al. 2017), or one token a joint with attention: several times the work"""
    width: int = 512
    depth: int = 3
    heads: int = 4
    """of the transformer"""
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
    pose3d: PoseEncoderConfig = field(default_factory=lambda: PoseEncoderConfig(width=256, depth=2))
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    rays: bool = False
    """joints decoded from 2D keypoints are moved towards those keypoints' lines of sight, as far as is learned; nothing
    without pose2d"""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms; 0 switches one off."""

    singular_value: float = 0.1
    negatives: Literal["all", "paired"] = "paired"
    pairwise: float = 0.1
    """pairwise cosine InfoNCE over every two modalities"""
    volume: float = 0.0
    """GRAM's loss: the volume that a sample's embeddings span, each modality in turn looked up by the others"""
    area: float = 0.0
    """TRIANGLE's loss: the area of the triangle of a sample's three embeddings; of the samples that have all three"""
    joints_3d: float = 1.0
    """distance of the decoded 3D joints, in metres, mean over joints and the modalities they were read from"""
    joints_2d: float = 1.0
    """distance of the image's 2D head, in half bbox sides"""
    heatmaps: float = 0.0
    """cross entropy of that head's heatmaps with a Gaussian of one cell around each joint that lies in the crop"""
    pa_mpjpe: float = 0.0
    """PA-MPJPE of the decoded 3D joints, in metres"""
    temperature: float = 0.07
    learnable_temperature: bool = True


@dataclass(frozen=True)
class OptimConfig:
    steps: int = 1000
    lr: float = 1e-3
    conv_lr: float = 1.0
    """learning rate of the weights of all convolutions in units of `lr`, and with it their decay; those that batch norm
    follows bear more, since their size changes nothing. Nothing without convolutions"""
    weight_decay: float = 0.05
    muon: bool = False
    """the matrices between hidden layers by Muon (Jordan et al. 2024), the rest by AdamW as everything is without"""
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
    backend: Literal["auto", "triton", "native", "torch"] = "auto"
    """of the kernels"""
    shard: Literal["ddp", "fsdp"] = "ddp"
    """among several processes: the model whole on each, or divided among them with its gradients and moments"""
    log_every: int = 20
    eval_every: int = 0
    """steps between validations; 0: only at the end"""
    checkpoint_every: int = 200
    keep: int = 2
    """newest checkpoints kept"""
    max_bad_steps: int = 10
    """steps in a row that may be skipped because their loss or gradient is not finite"""
    timeout: float = 10.0
    """minutes that a process of several waits for another: longer than a checkpoint or the drawing of plots takes"""
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


class ConfigError(ValueError):
    """A configuration file or value that cannot be used; the message names it."""


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that `read_config` takes back."""
    # here and below, because the records and presets alone must do without: benchmarks run where these are missing
    import cattrs

    return yaml.safe_dump(cattrs.unstructure(config), sort_keys=False)


def read_config(path: str | Path) -> Config:
    """A config.yaml as a run folder holds it; missing options take their defaults, unknown ones raise ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    return config_of(text, str(path))


def config_of(text: str, where: str) -> Config:
    """The text of a config.yaml as `read_config` takes it. where: what errors call it."""
    import cattrs

    raw = parse_yaml(text, where)
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: found {type(raw).__name__}, wanted a mapping with the sections of Config")
    try:
        return check(_converter().structure(raw, Config))
    except cattrs.BaseValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(cattrs.transform_error(error))}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


# values that a configuration may have; ours have some hundred and fifty
_MOST_VALUES = 10_000
_LARGEST_WHOLE = 2**62


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text holds; ConfigError beginning with `where` for one that is none or could not be a configuration.

    Aliases may make a few lines stand for more values than the memory holds, and a list its own member.
    """
    try:
        found = yaml.safe_load(text)
    # a number of thousands of digits, a date that is none, brackets in brackets
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: cannot be read as YAML: {error}") from error
    pending, seen = [found], 0
    while pending:
        value = pending.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise ConfigError(f"{where}: must hold at most {_MOST_VALUES} values, got more")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise ConfigError(f"{where}: names must be text, got {key!r:.80}")
        if isinstance(value, dict | list | set | tuple):
            pending.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, int) and not -_LARGEST_WHOLE <= value <= _LARGEST_WHOLE:
            raise ConfigError(f"{where}: whole numbers must be within 2^62, got one of {value.bit_length()} bits")
    return found


def model_config_of(said: object, where: str) -> ModelConfig:
    """The options of a model from plain mappings, lists and numbers, as JSON has them; ConfigError for others."""
    import cattrs

    try:
        return _converter().structure(said, ModelConfig)
    except cattrs.BaseValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(cattrs.transform_error(error))}") from error


def _converter() -> "cattrs.Converter":
    import cattrs

    converter = cattrs.Converter(forbid_extra_keys=True)

    def strict(value: Any, wanted: type) -> Any:
        # bool is an int, and int("3") would hide a typing error in the file
        if wanted is float and type(value) is int:
            return float(value)
        if type(value) is not wanted:
            raise ValueError(f"found {value!r:.80}, wanted {wanted.__name__}")
        return value

    def listed(value: Any, wanted: Any) -> tuple:
        # a string is a sequence too, of its letters
        if not isinstance(value, list):
            raise ValueError(f"found {value!r:.80}, wanted a list")
        return tuple(converter.structure(item, get_args(wanted)[0]) for item in value)

    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, strict)
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is tuple, listed)
    return converter


def check(config: Config) -> Config:
    """The configuration itself, if its values make sense together; ConfigError that names the option otherwise."""
    import cattrs

    for name, value in _flat(cattrs.unstructure(config)).items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"--{name} {number}: must be finite")
            if isinstance(number, int) and abs(number) > _LARGEST_WHOLE:
                raise ConfigError(f"--{name}: must be within 2^62, got a number of {number.bit_length()} bits")
    positive = {
        "data.batch_size": config.data.batch_size,
        "data.val_batch_size": config.data.val_batch_size,
        "optim.steps": config.optim.steps,
        "optim.accumulate": config.optim.accumulate,
        "model.width": config.model.width,
        "run.log_every": config.run.log_every,
        "run.checkpoint_every": config.run.checkpoint_every,
        "run.keep": config.run.keep,
        "run.max_bad_steps": config.run.max_bad_steps,
    }
    for name, count in positive.items():
        if count < 1:
            raise ConfigError(f"--{name} {count}: wanted at least 1")
    not_negative: dict[str, float] = {
        "data.image_size": config.data.image_size,
        "data.val_samples": config.data.val_samples,
        "data.workers": config.data.workers,
        "optim.lr": config.optim.lr,
        "optim.conv_lr": config.optim.conv_lr,
        "optim.warmup": config.optim.warmup,
        "optim.clip": config.optim.clip,
        "run.seed": config.run.seed,
        "run.eval_every": config.run.eval_every,
        **{f"loss.{name}": value for name, value in vars(config.loss).items() if isinstance(value, float)},
    }
    for name, least in not_negative.items():
        if least < 0:
            raise ConfigError(f"--{name} {least}: wanted 0 or more")
    modalities = config.model.modalities
    if not modalities or len(set(modalities)) < len(modalities) or not set(modalities) <= {"image", "pose2d", "pose3d"}:
        raise ConfigError(f"--model.modalities {modalities}: wanted some of image, pose2d, pose3d, each once")
    if "image" in modalities and config.data.image_size == 0:
        raise ConfigError("--data.image-size 0 leaves the image encoder without images: leave image out of modalities")
    if config.loss.area and len(modalities) != 3:
        raise ConfigError(f"--loss.area {config.loss.area}: wanted 0 for a model of {modalities}, or three modalities")
    if "image" in modalities and config.model.image.frozen and not config.model.image.pretrained:
        raise ConfigError(
            "--model.image.frozen leaves the backbone's random weights as they are: wanted --model.image.pretrained too"
        )
    weights = config.data.train_weights
    if weights and (len(weights) != len(config.data.train) or min(weights) < 0 or sum(weights) <= 0):
        raise ConfigError(
            f"--data.train-weights {weights}: wanted one non-negative share for each of {config.data.train}"
        )
    if not config.data.timeout > 0:
        raise ConfigError(f"--data.timeout {config.data.timeout}: must be more than 0 seconds")
    if not config.run.timeout > 0:
        raise ConfigError(f"--run.timeout {config.run.timeout}: must be more than 0 minutes")
    if not 0 <= config.data.max_broken <= 1:
        raise ConfigError(f"--data.max_broken {config.data.max_broken}: wanted a share from 0 to 1")
    for name in config.data.augment_for:
        if name not in config.data.train:
            raise ConfigError(f"--data.augment-for {name}: wanted one of the training sources {config.data.train}")
        augment_of(config.data, name)
    if config.optim.muon and config.run.shard == "fsdp":
        raise ConfigError("--optim.muon takes whole matrices, which --run.shard fsdp divides: wanted one of the two")
    if config.model.rays and config.data.level:
        raise ConfigError("--model.rays takes camera axes, from which --data.level turns poses: wanted one of the two")
    if not 0 <= config.optim.ema < 1:
        raise ConfigError(f"--optim.ema {config.optim.ema}: wanted 0 <= decay < 1")
    return config


def augment_of(data: DataConfig, name: str) -> AugmentConfig:
    """The augmentation of one training source; ConfigError for overrides that cannot be used."""
    if name not in data.augment_for:
        return data.augment
    import cattrs  # not above: a step can be timed where it is not installed

    text = data.augment_for[name]
    try:
        overrides = parse_yaml(text, f"--data.augment-for {name} {text!r:.80}")
        if not isinstance(overrides, dict):
            raise ConfigError(
                f"--data.augment-for {name} {text!r:.80}: found {type(overrides).__name__}, wanted a mapping of options"
            )
        return _converter().structure(cattrs.unstructure(data.augment) | overrides, AugmentConfig)
    except cattrs.BaseValidationError as error:
        raise ConfigError(f"--data.augment-for {name}: {'; '.join(cattrs.transform_error(error))}") from error


def check_resumed(old: Config, new: Config) -> None:
    """ConfigError naming an option that a run cannot change when it goes on: its past would not fit its future.

    Free to change: the number of steps, validation, loader processes, and how and where it runs.
    """

    import cattrs

    def settled(config: Config) -> dict[str, Any]:
        data = replace(config.data, val=(), val_batch_size=1, val_samples=0, workers=0, timeout=1.0, max_broken=0.0)
        optim = replace(config.optim, steps=1)
        run = RunConfig(seed=config.run.seed)
        return _flat(cattrs.unstructure(replace(config, data=data, optim=optim, run=run)))

    before, after = settled(old), settled(new)
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            raise ConfigError(f"--{name} {after.get(name)}: the run was begun with {before.get(name)}")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
