"""What a step of the loss over many GPUs costs, on paper, and the same counted in processes on this machine.

    python -m benchmarks.scaling                  the tables of docs/scaling.md
    python -m benchmarks.scaling --count 2 4 8    forecast and count, side by side, with so many gloo processes

Bytes are those that a rank has to send in a step, forward and backward, with as many samples on every rank. Tuples are
those that it scores, in both passes.
"""

import argparse
import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from tests.support.ranks import Ranks
from unihpe_kernels import singular_value_contrastive_loss
from unihpe_kernels.collectives import HEADER
from unihpe_kernels.contrastive.group import loss as group_loss
from unihpe_kernels.scores.singular_value import torch as singular_value
from unihpe_kernels.sv_contrastive import torch_backend
from unihpe_kernels.sv_contrastive.arguments import MANY_TRIPLES
from unihpe_kernels.sv_contrastive.closed_form import TripleTile

# Instructions of the inner loops for a triple and a pair, forward and backward together: benchmarks/results/
# static_cost.json, sm_90, M = 3.
PER_TRIPLE = 38.66 + 65.62
PER_PAIR = 39.50 + 68.08


@dataclass(frozen=True)
class Step:
    ranks: int
    samples: int  # a rank
    kind: str  # "paired", "ring" or "all"
    count: int = 3
    width: int = 512
    dtype: torch.dtype = torch.bfloat16

    @property
    def batch(self) -> int:
        return self.ranks * self.samples

    def bytes_sent(self) -> dict[str, float]:
        """Of one rank, by what for."""
        others = self.ranks - 1
        compute = max(4, self.dtype.itemsize)
        numbers = others * self.samples * self.count * self.width
        sent = {
            # a ring keeps nothing: the backward pass sends them around again
            "embeddings": numbers * self.dtype.itemsize * (2 if self.kind == "ring" else 1),
            "gradients": numbers * compute,
            # of scalars the weighted sum and the weight, then the gradients of the loss, the temperature and the bias
            "header and scalars": others * 8 * (HEADER + 2 + (2 if self.kind == "all" else 3)),
        }
        if self.kind == "all":
            # every sample's weight; sums of exponentials, and of those times score, by j and by k, in float64
            sent["sums"] = others * self.samples * compute + 2 * others / self.ranks * 4 * self.batch * 8
        return sent

    def tuples(self) -> int:
        """Scored by one rank: each in the forward and in the backward pass."""
        if self.kind == "all":
            return 2 * self.samples * self.batch**2
        return 2 * self.count * self.samples * self.batch

    def positives(self) -> int:
        """Positive tuples that one rank scores beside: what it sums is relative to them, so that nothing cancels."""
        if self.kind == "all":
            return self.batch
        return 2 * self.samples

    def product_flops(self) -> int:
        """Of one rank's matrix products."""
        pair = 2 * self.samples * self.batch * self.width
        if self.kind == "all":
            # two Gram shards and a square one, in both passes; four and two products take their gradients back
            return (2 * 2 + 4) * pair + (2 * 1 + 2) * 2 * self.batch**2 * self.width
        return 4 * self.count * (self.count - 1) * pair

    def instructions(self) -> float:
        """Of one rank's inner loops, for M = 3."""
        return self.tuples() / 2 * (PER_TRIPLE if self.kind == "all" else PER_PAIR)

    def memory(self) -> int:
        """Bytes on a rank that grow with the batch: what was gathered and its gradients, and Gram matrices."""
        samples = 5 * self.samples if self.kind == "ring" else self.batch
        size = samples * self.count * self.width * (self.dtype.itemsize + max(4, self.dtype.itemsize))
        return size + (2 * (2 * self.samples + self.batch) * self.batch * 4 if self.kind == "all" else 0)


