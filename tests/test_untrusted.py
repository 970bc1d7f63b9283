"""Files of other people run nothing: a payload in each kind of file that the commands accept."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tests.support.tiny import tiny
from unihpe_fast import evaluate, train
from unihpe_fast.config import ImageEncoderConfig, to_yaml
from unihpe_fast.engine.checkpoint import CONFIG, METRICS, WEIGHTS, save_weights
from unihpe_fast.models.image_encoder import ImageEncoder
from unihpe_fast.models.unihpe import UniHPE
from unihpe_fast.plots import MetricsError, read_metrics
from unihpe_fast.presets import PRESETS

PACKAGE = Path(__file__).parents[1] / "unihpe_fast"


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """The folder that a payload would make."""
    return tmp_path / "ran"


def writers(planted: Path) -> dict[str, Callable[[Path], Any]]:
    """The forms a payload comes in, by name."""
    payload = Payload(planted)
    yaml = f"!!python/object/apply:os.mkdir ['{planted}']"
    return {
        "pickle": lambda path: path.write_bytes(pickle.dumps(payload, protocol=2)),
        "torch": lambda path: torch.save({"step": 1, "model": payload}, path, pickle_protocol=2),
        "old torch": lambda path: torch.save(payload, path, pickle_protocol=2, _use_new_zipfile_serialization=False),
        "numpy": lambda path: np.save(path.open("wb"), np.array([payload], dtype=object), allow_pickle=True),
        "yaml": lambda path: path.write_text(f"data: {yaml}\n"),
        "json": lambda path: path.write_text(f'{{"step": 1, "val": "{yaml}"}}\n'),
    }


def test_the_payloads_are_live(planted: Path, tmp_path: Path) -> None:
    writers(planted)["torch"](tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert planted.exists()


@pytest.mark.parametrize("form", sorted(writers(Path())))
@pytest.mark.parametrize("kind", ["checkpoint", "weights", "config", "data", "metrics"])
def test_no_file_of_a_run_runs_anything(
    kind: str, form: str, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, write = tmp_path / "run", writers(planted)[form]
    (run / "checkpoints").mkdir(parents=True)
    config = tiny()
    (run / CONFIG).write_text(to_yaml(config))
    save_weights(run, UniHPE(config.model, image_size=0).state_dict())
    path = {
        "checkpoint": run / "checkpoints" / "step_00000001.pt",
        "weights": run / WEIGHTS,
        "config": run / CONFIG,
        "data": tmp_path / "data.h5",
        "metrics": run / METRICS,
    }[kind]
    write(path)
    data = str(path) if kind == "data" else "synthetic"
    if kind == "metrics":
        if form == "json":
            assert [record["step"] for record in read_metrics(path)] == [1]
        else:
            with pytest.raises(MetricsError, match=re.escape(f"{path}: line 1: wanted one JSON object")):
                read_metrics(path)
            assert evaluate.main([str(run), "--data", "synthetic"]) == 2
    else:
        if kind != "checkpoint":
            assert evaluate.main([str(run), "--data", data, "--no-plots"]) == 2
        if kind != "weights":
            other = ["--config", str(run / CONFIG), "--run.dir", str(tmp_path / "new"), "--data.train", data]
            assert train.main(["--resume", str(run)] if kind in ("checkpoint", "config") else other) == 2
            if kind == "config":
                assert train.main(other) == 2
        # one line that names the file, not a traceback
        printed = capsys.readouterr().err.replace("\n", " ")
        assert str(run if kind == "checkpoint" else path) in printed
    assert not planted.exists()


def test_a_checkpoint_of_another_making_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / CONFIG).write_text(to_yaml(tiny()))
    for state in ({"step": 1}, [1, 2], {"step": "x", "model": {}}):
        torch.save(state, tmp_path / "checkpoints" / "step_00000001.pt")
        assert train.main(["--resume", str(tmp_path)]) == 2
        assert f"{tmp_path}: none of its 1 checkpoints can be read" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["model.image.backbone_args", "data.augment_for"])
def test_yaml_inside_an_option_runs_nothing(option: str, planted: Path, tmp_path: Path) -> None:
    config = to_yaml(PRESETS["synthetic"])
    payload = f"\"!!python/object/apply:os.mkdir ['{planted}']\""
    name = {"model.image.backbone_args": "stem_width", "data.augment_for": "synthetic"}[option]
    key = option.rpartition(".")[2]
    changed = re.sub(rf"( *){key}:( {{}}|(\n\1  .*)+)", rf"\1{key}:\n\1  {name}: {payload}", config)
    assert payload in changed
    (tmp_path / "config.yaml").write_text(changed)
    assert train.main(["--config", str(tmp_path / "config.yaml"), "--run.dir", str(tmp_path / "run")]) == 2
    assert not planted.exists()


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"])
def test_a_config_cannot_make_timm_read_a_file(name: str, planted: Path, tmp_path: Path) -> None:
    writers(planted)["torch"](tmp_path / "a.pth")
    value = f"{{file: {tmp_path / 'a.pth'}}}" if name.startswith("pretrained") else str(tmp_path / "a.pth")
    config = ImageEncoderConfig(backbone="resnet10t", backbone_args={name: value}, pretrained=True)
    with pytest.raises(ValueError, match=f"backbone_args must not hold '{name}'"):
        ImageEncoder(config, image_size=32, width=8)
    assert not planted.exists()


def test_what_timm_fetches_is_not_unpickled(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever timm itself asks torch.load for, as some of its versions do."""
    writers(planted)["torch"](tmp_path / "a.pth")

    def fetching(*arguments: Any, **options: Any) -> None:
        torch.load(tmp_path / "a.pth", weights_only=False)

    monkeypatch.setattr("timm.create_model", fetching)
    with pytest.raises(pickle.UnpicklingError):
        ImageEncoder(ImageEncoderConfig(backbone="resnet10t", pretrained=True), image_size=32, width=8)
    assert not planted.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("backbone", ["hf-hub:someone/model", "hf_hub:someone/model", "local-dir:/tmp/model"])
def test_backbones_come_from_timm_alone(backbone: str) -> None:
    with pytest.raises(ValueError, match="backbone must be the name of a timm model"):
        ImageEncoder(ImageEncoderConfig(backbone=backbone, pretrained=True), image_size=32, width=8)


def test_a_prepared_file_with_an_opaque_column_is_refused(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HDF5 can hold bytes that some readers unpickle."""
    path = tmp_path / "data.h5"
    data = pickle.dumps(Payload(planted), protocol=2)
    with h5py.File(path, "w") as file:
        file.attrs["format"] = np.void(data)
        file["bbox"] = np.void(data)
    assert train.main(["cmu-lifting", "--data.train", str(path), "--run.dir", str(tmp_path / "run")]) == 2
    assert str(path) in capsys.readouterr().err.replace("\n", " ")
    assert not planted.exists()


def test_no_source_file_loads_what_can_run() -> None:
    """The calls that could: pickle's own, numpy's and torch's with it allowed, and YAML's full loader."""
    forbidden = (
        r"pickle\.loads?\(|Unpickler\(|allow_pickle=True|weights_only=False|yaml\.(unsafe_|full_)?load\(|torch\.hub"
    )
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(forbidden, line)
    ]
    assert found == []
