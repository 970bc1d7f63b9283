import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.test_images import bright_spot, centroid
from tests.support.people import H36M_CAMERA, jpeg, picture_crop, pixels_of, sample, samples
from unihpe_fast.config import AugmentConfig, DataConfig
from unihpe_fast.data.camera import Camera
from unihpe_fast.data.collate import input_crop
from unihpe_fast.data.images import MEAN, STD
from unihpe_fast.data.loader import mean_pose, open_dataset, train_batches, val_batches
from unihpe_fast.data.records import Batch
from unihpe_fast.data.render import Appearance
from unihpe_fast.data.store import StoreError, write_store
from unihpe_fast.data.synthetic_dataset import SYNTHETIC_SIZE, SyntheticDataset

EVERYTHING = AugmentConfig(
    rotate=40, scale=0.2, shift=0.05, flip=True, color=0.2, yaw=True, bone_scale=0.1, noise=0.02, missing=0.1
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prepared files by what their samples have."""
    folder = tmp_path_factory.mktemp("prepared")
    people = {
        "images": samples(23, seed=1, picture=True, subject="S1"),
        "poses": samples(40, seed=2, subject="S5", action="Eating"),
        "flat": samples(9, seed=3, picture=True, joints_3d=None, subject="S9"),
    }
    for name, drawn in people.items():
        write_store(folder / f"{name}.h5", drawn, dataset=name, split="train")
    return {name: str(folder / f"{name}.h5") for name in people}


def assert_same(found: Batch, wanted: Batch) -> None:
    for name, values in vars(wanted.info).items():
        assert np.array_equal(getattr(found.info, name), values), name
    assert found.tensors().keys() == wanted.tensors().keys()
    for name, tensor in wanted.tensors().items():
        other = found.tensors()[name]
        assert other.dtype == tensor.dtype
        # bit for bit, NaN included
        assert torch.equal(other.nan_to_num(12345), tensor.nan_to_num(12345)), name


def assert_well_formed(batch: Batch, count: int, image_size: int) -> None:
    shapes = {
        "image": (count, 3, image_size, image_size),
        "keypoints_2d": (count, 17, 3),
        "target_2d": (count, 17, 3),
        "joints_3d": (count, 17, 4),
        "root": (count, 3),
        "camera": (count, 9),
        "crop": (count, 2, 3),
        "box": (count, 3),
        "present": (3, count),
        "weights": (count,),
        "scale_2d": (count,),
    }
    assert {name: tuple(tensor.shape) for name, tensor in batch.tensors().items()} == shapes
    types = dict.fromkeys(shapes, torch.float32) | {"present": torch.bool}
    assert {name: tensor.dtype for name, tensor in batch.tensors().items()} == types
    info = batch.info
    assert (info.index.dtype, info.frame.dtype) == (np.int64, np.int64)
    assert len(batch) == len(info) == len(info.frame) == len(info.subject) == len(info.action) == count


def rows_of(batches: list[Batch]) -> list[tuple[str, int]]:
    """Subject and row of every sample, in order; a subject of these files is in one file only."""
    return [pair for batch in batches for pair in zip(batch.info.subject, batch.info.index.tolist(), strict=True)]


def full_image_pixels(batch: Batch) -> np.ndarray:
    """[B, 17, 2] px, from the 2D target and the crop by way of the network's input."""
    size = batch.image.shape[-1]
    inputs = (batch.target_2d[..., :2].double().numpy() + 1) * size / 2 - 0.5
    crop = batch.crop.double().numpy()
    return (inputs - crop[:, None, :, 2]) / crop[:, None, [0, 1], [0, 1]]


def test_an_unaugmented_batch_says_what_the_samples_say(files: dict[str, str]) -> None:
    people = list(samples(23, seed=1, picture=True, subject="S1"))
    rows = np.array([4, 0, 22, 4])
    batch = open_dataset(files["images"], image_size=64, seed=0).batch(rows, None)
    assert_well_formed(batch, 4, 64)
    assert batch.present.all()
    assert batch.info.index.tolist() == rows.tolist()
    assert batch.info.subject == ["S1"] * 4
    assert batch.info.action == ["Walking"] * 4
    assert batch.info.camera_id == ["54138969"] * 4
    assert batch.info.frame.tolist() == rows.tolist()
    for i, person in enumerate(people[row] for row in rows):
        joints = person.joints_3d[:, :3]
        np.testing.assert_allclose(batch.root[i], joints[0], rtol=1e-6)
        np.testing.assert_allclose(batch.joints_3d[i, :, :3], joints - joints[0], atol=2e-3)
        np.testing.assert_allclose(batch.camera[i], H36M_CAMERA, rtol=1e-6)
        normalized = (person.keypoints_2d[:, :2] - person.bbox[:2]) / (person.bbox[2] / 2)
        np.testing.assert_allclose(batch.target_2d[i, :, :2], normalized, atol=1e-5)
        np.testing.assert_allclose(batch.scale_2d[i], person.bbox[2] / 2, rtol=1e-6)
        focal, center = H36M_CAMERA[:2], H36M_CAMERA[2:4]
        np.testing.assert_allclose(batch.box[i, :2], (person.bbox[:2] - center) / focal, atol=1e-6)
        np.testing.assert_allclose(batch.box[i, 2], person.bbox[2] / focal.mean(), rtol=1e-6)
    assert torch.equal(batch.keypoints_2d, batch.target_2d)


def test_a_bbox_spans_the_input_from_minus_a_half() -> None:
    bbox = np.array([[300.0, 200.0, 100.0], [5.0, 7.0, 33.0]])
    crop = input_crop(bbox, 64)
    corner = np.concatenate([bbox[:, :2] - bbox[:, 2:] / 2, np.ones((2, 1))], axis=1)
    np.testing.assert_allclose((crop @ corner[..., None])[..., 0], -0.5, atol=1e-12)
    corner[:, :2] += bbox[:, 2:]
    np.testing.assert_allclose((crop @ corner[..., None])[..., 0], 63.5, atol=1e-12)


@pytest.mark.parametrize("source", ["images", "poses", "synthetic"])
def test_3d_camera_and_2d_agree_after_all_augmentations(files: dict[str, str], source: str) -> None:
    dataset = open_dataset(files.get(source, source), image_size=16, seed=0, augment=EVERYTHING)
    for seed in range(3):
        batch = dataset.batch(np.arange(16), np.random.default_rng(seed))
        joints = batch.joints_3d[..., :3].double() + batch.root[:, None]
        pixels = pixels_of(joints.numpy(), batch.camera.double().numpy()[:, :])
        np.testing.assert_allclose(full_image_pixels(batch), pixels, atol=0.01)
        shown = batch.keypoints_2d[..., 2] > 0
        assert 0.02 < 1 - shown.float().mean() < 0.25
        assert not batch.keypoints_2d[~shown].any()
        noise = (batch.keypoints_2d - batch.target_2d)[..., :2][shown]
        # half sides: twice the share of the side
        assert 0.03 < noise.std() < 0.05
        assert (batch.target_2d[..., 2] == 1).all()


@pytest.mark.parametrize(("picture_side", "image_size"), [(128, 96), (128, 128), (512, 64)])
def test_the_warped_picture_follows_the_2d(tmp_path: Path, picture_side: int, image_size: int) -> None:
    """A spot of light drawn at a joint is found where the augmented 2D says the joint is."""
    people, drawn_joints = [], []
    rng = np.random.default_rng(0)
    for number in range(24):
        person = sample(rng)
        joint = (0, 7, 8, 9, 10)[number % 5]  # joints that are their own mirror images
        crop = picture_crop(person.bbox, picture_side, 1.6)
        x, y = crop @ [*person.keypoints_2d[joint, :2], 1]
        person.image, person.crop = jpeg(bright_spot(picture_side, x, y, 0.02 * picture_side)), crop
        people.append(person)
        drawn_joints.append(joint)
    write_store(tmp_path / "spots.h5", people, dataset="spots", split="train")
    config = AugmentConfig(rotate=60, scale=0.2, shift=0.05, flip=True, color=0.2)
    dataset = open_dataset(str(tmp_path / "spots.h5"), image_size=image_size, seed=0, augment=config)
    checked = 0
    for rng in (None, np.random.default_rng(0), np.random.default_rng(1)):
        batch = dataset.batch(np.arange(24), rng)
        pictures = batch.image.numpy() * STD[:, None, None] + MEAN[:, None, None]
        for i, joint in enumerate(drawn_joints):
            wanted = (batch.target_2d[i, joint, :2].double().numpy() + 1) * image_size / 2 - 0.5
            # the spot is 7 % of the input in radius at most
            if (np.abs(wanted - (image_size - 1) / 2) < 0.4 * image_size).all():
                picture = pictures[i, 1] - pictures[i, 1].min()
                # 8 bits and JPEG move the spot's middle by some hundredths of a px
                np.testing.assert_allclose(centroid(picture), wanted, atol=0.12)
                checked += 1
    assert checked > 50


def test_what_a_sample_lacks_is_absent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rootless = sample(rng)
    rootless.joints_3d[0] = 0
    hidden = sample(rng)
    hidden.keypoints_2d[4, 2] = 0
    hidden.joints_3d[6, 3] = 0
    people = [
        sample(rng, picture=True, keypoints_2d=None, joints_3d=None),
        sample(rng, joints_3d=None),
        sample(rng, keypoints_2d=None),
        rootless,
        hidden,
    ]
    people[1].camera = None
    write_store(tmp_path / "a.h5", people, dataset="a", split="train")
    for augment, generator in ((None, None), (EVERYTHING, np.random.default_rng(0))):
        dataset = open_dataset(str(tmp_path / "a.h5"), image_size=16, seed=0, augment=augment)
        batch = dataset.batch(np.arange(5), generator)
        assert_well_formed(batch, 5, 16)
        wanted = [[1, 0, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 1, 0, 1]]
        assert batch.present.tolist() == [[bool(x) for x in row] for row in wanted]
        image, pose2d, pose3d = batch.present
        assert not batch.image[~image].any()
        assert not batch.keypoints_2d[~pose2d].any()
        assert not batch.target_2d[~pose2d].any()
        assert not batch.joints_3d[~pose3d].any()
        assert not batch.root[~pose3d].any()
        assert batch.image[image].abs().amax(dim=(1, 2, 3)).min() > 0
        for one in (batch.keypoints_2d[4], batch.target_2d[4], batch.joints_3d[4]):
            assert (one[one[:, -1] == 0] == 0).all()
        assert (batch.target_2d[4, :, 2] == 0).sum() == 1
        assert (batch.joints_3d[4, :, 3] == 0).sum() == 1
        assert batch.camera[1].isnan().all()
        assert not batch.camera[[0, 2, 3, 4]].isnan().any()
        for name, tensor in batch.tensors().items():
            assert name == "camera" or tensor.isfinite().all()


def test_the_box_of_an_unknown_camera(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bbox = np.array([100.0, 60.0, 50.0])
    unknown = Camera("", np.full(9, np.nan), 300, 400)
    people = [sample(rng, bbox=bbox, joints_3d=None, camera=unknown), sample(rng, bbox=bbox, joints_3d=None)]
    people[1].camera = None
    write_store(tmp_path / "a.h5", people, dataset="a", split="train")
    batch = open_dataset(str(tmp_path / "a.h5"), image_size=0, seed=0).batch(np.arange(2), None)
    # the diagonal of 300 x 400 px is 500 px
    np.testing.assert_allclose(batch.box, [[-50 / 500, -140 / 500, 50 / 500], [0, 0, 0]], atol=1e-7)
    assert batch.camera.isnan().all()


@pytest.mark.parametrize("source", ["images", "synthetic"])
def test_no_images_are_made_for_image_size_0(files: dict[str, str], source: str) -> None:
    dataset = open_dataset(files.get(source, source), image_size=0, seed=0, augment=EVERYTHING)
    for generator in (None, np.random.default_rng(0)):
        batch = dataset.batch(np.arange(3), generator)
        assert_well_formed(batch, 3, 0)
        assert batch.present.tolist() == [[False] * 3, [True] * 3, [True] * 3]


def test_pictures_pin_people_in_place_only_where_they_are_used(files: dict[str, str]) -> None:
    """`yaw` changes the 3D pose of a sample with a picture only if that picture is not shown."""
    for image_size, turned in ((16, False), (0, True)):
        dataset = open_dataset(
            files["images"], image_size=image_size, seed=0, augment=AugmentConfig(flip=False, yaw=True)
        )
        plain, augmented = dataset.batch(np.arange(23), None), dataset.batch(np.arange(23), np.random.default_rng(0))
        assert torch.equal(plain.joints_3d, augmented.joints_3d) is not turned


def mixed_config(files: dict[str, str], **changes) -> DataConfig:
    train = (files["images"], files["poses"], files["flat"], "synthetic")
    options = {"train": train, "train_weights": (3, 4, 2, 1), "image_size": 24, "batch_size": 10, "augment": EVERYTHING}
    return DataConfig(**(options | changes))


def test_batches_do_not_depend_on_the_number_of_workers(files: dict[str, str]) -> None:
    batches = [list(train_batches(mixed_config(files, workers=n), seed=5, start_step=0, steps=6)) for n in (0, 2)]
    assert len(batches[0]) == len(batches[1]) == 6
    for found, wanted in zip(*batches, strict=True):
        assert_well_formed(wanted, 10, 24)
        assert_same(found, wanted)
    # another seed gives other samples
    other = next(iter(train_batches(mixed_config(files), seed=6, start_step=0, steps=1)))
    assert other.info.index.tolist() != batches[0][0].info.index.tolist()


def test_a_resumed_run_goes_on_with_the_same_batches(files: dict[str, str]) -> None:
    config = mixed_config(files)
    whole = list(train_batches(config, seed=5, start_step=0, steps=9))
    rest = list(train_batches(config, seed=5, start_step=6, steps=9))
    assert len(rest) == 3
    for found, wanted in zip(rest, whole[6:], strict=True):
        assert_same(found, wanted)
    assert not list(train_batches(config, seed=5, start_step=9, steps=9))


def test_augmentation_differs_from_epoch_to_epoch(files: dict[str, str]) -> None:
    config = DataConfig(train=(files["poses"],), image_size=0, batch_size=40, augment=EVERYTHING)
    first, second = train_batches(config, seed=0, start_step=0, steps=2)
    rows = [batch.info.index.argsort() for batch in (first, second)]
    assert first.info.index[rows[0]].tolist() == second.info.index[rows[1]].tolist() == list(range(40))
    assert (first.joints_3d[rows[0]] != second.joints_3d[rows[1]]).any((1, 2)).all()


def test_sources_are_mixed_by_weight_or_by_size(files: dict[str, str]) -> None:
    config = mixed_config(files, augment=AugmentConfig())
    subjects: list[str] = []
    modalities = set()
    for batch in train_batches(config, seed=0, start_step=0, steps=40):
        subjects += batch.info.subject
        modalities |= {tuple(column) for column in batch.present.T.tolist()}
        # a batch may hold any mixture
        assert_well_formed(batch, 10, 24)
    share = {name: subjects.count(name) / len(subjects) for name in ("S1", "S5", "S9", "synthetic")}
    # 400 samples of one shuffled epoch: the standard deviation of a share is at most 0.025
    assert share == pytest.approx({"S1": 0.3, "S5": 0.4, "S9": 0.2, "synthetic": 0.1}, abs=0.09)
    assert modalities == {(True, True, True), (False, True, True), (True, True, False)}

    files_only = replace(config, train=config.train[:3], train_weights=(), batch_size=12)
    epoch = list(train_batches(files_only, seed=0, start_step=0, steps=6))
    shown = sorted(rows_of(epoch))
    sizes = (("S1", 23), ("S5", 40), ("S9", 9))
    assert shown == [(name, i) for name, size in sizes for i in range(size)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_batches_without_repeats_or_losses(files: dict[str, str], world: int) -> None:
    # 40 samples, 10 a batch: of three processes each has 3 or 4 of them
    config = DataConfig(
        train=(files["poses"],), val=(files["images"],), image_size=0, batch_size=10, val_batch_size=4,
        augment=EVERYTHING,
    )  # fmt: skip
    ranks = [list(train_batches(config, seed=0, start_step=0, steps=8, rank=r, world_size=world)) for r in range(world)]
    assert {len(batch) for batches in ranks for batch in batches} == {1: {10}, 2: {5}, 3: {3, 4}}[world]
    steps = [np.concatenate([batch.info.index for batch in parts]).tolist() for parts in zip(*ranks, strict=True)]
    one = train_batches(config, seed=0, start_step=0, steps=8)
    assert steps == [batch.info.index.tolist() for batch in one]
    for epoch in (steps[:4], steps[4:]):
        assert sorted(row for step in epoch for row in step) == list(range(40))
    for limit in (0, 2):
        parts = [val_batches(config, limit=limit, rank=r, world_size=world) for r in range(world)]
        shown = [pair for batches in parts for pair in rows_of(list(batches))]
        assert shown == rows_of(list(val_batches(config, limit=limit)))
    for rank in (-1, world):
        for make in (partial(train_batches, seed=0, start_step=0, steps=4), partial(val_batches, limit=0)):
            with pytest.raises(ValueError, match=f"rank: found {rank}, wanted 0 to {world - 1}"):
                make(config, rank=rank, world_size=world)
    with pytest.raises(ValueError, match="batch_size: found 10, wanted a sample for each of 11"):
        train_batches(config, seed=0, start_step=0, steps=4, rank=0, world_size=11)


def test_validation_shows_each_chosen_sample_once_in_order(files: dict[str, str]) -> None:
    config = DataConfig(val=(files["images"], files["poses"]), image_size=16, val_batch_size=25, augment=EVERYTHING)
    batches = val_batches(config, limit=0)
    for _ in range(2):  # they can be gone through again
        found = list(batches)
        assert [len(batch) for batch in found] == [25, 25, 13]
        assert rows_of(found) == [("S1", i) for i in range(23)] + [("S5", i) for i in range(40)]
        assert torch.equal(found[0].keypoints_2d, found[0].target_2d)
    alone = open_dataset(files["poses"], image_size=16, seed=0).batch(np.arange(2), None)
    assert torch.equal(found[0].joints_3d[23:], alone.joints_3d)

    some = list(val_batches(config, limit=9))
    assert rows_of(some) == [("S1", i) for i in (0, 7, 14, 21)] + [("S5", i) for i in (5, 12, 19, 26, 33)]
    assert sum(map(len, val_batches(config, limit=1000))) == 63
    with pytest.raises(ValueError, match="limit: found -1"):
        val_batches(config, limit=-1)


def test_validation_does_not_depend_on_the_number_of_workers(files: dict[str, str]) -> None:
    config = DataConfig(val=(files["images"], "synthetic"), image_size=16, val_batch_size=8)
    plain, workers = (list(val_batches(replace(config, workers=n), limit=30)) for n in (0, 2))
    assert len(plain) == 4
    for found, wanted in zip(workers, plain, strict=True):
        assert_same(found, wanted)


def test_loaders_leave_the_random_numbers_of_a_run_alone(files: dict[str, str]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    config = mixed_config(files, val=("synthetic",))
    next(iter(train_batches(config, seed=0, start_step=0, steps=1)))
    next(iter(val_batches(config, limit=2)))
    mean_pose(config, seed=0, limit=10)
    assert torch.equal(torch.get_rng_state(), before)


def break_picture(path: Path, row: int) -> None:
    with h5py.File(path, "r+") as file:
        data = file["image"][row]
        file["image"][row] = data[: len(data) // 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_validation_sample_whose_picture_is_broken_is_named_and_has_none(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "a.h5"
    write_store(path, samples(4, picture=True), dataset="a", split="train")
    sound = list(val_batches(DataConfig(val=(str(path),), image_size=16, val_batch_size=2), limit=0))
    break_picture(path, 2)
    config = DataConfig(val=(str(path),), image_size=16, val_batch_size=2, workers=workers)
    first, second = val_batches(config, limit=0)
    assert_same(first, sound[0])
    assert not first.broken
    assert second.present.tolist() == [[False, True], [True, True], [True, True]]
    assert not second.image[0].any()
    assert torch.equal(second.image[1], sound[1].image[1])
    assert torch.equal(second.joints_3d, sound[1].joints_3d)
    assert len(second.broken) == 1
    assert re.search(r"a\.h5: image: row 2: found \d+ bytes .*, wanted a whole JPEG", second.broken[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_another_training_sample_stands_in_for_a_broken_one(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "a.h5"
    write_store(path, samples(6, picture=True), dataset="a", split="train")
    config = DataConfig(train=(str(path),), image_size=16, batch_size=6, workers=workers, augment=EVERYTHING)
    sound = list(train_batches(config, seed=0, start_step=0, steps=3))
    for row in (4, 5):
        break_picture(path, row)
    found = list(train_batches(config, seed=0, start_step=0, steps=3))
    for batch, wanted in zip(found, sound, strict=True):
        # the next one in the file, round its end
        assert batch.info.index.tolist() == [{4: 0, 5: 0}.get(row, row) for row in wanted.info.index.tolist()]
        whole = wanted.info.index < 4
        # what is drawn for the others is what it was
        for name in ("image", "keypoints_2d", "joints_3d"):
            assert torch.equal(getattr(batch, name)[whole], getattr(wanted, name)[whole]), name
        assert batch.present.all()
        assert len(batch.broken) == 2
        assert {re.search(r"a\.h5: image: row (\d)", line)[1] for line in batch.broken} == {"4", "5"}
    # and a resumed run has the same ones
    assert_same(next(iter(train_batches(config, seed=0, start_step=2, steps=3))), found[2])
    for row in range(4):
        break_picture(path, row)
    with pytest.raises(StoreError, match=r"a\.h5: image: none of 6 rows"):
        list(train_batches(config, seed=0, start_step=0, steps=1))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    config = DataConfig(train=(str(tmp_path / "gone.h5"),))
    with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
        train_batches(config, seed=0, start_step=0, steps=1)


def test_synthetic_people_are_fresh_at_every_step_and_fixed_for_validation() -> None:
    config = DataConfig(image_size=24, batch_size=6, val_batch_size=6)
    first, second = train_batches(config, seed=0, start_step=0, steps=2)
    again = next(iter(train_batches(config, seed=0, start_step=1, steps=2)))
    assert_same(again, second)
    poses = torch.cat([first.joints_3d, second.joints_3d]).flatten(1)
    assert torch.cdist(poses, poses).add(1e9 * torch.eye(12)).min() > 100

    fixed = list(val_batches(config, limit=8))
    assert [len(batch) for batch in fixed] == [6, 2]
    for batch, other in zip(fixed, val_batches(replace(config, augment=EVERYTHING), limit=8), strict=True):
        assert_same(other, batch)
    unseen = torch.cat([batch.joints_3d for batch in fixed]).flatten(1)
    assert torch.cdist(poses, unseen).min() > 100
    # people, pictures and looks are those of their row, whatever else is asked for
    dataset = SyntheticDataset(image_size=24, seed=0)
    assert len(dataset) == SYNTHETIC_SIZE
    for row in (fixed[1].info.index[1].item(), 0):
        one = dataset.batch(np.array([row]), None)
        batch = fixed[0] if row == 0 else fixed[1]
        place = batch.info.index.tolist().index(row)
        assert torch.equal(one.image[0], batch.image[place])
        assert torch.equal(one.joints_3d[0], batch.joints_3d[place])
    assert fixed[0].image.std() > 0.1
    with pytest.raises(IndexError, match="synthetic: found rows"):
        dataset.batch(np.array([SYNTHETIC_SIZE]), None)


def test_synthetic_pictures_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = SyntheticDataset(image_size=16, seed=1)
    first = dataset.batch(np.array([3, 300]), None)

    def refuse(*arguments: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr("unihpe_fast.data.synthetic_dataset.render", refuse)
    assert_same(dataset.batch(np.array([3, 300]), None), first)


def test_synthetic_pictures_are_drawn_where_the_2d_says(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def look(joints: Tensor, camera: Tensor, crop: Tensor, size: int, appearance: Appearance) -> Tensor:
        drawn.append((pixels_of(joints.double().numpy(), camera.double().numpy()), crop.double().numpy()))
        return torch.full((len(joints), 3, size, size), 255, dtype=torch.uint8)

    monkeypatch.setattr("unihpe_fast.data.synthetic_dataset.render", look)
    dataset = SyntheticDataset(image_size=32, seed=0, augment=replace(EVERYTHING, color=0.0))
    for generator in (np.random.default_rng(0), None):
        batch = dataset.batch(np.arange(8), generator)
        pixels, crop = drawn.pop()
        assert not drawn
        inputs = pixels @ crop[:, :, :2].transpose(0, 2, 1) + crop[:, None, :, 2]
        np.testing.assert_allclose((batch.target_2d[..., :2] + 1) * 16 - 0.5, inputs, atol=1e-3)
        np.testing.assert_allclose(batch.crop, crop, rtol=1e-5)
        white = ((1 - MEAN) / STD)[:, None, None] * np.ones((3, 32, 32))
        np.testing.assert_allclose(batch.image, np.broadcast_to(white, (8, 3, 32, 32)), atol=1e-5)


def test_mean_pose_is_the_mean_of_valid_joints(tmp_path: Path) -> None:
    people = list(samples(30, seed=4))
    for person in people[:10]:
        person.joints_3d[3] = 0
    for person in people:
        person.joints_3d[5, 3] = 0
    people.append(sample(np.random.default_rng(9), joints_3d=None))
    write_store(tmp_path / "a.h5", people, dataset="a", split="train")
    config = DataConfig(train=(str(tmp_path / "a.h5"),), augment=EVERYTHING)
    found = mean_pose(config, seed=0)
    centered = np.stack([p.joints_3d[:, :3] - p.joints_3d[0, :3] for p in people[:30]])
    wanted = centered.mean(0)
    wanted[3], wanted[5] = centered[10:, 3].mean(0), 0
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, wanted, atol=1e-2)
    assert not torch.equal(mean_pose(config, seed=0, limit=5), found)


def test_samples_are_not_changed_by_reading_them(files: dict[str, str]) -> None:
    dataset = open_dataset(files["poses"], image_size=0, seed=0, augment=EVERYTHING)
    before = dataset.batch(np.arange(40), None)
    dataset.batch(np.arange(40), np.random.default_rng(0))
    assert_same(dataset.batch(np.arange(40), None), before)


def test_a_sample_is_one_row_of_a_batch(files: dict[str, str]) -> None:
    dataset = open_dataset(files["images"], image_size=24, seed=0)
    batch = dataset.batch(np.array([3, 8, 1]), None)
    alone = dataset.batch(np.array([8]), None)
    for name, tensor in batch.tensors().items():
        row = tensor[:, 1:2] if name == "present" else tensor[1:2]
        assert torch.equal(row, alone.tensors()[name]), name
    for name, values in vars(batch.info).items():
        assert np.array_equal(values[1:2], getattr(alone.info, name)), name


def test_the_place_of_a_person_of_unknown_distance_is_not_a_number(tmp_path: Path) -> None:
    """A source that knows poses relative to the pelvis only puts it at the origin."""
    rng = np.random.default_rng(0)
    known, flat = sample(rng), sample(rng, joints_3d=None)
    relative = known.joints_3d.copy()
    relative[:, :3] -= relative[0, :3]
    drawn = [known, replace(known, joints_3d=relative, camera=None), flat]
    write_store(tmp_path / "a.h5", drawn, dataset="a", split="train")
    batch = open_dataset(str(tmp_path / "a.h5"), image_size=0, seed=0).batch(np.arange(3), None)
    np.testing.assert_allclose(batch.root[0], known.joints_3d[0, :3], rtol=1e-6)
    assert batch.root[1].isnan().all()
    assert batch.root[2].tolist() == [0, 0, 0]
    np.testing.assert_allclose(batch.joints_3d[1], relative, rtol=1e-5)
    np.testing.assert_allclose(batch.joints_3d[1, :, :3], batch.joints_3d[0, :, :3], atol=1e-3)
