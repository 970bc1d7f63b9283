"""Models as folders, and as repositories of a hub that this test plays."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import hub_mixin
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.models import SIZE, make_batch, model_inputs, tiny_config
from tests.support.tiny import tiny
from unihpe_fast import UniHPE
from unihpe_fast.config import ConfigError, to_yaml
from unihpe_fast.fileio import write_text
from unihpe_fast.models import hub
from unihpe_fast.models.hub import OPTIONS, WEIGHTS, WeightsError


@pytest.fixture
def model() -> UniHPE:
    torch.manual_seed(0)
    made = UniHPE(tiny_config(source_tokens=True), image_size=SIZE)
    made.set_mean_pose(torch.randn(17, 3) * 300)
    return made.eval()


def same(found: UniHPE, wanted: UniHPE) -> None:
    assert found.config == wanted.config
    assert not found.training
    batch = model_inputs(make_batch(2))
    with torch.inference_mode():
        for mine, theirs in zip(found(*batch), wanted(*batch), strict=True):
            assert torch.equal(mine, theirs)


def test_a_folder_comes_back(model: UniHPE, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {OPTIONS, WEIGHTS, "README.md"}
    same(UniHPE.from_pretrained(tmp_path), model)
    # plain JSON, in the weights' metadata as well, and enough there
    said = json.loads((tmp_path / OPTIONS).read_text())
    assert said["image_size"] == SIZE
    assert said["model"]["image"]["backbone"] == "resnet10t"
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert json.loads(file.metadata()["config"]) == said
    (tmp_path / OPTIONS).unlink()
    same(UniHPE.from_pretrained(str(tmp_path)), model)


def test_a_run_folder_is_read(tmp_path: Path) -> None:
    model = UniHPE(tiny().model, image_size=0)
    write_text(tmp_path / "config.yaml", to_yaml(tiny()))
    save_file(model.state_dict(), tmp_path / WEIGHTS)
    found = UniHPE.from_pretrained(tmp_path)
    assert found.modalities == ("pose2d", "pose3d")
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in found.state_dict().items())


def test_a_repository_comes_back(model: UniHPE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            assert token == "secret"

        def create_repo(self, repo_id: str, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"hub/{repo_id}"

    def download(repo_id: str, filename: str, **_: Any) -> str:
        asked.append(filename)
        if not (tmp_path / repo_id / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(tmp_path / repo_id / filename)

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    monkeypatch.setattr(hub_mixin, "hf_hub_download", download)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert model.push_to_hub("someone/poses", token="secret") == "hub/someone/poses"
    card = (tmp_path / "someone/poses/README.md").read_text()
    assert "library_name: unihpe_fast" in card
    assert "UniHPE.from_pretrained(" in card
    # away from the folder, whose name it would be otherwise
    monkeypatch.chdir(tmp_path.parent)
    same(UniHPE.from_pretrained("someone/poses"), model)
    # nothing else is ever asked for: no pickle and no code
    assert set(asked) == {OPTIONS, WEIGHTS}


def test_weights_that_are_not_finite_are_refused(model: UniHPE, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name].view(-1)[1] = torch.nan
    save_file(weights, tmp_path / WEIGHTS, {"config": (tmp_path / OPTIONS).read_text()})
    with pytest.raises(WeightsError, match=rf"model\.safetensors: {name} must be finite, got 1 of \d+ numbers"):
        UniHPE.from_pretrained(tmp_path)


def test_what_cannot_be_read_is_named(model: UniHPE, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"no {WEIGHTS} there"):
        UniHPE.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="must be a folder or the name of a repository; load_model takes a file"):
        UniHPE.from_pretrained(tmp_path / WEIGHTS)
    options = tmp_path / OPTIONS
    right = json.loads(options.read_text())
    for wrong, message in (
        (
            {**right, "model": {**right["model"], "width": "24"}},
            r"config\.json: invalid value for type, expected int @ \$\.width",
        ),
        ({**right, "model": {**right["model"], "hidden_size": 3}}, r"config\.json: .*hidden_size"),
        ({"model": right["model"]}, r"config\.json: must be a mapping of model and image_size"),
        ({**right, "model": {**right["model"], "width": 32}}, r"model\.safetensors: .*size mismatch"),
    ):
        options.write_text(json.dumps(wrong))
        with pytest.raises((ConfigError, WeightsError), match=f"(?s){message}"):
            UniHPE.from_pretrained(tmp_path)
    options.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read as JSON"):
        UniHPE.from_pretrained(tmp_path)
    options.unlink()
    save_file(load_file(tmp_path / WEIGHTS), tmp_path / WEIGHTS)
    with pytest.raises(ConfigError, match=r"config\.json: is not there, and the metadata of .* have no config"):
        UniHPE.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read as safetensors"):
        UniHPE.from_pretrained(tmp_path)
