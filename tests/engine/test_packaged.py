"""A model in one file: written from a run, read back by path and by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.tiny import tiny
from unihpe_fast import load_model
from unihpe_fast.config import to_yaml
from unihpe_fast.engine.checkpoint import CONFIG, SUMMARY, CheckpointError, save_weights
from unihpe_fast.engine.packaged import ModelCard, package, read_card, shipped
from unihpe_fast.export import main
from unihpe_fast.fileio import write_text
from unihpe_fast.models.unihpe import UniHPE


def _model() -> UniHPE:
    model = UniHPE(tiny().model, image_size=0)
    model.set_mean_pose(torch.arange(51.0).reshape(17, 3))
    return model


def test_a_run_becomes_one_file_and_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out, model = tmp_path / "run", tmp_path / "mine.safetensors", _model()
    write_text(run / CONFIG, to_yaml(tiny()))
    save_weights(run, model.state_dict())
    write_text(run / SUMMARY, json.dumps({"pose2d": {"mpjpe": 1.5}}))
    assert main([str(run), str(out), "--data", "people", "--licence", "free", "--confidence", "graded"]) == 0
    assert "with its scores" in capsys.readouterr().out
    loaded, config = load_model(out)
    assert config == tiny()
    assert not loaded.training
    for name, value in model.state_dict().items():
        found = loaded.state_dict()[name]
        assert found.dtype == value.dtype
        # float16 keeps 11 bits
        torch.testing.assert_close(found, value, rtol=2.0**-11, atol=1e-7)
    assert read_card(out) == ModelCard("people", "free", {"pose2d": {"mpjpe": 1.5}}, "graded")


def test_weights_beyond_float16_stay_float32(tmp_path: Path) -> None:
    model = _model()
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    package(tmp_path / "large.safetensors", model, tiny(), ModelCard("", ""))
    loaded, _ = load_model(tmp_path / "large.safetensors")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: must be a run folder.* or one of .*lifting"):
        load_model("nowhere")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors: cannot be read"):
        load_model(broken)
    save_file({"x": torch.zeros(1)}, broken)
    with pytest.raises(CheckpointError, match="format must be a model written by"):
        load_model(broken)
    save_file({"x": torch.zeros(1)}, broken, {"format": "unihpe_fast 1", "config": "[]"})
    with pytest.raises(CheckpointError, match=r"broken\.safetensors: found list"):
        load_model(broken)
    save_file({"x": torch.zeros(1)}, broken, {"format": "unihpe_fast 1", "config": to_yaml(tiny())})
    with pytest.raises(CheckpointError, match=r"(?s)broken\.safetensors: .*Missing key"):
        load_model(broken)
    with pytest.raises(CheckpointError, match="card must be a model card"):
        read_card(broken)


def test_the_model_that_comes_along_says_what_it_is() -> None:
    model, config = load_model("lifting")
    card = read_card(shipped()["lifting"])
    assert config.model.modalities[0] == "pose2d"
    assert config.data.augment.missing > 0
    assert config.data.augment.noise + config.data.augment.detector > 0
    assert card.data
    assert card.licence
    assert card.scores["pose2d"]["mpjpe"] < card.scores["mean_pose"]["mpjpe"]
    assert shipped()["lifting"].stat().st_size < 16e6
    assert all(x.isfinite().all() for x in model.state_dict().values())
