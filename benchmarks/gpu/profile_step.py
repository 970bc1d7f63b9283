"""The ten longest kernels of the compiled training step: python -m benchmarks.gpu.profile_step [--json PATH]

On a GPU, hrnet_w48 at 256 px; on a CPU a small case, to see that it works.
"""

import argparse
import json
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from benchmarks import train_cases
from benchmarks.record import provenance
from unihpe_fast.fileio import write_text

STEPS = 3
LONGEST = 10
# in the names of this package's kernels and operators
_OURS = ("unihpe_kernels::", "sv_all_", "paired_", "_of_three", "mean_over_anchors", "weights_and_temperature",
         "pa_mpjpe_", "procrustes_", "svd3x3_")  # fmt: skip


def profile(backbone: str, image_size: int, batch: int, variant: str, device: str) -> dict[str, Any]:
    """Milliseconds a step by kernel (operator on a CPU), and by who owns it."""
    config = train_cases.config(backbone, image_size, batch)
    made = train_cases.trainer(config, variant, device)
    inputs = cycle([b.to(device) for b in train_cases.batches(config, 2)])
    for _ in range(3):
        made.advance(inputs)
    kinds = torch.profiler.ProfilerActivity
    activity = kinds.CUDA if device == "cuda" else kinds.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        for _ in range(STEPS):
            made.advance(inputs)
        if device == "cuda":
            torch.cuda.synchronize()
    rows = []
    for event in profiler.key_averages():
        spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        rows.append({"name": event.key, "ms": spent / 1e3 / STEPS, "calls": event.count / STEPS})
    rows.sort(key=lambda row: -row["ms"])
    total = sum(row["ms"] for row in rows)
    ours = sum(row["ms"] for row in rows if _is_ours(row["name"]))
    return {
        "backbone": backbone, "image_px": image_size, "batch": batch, "variant": variant,
        "total_ms": total, "loss_and_alignment_ms": ours, "longest": rows[:LONGEST],
    }  # fmt: skip


def _is_ours(name: str) -> bool:
    return any(part in name for part in _OURS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if torch.cuda.is_available():
        found = profile("hrnet_w48", 256, 64, "ours, compiled", "cuda")
    else:
        found = profile("resnet50", 64, 4, "ours, eager", "cpu")
    print(f"{found['variant']}, {found['backbone']}, {found['image_px']} px, B = {found['batch']}: ms a step")
    for row in found["longest"]:
        print(f"{row['ms']:10.3f}  {row['calls']:8.1f} x  {row['name'][:100]}")
    print(f"{found['total_ms']:10.3f}  in all; {found['loss_and_alignment_ms']:.3f} in this package's kernels")
    if options.json:
        write_text(options.json, json.dumps({**provenance(), "profile": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
