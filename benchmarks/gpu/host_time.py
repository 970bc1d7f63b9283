"""Host time of a step of the loss by its Triton kernels, with launches stubbed: python -m benchmarks.gpu.host_time

Needs no GPU. Everything that the host does for a forward and backward of the public function is done: checks, torch's
dispatch and autograd, buffers, plans, and where a plan has none yet Triton's binding of arguments; not what a driver
adds to a launch, nor the matrix products, which are torch's. Beside it, in turns, what torch takes of it at the least:
a bare autograd.Function of as many leaves. The least of many short blocks, on one thread: on a machine that others use
the ratio counts, and not the time.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import stub_driver
from benchmarks.gpu.cases import DTYPES
from benchmarks.record import write_records
from unihpe_kernels import singular_value_contrastive_loss

ROUNDS, CALLS = 400, 4


def microseconds(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Of a call of each, the least of blocks of calls, in turns."""
    least = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, work in works.items():
            work()
            start = time.perf_counter()
            for _ in range(CALLS):
                work()
            least[name] = min(least[name], (time.perf_counter() - start) / CALLS * 1e6)
    return least


class _Bare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *leaves: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*leaves)
        return leaves[0].new_empty(())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(leaf) for leaf in ctx.saved_tensors)


def bare(count: int) -> Callable[[], object]:
    leaves = [torch.zeros((), requires_grad=True) for _ in range(count)]
    return lambda: torch.autograd.grad(_Bare.apply(*leaves), leaves)


def step(count: int, batch: int, width: int, dtype: torch.dtype, negatives: str) -> Callable[[], object]:
    leaves = [torch.randn(batch, width, dtype=dtype).requires_grad_() for _ in range(count)]
    tau = torch.tensor(0.1, requires_grad=True)

    def forward_backward() -> object:
        loss = singular_value_contrastive_loss(leaves, temperature=tau, negatives=negatives, backend="triton")
        return torch.autograd.grad(loss, [*leaves, tau])

    return forward_backward


def measured(count: int, batch: int, width: int, dtype: str, negatives: str) -> dict[str, Any]:
    """The case, and of it what a step takes, a bare Function, and how many kernels are launched."""
    case = {"count": count, "batch": batch, "width": width, "dtype": dtype, "negatives": negatives}
    with stub_driver.installed(compiles=False) as asked:
        work = step(count, batch, width, DTYPES[dtype], negatives)
        work()
        kernels = len(asked)
        least = microseconds({"ours": work, "bare": bare(count + 1)})
    return {**case, "step_us": least["ours"], "bare_us": least["bare"], "kernels": kernels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[3], help="modalities, one or more cases")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--negatives", choices=("paired", "all"), default="paired")
    parser.add_argument("--json", type=Path, help="keep the cases here, with what was measured and where")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_before, records = os.getloadavg()[0], []
    for count in options.count:
        records.append(measured(count, options.batch, options.width, options.dtype, options.negatives))
        step_us, bare_us, kernels = (records[-1][name] for name in ("step_us", "bare_us", "kernels"))
        print(
            f"M = {count}: {step_us:.0f} us a step beyond the products, {step_us / bare_us:.1f} x a bare "
            f"autograd.Function ({bare_us:.0f} us); {kernels} kernels",
            flush=True,
        )
    if options.json:
        write_records(options.json, records, load_before=load_before)


if __name__ == "__main__":
    main()
