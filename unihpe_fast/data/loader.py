"""Batches of prepared files and synthetic people, the same ones whatever the number of loader processes.

Batch k of a run is a pure function of (seed, k): which samples it has comes from data/sampling.py, how they are
augmented from a generator seeded with both. A run that is resumed at step k therefore goes on exactly as it would have.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unihpe_fast.config import AugmentConfig, DataConfig, augment_of
from unihpe_fast.data import augment as aug
from unihpe_fast.data.batches import Batches
from unihpe_fast.data.collate import collate, compose, input_crop, inverse, merge
from unihpe_fast.data.images import normalized, warp_jpeg
from unihpe_fast.data.level import check_level
from unihpe_fast.data.records import MODALITIES, Batch
from unihpe_fast.data.sampling import Order
from unihpe_fast.data.store import DAMAGED, Columns, Store, StoreError
from unihpe_fast.data.synthetic_dataset import SyntheticDataset

SYNTHETIC = "synthetic"
# the fixed synthetic people are the same in every run
_VALIDATION_SEED = 0
# keeps the augmentation's random streams apart from those of data/sampling.py
_DOMAIN = 2


class PoseDataset(Protocol):
    """Samples by row number."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> Batch:
        """Rows `indices` [B] as a Batch, augmented with numbers from `rng`; None: as they are."""
        ...


