"""The benchmarks of the Triton kernels at tiny sizes, where a GPU or Triton's interpreter runs them."""

from functools import partial

import pytest
import torch

from benchmarks import test_procrustes, test_sv_loss
from benchmarks.harness import OURS, Competitor, Group, measure
from benchmarks.peers import sv_loss as peers
from tests.kernels.triton_device import needs_triton
from tests.support.stand_in import Benchmark
from unihpe_kernels import pa_mpjpe, singular_value_contrastive_loss

pytestmark = needs_triton


@pytest.mark.parametrize(("negatives", "exact"), [("all", peers.eigvalsh_of_grams), ("paired", None)])
def test_the_loss_is_checked_and_timed(monkeypatch, negatives, exact):
    monkeypatch.setattr(test_sv_loss, "WIDTH", 16)

    def loss(embeddings, temperature):
        return singular_value_contrastive_loss(
            embeddings, temperature=temperature, negatives=negatives, backend="triton"
        )

    exact = exact or test_sv_loss.stacked_svd
    mine = test_sv_loss.competitor(OURS, loss, exact, 3)
    benchmark = Benchmark()
    measure(benchmark, Group("tiny", "B", [mine, test_sv_loss.competitor("exact", exact, exact, 3)]), 8, rounds=1)
    entries = benchmark.extra_info["side_by_side"]["competitors"]
    assert entries[OURS]["median_s"] > 0
    assert "ratio" in entries["exact"]


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    monkeypatch.setattr(test_sv_loss, "WIDTH", 16)

    def doubled(embeddings, temperature):
        return 2 * singular_value_contrastive_loss(embeddings, temperature=temperature, backend="triton")

    mine = test_sv_loss.competitor(OURS, doubled, test_sv_loss.stacked_svd, 3)
    with pytest.raises(AssertionError, match="in float64"):
        measure(Benchmark(), Group("tiny", "B", [mine]), 8, rounds=1)


def test_the_alignment_is_checked_and_timed():
    error = partial(pa_mpjpe, backend="triton")
    prepare = partial(test_procrustes.prepare_poses, error, True)
    mine = Competitor(OURS, prepare, partial(test_procrustes.check_poses, error, True, samples=130))
    benchmark = Benchmark()
    measure(benchmark, Group("tiny", "N", [mine]), 70, rounds=1)
    entry = benchmark.extra_info["side_by_side"]["competitors"][OURS]
    assert entry["launches"] is None or torch.cuda.is_available()
