import json
from pathlib import Path

import pytest

from tests.support.tiny import tiny
from unihpe_fast.config import ConfigError, read_config, to_yaml
from unihpe_fast.presets import PRESETS
from unihpe_fast.train import main, parse


def test_without_arguments_it_is_the_synthetic_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = parse([])
    assert (job.config, job.name, job.run_dir, job.resume) == (PRESETS["synthetic"], "synthetic", None, False)
    assert list(tmp_path.iterdir()) == []


def test_options_change_the_preset() -> None:
    config = parse(
        ["cmu-lifting", "--optim.lr", "0.5", "--data.train", "a.h5", "b.h5", "--data.augment.no-flip"]
    ).config
    assert config.optim.lr == 0.5
    assert config.data.train == ("a.h5", "b.h5")
    assert not config.data.augment.flip
    assert config.optim.steps == PRESETS["cmu-lifting"].optim.steps


def test_config_and_resume_start_from_their_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(tiny()))
    job = parse(["--config", str(tmp_path / "config.yaml"), "--optim.steps", "5"])
    assert job.config == tiny(optim={"steps": 5})
    assert not job.resume
    job = parse(["--resume", str(tmp_path)])
    assert (job.config, job.run_dir, job.resume) == (tiny(), tmp_path, True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["sythetic"], "sythetic"),
        (["--optim.steps", "0"], "optim.steps"),
        (["--resume", "nowhere"], "nowhere"),
        (["--resume"], "--resume"),
        (["--resume=nowhere"], "nowhere"),
        (["--run.seed", "-1"], "run.seed"),
        (["--optim.lr", "-1"], "optim.lr"),
        (["--optim.conv-lr", "-1"], "optim.conv_lr"),
        (["--config", "nowhere.yaml"], r"nowhere\.yaml"),
        (["synthetic", "--resume", "x"], "one of"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(arguments)


@pytest.mark.parametrize(
    ("option", "value"), [("model.width", "24"), ("optim.ema", "0.9"), ("data.batch_size", "4"), ("run.seed", "1")]
)
def test_a_run_does_not_go_on_with_other_options(option: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(tiny()))
    with pytest.raises(ConfigError, match=option):
        parse(["--resume", str(tmp_path), f"--{option.replace('_', '-')}", value])
    assert read_config(tmp_path / "config.yaml") == tiny()


def test_images_that_the_file_lacks_are_named_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from unihpe_fast.prepare import main as prepare

    file = tmp_path / "poses.h5"
    assert prepare(["synthetic", str(file), "--n", "8", "--image-size", "0"]) == 0
    status = main(
        ["cmu-images", "--data.train", str(file), "--data.val", str(file), "--run.dir", str(tmp_path / "run")]
    )
    assert status == 2
    assert "no sample has image" in capsys.readouterr().err.replace("\n", " ")


def test_a_backbone_that_timm_lacks_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model.image.backbone", "no_such_net", "--run.dir", str(tmp_path / "run")]) == 2
    assert "no_such_net" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(tiny()))
    with pytest.raises(ConfigError, match="holds a run"):
        parse(["--run.dir", str(tmp_path)])


def test_it_trains_prints_the_table_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, run = tmp_path / "tiny.yaml", tmp_path / "run"
    file.write_text(to_yaml(tiny(optim={"steps": 4})))
    assert main(["--config", str(file), "--run.dir", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "mean pose" in printed
    assert str(run) in printed
    assert read_config(run / "config.yaml").optim.steps == 4
    assert main(["--resume", str(run), "--optim.steps", "6"]) == 0
    assert "resumed at step 4" in capsys.readouterr().out
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 6


def test_a_missing_data_file_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["cmu-lifting", "--data.train", str(tmp_path / "no.h5"), "--run.dir", str(tmp_path / "run")])
    assert status == 2
    printed = capsys.readouterr().err
    assert "no.h5" in printed
    assert "Traceback" not in printed
    # nothing was begun, so the same command works once the file is there
    assert not (tmp_path / "run").exists()
