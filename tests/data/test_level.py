"""Levelled 3D targets: against the world's axes in float64, under augmentation, and where nobody knows what is up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.people import samples, standing_person
from tests.support.tilted import tilted, turn
from unihpe_fast.config import AugmentConfig, DataConfig
from unihpe_fast.data.level import level_rotation
from unihpe_fast.data.loader import mean_pose, open_dataset, train_batches, val_batches
from unihpe_fast.data.sources.synthetic import sample_poses
from unihpe_fast.data.store import StoreError, write_store
from unihpe_fast.data.synthetic_dataset import SyntheticDataset


def write(path: Path, people) -> str:
    write_store(path, people, dataset="test", split="train")
    return str(path)


def test_levelled_axes_are_those_of_the_world_about_the_heading(tmp_path: Path) -> None:
    people = list(samples(30, seed=4))
    path = write(tmp_path / "people.h5", people)
    batch = open_dataset(path, image_size=0, seed=0, level=True).batch(np.arange(30), None)
    for found, person in zip(batch.joints_3d.double().numpy(), people, strict=True):
        rotation, joints = person.camera.rotation, person.joints_3d[:, :3].astype(np.float64)
        # a row of the rotation is the optical axis in the world; its bearing on the ground is where the camera looks
        bearing = np.arctan2(rotation[2, 1], rotation[2, 0])
        ahead = np.array([np.cos(bearing), np.sin(bearing), 0])
        right, down = np.array([ahead[1], -ahead[0], 0]), np.array([0, 0, -1])
        world = (joints - joints[0]) @ rotation
        np.testing.assert_allclose(found[:, :3], world @ np.stack([right, down, ahead], axis=1), atol=2e-3)
        assert found[:, 3].all()


def test_a_levelled_person_looks_alike_to_every_camera(tmp_path: Path) -> None:
    path = write(tmp_path / "people.h5", tilted(40))
    config = DataConfig(train=(path,), val=(path,), image_size=0, level=True, batch_size=16)
    for batch in val_batches(config, limit=0):
        np.testing.assert_allclose(batch.joints_3d[..., :3], [standing_person()] * len(batch), atol=2e-3)
    np.testing.assert_allclose(mean_pose(config, seed=0), standing_person(), atol=2e-3)
    # a roll is taken out again; other cameras and turns about the vertical leave people upright and 2D with its camera
    moved = AugmentConfig(rotate=40, scale=0.2, flip=False)
    for batch in train_batches(replace(config, augment=moved), seed=0, start_step=0, steps=2):
        np.testing.assert_allclose(batch.joints_3d[..., :3], [standing_person()] * 16, atol=2e-3)
    filmed = AugmentConfig(rotate=20, yaw=True, refilm=0.5)
    for batch in train_batches(replace(config, augment=filmed), seed=0, start_step=0, steps=2):
        heights = np.tile(standing_person()[:, 1], (16, 1))
        np.testing.assert_allclose(batch.joints_3d[..., 1], heights, atol=2e-3)
    camera = next(iter(val_batches(replace(config, level=False), limit=0)))
    assert (camera.joints_3d[..., :3] - torch.from_numpy(standing_person())).norm(dim=-1).mean() > 50


@pytest.mark.parametrize("rng", [None, np.random.default_rng(3)])
def test_synthetic_people_are_levelled(rng: np.random.Generator | None) -> None:
    dataset = SyntheticDataset(image_size=0, seed=5, augment=AugmentConfig(rotate=30), level=True)
    if rng is None:
        generator = dataset._generator(0, 0)
    else:
        generator = torch.Generator().manual_seed(int(np.random.default_rng(3).integers(2**63)))
    world = sample_poses(256, generator)[0].double()
    heights = world[:, :, 2] - world[:, :1, 2]
    found = dataset.batch(np.arange(256), rng).joints_3d
    # mirrored people have their left and right joints swapped: heights as a set
    torch.testing.assert_close((-found[..., 1]).double().sort(1)[0], heights.sort(1)[0], rtol=0, atol=2e-3)


def test_level_rotations_are_rotations_and_some_cameras_have_none() -> None:
    rng = np.random.default_rng(0)
    up = rng.standard_normal((200, 3))
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    rotation = level_rotation(up)
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.tile(np.eye(3), (200, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-9)
    np.testing.assert_allclose(level_rotation(np.array([[0.0, -1, 0]])), [np.eye(3)], atol=1e-12)
    assert np.isnan(level_rotation(np.array([[np.nan] * 3, [0, 0, 1], [0, 0, -1]]))).any((1, 2)).all()


def test_a_source_without_an_up_is_refused_by_name(tmp_path: Path) -> None:
    straight_down = replace(next(iter(tilted(1))).camera, rotation=turn(0, np.pi))
    cases = {
        "unknown": [*tilted(2), *tilted(3, known=False)],
        "down": [*tilted(2), *samples(3, camera=straight_down)],
        "none": [*tilted(2), *samples(3, camera=replace(straight_down, rotation=None, translation=None))],
    }
    for name, people in cases.items():
        path = write(tmp_path / f"{name}.h5", people)
        with pytest.raises(StoreError, match=rf"{name}.h5: cameras/rotation: .* --data.level, got 3 of 5 .* row 2"):
            train_batches(DataConfig(train=(path,), image_size=0, level=True), seed=0, start_step=0, steps=1)
        with pytest.raises(StoreError, match="cameras/rotation"):
            val_batches(DataConfig(val=(path,), image_size=0, level=True), limit=0)
    # without 3D there is nothing to level
    flat = write(tmp_path / "flat.h5", samples(3, camera=straight_down, joints_3d=None))
    assert len(open_dataset(flat, image_size=0, seed=0, level=True)) == 3
