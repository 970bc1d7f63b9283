"""The scripts of examples/ run, and what they say of the package is so."""

import json
import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch

from examples import lift_video, pa_mpjpe, replace_gram, retrieve, two_ranks, two_towers
from tests.support.models import SIZE, tiny_config
from tests.support.ranks import Ranks
from unihpe_fast import UniHPE
from unihpe_fast.config import Config, DataConfig, to_yaml
from unihpe_fast.engine.checkpoint import CONFIG, save_weights
from unihpe_fast.fileio import write_text
from unihpe_fast.outputs import npz

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_two_towers_learn_to_find_each_other() -> None:
    before, after = two_towers.main(steps=100)
    assert before < 0.05
    assert after > 0.5


def test_gram_loss_and_singular_values_in_place_of_grams_formula() -> None:
    found = replace_gram.main(steps=60)
    assert found["apart"] < 1e-12
    assert found["ours MiB"] * 10 < found["published MiB"]
    assert found["ours finite"]
    assert not found["published finite"]
    # three vectors that agree have 3; GRAM is content with two of them
    assert found["singular values"] > 2.5 > found["GRAM's volume"]


def test_two_ranks_train_as_one_does(processes: Ranks) -> None:
    (alone,) = processes.run(two_ranks.train, 10, ranks=1)
    assert processes.run(two_ranks.train, 10, ranks=2) == pytest.approx([alone, alone], rel=1e-4)


def test_pa_mpjpe_is_a_metric_and_a_loss() -> None:
    before, after = pa_mpjpe.main(steps=40)
    assert 60 < before < 90
    assert after < 10


def test_a_video_of_keypoints_is_lifted(tmp_path: Path) -> None:
    lifted = lift_video.main(str(EXAMPLES / "walk.json"), str(tmp_path))
    assert len(lifted) == 90
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz", ".csv", ".bvh"}
    assert np.array_equal(npz.read(tmp_path / "walk.npz").joints_3d, lifted.joints_3d)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((EXAMPLES / "lift_video.ipynb").read_text(encoding="utf-8"))
    shutil.copy(EXAMPLES / "walk.json", tmp_path)
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "a notebook is kept without what it showed"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert {path.name for path in (tmp_path / "lifted").iterdir()} == {
        f"walk.{suffix}" for suffix in ("npz", "csv", "bvh", "html")
    }


def test_poses_are_found_by_2d_poses_and_by_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = retrieve.main(people=32)
    assert scores["r1"] is not None
    assert scores["r1"] > 0.5
    # a model that has learned nothing, to see that pictures go in
    config = Config(data=DataConfig(image_size=SIZE), model=tiny_config())
    torch.manual_seed(0)
    write_text(tmp_path / CONFIG, to_yaml(config))
    save_weights(tmp_path, UniHPE(config.model, image_size=SIZE).state_dict())
    retrieve.main(str(tmp_path), people=6)
    assert "image -> 3D pose among 6" in capsys.readouterr().out


def test_every_example_is_named_here_and_in_the_readme() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - {"make_walk.py"}
    assert len(scripts) == 6
    here = Path(__file__).read_text(encoding="utf-8")
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in scripts:
        assert f"{name.removesuffix('.py')}.main(" in here or f"{name.removesuffix('.py')}.train" in here, name
        assert name in text, name
