"""What reaches the Triton kernels of the loss in an unusual shape: broken numbers, strides, settings."""

import pytest
import torch

from tests.kernels.sv_cases import check_against, random_embeddings
from tests.kernels.triton_device import DEVICE, needs_triton
from tests.kernels.triton_sv_cases import triton_loss

pytest.importorskip("triton")
from unihpe_kernels.contrastive.triton import all_triples

KINDS = [("all", 3), ("paired", 2), ("paired", 3), ("paired", 4)]


@needs_triton
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("spoiled", [[0], [1], [0, 1]])
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


@needs_triton
def test_a_tile_that_leaves_a_strip_is_refused(monkeypatch):
    options = {"tile_j": 32, "tile_k": 64, "num_warps": 4, "programs": 64}
    monkeypatch.setattr(all_triples, "settings", lambda *_: options)
    embeddings = [e.to(DEVICE) for e in random_embeddings(3, 33, 4, torch.float32)]
    assert triton_loss(embeddings, negatives="all").isfinite()  # 64 rows
    embeddings = [e.to(DEVICE) for e in random_embeddings(3, 5, 4, torch.float32)]
    with pytest.raises(ValueError, match="tile must divide the padded batch 32, got 64"):
        triton_loss(embeddings, negatives="all")
