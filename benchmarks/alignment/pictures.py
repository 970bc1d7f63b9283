"""Pictures whose features are computed once, so that a training step costs what its heads cost."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unihpe_fast.data.collate import merge
from unihpe_fast.data.loader import FileDataset
from unihpe_fast.data.records import Batch, SampleInfo
from unihpe_fast.models.image_encoder import ImageEncoder

BLOCK = 64


class Remembered(nn.Module):
    """Stands in for a frozen backbone: the feature maps of pictures that it has seen once.

    maps: [N, C, H, W] each, float16. A picture is a single pixel, whose value is the picture's number.
    """

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def take_over(self, encoder: ImageEncoder) -> None:
        """Be the backbone of an encoder, which takes numbers for pictures from then on."""
        encoder.backbone, encoder.image_size = self, 1

    def forward(self, image: Tensor) -> list[Tensor]:
        rows = image[:, 0, 0, 0].long()
        return [whole[rows].float() for whole in self.maps]


class Pictures:
    """All samples of a prepared file as they are, not augmented, and a backbone's maps of their pictures.

    scales: those of the backbone's maps that are read; the others are kept empty. first: number of the first picture.
    In `batch`, image is [N, 3, 1, 1], the pictures' numbers.
    """

    def __init__(self, path: str, backbone: nn.Module, *, image_size: int, scales: list[int], first: int) -> None:
        dataset = FileDataset(path, image_size=image_size)
        batches, maps = [], []
        for rows in np.array_split(np.arange(len(dataset)), -(-len(dataset) // BLOCK)):
            batch = dataset.batch(rows, None)
            with torch.no_grad():
                found = backbone(batch.image)
            maps.append([(x if i in scales else x[..., :0, :0]).half() for i, x in enumerate(found)])
            numbers = torch.arange(first, first + len(rows), dtype=torch.float32)
            first += len(rows)
            batches.append(replace(batch, image=numbers[:, None, None, None].expand(-1, 3, 1, 1)))
        self.batch = merge(batches)
        self.maps = [torch.cat(parts) for parts in zip(*maps, strict=True)]

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, rows: np.ndarray) -> Batch:
        """The samples of these rows [n]."""
        chosen: dict[str, Any] = {name: x[rows] for name, x in self.batch.tensors().items() if name != "present"}
        info = self.batch.info
        names = ([column[row] for row in rows] for column in (info.subject, info.action, info.camera_id))
        return Batch(
            **chosen, present=self.batch.present[:, rows], info=SampleInfo(info.index[rows], info.frame[rows], *names)
        )


def joined(batches: list[Batch]) -> Batch:
    """One batch of several whose images are numbers; of samples without pictures, 0."""
    return merge(
        [
            batch if batch.image.numel() else replace(batch, image=batch.image.new_zeros(len(batch), 3, 1, 1))
            for batch in batches
        ]
    )
