"""Models as folders of plain files, on the Hugging Face hub or on a disk: the options as JSON, the weights as
safetensors. Nothing is pickled, and nothing that comes from a hub is run."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unihpe_fast.config import ConfigError, ModelConfig, model_config_of, read_config
from unihpe_fast.fileio import atomic_path, write_text

OPTIONS, WEIGHTS = "config.json", "model.safetensors"
# what a run folder has in their place
RUN_OPTIONS = "config.yaml"

CARD = """---
{{ card_data }}
---

A human pose model of [unihpe_fast]({{ paper_url }}): image, 2D keypoints and 3D joints in one embedding space, and a
decoder to 3D joints.

```python
from unihpe_fast import UniHPE

model = UniHPE.from_pretrained("this repository")
```
"""


class WeightsError(ValueError):
    """A weights file that cannot be used; the message names it."""


def not_finite(tensors: Mapping[str, Any]) -> str:
    """The name of the first tensor with numbers that are not finite, and how many it has; empty: there is none."""
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point() and (bad := int((~value.isfinite()).sum())):
            return f"{name} must be finite, got {bad} of {value.numel()} numbers that are not"
    return ""


class OnHub(
    ModelHubMixin,
    library_name="unihpe_fast",
    tags=["human-pose-estimation", "3d-pose"],
    pipeline_tag="keypoint-detection",
    paper_url="https://arxiv.org/abs/2311.16477",
    model_card_template=CARD,
):
    """`from_pretrained(folder or repository)`, `save_pretrained(folder)` and `push_to_hub(repository)` of a module that
    is built from `config` and `image_size`. A run folder is read too."""

    config: ModelConfig
    image_size: int

    @classmethod
    def from_weights(cls, config: ModelConfig, image_size: int, weights: Path) -> Self:
        """The model of these options with the weights of a safetensors file, in float32 and evaluation mode.

        Raises WeightsError for a file that is none, of another model, or with numbers that are not finite, and
        ValueError for options that do not fit together.
        """
        # the weights are there: nothing is to be fetched
        config = dataclasses.replace(config, image=dataclasses.replace(config.image, pretrained=False))
        model: Any = cls(config, image_size=image_size)
        try:
            model.load_state_dict(safetensors.torch.load_file(weights))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise WeightsError(f"{weights}: {error}") from error
        if fault := not_finite(model.state_dict()):
            raise WeightsError(f"{weights}: {fault}")
        return model.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """The two files, each whole or not there; the options stand in the weights' metadata too."""
        options = json.dumps({"model": dataclasses.asdict(self.config), "image_size": self.image_size}, indent=2)
        module: Any = self
        tensors = {name: x.detach().cpu().contiguous() for name, x in module.state_dict().items()}
        with atomic_path(save_directory / WEIGHTS) as temporary:
            safetensors.torch.save_file(tensors, temporary, {"format": "pt", "config": options})
        write_text(save_directory / OPTIONS, options + "\n")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, map_location: torch.device | str = "cpu", **fetching: Any
    ) -> Self:
        """A model in evaluation mode: of a folder that `save_pretrained` wrote, of a run folder, or of a repository.

        map_location: the device to load on. fetching: what huggingface_hub.hf_hub_download wants to know (revision,
        token, cache_dir, force_download, local_files_only). Raises WeightsError or ConfigError, which name the file,
        and huggingface_hub's errors for a repository that cannot be reached.
        """
        model_id = str(pretrained_model_name_or_path)
        folder = Path(model_id)
        if folder.is_file():
            raise WeightsError(f"{folder}: must be a folder or the name of a repository; load_model takes a file")
        weights = folder / WEIGHTS if folder.is_dir() else Path(hf_hub_download(model_id, WEIGHTS, **fetching))
        if not weights.is_file():
            raise WeightsError(f"{folder}: no {WEIGHTS} there")
        if folder.is_dir():
            options = folder / OPTIONS
        else:
            try:
                options = Path(hf_hub_download(model_id, OPTIONS, **fetching))
            except EntryNotFoundError:
                options = weights.with_name(OPTIONS)
        model: Any = cls.from_weights(*_options(options, weights), weights)
        return model.to(map_location)


def _options(path: Path, weights: Path) -> tuple[ModelConfig, int]:
    """The options of a model and the side of its image input: of a JSON file, else of a run's options beside it, else
    of the metadata of the weights. Raises ConfigError or WeightsError."""
    if path.is_file():
        return _parsed(path.read_bytes(), str(path))
    if (run := path.with_name(RUN_OPTIONS)).is_file():
        of_run = read_config(run)
        return of_run.model, of_run.data.image_size
    try:
        with safe_open(weights, "pt") as file:
            text = (file.metadata() or {}).get("config")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{weights}: cannot be read as safetensors: {error}") from error
    if text is None:
        raise ConfigError(f"{path}: is not there, and the metadata of {weights} have no config")
    return _parsed(text.encode(), f"{weights}: config")


def _parsed(text: bytes, where: str) -> tuple[ModelConfig, int]:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: cannot be read as JSON: {error}") from error
    if not isinstance(said, dict) or set(said) != {"model", "image_size"} or type(said["image_size"]) is not int:
        found = sorted(said) if isinstance(said, dict) else type(said).__name__
        raise ConfigError(f"{where}: must be a mapping of model and image_size, a number, got {found}")
    return model_config_of(said["model"], where), said["image_size"]
