"""Bytes copied and matrix products a second at best: python -m benchmarks.gpu.rates [--json PATH]"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.harness import DEVICE, seconds
from unihpe_fast.fileio import write_text


def rates() -> dict[str, float]:
    """Bytes read and written, and flops of a square product by dtype, a second: the best of five, on random data."""
    gpu = DEVICE == "cuda"
    source = torch.randn((1 << 30) if gpu else (1 << 22), device=DEVICE)
    target = torch.empty_like(source)
    found = {"copy_bytes": 2 * 4 * len(source) / _least(lambda: target.copy_(source))}
    size = 8192 if gpu else 256
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
        out = torch.empty_like(left)
        name = f"{str(dtype).removeprefix('torch.')}_flops"
        found[name] = 2 * size**3 / _least(lambda a=left, b=right, c=out: torch.mm(a, b, out=c))
    return found


def _least(work) -> float:
    work()
    return min(seconds(work) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = rates()
    print(", ".join(f"{name} {value / 1e12:.3g} T/s" for name, value in found.items()))
    if options.json:
        write_text(options.json, json.dumps({"rates": found}) + "\n")


if __name__ == "__main__":
    main()