class _BrokenPictures(Exception):
    """reasons: why, by row."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


class FileDataset:
    """The samples of a prepared file, see data/store.py."""

    def __init__(
        self, path: str, *, image_size: int, augment: AugmentConfig | None = None, level: bool = False
    ) -> None:
        self.store, self.image_size, self.augment, self.level = Store(path), image_size, augment, level
        if level:
            check_level(self.store)
        self._broken: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.store)

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> Batch:
        """See PoseDataset. Pictures that cannot be decoded are named in `broken` of the batch.

        With a generator the next row of the file that can be decoded stands in for such a sample; without, the sample
        is there, its image is not.
        """
        indices = np.asarray(indices)
        state = None if rng is None else rng.bit_generator.state
        while True:
            try:
                batch = self._batch(indices if rng is None else self._sound(indices), rng)
            except _BrokenPictures as found:
                self._broken |= found.reasons
                if rng is not None and state is not None:
                    # what is drawn for the others must not depend on how far the attempt came
                    rng.bit_generator.state = state
                continue
            rows = [row for row in indices.tolist() if row in self._broken]
            batch.broken = [f"{self.store.path}: image: row {row}: {self._broken[row]}" for row in rows]
            return batch

    def _sound(self, indices: np.ndarray) -> np.ndarray:
        """The rows, and for those known to be broken the next one that is not."""
        if len(self._broken) == len(self):
            row, reason = next(iter(self._broken.items()))
            raise StoreError(f"{self.store.path}: image: none of {len(self)} rows can be decoded, row {row}: {reason}")
        chosen = indices.copy()
        while (broken := np.isin(chosen, list(self._broken))).any():
            chosen[broken] = (chosen[broken] + 1) % len(self)
        return chosen

    def _batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> Batch:
        """Raises _BrokenPictures for those that cannot be decoded; the image of a row known to be broken is absent."""
        columns = self.store.read(indices, images=self.image_size > 0)
        present = columns.present & np.array([[self.image_size > 0], [True], [True]])
        present[0] &= ~np.isin(columns.info.index, list(self._broken))
        people = _people(columns, free=~present[0])
        colors: tuple[np.ndarray, ...] = ()
        if rng is not None and self.augment is not None:
            people = aug.augment(people, self.augment, rng)
            colors = aug.color_jitter(len(columns.info.index), self.augment, rng)
        return collate(
            people,
            self._pictures(columns, people, present[0], colors),
            present=present,
            info=columns.info,
            detector=self.augment,
            rng=rng,
            level=self.level,
        )

    def _pictures(
        self, columns: Columns, people: aug.People, present: np.ndarray, colors: tuple[np.ndarray, ...]
    ) -> Tensor:
        """[B, 3, S, S] float32, zero where there is no picture."""
        rows = np.flatnonzero(present)
        pixels = np.empty((len(rows), self.image_size, self.image_size, 3), dtype=np.uint8)
        taken = inverse(columns.crop[rows])
        matrices = compose(compose(input_crop(people.bbox[rows], self.image_size), people.affine[rows]), taken)
        broken: dict[int, str] = {}
        for row, matrix, out in zip(rows, matrices, pixels, strict=True):
            try:
                warp_jpeg(columns.images[row], matrix, out)
                if columns.damaged[row]:
                    raise ValueError(DAMAGED)
            except ValueError as error:
                broken[int(columns.info.index[row])] = str(error)
        if broken:
            raise _BrokenPictures(broken)
        drawn = normalized(torch.from_numpy(pixels).permute(0, 3, 1, 2), *(c[rows] for c in colors))
        if len(rows) == len(present):
            return drawn
        image = torch.zeros(len(present), 3, self.image_size, self.image_size)
        image[torch.from_numpy(rows)] = drawn
        return image


def _people(columns: Columns, free: np.ndarray) -> aug.People:
    return aug.People(
        keypoints_2d=columns.keypoints_2d.astype(np.float64),
        joints_3d=columns.joints_3d.astype(np.float64),
        camera=columns.camera,
        size=columns.size.astype(np.float64),
        up=aug.camera_up(columns.rotation),
        bbox=columns.bbox.astype(np.float64),
        affine=np.tile(np.eye(2, 3), (len(free), 1, 1)),
        free=free,
    )


def open_dataset(
    name: str, *, image_size: int, seed: int, augment: AugmentConfig | None = None, level: bool = False
) -> PoseDataset:
    """A prepared file by its path, or "synthetic".

    image_size: side of the network input in px; 0: no images. seed: of the fixed synthetic people that are given
    without a generator. augment: what is done to samples that are given with one. level: 3D poses are those of levelled
    cameras. A file is opened at first use; with level at once, and StoreError is raised where a camera has no up.
    """
    if name == SYNTHETIC:
        return SyntheticDataset(image_size=image_size, seed=seed, augment=augment, level=level)
    return FileDataset(name, image_size=image_size, augment=augment, level=level)


class _TrainSteps(Dataset[Batch]):
    """Step number -> the part of one rank in the training batch of `batch_size` samples."""

    def __init__(
        self, sources: Sequence[PoseDataset], order: Order, batch_size: int, rank: int = 0, world: int = 1
    ) -> None:
        self.sources, self.order, self.batch_size, self.rank, self.world = sources, order, batch_size, rank, world

    def __getitem__(self, step: int) -> Batch:
        start, mine = step * self.batch_size, _share(self.batch_size, self.rank, self.world)
        source, row = self.order.at(start + mine.start, start + mine.stop)
        batches = []
        for number in np.unique(source).tolist():
            rng = np.random.default_rng([_DOMAIN, self.order.seed, step, self.rank, number])
            batches.append(self.sources[number].batch(row[source == number], rng))
        return merge(batches)


def _share(total: int, rank: int, world: int) -> slice:
    """The part of `total` things in a row that is one rank's; the parts differ by one at most."""
    return slice(total * rank // world, total * (rank + 1) // world)


class _ValidationBlocks(Dataset[Batch]):
    """Block number -> batch of the next `batch_size` of the chosen rows, in order, without augmentation."""

    def __init__(self, sources: Sequence[PoseDataset], rows: np.ndarray, batch_size: int) -> None:
        self.sources, self.rows, self.batch_size = sources, rows, batch_size
        self.starts = np.cumsum([0, *map(len, sources)])

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, block: int) -> Batch:
        rows = self.rows[block * self.batch_size : (block + 1) * self.batch_size]
        source = np.searchsorted(self.starts, rows, side="right") - 1
        return merge(
            [
                self.sources[number].batch(rows[source == number] - self.starts[number], None)
                for number in np.unique(source).tolist()
            ]
        )


