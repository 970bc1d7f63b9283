"""Synthetic people as a dataset without a file: fresh ones for every training batch, a fixed set for validation."""

import numpy as np
import torch
from torch import Tensor

from unihpe_fast.config import AugmentConfig
from unihpe_fast.data import augment as aug
from unihpe_fast.data.collate import collate, input_crop
from unihpe_fast.data.images import normalized
from unihpe_fast.data.records import Batch, SampleInfo
from unihpe_fast.data.render import Appearance, render, sample_appearance
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.data.sources.synthetic import ACTIONS, IMAGE_SIZE, People, synthetic_people

# people in the fixed set, and what "synthetic" counts as beside other sources when shares go by size
SYNTHETIC_SIZE = 4096
# of the fixed set are made at once, so that a person does not depend on which others are asked for
BLOCK = 256
# keeps the fixed set apart from all that training draws
_DOMAIN = 3


class SyntheticDataset:
    """`SYNTHETIC_SIZE` people whose pictures are drawn as they are needed.

    With a generator, `batch` makes fresh people, and the row numbers only say how many; without, they are rows of a
    fixed set, whose people and pictures are kept in memory once made (27 KB a person at 96 px). Roll, mirroring, bbox
    jitter, colours and the simulated detector apply; `yaw` and `bone_scale` do not: no two people are alike anyway.
    """

    def __init__(
        self, *, image_size: int, seed: int, augment: AugmentConfig | None = None, level: bool = False
    ) -> None:
        self.image_size, self.seed, self.augment, self.level = image_size, seed, augment, level
        self._blocks: dict[int, People] = {}
        self._pictures: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return SYNTHETIC_SIZE

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> Batch:
        """See loader.PoseDataset."""
        if rng is None:
            return self._fixed_batch(indices)
        config = self.augment or AugmentConfig(flip=False)
        count = len(indices)
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        drawn = synthetic_people(count, generator)
        people = aug.augment(_people(drawn), config, rng)
        colors = aug.color_jitter(count, config, rng)
        pictures = torch.empty(count, 3, 0, 0, dtype=torch.uint8)
        if self.image_size:
            pictures = _draw(people, self.image_size, sample_appearance(count, generator))
        return self._assemble(people, normalized(pictures, *colors), indices, drawn.action, config, rng)

    def _fixed_batch(self, indices: np.ndarray) -> Batch:
        if len(indices) and not (indices.min() >= 0 and indices.max() < SYNTHETIC_SIZE):
            raise IndexError(f"synthetic: found rows {indices}, wanted numbers from 0 to {SYNTHETIC_SIZE - 1}")
        blocks = [self._block(int(i) // BLOCK) for i in indices]
        drawn = People(
            *(
                torch.stack(
                    [getattr(block, name)[i % BLOCK] for block, i in zip(blocks, indices.tolist(), strict=True)]
                )
                for name in People._fields
            )
        )
        people = _people(drawn)
        pictures = torch.empty(len(indices), 3, 0, 0, dtype=torch.uint8)
        if self.image_size:
            self._make_pictures(people, indices)
            pictures = torch.stack([self._pictures[i] for i in indices.tolist()])
        return self._assemble(people, normalized(pictures), indices, drawn.action)

    def _generator(self, block: int, stream: int) -> torch.Generator:
        words = np.random.SeedSequence([_DOMAIN, self.seed, block, stream]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0]) >> 1)

    def _block(self, number: int) -> People:
        if number not in self._blocks:
            self._blocks[number] = synthetic_people(BLOCK, self._generator(number, 0))
        return self._blocks[number]

    def _make_pictures(self, people: aug.People, indices: np.ndarray) -> None:
        missing = np.array([i not in self._pictures for i in indices.tolist()])
        for block in np.unique(indices[missing] // BLOCK).tolist():
            rows = np.flatnonzero(missing & (indices // BLOCK == block))
            looks = sample_appearance(BLOCK, self._generator(block, 1))
            look = Appearance(*(field[indices[rows] % BLOCK] for field in looks))
            drawn = _draw(_rows(people, rows), self.image_size, look)
            self._pictures.update(zip(indices[rows].tolist(), drawn, strict=True))

    def _assemble(
        self,
        people: aug.People,
        image: Tensor,
        indices: np.ndarray,
        action: Tensor,
        detector: AugmentConfig | None = None,
        rng: np.random.Generator | None = None,
    ) -> Batch:
        count = len(indices)
        present = np.ones((3, count), dtype=bool)
        present[0] = self.image_size > 0
        index, names = indices.astype(np.int64), [ACTIONS[i] for i in action.tolist()]
        info = SampleInfo(index, index, ["synthetic"] * count, names, [""] * count)
        return collate(
            people,
            image,
            present=present,
            info=info,
            detector=detector,
            rng=rng,
            level=self.level,
        )


def _people(drawn: People) -> aug.People:
    count = len(drawn.action)
    ones = np.ones((count, NUM_JOINTS, 1))
    return aug.People(
        keypoints_2d=np.concatenate([drawn.keypoints_2d.double().numpy(), ones], axis=2),
        joints_3d=np.concatenate([drawn.joints_3d.double().numpy(), ones], axis=2),
        camera=drawn.camera.double().numpy(),
        size=np.tile(np.array(IMAGE_SIZE, dtype=np.float64), (count, 1)),
        up=drawn.up.double().numpy(),
        bbox=drawn.bbox.double().numpy(),
        affine=np.tile(np.eye(2, 3), (count, 1, 1)),
        free=np.zeros(count, dtype=bool),
    )


def _rows(people: aug.People, rows: np.ndarray) -> aug.People:
    return aug.People(**{name: value[rows] for name, value in vars(people).items()})


def _draw(people: aug.People, size: int, look: Appearance) -> Tensor:
    crop = torch.from_numpy(input_crop(people.bbox, size))
    return render(torch.from_numpy(people.joints_3d[..., :3]), torch.from_numpy(people.camera), crop, size, look)
