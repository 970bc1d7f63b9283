"""The alignment benchmark: a toy run of its command, pictures whose features are remembered, and its table."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.alignment import __main__ as command
from benchmarks.alignment import arms
from benchmarks.report.alignment_table import alignment_table
from tests.support.people import samples
from unihpe_fast.data.loader import FileDataset
from unihpe_fast.data.store import write_store
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.engine.trainer import Trainer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("alignment")
    paths = {name: str(folder / f"{name}.h5") for name in ("motion", "rendered", "photos", "val")}
    for seed, (name, path) in enumerate(paths.items()):
        changes = {"joints_3d": None, "camera": None} if name == "photos" else {}
        drawn = list(samples(5, seed, picture=name != "motion", **changes))
        for number, sample in enumerate(drawn):
            sample.subject = f"S{number % 2}"
        write_store(path, drawn, dataset="toy", split="train")
    return paths


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOTION", "RENDERED", "PHOTOS"):
        monkeypatch.setattr(arms, name, 4)


def test_the_command_does_what_is_missing(
    files: dict[str, str], few: None, movenet_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "alignment.json"

    def call(*more: str) -> list[dict]:
        inputs = [word for name, path in files.items() for word in (f"--{name}", path)]
        inputs += ["--clips", files["val"]]
        monkeypatch.setattr("sys.argv", ["alignment", *inputs, "--seeds", "0", "--json", str(out), *more])
        command.main()
        return json.loads(out.read_text())["runs"]

    first = call("--steps", "2", "--arms", "none", "both, two steps")
    assert [run["arm"] for run in first] == ["none", "both, two steps"]
    more = call("--steps", "2", "--arms", "none", "area", "both, two steps")
    # nothing is done again, and the same seed gives the same run whatever ran before it
    assert more[:2] == first
    assert [run["arm"] for run in more] == ["none", "both, two steps", "area"]
    for run in more:
        assert run["bad_steps"] == 0
        weighted = sum(who["samples"] * who["mpjpe"] for who in run["people"].values()) / 5
        assert weighted == pytest.approx(run["image"]["mpjpe"], rel=1e-5)
        # the same file, whose pictures are looked up elsewhere
        for name, found in run["clips"].items():
            assert found == pytest.approx(run[name])
    assert more[0]["image"]["mpjpe"] != more[2]["image"]["mpjpe"]
    with pytest.raises(SystemExit, match=r"alignment\.json: steps must be that of its runs, 2, got 3"):
        call("--steps", "3")
    with pytest.raises(SystemExit, match=r"alignment\.json: files must be that of its runs"):
        call("--steps", "2", "--clips", files["photos"])


def test_the_decoder_alone_learns_in_the_second_step(
    files: dict[str, str], few: None, movenet_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = arms.ARMS["both, two steps"]
    config = arms.configure(arm, files["motion"], 4, 0)
    weights = []

    class Watched(Trainer):
        def advance(self, batches):
            done = super().advance(batches)
            weights.append(copy.deepcopy(self.model.state_dict()))
            return done

    monkeypatch.setattr(arms, "Trainer", Watched)
    arms.run(config, arm, arms.Data(config, files["rendered"], files["photos"], files["val"]))
    assert len(weights) == 4

    def moved(before: int, after: int) -> set[str]:
        names = {name for name, x in weights[after].items() if not torch.equal(x, weights[before][name])}
        # BatchNorm's running statistics are no weights
        return {name.split(".")[0] for name in names if ".running_" not in name and "num_batches" not in name}

    assert moved(0, 1) == {"image_encoder", "pose2d_encoder", "pose3d_encoder"}
    assert moved(1, 3) == {"decoder"}


def test_remembered_features_are_those_of_the_backbone(files: dict[str, str], movenet_weights: Path) -> None:
    config = arms.configure(arms.ARMS["both"], files["motion"], 4, 0)
    model = Trainer(config, choose_runtime(config.run)).model.eval()
    rows = np.array([3, 0])
    seen = FileDataset(files["val"], image_size=arms.IMAGE_SIZE).batch(rows, None)
    with torch.inference_mode():
        expected = model.encode_image(seen.image, seen.box)
        data = arms.Data(config, files["rendered"], files["photos"], files["val"])
        data.remembered.take_over(model.image_encoder)
        taken = data.val.take(rows)
        found = model.encode_image(taken.image, taken.box)
    # kept as float16
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    assert (found[0] - found[1]).abs().max() > 0.05
    assert taken.info.frame.tolist() == [3, 0]


def _run(arm: str, seed: int, error: float) -> dict:
    people = {who: {"samples": n, "mpjpe": error + n, "pa": error + seed} for who, n in (("a", 1), ("b", 3), ("c", 2))}
    mean = {"mpjpe": 200.0, "pa_mpjpe": 150.0}
    found = {"retrieval": {"r1": 0.5 + seed / 4, "mpjpe": 90.0}, "pose2d": {"mpjpe": 50.0}, "mean_pose": mean}
    return {"arm": arm, "seed": seed, "people": people, **found}


def test_the_table_says_which_arms_differ() -> None:
    runs = [_run("none", seed, 100.0) for seed in (0, 1)]
    runs += [_run("both", seed, 90.0) for seed in (0, 1)]
    runs += [_run("area", seed, 100.0 + 8 * (-1) ** seed) for seed in (0, 1)]
    record = {
        **{"commit": "0123456789", "date": "2026-01-01", "versions": {}, "device": "a CPU", "steps": 5, "runs": runs},
        "batch": {"motion": 1, "rendered": 2, "photos": 3},
        "samples": {"rendered": 2000, "photos": 30, "val": 6},
    }
    got = alignment_table(record)
    # (1 + 9 + 4) / 6 more than the error that all people have
    assert "| none | 2 | 102.3 (10" in got
    assert "| -10.0 (-10.0 to -10.0) | -10.0 (-10.0 to -10.0) | 0.625 (0.500 to 0.750) | 90 (90 to 90) |" in got
    assert "| +0.0 (-8.0 to +8.0) |" in got
    assert "exclude 0: both, better in MPJPE; both, better in PA-MPJPE; 5 steps" in got
    assert "exclude 0: of no arm;" in alignment_table({**record, "runs": runs[:2]})
    assert "clips" not in got
    for run in runs:
        mean = {"mpjpe": 260.0, "pa_mpjpe": 210.0}
        run["clips"] = {"mean_pose": mean, "image": {"mpjpe": 180.0, "pa_mpjpe": 120.0 + run["seed"]}}
    got = alignment_table({**record, "samples": {**record["samples"], "clips": 40}})
    assert "| lifting MPJPE, mm | real clips, image PA-MPJPE, mm |" in got
    assert "| 50.0 (50.0 to 50.0) | 120.5 (120.0 to 121.0) |" in got
    assert "40 pictures of the real clips, whose people the mean pose misses by 260.0 / 210.0 mm" in got