def train_batches(
    config: DataConfig,
    *,
    seed: int,
    start_step: int,
    steps: int,
    rank: int = 0,
    world_size: int = 1,
    warn: Callable[[str], None] | None = None,
) -> Batches:
    """One process's part of the batches start_step .. steps - 1 of a run.

    A batch has config.batch_size samples in the shuffled order of data/sampling.py, whatever the number of processes;
    each of them gets its share of it, in rank order, the samples of one source next to each other. Raises ValueError
    for bad options, and StoreError or FileNotFoundError for a file that cannot be used. warn: see `Batches`.
    """
    _check_rank(rank, world_size)
    if config.batch_size < world_size:
        raise ValueError(f"batch_size: found {config.batch_size}, wanted a sample for each of {world_size} processes")
    sources = [
        open_dataset(
            name, image_size=config.image_size, seed=seed, augment=augment_of(config, name), level=config.level
        )
        for name in config.train
    ]
    order = Order([len(source) for source in sources], config.train_weights, seed)
    dataset = _TrainSteps(sources, order, config.batch_size, rank, world_size)
    return Batches(dataset, start_step, steps, workers=config.workers, timeout=config.timeout, warn=warn)


def val_batches(config: DataConfig, *, limit: int, rank: int = 0, world_size: int = 1) -> Batches:
    """`limit` validation samples (0: all), spread evenly over config.val, each once, in order and not augmented.

    Those of one process, in rank order; a process may have none. They may be gone through again and again. The last
    batch may be smaller. Raises as `train_batches` does.
    """
    _check_rank(rank, world_size)
    if limit < 0:
        raise ValueError(f"limit: found {limit}, wanted 0 (all) or more")
    sources = _validation_sources(config)
    total = sum(map(len, sources))
    count = min(limit, total) if limit else total
    rows = (np.arange(count) * total // count)[_share(count, rank, world_size)]
    dataset = _ValidationBlocks(sources, rows, config.val_batch_size)
    # pictures of synthetic people are kept in this process
    workers = config.workers if set(config.val) != {SYNTHETIC} else 0
    return Batches(dataset, 0, len(dataset), workers=workers, timeout=config.timeout)


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: found {rank}, wanted 0 to {world_size - 1}")


def row_batches(config: DataConfig, rows: np.ndarray, *, rank: int = 0, world_size: int = 1) -> Batches:
    """These rows [n] of config.val, counted through all of its sources, otherwise as `val_batches` gives them."""
    _check_rank(rank, world_size)
    dataset = _ValidationBlocks(
        _validation_sources(config), rows[_share(len(rows), rank, world_size)], config.val_batch_size
    )
    return Batches(dataset, 0, len(dataset), workers=config.workers, timeout=config.timeout)


def _validation_sources(config: DataConfig) -> list[PoseDataset]:
    return [
        _fixed_synthetic(config.image_size, config.level)
        if name == SYNTHETIC
        else open_dataset(name, image_size=config.image_size, seed=_VALIDATION_SEED, level=config.level)
        for name in config.val
    ]


@lru_cache(maxsize=1)
def _fixed_synthetic(image_size: int, level: bool) -> PoseDataset:
    """One for all validations of a process, so that its pictures are drawn once."""
    return open_dataset(SYNTHETIC, image_size=image_size, seed=_VALIDATION_SEED, level=level)


def available_modalities(config: DataConfig) -> set[str]:
    """Those of image, pose2d and pose3d that at least one training sample has. Raises as `train_batches` does."""
    present = np.zeros(len(MODALITIES), dtype=bool)
    for name in config.train:
        present |= True if name == SYNTHETIC else Store(name).present.any(axis=1)
    present[0] &= config.image_size > 0
    return {name for name, has in zip(MODALITIES, present, strict=True) if has}


def mean_pose(config: DataConfig, *, seed: int, limit: int = 20_000) -> Tensor:
    """[17, 3] float32 mm, the mean root-relative pose of the first `limit` training samples of a run, not augmented.

    Only valid joints count; a joint that is never valid is 0.
    """
    sources = [open_dataset(name, image_size=0, seed=seed, level=config.level) for name in config.train]
    order = Order([len(source) for source in sources], config.train_weights, seed)
    dataset = _TrainSteps(sources, order, min(limit, order.epoch_length))
    joints = dataset[0].joints_3d.double()
    # invalid joints are 0
    return (joints[..., :3].sum(0) / joints[..., 3:].sum(0).clamp(min=1)).float()
