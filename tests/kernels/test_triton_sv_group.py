"""The Triton kernels of triples whose first sample is one of some, and the loss over several ranks."""

import numpy as np
import pytest
import torch

from tests.kernels.sv_group_cases import Case, compute, on_rank, whole
from tests.kernels.test_triton_sv_tiles import count_calls, use_settings
from tests.kernels.triton_device import DEVICE, needs_triton
from tests.kernels.triton_sv_cases import poisoned_buffers  # noqa: F401
from unihpe_kernels.sv_contrastive.group.torch_triples import TorchTriples

triton_all = pytest.importorskip("unihpe_kernels.sv_contrastive.triton_all")
triton_triples = pytest.importorskip("unihpe_kernels.sv_contrastive.group.triton_triples")
pytestmark = needs_triton

TEMPERATURE = torch.tensor(0.1)


def check(found, exact, tolerance):
    found = found.double().cpu()
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance * max(1.0, float(exact.abs().max())))


# i are 5 or 39 of 43 samples, from the eighth or the first on; in one chunk or two
@pytest.mark.usefixtures("poisoned_buffers")
@pytest.mark.parametrize(("first", "count", "chunks"), [(7, 5, 1), (0, 39, 2), (42, 1, 1)])
def test_triples_of_some_first_samples(monkeypatch, first, count, chunks):
    if chunks > 1:
        monkeypatch.setattr(triton_all, "_CHUNK_NUMBERS", 0)
        use_settings(monkeypatch, triton_all, tile_j=32, tile_k=32, programs=16)
    calls = count_calls(monkeypatch, triton_all.kernels_all, "sv_all_backward")
    samples = torch.randn(43, 3, 7, generator=torch.Generator().manual_seed(0))

    def exact(first, count):
        return TorchTriples(TEMPERATURE.double(), True, samples.double(), first, count, None)

    triples = triton_triples.TritonTriples(TEMPERATURE.to(DEVICE), True, samples.to(DEVICE), first, count, None)
    exact_triples = exact(first, count)
    by_i, by_jk = triples.sums()
    exact_by_i, exact_by_jk = exact_triples.sums()
    check((by_i[0] / exact_by_i[0].to(DEVICE)).cpu(), torch.ones(count).double(), 5e-6)
    check((by_jk[:, 0] / exact_by_jk[:, 0].to(DEVICE)).cpu(), torch.ones(2, 43).double(), 5e-6)

    complete = exact(0, 43).sums()[1]
    log_sums, losses = exact_triples.finish(exact_by_i, complete)
    found = triples.finish(by_i, complete[:, :1].to(DEVICE))
    check(found[0], log_sums, 2e-6)
    check(found[1], losses, 1e-6)

    d_score = torch.rand(43, generator=torch.Generator().manual_seed(1))
    wanted, _ = exact_triples.gradients(log_sums, complete[:, 0], d_score.double())
    gradients, _ = triples.gradients(log_sums.float().to(DEVICE), complete[:, 0].to(DEVICE), d_score.to(DEVICE))
    check(gradients, wanted, 5e-6)
    assert len(calls) == chunks


CASES = [
    Case(3, masked=True, weighted=True),
    Case(3, ring=True),
    Case(3, "all", masked=True, weighted=True),
    Case(3, "all", even=True),
]


@pytest.mark.skipif(DEVICE == "cuda", reason="the ranks are processes on the CPU")
@pytest.mark.parametrize(("case", "ranks"), [*zip(CASES, (3, 2, 3, 2), strict=True)], ids=str)
def test_equals_one_process(processes, case, ranks):
    """In float32, against float64; tolerances are those of the loss in one process."""
    case = Case(**{**vars(case), "dtype": torch.float32, "backend": "triton"})
    results = processes.run(on_rank, case, ranks, ranks=ranks)
    wide = Case(**{**vars(case), "backend": "torch"})
    wanted = compute({**whole(wide, ranks), "embeddings": [e.double() for e in whole(wide, ranks)["embeddings"]]})
    for result in results:
        assert result.loss == pytest.approx(wanted.loss, abs=2e-5)
        assert result.temperature == pytest.approx(wanted.temperature, abs=1e-6 * case.count**0.5 / 0.1**2)
    for m, gradient in enumerate(wanted.embeddings):
        found = np.concatenate([result.embeddings[m] for result in results])
        np.testing.assert_allclose(found, ranks * gradient, rtol=0, atol=5e-6 * ranks)
    if case.weighted:
        found = np.concatenate([result.weights for result in results])
        np.testing.assert_allclose(found, ranks * wanted.weights, rtol=0, atol=2e-5 * ranks)
