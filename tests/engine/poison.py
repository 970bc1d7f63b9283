"""Training batches of which one is made not finite, the same one however many processes share it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from unihpe_fast.data.records import Batch
from unihpe_fast.engine import loop


def poison(patch: pytest.MonkeyPatch, batch_number: int, row: int) -> None:
    """Give the sample of this row in this batch of every run 3D joints that are NaN; other batches are left alone."""
    train_batches = loop.train_batches

    def poisoned(*arguments: Any, **options: Any) -> Iterator[Batch]:
        for number, batch in enumerate(train_batches(*arguments, **options), start=options["start_step"]):
            if number == batch_number:
                batch.joints_3d[torch.from_numpy(batch.info.index == row), :, :3] = torch.nan
            yield batch

    patch.setattr(loop, "train_batches", poisoned)
