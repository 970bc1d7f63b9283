"""A trained model in one file: safetensors whose metadata say how to build it, what it learned from, and its scores."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from unihpe_fast.config import Config, ConfigError, config_of, to_yaml
from unihpe_fast.engine.faults import CheckpointError
from unihpe_fast.fileio import atomic_path
from unihpe_fast.models.hub import WeightsError
from unihpe_fast.models.unihpe import UniHPE

# what comes with the package
FOLDER = Path(__file__).parent.parent / "weights"
FORMAT = "unihpe_fast 1"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ModelCard:
    """What a user of the weights should know.

    data: what it was trained on. licence: the terms of that data and of the weights. scores: as in summary.json.
    confidence: "binary" for a model that has seen confidences 0 and 1 only, "graded" for one trained on a detector's.
    """

    data: str
    licence: str
    scores: dict[str, Any] = field(default_factory=dict)
    confidence: Literal["binary", "graded"] = "binary"


def shipped() -> dict[str, Path]:
    """The models that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{SUFFIX}"))}


def package(path: Path, model: UniHPE, config: Config, card: ModelCard) -> None:
    """Write the model as one file, whole or not at all.

    Weights are kept in float16, half the room; where they leave its range, in float32. Raises OSError.
    """
    config = without_paths(config)
    tensors = {name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}
    halves = {name: x.half() if x.dtype == torch.float32 else x for name, x in tensors.items()}
    fits = all(x.isfinite().all() for x in halves.values() if x.is_floating_point())
    metadata = {"format": FORMAT, "config": to_yaml(config), "card": json.dumps(dataclasses.asdict(card))}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(halves if fits else tensors, temporary, metadata)


def read_card(path: Path) -> ModelCard:
    """The model card of a packaged model; CheckpointError where the file is none."""
    metadata = _metadata(path)
    try:
        return ModelCard(**json.loads(metadata["card"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: card must be a model card in JSON, got {error}") from error


def load_packaged(path: Path) -> tuple[UniHPE, Config]:
    """The model of a packaged file in float32 and evaluation mode, and its options; CheckpointError for others."""
    metadata = _metadata(path)
    try:
        config = config_of(metadata.get("config", ""), str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    return build(config, path), config


def build(config: Config, weights: Path) -> UniHPE:
    """The model of these options with the weights of a safetensors file, in evaluation mode; else CheckpointError."""
    try:
        return UniHPE.from_weights(config.model, config.data.image_size, weights)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error


def without_paths(config: Config) -> Config:
    """The options with the names of their files alone, and no run folder: where they lay is nobody's business."""
    data = config.data
    named = dataclasses.replace(
        data,
        train=tuple(Path(name).name for name in data.train),
        val=tuple(Path(name).name for name in data.val),
        augment_for={Path(name).name: text for name, text in data.augment_for.items()},
    )
    return dataclasses.replace(config, data=named, run=dataclasses.replace(config.run, dir=""))


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    if metadata.get("format") != FORMAT:
        wanted = f'a model written by python -m unihpe_fast.export ("{FORMAT}")'
        raise CheckpointError(f"{path}: format must be {wanted}, got {metadata.get('format')!r}")
    return metadata
