import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.fakes import STANDING
from tests.support.people import samples, standing_person
from tests.support.tilted import tilted
from tests.support.tiny import tiny
from unihpe_fast.config import to_yaml
from unihpe_fast.data.store import write_store
from unihpe_fast.engine.checkpoint import CONFIG, WEIGHTS, save_weights
from unihpe_fast.evaluate import Arguments, main, scores_folder
from unihpe_fast.fileio import write_text
from unihpe_fast.models.unihpe import UniHPE


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was trained with other data, on a device that this machine need not have."""
    config = tiny(data={"val": ("gone.h5",)}, run={"device": "cuda"})
    torch.manual_seed(0)
    model = UniHPE(config.model, image_size=0)
    model.set_mean_pose(STANDING)
    folder = tmp_path / "run"
    write_text(folder / CONFIG, to_yaml(config))
    save_weights(folder, model.state_dict())
    return folder


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    path = tmp_path / "val.h5"
    write_store(path, samples(30), dataset="test", split="val")
    return path


def test_a_run_is_scored_on_the_file_given(
    run: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "scores.json"
    assert main([str(run), "--data", str(prepared), "--json", str(out), "--device", "cpu"]) == 0
    scores = json.loads(out.read_text())
    # more than val_samples: the whole file
    assert scores["n"] == 30
    assert scores["image"] is None
    assert scores["pose2d"]["mpjpe"] > 0
    assert scores["mean_pose"]["mpjpe"] > 0
    folder = run / "evaluations" / "val"
    assert json.loads((folder / "summary.json").read_text()) == scores
    assert {p.name for p in (folder / "plots").iterdir()} == {"predictions.png", "neighbours.png"}
    # what training has left stays
    assert not (run / "summary.json").exists()
    assert not (run / "plots").exists()
    printed = capsys.readouterr().out
    assert f"{scores['pose2d']['mpjpe']:.1f}" in printed
    assert "image: not scored, the model has no image encoder" in printed
    assert str(out) in printed


def test_plots_can_be_left_out_and_scores_repeat(run: Path, prepared: Path) -> None:
    summaries = []
    for _ in range(2):
        assert main([str(run), "--data", str(prepared), "--no-plots", "--device", "cpu"]) == 0
        summaries.append((run / "evaluations" / "val" / "summary.json").read_bytes())
    assert summaries[0] == summaries[1]
    assert not list(run.rglob("*.png"))


def test_only_the_runs_own_validation_data_go_to_its_own_summary(
    run: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(data={"val": ("val.h5",)})
    write_text(run / CONFIG, to_yaml(config))
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other" / "val.h5"
    other.parent.mkdir()
    shutil.copy(prepared, other)
    evaluations = run / "evaluations"
    assert scores_folder(Arguments(run, str(prepared)), config) == run
    assert scores_folder(Arguments(run, str(other)), config) == evaluations / "val"
    assert main([str(run), "--data", str(other), "--no-plots", "--device", "cpu"]) == 0
    third = tmp_path / "third" / "val.h5"
    assert scores_folder(Arguments(run, str(third)), config) == evaluations / "val-2"
    assert scores_folder(Arguments(run, str(other)), config) == evaluations / "val"
    assert scores_folder(Arguments(run, "val.h5", flip_test=True), config) == evaluations / "val-flip"
    assert scores_folder(Arguments(run, "synthetic"), config) == evaluations / "synthetic"
    assert main([str(run), "--data", "val.h5", "--no-plots", "--device", "cpu"]) == 0
    assert (run / "summary.json").exists()


def test_a_protocol_scores_its_own_samples_and_a_caveat_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "val.h5"
    people = [
        replace(person, subject=subject, camera_id="60457274", frame=number)
        for subject in ("S1", "S9", "S11")
        for number, person in enumerate(samples(12))
    ]
    write_store(path, people, dataset="h36m", split="val", caveat="half of the joints are guessed")
    arguments = [str(run), "--data", str(path), "--no-plots", "--device", "cpu", "--protocol", "h36m-p2"]
    assert main([*arguments, "--flip-test"]) == 0
    printed = capsys.readouterr().out
    assert f"caveat: {path}: half of the joints are guessed" in printed
    assert f"data: {path}, 36 samples of h36m val (0 with image, 36 with pose2d, 36 with pose3d)" in printed
    assert "protocol h36m-p2" in printed
    assert "NOT the published protocol: half of the joints are guessed" in printed
    evaluations = run / "evaluations"
    scores = json.loads((evaluations / "val-h36m-p2-flip" / "summary.json").read_text())
    # frames 0, 5 and 10 of S9 and S11
    assert scores["n"] == scores["protocol"]["n"] == 6
    assert scores["caveats"] == [f"{path}: half of the joints are guessed"]
    assert scores["protocol"]["flip_test"]
    assert scores["protocol"]["groups"]["Walking"]["n"] == 6
    # 14 joints, and all 17 of which the root is one
    assert scores["protocol"]["pose2d"]["mpjpe"] != scores["pose2d"]["mpjpe"]
    assert main(arguments) == 0
    plain = json.loads((evaluations / "val-h36m-p2" / "summary.json").read_text())["protocol"]
    assert plain["pose2d"]["mpjpe"] != scores["protocol"]["pose2d"]["mpjpe"]
    assert main([*arguments, "--drop-bad-s9"]) == 0
    assert "protocol: without the three bad sequences of S9; half of the joints are guessed" in capsys.readouterr().out
    for more, named in (
        (["--protocol", "h36m-p1"], "protocol h36m-p1: no camera 54138969, 55011271, 58860488"),
        (["--protocol", "3dpw", "--drop-bad-s9"], "--drop-bad-s9: wanted one of the Human3.6M protocols"),
        (["--data", "synthetic"], "--protocol h36m-p2: wanted a prepared file"),
    ):
        assert main([*arguments, *more]) == 2
        assert named in capsys.readouterr().err


def test_what_cannot_be_read_is_named_with_a_failing_exit(
    run: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    garbage = tmp_path / "garbage.h5"
    garbage.write_bytes(b"not HDF5")
    for arguments, named in (
        (["nowhere", "--data", str(prepared)], "nowhere"),
        ([str(run), "--data", "missing.h5"], "missing.h5"),
        ([str(run), "--data", str(garbage)], "garbage.h5"),
        ([str(run), "--data", str(prepared), "--device", "abacus"], "--device abacus"),
    ):
        assert main([*arguments, "--no-plots"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert named in error
    (run / WEIGHTS).write_bytes(b"cut short")
    assert main([str(run), "--data", str(prepared), "--no-plots"]) == 2
    assert WEIGHTS in capsys.readouterr().err
    assert not list(run.rglob("summary.json"))


def test_real_motion_scores_every_input_and_draws_it(
    run: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other.h5", tmp_path / "scores.json"
    shutil.copy(prepared, other)
    command = [str(run), "--data", f"{prepared},{other}", "--protocol", "real-motion", "--device", "cpu"]
    assert main([*command, "--step", "2", "--training", str(prepared), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["inputs"]) == ["exact", "detector", "quarter"]
    for scores in found["inputs"].values():
        assert scores["samples"] == 30
        assert scores["mpjpe"] > 0
        assert len(scores["joints"]) == 17
    folder = run / "evaluations" / "real-motion"
    assert json.loads((folder / "summary.json").read_text()) == found
    names = {"errors.png", "worst-exact.png", "worst-detector.png", "worst-quarter.png"}
    assert {path.name for path in (folder / "plots").iterdir()} == names
    assert "exact 2D: MPJPE" in capsys.readouterr().out


def test_a_levelled_run_is_scored_on_levelled_poses(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, unknown = tmp_path / "tilted.h5", tmp_path / "unknown.h5"
    write_store(path, tilted(12), dataset="test", split="val")
    write_store(unknown, tilted(12, known=False), dataset="test", split="val")
    model = UniHPE(tiny().model, image_size=0)
    model.set_mean_pose(torch.from_numpy(standing_person()).float())
    save_weights(run, model.state_dict())
    command = [str(run), "--data", str(path), "--no-plots", "--device", "cpu"]
    folder = run / "evaluations"

    def mean_errors() -> tuple[float, float, list[str]]:
        assert main(command) == main([*command, "--protocol", "real-motion"]) == 0
        scores, real = (json.loads((folder / name / "summary.json").read_text()) for name in ("tilted", "real-motion"))
        return scores["mean_pose"]["mpjpe"], real["inputs"]["detector"]["mean"], [scores["axes"], real["axes"]]

    *errors, axes = mean_errors()
    assert min(errors) > 50
    assert axes == ["camera", "camera"]
    assert capsys.readouterr().out.count("3D poses in the camera's axes") == 2
    write_text(run / CONFIG, to_yaml(tiny(data={"level": True})))
    # everybody stands as the mean pose does, as soon as the cameras' tilt is out
    *errors, axes = mean_errors()
    assert max(errors) < 0.01
    assert axes == ["level", "level"]
    assert capsys.readouterr().out.count("3D poses in the axes of the levelled camera") == 2
    command[2] = str(unknown)
    for options in ([], ["--protocol", "real-motion"]):
        assert main([*command, *options]) == 2
        assert "unknown.h5: cameras/rotation: must be known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--step", "2"], "--step: wanted --protocol real-motion beside it"),
        (["--protocol", "real-motion", "--step", "0"], "--step 0: must be at least 1"),
        (["--protocol", "real-motion", "--flip-test"], "--flip-test: must be off with --protocol real-motion"),
    ],
)
def test_options_of_real_motion(
    run: Path, prepared: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "--data", str(prepared), *options]) == 2
    assert message in capsys.readouterr().err
