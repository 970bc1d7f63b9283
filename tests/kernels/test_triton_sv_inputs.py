"""What reaches the Triton kernels of the loss in an unusual shape: broken numbers, strides, settings, precision."""

import pytest
import torch

from tests.kernels.sv_cases import check_against, random_embeddings
from tests.kernels.triton_device import DEVICE, needs_triton
from tests.kernels.triton_sv_cases import triton_loss

pytest.importorskip("triton")
from unihpe_kernels.sv_contrastive import triton_all, triton_backend, triton_paired
from unihpe_kernels.sv_contrastive.arguments import Arguments

KINDS = [("all", 3), ("paired", 2), ("paired", 3), ("paired", 4)]


@needs_triton
@pytest.mark.parametrize(("batch", "spoiled"), [(1, [0]), (5, [1]), (1, [0, 1]), (5, [0, 1])])
@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_a_modality_of_nan_reaches_the_loss(negatives, count, spoiled, batch):
    """Maxima drop a NaN: where every logit of an anchor is one, nothing but the NaN is left to come out."""
    embeddings = random_embeddings(count, batch, 6, torch.float32)
    embeddings = [e * torch.nan if m in spoiled else e for m, e in enumerate(embeddings)]
    assert triton_loss(embeddings, negatives=negatives).isnan()


@needs_triton
@pytest.mark.parametrize(("negatives", "count"), [("all", 3), ("paired", 3)])
def test_weights_of_any_stride(negatives, count):
    embeddings = random_embeddings(count, 7, 6, torch.float32)
    generator = torch.Generator().manual_seed(0)
    for weights in (torch.rand(14, generator=generator)[::2], torch.full((1,), 0.5).expand(7)):
        check_against(triton_loss, embeddings, negatives=negatives, temperature=0.1, weights=weights)


@needs_triton
def test_weights_of_another_dtype():
    embeddings = random_embeddings(3, 7, 6, torch.float32)
    weights = torch.rand(7, dtype=torch.float64)
    for negatives in ("all", "paired"):
        value = triton_loss(embeddings, negatives=negatives, weights=weights)
        assert value == triton_loss(embeddings, negatives=negatives, weights=weights.float())


@pytest.mark.parametrize(
    ("set_precision", "float_precision"),
    [
        (lambda: torch.set_float32_matmul_precision("highest"), "ieee"),
        (lambda: torch.set_float32_matmul_precision("high"), "tf32x3"),
        (lambda: torch.set_float32_matmul_precision("medium"), "tf32"),
        (lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"), "tf32"),
        (lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee"), "ieee"),
    ],
)
def test_no_tf32_unless_torch_allows_it(set_precision, float_precision):
    try:
        set_precision()
        assert triton_paired._precision(torch.float32) == float_precision
        assert triton_paired._precision(torch.bfloat16) == "ieee"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("batch", [1, 31, 37, 513])
@pytest.mark.parametrize(("negatives", "count"), [("all", 3), ("paired", 2), ("paired", 3), ("paired", 5)])
def test_saved_tables_are_aligned(negatives, count, batch):
    """Kernels are compiled for pointers of 16 bytes; with others they are slow, and the counted code is not theirs."""
    embeddings = [torch.empty(batch, 7) for _ in range(count)]
    given = Arguments(embeddings, torch.tensor(0.1), None, None, negatives, True, "triton")
    ((size, _),) = triton_backend.saved_shapes(given)
    saved, plan = torch.empty(size), triton_backend._Batch(given).plan
    if negatives == "all":
        views = vars(triton_all.view_saved(saved[plan.of_anchors.end :], batch, 7))
    else:
        views = plan.pairs.tables(saved, plan.pairs._prepare)._asdict()
    assert len(views) == (4 if negatives == "all" else 6)
    views |= zip(("logsumexp", "sample_loss"), plan.of_anchors.of(saved, None), strict=True)
    for name, view in views.items():
        assert view.numel() == 0 or (view.data_ptr() - saved.data_ptr()) % 128 == 0, name


@needs_triton
def test_a_tile_that_leaves_a_strip_is_refused(monkeypatch):
    options = {"tile_j": 32, "tile_k": 64, "num_warps": 4, "programs": 64}
    monkeypatch.setattr(triton_all, "settings", lambda *_: options)
    embeddings = [e.to(DEVICE) for e in random_embeddings(3, 33, 4, torch.float32)]
    assert triton_loss(embeddings, negatives="all").isfinite()  # 64 rows
    embeddings = [e.to(DEVICE) for e in random_embeddings(3, 5, 4, torch.float32)]
    with pytest.raises(ValueError, match="tile must divide the padded batch 32, got 64"):
        triton_loss(embeddings, negatives="all")
