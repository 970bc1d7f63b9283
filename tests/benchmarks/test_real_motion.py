"""The score of real motion: families, inputs, intervals, its table, and the command of the splits."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.real_motion import retrieval
from benchmarks.report import real_motion_table
from tests.support.models import tiny_config
from tests.support.people import H36M_CAMERA, SIZE, pixels_of, sample, samples, standing_person
from unihpe_fast import real_motion
from unihpe_fast.config import DataConfig
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.loader import val_batches
from unihpe_fast.data.store import write_store
from unihpe_fast.models.unihpe import UniHPE
from unihpe_fast.retrieval import retrieve

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("action", "family"),
    [
        ("backflip", "acrobatics"),
        ("cart wheel", "acrobatics"),
        ("zombiewalk", "zombie"),
        ("salsa dance", "salsa"),
        ("walk to pick up box", "boxes"),
        ("syutouuke", "martial arts"),
        ("crouch to lie", "lying, crawling"),
        ("run to jump to walk", "jumping"),
        ("run/jog", "running"),
        ("side step left", "walking"),
        ("conversation gestures", "other"),
        ("", "other"),
    ],
)
def test_actions_have_families(action: str, family: str) -> None:
    assert real_motion.family(action) == family


class Standing:
    """Says that everybody stands, one wrist 170 mm off; what it was given is kept."""

    mean_pose = torch.zeros(17, 3)

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []

    def lift(self, keypoints: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        self.given.append(keypoints)
        pose = torch.from_numpy(standing_person()).float().expand(len(keypoints), 17, 3)
        # one of 17 joints is off
        return pose + 170 * torch.nn.functional.one_hot(torch.tensor(13), 17)[:, None] * torch.tensor([1.0, 0, 0])


def people(path: Path) -> Path:
    rng, joints = np.random.default_rng(0), standing_person() + np.array([0, 0, 5000.0])
    pixels, ones = pixels_of(joints), np.ones((17, 1))
    camera = Camera("c", H36M_CAMERA, *SIZE)
    values = {
        "joints_3d": np.concatenate([joints, ones], 1),
        "keypoints_2d": np.concatenate([pixels, ones], 1),
        "bbox": square_bbox(pixels),
        "camera": camera,
    }
    names = [("01", "walk"), ("01", "run"), ("02", "walk")]
    write_store(
        path,
        [sample(rng, **values, subject=who, action=what, frame=n) for who, what in names for n in range(20)],
        dataset="toy",
        split="val",
    )
    return path


def test_scores_are_means_over_samples_families_and_people(tmp_path: Path) -> None:
    path, model = people(tmp_path / "a.h5"), Standing()
    record: dict = {"trained": "Not trained.", "commit": "0" * 40, "date": "today", "device": "none", "versions": {}}
    record["inputs"] = {
        name: real_motion.scores(real_motion.errors(model, [path], config, 1))
        for name, config in real_motion.INPUTS.items()
    }
    exact, detector, quarter = model.given
    assert (exact[..., 2] == 1).all()
    assert (exact - exact[0]).abs().max() < 1e-6
    assert 0.05 < (detector[..., 2] == 0).float().mean() < 0.15
    assert 0.2 < (quarter[..., 2] == 0).float().mean() < 0.3
    # nothing but gaps
    assert set(quarter[..., 2].unique().tolist()) == {0.0, 1.0}
    scores = record["inputs"]["exact"]
    assert scores["samples"] == 60
    assert set(scores["people"]) == {"toy 01", "toy 02"}
    assert scores["families"]["walking"]["samples"] == 40
    for key in ("mpjpe", "mpjpe_families"):
        assert scores[key] == pytest.approx(10, rel=1e-4)
    assert scores["pa"] > 2
    # the wrist that is off, by 170 mm, and no other
    assert scores["joints"]["left_wrist"] == pytest.approx(170, rel=1e-4)
    assert sum(scores["joints"].values()) == pytest.approx(170, rel=1e-3)
    # one of each person and action
    assert {(one["person"], one["action"]) for one in scores["worst"]} == {
        ("toy 01", "walk"), ("toy 01", "run"), ("toy 02", "walk")
    }  # fmt: skip
    assert scores["mpjpe_interval"] == pytest.approx([10, 10], rel=1e-4)
    record["retrieval"] = {"gallery": 512, "r1": 0.98765, "r5": 1.0, "mpjpe": 0.25}
    text = real_motion_table(record)
    assert "among 512: R@1 0.988, MPJPE of the first found 0.2 mm" in text
    assert "10.0 (10 to 10)" in text
    assert "walking (40)" in text
    assert "no person is worse than the mean pose" in text


def test_every_third_sample_of_each_file_is_looked_up(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.h5", "b.h5")]
    for seed, (name, count) in enumerate(zip(names, (8, 4), strict=True)):
        write_store(Path(name), samples(count, seed), dataset="toy", split="val")
    torch.manual_seed(0)
    model = UniHPE(tiny_config("pose2d", "pose3d"), image_size=0).eval()
    data = DataConfig(val=tuple(names), image_size=0)
    (batch,) = val_batches(data, limit=0)
    rows = [0, 3, 6, 8, 11]
    with torch.no_grad():
        by_2d = model.encode_pose2d(batch.keypoints_2d[rows], batch.box[rows])
        by_3d = model.encode_pose3d(batch.joints_3d[rows])
    assert retrieval(model, data, 3) == retrieve(by_2d, by_3d, batch.joints_3d[rows, :, :3])


def test_intervals_are_over_people_not_frames() -> None:
    # two people, one with ten times the error of the other; frames of a person are all alike
    errors = np.repeat([10.0, 100.0], 500)
    names = np.repeat(["a", "b"], 500)
    blank = np.zeros(1000)
    found = real_motion.Found(
        errors, errors, errors, errors, np.repeat(errors[:, None], 17, 1), names, names, names,
        blank.astype(int), np.arange(1000), *(np.zeros((1000, 17, 3)) for _ in range(3)),
    )  # fmt: skip
    scores = real_motion.scores(found)
    # of draws of two people a quarter has one of them alone
    assert scores["mpjpe_interval"] == [10, 100]
    assert scores["mpjpe"] == 55


def test_distance_from_training_ignores_place_and_facing() -> None:
    rng = np.random.default_rng(0)
    training, (turn, _) = rng.normal(0, 300, (50, 17, 3)), np.linalg.qr(rng.normal(size=(3, 3)))
    poses = training[[7, 3]] @ turn.T + 1000
    poses[1] *= 1.1
    far = real_motion.distance_to(poses, training)
    assert far[0] < 0.05
    pairs = np.triu_indices(17, 1)
    spans = np.linalg.norm(training[3, pairs[0]] - training[3, pairs[1]], axis=1)
    assert far[1] == pytest.approx(0.1 * np.sqrt((spans**2).mean()), rel=1e-3)


def test_the_splits_keep_their_people_apart() -> None:
    makefile = (ROOT / "Makefile").read_text()
    people = [dict(re.findall(r"^(\w+) := ([\d,]+)$", makefile, re.MULTILINE))[name] for name in ("TRAINED", "UNSEEN")]
    people += re.findall(r"--subjects ([\d,]+)", makefile)
    found = [set(match.split(",")) for match in people]
    assert len(found) == 4
    assert len(set().union(*found)) == sum(map(len, found)) == 21
