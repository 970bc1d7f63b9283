"""Augmented batches of 224 px crops against bare OpenCV, in this process: python -m pytest benchmarks --benchmark-only

benchmarks/data_speed.py has the rest: several workers, preparing, memory over epochs.
"""

import functools
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.data_speed import INPUT, BareBatches, loader_config, people, prepare_file
from benchmarks.harness import OURS, Competitor, Group, measure
from unihpe_fast.data.crop_photos import CROP_SIZE
from unihpe_fast.data.images import MEAN, STD
from unihpe_fast.data.loader import FileDataset, train_batches
from unihpe_fast.data.store import Store

SIZES = [16, 32, 64, 128]
USES = {64: "a training batch"}
ROUNDS = 9
PEOPLE = 200


@functools.cache
def folder():
    # its removal goes with it
    return tempfile.TemporaryDirectory()


@functools.cache
def store():
    """A prepared file, small enough for the page cache, and its JPEGs."""
    out = Path(folder().name) / "speed.h5"
    prepare_file(people(Path(folder().name), PEOPLE, 1000, 1002, 480), out)
    cv2.setNumThreads(0)  # as in a loader's worker, both sides
    return out, Store(out).read(np.arange(PEOPLE)).images


def ours(batch):
    path, _ = store()
    batches = iter(train_batches(loader_config(path, 0, batch), seed=0, start_step=0, steps=1000))
    return lambda k: next(batches)


def bare(batch):
    dataset = BareBatches(store()[1], batch)
    return lambda k: dataset[k]


def sampled(jpeg, matrix):
    """[INPUT, INPUT, 3] float64 in 0..1: bilinear samples of a decoded picture through an affine map [2, 3]."""
    picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[:, :, ::-1] / 255.0
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    v, u = np.mgrid[:INPUT, :INPUT].astype(float)
    x, y = (back[row, 0] * u + back[row, 1] * v + back[row, 2] for row in (0, 1))
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    out = np.zeros((INPUT, INPUT, 3))
    for dx in (0, 1):
        for dy in (0, 1):
            inside = (i + dx >= 0) & (i + dx < picture.shape[1]) & (j + dy >= 0) & (j + dy < picture.shape[0])
            weight = np.where(inside, (1 - abs(x - i - dx)) * (1 - abs(y - j - dy)), 0)
            at = (j + dy).clip(0, picture.shape[0] - 1), (i + dx).clip(0, picture.shape[1] - 1)
            out += weight[..., None] * picture[at]
    return out


def close(found, wanted):
    """A grey level of 255 on average, and no pixel far off: OpenCV rounds to levels and to 1/32 px."""
    off = np.abs(found - wanted) * 255
    assert max(off.mean(), off.max() / 24) < 1, f"pixels are off by {off.mean():.2f} levels, at most {off.max():.0f}"


def check_ours():
    """Without augmentation the middle of the crop, shrunk."""
    path, jpegs = store()
    images = FileDataset(str(path), image_size=INPUT).batch(np.arange(3), None).image.double().numpy()
    scale = INPUT / (CROP_SIZE / 1.25)
    shift = (INPUT - scale * CROP_SIZE) / 2 + (scale - 1) / 2
    for image, jpeg in zip(images, jpegs, strict=False):
        close(image.transpose(1, 2, 0) * STD + MEAN, sampled(jpeg, np.array([[scale, 0, shift], [0, scale, shift]])))


def check_bare():
    """Its first picture, up to the gain of each colour."""
    jpegs = store()[1]
    found = BareBatches(jpegs, 2)[0][0].double().numpy().transpose(1, 2, 0) * STD + MEAN
    rng = np.random.default_rng(0)
    row = rng.integers(0, len(jpegs), 2)[0]
    scale, angle, shift = 0.875 * rng.uniform(0.75, 1.25), np.radians(rng.uniform(-30, 30)), rng.uniform(-10, 10, 2)
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.full(2, CROP_SIZE / 2)
    matrix = np.column_stack([turn, middle - turn @ middle + (INPUT - CROP_SIZE) / 2 + shift])
    wanted = sampled(jpegs[row], matrix)
    close(found / found.mean((0, 1)) * wanted.mean((0, 1)), wanted)


@functools.cache
def group():
    competitors = [
        Competitor(OURS, ours, check_ours),
        Competitor("bare OpenCV: decode, warp, normalise", bare, check_bare),
    ]
    return Group("data_loading", "B", competitors, {"image_px": INPUT, "workers": 0}, {"": (1, 1)}, uses=USES)


@pytest.mark.parametrize("batch", SIZES)
def test_data_loading(benchmark, batch):
    measure(benchmark, group(), batch, rounds=ROUNDS)