def table(samples: int = 256) -> str:
    """Steps of 8, 64 and 1024 GPUs with so many samples each, M = 3, D = 512, bfloat16."""
    head = ["GPUs", "negatives", "samples", "sent, MB", "tuples", "product flops", "instructions", "memory, MB"]
    rows = []
    for ranks in (8, 64, 1024):
        for kind in ("paired", "ring", "all"):
            step = Step(ranks, samples, kind)
            warned = "" if kind != "all" or samples * step.batch**2 <= MANY_TRIPLES else " (warned of)"
            rows.append(
                [
                    str(ranks),
                    {"ring": '"paired", ring', "paired": '"paired", gathered', "all": f'"all"{warned}'}[kind],
                    f"{step.batch:,}",
                    f"{sum(step.bytes_sent().values()) / 1e6:,.1f}",
                    f"{step.tuples():.2g}",
                    f"{step.product_flops():.2g}",
                    f"{step.instructions():.2g}",
                    f"{step.memory() / 1e6:,.0f}",
                ]
            )
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """Bytes sent by torch.distributed's collectives and tuples scored by the torch backend, while it is open."""
    counts: Counter[str] = Counter()

    def watch(owner: Any, name: str, what: Any) -> Any:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            key, amount = what(*args, **kwargs)
            counts[key] += amount
            return original(*args, **kwargs)

        return mock.patch.object(owner, name, watched)

    def gathered(out: torch.Tensor, own: torch.Tensor, **_: Any) -> tuple[str, int]:
        return "bytes", out.nbytes - own.nbytes

    def scattered(own: torch.Tensor, out: torch.Tensor, **_: Any) -> tuple[str, int]:
        return "bytes", out.nbytes - own.nbytes

    def reduced(values: torch.Tensor, group: Any) -> tuple[str, float]:
        ranks = dist.get_world_size(group)
        return "bytes", 2 * (ranks - 1) / ranks * values.nbytes

    def passed(operations: list[dist.P2POp]) -> tuple[str, int]:
        return "bytes", sum(op.tensor.nbytes for op in operations if op.op is dist.isend)

    def scored(_: Any, a: Any, b: Any, c: Any, shape: tuple[int, ...], *__: Any) -> tuple[str, int]:
        return "tuples", torch.Size(shape).numel()

    def of_products(products: list[torch.Tensor], _: Any) -> tuple[str, int]:
        return "tuples", products[0].numel()

    with (
        watch(dist, "all_gather_into_tensor", gathered),
        watch(dist, "reduce_scatter_tensor", scattered),
        watch(dist, "all_reduce", reduced),
        watch(dist, "batch_isend_irecv", passed),
        watch(TripleTile, "sigma", scored),
        watch(singular_value, "score", of_products),
    ):
        yield counts


def count_step(group: dist.ProcessGroup, rank: int, step: Step) -> dict[str, float]:
    """Bytes and tuples of one rank in one step."""
    generator = torch.Generator().manual_seed(rank)
    embeddings = [
        torch.randn(step.samples, step.width, generator=generator).to(step.dtype).requires_grad_()
        for _ in range(step.count)
    ]
    negatives = "all" if step.kind == "all" else "paired"
    with (
        mock.patch.object(group_loss, "GATHERED_BYTES", 0 if step.kind == "ring" else 2**62),
        mock.patch.object(torch_backend, "_MOST_KEPT", 0),  # small batches keep scores for the backward pass
        counting() as counts,
    ):
        singular_value_contrastive_loss(embeddings, negatives=negatives, group=group, backend="torch").backward()
    return dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", metavar="RANKS", help="run this many processes and count")
    parser.add_argument("--samples", type=int, help="samples a rank: 256 on paper, 32 where counted")
    args = parser.parse_args()
    if not args.count:
        print(table(args.samples or 256))
        return
    with tempfile.TemporaryDirectory() as folder:
        processes = Ranks(max(args.count), Path(folder))
        print("| ranks | negatives | bytes forecast | bytes counted | tuples forecast | tuples counted |")
        print("| --- | --- | --- | --- | --- | --- |")
        for ranks in args.count:
            for kind in ("paired", "ring", "all"):
                step = replace(Step(ranks, args.samples or 32, kind), width=64)
                counted = processes.run(count_step, step, ranks=ranks)[0]
                sent = sum(step.bytes_sent().values())
                print(f"| {ranks} | {kind} | {sent:,.0f} | {counted['bytes']:,.0f} | ", end="")
                print(f"{step.tuples():,} | {counted['tuples']:,} |")
        processes.stop()


if __name__ == "__main__":
    main()
