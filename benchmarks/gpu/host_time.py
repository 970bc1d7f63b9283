"""Host time of a step of the loss by its Triton kernels, with launches stubbed: python -m benchmarks.gpu.host_time

Needs no GPU. Everything that the host does for a forward and backward of the public function is done: checks, torch's
dispatch and autograd, buffers, Triton's binding of every argument; not what a driver adds to a launch, nor the matrix
products, which are torch's. Processor time of the one thread, medians of blocks.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.gpu import stub_driver
from benchmarks.gpu.cases import DTYPES
from unihpe_kernels import singular_value_contrastive_loss

BLOCKS, CALLS = 15, 40


def microseconds(work: Callable[[], object]) -> tuple[float, float]:
    """Of a call: the median and the least of blocks of calls."""
    for _ in range(CALLS):
        work()
    taken = []
    for _ in range(BLOCKS):
        start = time.process_time()
        for _ in range(CALLS):
            work()
        taken.append((time.process_time() - start) / CALLS * 1e6)
    return statistics.median(taken), min(taken)


def step(count: int, batch: int, width: int, dtype: torch.dtype, negatives: str) -> Callable[[], object]:
    leaves = [torch.randn(batch, width, dtype=dtype).requires_grad_() for _ in range(count)]
    tau = torch.tensor(0.1, requires_grad=True)

    def forward_backward() -> object:
        loss = singular_value_contrastive_loss(leaves, temperature=tau, negatives=negatives, backend="triton")
        return torch.autograd.grad(loss, [*leaves, tau])

    return forward_backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3, help="modalities")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--negatives", choices=("paired", "all"), default="paired")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with stub_driver.installed(compiles=False) as asked:
        work = step(options.count, options.batch, options.width, DTYPES[options.dtype], options.negatives)
        work()
        launched = len(asked)
        median, least = microseconds(work)
    print(f"{median:.0f} us a step, least {least:.0f} us; {launched} kernels; {vars(options)}")


if __name__ == "__main__":
    main()
