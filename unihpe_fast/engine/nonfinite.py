"""Steps whose loss or gradient is not finite: skipped and counted on the device, and a dump when there are too many."""

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from unihpe_fast.fileio import atomic_path, write_text


@dataclass
class StepRecord:
    """step: 1-based. indices: of each batch of the step, [B] rows in their datasets. terms: scalars by name, on the
    device. gradient_norms: [P], of each parameter's gradient before clipping."""

    step: int
    indices: list[np.ndarray]
    terms: dict[str, Tensor]
    gradient_norms: Tensor

    @property
    def bad(self) -> bool:
        """Whether it was skipped; waits for the device."""
        return not all(math.isfinite(self.terms[name].item()) for name in ("loss", "grad_norm"))


class BadSteps:
    """Judges each step without waiting for the device; the counts are looked at when something is logged or saved.

    counts: int64 [3] on the device: bad steps in a row up to now, the most in a row so far, and all.
    """

    def __init__(self, device: torch.device, *, remembered: int) -> None:
        self.counts = torch.zeros(3, dtype=torch.int64, device=device)
        self.records: deque[StepRecord] = deque(maxlen=remembered)

    def judge(self, loss: Tensor, gradient_norm: Tensor) -> Tensor:
        """float32 []: 1 where one of them is not finite, as fused optimisers take it in `found_inf`, else 0."""
        bad = ~(loss.isfinite() & gradient_norm.isfinite())
        row, longest, total = self.counts.unbind()
        row = torch.where(bad, row + 1, 0)
        self.counts = torch.stack([row, torch.maximum(longest, row), total + bad])
        return bad.float()

    def dump(self, folder: Path, config: dict[str, Any], parameters: Sequence[str], indices: Sequence[Any]) -> None:
        """Write what led to the stop to `folder`: report.json, gradient_norms.safetensors.

        indices: of every record, then every rank, then every batch of the step. config: all options. parameters: names,
        as the rows of gradient_norms. In the JSON a number that is not finite is a string.
        """
        steps = [
            {
                "step": record.step,
                "indices": rows,
                "terms": {name: _json_number(value.item()) for name, value in record.terms.items()},
                "bad": record.bad,
                "gradients_not_finite": [
                    name
                    for name, norm in zip(parameters, record.gradient_norms.tolist(), strict=True)
                    if not math.isfinite(norm)
                ],
            }
            for record, rows in zip(self.records, indices, strict=True)
        ]
        report = {"parameters": list(parameters), "steps": steps, "config": config}
        write_text(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
        norms = {f"step_{record.step:08d}": record.gradient_norms.cpu() for record in self.records}
        with atomic_path(folder / "gradient_norms.safetensors") as temporary:
            safetensors.torch.save_file(norms, temporary)


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
