"""Small settings of the Triton loss kernels: several tiles, splits and turns on every axis, at prime sizes."""

import pytest
import torch

from tests.kernels.sv_cases import check_against, random_embeddings
from tests.kernels.triton_device import needs_triton
from tests.kernels.triton_sv_cases import poisoned_buffers, triton_loss  # noqa: F401
from unihpe_kernels import singular_value_contrastive_loss

triton_all = pytest.importorskip("unihpe_kernels.contrastive.triton.all_triples")
pytestmark = [needs_triton, pytest.mark.usefixtures("poisoned_buffers")]


def use_settings(monkeypatch, module, **changes):
    chosen = module.settings
    monkeypatch.setattr(module, "settings", lambda *arguments: chosen(*arguments) | changes)


def options_for(count, batch, masked):
    generator = torch.Generator().manual_seed(batch)
    present = torch.rand(count, batch, generator=generator) < 0.75
    return {
        "temperature": torch.tensor(0.1),
        "weights": torch.rand(batch, generator=generator),
        "present": present if masked else None,
    }


# of 43 samples, 64 when padded, tiles of 16: one split of i, or five of nine rows with a rest of seven
@pytest.mark.parametrize(("tile_j", "tile_k", "programs"), [(16, 32, 80), (32, 16, 1)])
def test_tiles_and_splits_of_all(monkeypatch, tile_j, tile_k, programs):
    use_settings(monkeypatch, triton_all, tile_j=tile_j, tile_k=tile_k, programs=programs)
    embeddings = random_embeddings(3, 43, 5, torch.float32)
    check_against(
        triton_loss, embeddings, singular_value_contrastive_loss, negatives="all", **options_for(3, 43, masked=False)
    )


# 64 x 64 numbers twice are the least a turn may have: 32 of 43 samples, then 11; with fewer tiles, all at once
@pytest.mark.parametrize("masked", [False, True])
def test_turns_of_all(monkeypatch, masked):
    monkeypatch.setattr(triton_all, "_PIECES", 0)
    use_settings(monkeypatch, triton_all, tile_j=32, tile_k=32, programs=16)
    calls = count_calls(monkeypatch, triton_all.kernels_all, "sv_all_backward")
    check_against(
        triton_loss,
        random_embeddings(3, 43, 5, torch.float32),
        singular_value_contrastive_loss,
        negatives="all",
        **options_for(3, 43, masked),
    )
    assert len(calls) == 2


def count_calls(monkeypatch, module, name):
    kernel, calls = getattr(module, name), []

    class Counted:
        def __getitem__(self, grid):
            calls.append(grid)
            return kernel[grid]

    monkeypatch.setattr(module, name, Counted())
    return calls
