"""Training on several files that lack different things, with shares and an augmentation of their own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.people import sample, samples
from tests.support.tiny import tiny
from unihpe_fast.config import AugmentConfig, DataConfig, ImageEncoderConfig
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.loader import mean_pose, open_dataset, train_batches
from unihpe_fast.data.store import write_store
from unihpe_fast.engine.loop import train
from unihpe_fast.train import main, parse

LSP_14 = [1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16]


def flat_people(count: int):
    """COCO-like: picture and 2D of some joints, no 3D, no camera but the picture's size."""
    rng = np.random.default_rng(5)
    for _ in range(count):
        person = sample(rng, picture=True, joints_3d=None, camera=Camera("", np.full(9, np.nan), 640, 480))
        person.keypoints_2d[[3, 9, 16]] = 0
        yield person


def lsp_people(count: int):
    """SPIN-like: 14 valid joints and the pelvis, no camera."""
    rng = np.random.default_rng(6)
    unlabelled = np.setdiff1d(np.arange(1, 17), LSP_14)
    for _ in range(count):
        person = sample(rng, picture=True)
        person.camera = None
        person.joints_3d[unlabelled] = 0
        person.keypoints_2d[unlabelled] = 0
        yield person


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    people = {
        "poses": samples(40, seed=1),
        "flat": flat_people(12),
        "lsp": lsp_people(10),
        "images": samples(16, seed=2, picture=True),
        "only-pictures": (sample(np.random.default_rng(n), picture=True, keypoints_2d=None, joints_3d=None)
                          for n in range(6)),
    }  # fmt: skip
    for name, drawn in people.items():
        write_store(tmp_path / f"{name}.h5", drawn, dataset=name, split="train", caveat="toy" if name == "lsp" else "")
    return tuple(str(tmp_path / f"{name}.h5") for name in people)


def test_a_run_on_files_that_lack_different_things(files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = ImageEncoderConfig(
        "resnet10t", {"channels": "[8, 8, 8, 8]", "stem_width": "8"}, fuse_width=8, head_width=8, head_depth=1
    )
    config = tiny(
        data={
            "train": files,
            "train_weights": (0.2, 0.2, 0.2, 0.2, 0.2),
            "val": (files[3],),
            "image_size": 32,
            "batch_size": 16,
            "augment_for": {files[1]: "{rotate: 45, yaw: false}"},
        },
        model={"modalities": ("image", "pose2d", "pose3d"), "image": picture},
        optim={"steps": 6},
        run={"log_every": 1},
    )
    scores = train(config, tmp_path / "run")
    assert all(np.isfinite(scores[m]["mpjpe"]) for m in ("image", "pose2d", "pose3d"))
    printed = capsys.readouterr().out
    assert f"train: {files[1]}, 12 samples of flat train (12 with image, 12 with pose2d, 0 with pose3d), 20%" in printed
    assert f"caveat: {files[2]}: toy" in printed


def test_each_source_is_augmented_in_its_own_way(files) -> None:
    config = DataConfig(
        train=(files[0], files[1]),
        image_size=0,
        batch_size=30,
        augment=AugmentConfig(flip=False),
        augment_for={files[1]: "{rotate: 90}"},
    )
    (batch,) = train_batches(config, seed=0, start_step=0, steps=1)
    still = [open_dataset(name, image_size=0, seed=0) for name in config.train]
    flat = ~batch.present[2]
    assert 0 < flat.sum() < 30
    for mine, source, turned in ((~flat, still[0], False), (flat, still[1], True)):
        plain = source.batch(batch.info.index[mine.numpy()], None)
        assert torch.equal(plain.target_2d, batch.target_2d[mine]) != turned


def test_shares_are_those_asked_for_whatever_the_sizes(files) -> None:
    config = DataConfig(train=files[:2], train_weights=(0.25, 0.75), image_size=0, batch_size=52)
    (batch,) = train_batches(config, seed=0, start_step=0, steps=1)
    # an epoch of 52: 13 and 39
    assert batch.present[2].sum() == 13


def test_the_mean_pose_is_of_the_joints_that_are_there(files) -> None:
    config = DataConfig(train=(files[2], files[1]), image_size=0)
    found = mean_pose(config, seed=0)
    assert (found[LSP_14].abs().sum(-1) > 0).all()
    assert not found[[0, 7, 9]].any()


def test_the_command_line_maps_a_file_to_its_augmentation(files) -> None:
    arguments = ["h36m-lifting", "--data.train", *files[:2], "--data.augment-for", files[1], "{rotate: 45}"]
    assert parse(arguments).config.data.augment_for == {files[1]: "{rotate: 45}"}
    assert main([*arguments[:-1], "{rotate: much}"]) == 2


def test_mappings_on_the_command_line_take_the_place_of_a_preset_s(files) -> None:
    given = ["mixed-w48", "--data.train", *files[:4], "--data.augment-for", files[1], "{rotate: 45}"]
    given += ["--model.image.backbone", "resnet10t", "--model.image.backbone-args", "stem_width", "8"]
    config = parse(given).config
    assert config.data.augment_for == {files[1]: "{rotate: 45}"}
    assert config.model.image.backbone_args == {"stem_width": "8"}
    assert config.data.train_weights == (0.3, 0.1, 0.4, 0.2)
    none = parse([*given[:6], "--data.augment-for", "--model.image.backbone_args"]).config
    assert none.data.augment_for == none.model.image.backbone_args == {}
