"""What a run folder holds, mutated: config.yaml, metrics.jsonl, checkpoints and weights."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.fuzz import CASES, fuzz, fuzz_made
from tests.support.tiny import tiny
from unihpe_fast.config import ConfigError, read_config, to_yaml
from unihpe_fast.data.loader import train_batches
from unihpe_fast.data.records import Batch
from unihpe_fast.engine.checkpoint import (
    CONFIG,
    METRICS,
    WEIGHTS,
    CheckpointError,
    load_latest,
    load_model,
    save_weights,
)
from unihpe_fast.engine.checkpoint_state import fault_of
from unihpe_fast.engine.packaged import ModelCard, package, read_card
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.engine.trainer import Trainer
from unihpe_fast.models.hub import WeightsError
from unihpe_fast.models.unihpe import UniHPE
from unihpe_fast.plots import MetricsError, plot_curves, read_metrics

pytestmark = pytest.mark.fuzz


def test_configurations() -> None:
    files = {CONFIG: to_yaml(tiny(data={"augment_for": {"synthetic": "{rotate: 5}"}})).encode()}
    assert fuzz(lambda folder: read_config(folder / CONFIG), files, errors=(ConfigError,)) > 0


def test_metrics() -> None:
    lines = [
        f'{{"step": {step}, "lr": 1e-3, "loss": 0.5, "loss/joints_3d": 2.5e-1, "images_per_s": 50.0, "data_wait": 0.1}}'
        for step in range(1, 4)
    ]
    lines.append('{"step": 3, "val": {"image": null, "pose2d": {"mpjpe": 9.0}, "mean_pose": {"mpjpe": 12.0}}}')
    drawn = iter(range(10**9))

    def read(folder: Path) -> None:
        records = read_metrics(folder / METRICS)
        # a drawing takes a quarter of a second
        if records and next(drawn) % 40 == 0:
            plot_curves(folder / METRICS, folder / "curves.png")

    files = {METRICS: "".join(f"{line}\n" for line in lines).encode()}
    assert fuzz(read, files, errors=(MetricsError,)) > 0


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    config = tiny(optim={"ema": 0.9})
    trainer = Trainer(config, choose_runtime(config.run))
    trainer.advance(iter(_batches(trainer)))
    return trainer


def _batches(trainer: Trainer) -> list[Batch]:
    return list(train_batches(trainer.config.data, seed=0, start_step=0, steps=1))


def go_on(trainer: Trainer, folder: Path) -> None:
    """From the folder's checkpoint, for a step, as a run does."""
    state = load_latest(folder, lambda text: None, lambda path, state: fault_of(state, trainer))
    assert state is not None
    try:
        trainer.load_state(state)
    except (RuntimeError, ValueError) as error:
        # as the loop does: of torch's random generators
        if not any(word in str(error) for word in ("RNG", "mt19937", "random")):
            raise
        raise CheckpointError from error
    trainer.advance(iter(_batches(trainer)))


def test_bytes_of_checkpoints(trainer: Trainer, tmp_path: Path) -> None:
    torch.save(trainer.state() | {"metrics_offset": 0, CONFIG: ""}, tmp_path / "a.pt")
    files = {"checkpoints/step_00000001.pt": (tmp_path / "a.pt").read_bytes()}
    fuzz(lambda folder: go_on(trainer, folder), files, max(CASES // 5, 20), errors=(CheckpointError,), apart=True)


_ODD: tuple[Any, ...] = (
    None, True, -1, 0.5, 10**30, "x", b"x", [], {}, (), [1], {1: 2}, float("nan"), torch.zeros(()), torch.zeros(3),
    torch.zeros(17, 3, dtype=torch.int64), torch.full((17, 3), torch.inf), torch.zeros(2, dtype=torch.complex64),
    torch.zeros(1).expand(10**9), torch.eye(3).to_sparse(), torch.zeros(17, 3, dtype=torch.float64),
)  # fmt: skip


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def test_structure_of_checkpoints(trainer: Trainer) -> None:
    sound = copy.deepcopy(trainer.state()) | {"metrics_offset": 0, CONFIG: ""}

    def make(folder: Path, number: int) -> None:
        rng = np.random.default_rng([3, number])
        state = copy.deepcopy(sound)
        for _ in range(rng.integers(1, 3)):
            places = list(_places(state))
            (one, key), (other, other_key) = (places[at] for at in rng.integers(len(places), size=2))
            match rng.integers(5):
                case 0:
                    del one[key]
                case 1:
                    one[key] = copy.deepcopy(other[other_key])
                case 2 if isinstance(one[key], torch.Tensor) and one[key].numel():
                    flat = one[key].clone().reshape(-1)
                    bad = (torch.nan, torch.inf, -1.0, 1e30)[rng.integers(4)]
                    flat[rng.integers(len(flat))] = bad if flat.is_floating_point() else int(rng.integers(256))
                    one[key] = flat.reshape(one[key].shape)
                case _:
                    one[key] = _ODD[rng.integers(len(_ODD))]
        (folder / "checkpoints").mkdir(exist_ok=True)
        torch.save(state, folder / "checkpoints" / "step_00000001.pt")

    count = max(CASES // 5, 60)
    fuzz_made(lambda folder: go_on(trainer, folder), make, count, errors=(CheckpointError,), apart=True)


def test_weights(tmp_path: Path) -> None:
    config = tiny()
    trainer = Trainer(config, choose_runtime(config.run))
    save_weights(tmp_path, trainer.model.state_dict())
    package(tmp_path / "x.safetensors", trainer.model, config, ModelCard("data", "licence"))
    files = {name: (tmp_path / name).read_bytes() for name in (WEIGHTS, "x.safetensors")} | {
        CONFIG: to_yaml(config).encode()
    }

    errors = (CheckpointError, ConfigError, WeightsError)

    def read(folder: Path) -> None:
        refused: Exception | None = None
        for load in (
            lambda: load_model(folder),
            lambda: load_model(folder / "x.safetensors"),
            lambda: read_card(folder / "x.safetensors"),
            lambda: UniHPE.from_pretrained(folder),
        ):
            try:
                load()
            except errors as error:
                refused = error
        if refused:
            raise refused

    fuzz(read, files, max(CASES // 5, 20), errors=errors, apart=True)
