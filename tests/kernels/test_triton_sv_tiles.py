"""Small settings of the Triton loss kernels: several tiles, splits, chunks and panels on every axis, at prime sizes."""

import pytest
import torch

from tests.kernels.sv_cases import check_against, random_embeddings
from tests.kernels.triton_device import needs_triton
from tests.kernels.triton_sv_cases import poisoned_buffers, triton_loss  # noqa: F401
from unihpe_kernels import singular_value_contrastive_loss
from unihpe_kernels.launching import Launch

triton_all = pytest.importorskip("unihpe_kernels.sv_contrastive.triton_all")
triton_paired = pytest.importorskip("unihpe_kernels.sv_contrastive.triton_paired")
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


# 64 x 64 numbers twice are the least a chunk may have: 32 of 43 samples, then 11; with fewer tiles, all at once
@pytest.mark.parametrize("masked", [False, True])
def test_chunks_of_all(monkeypatch, masked):
    monkeypatch.setattr(triton_all, "_CHUNK_NUMBERS", 0)
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
    """Grids of the launches of a kernel, by Triton's binder or by a plan that has what it found."""
    kernel, calls, call = getattr(module, name), [], Launch.__call__

    class Counted:
        def __getitem__(self, grid):
            calls.append(grid)
            return kernel[grid]

        def __getattr__(self, attribute):
            return getattr(kernel, attribute)

    def counted(launch, *arguments):
        if launch._compiled is not None and launch._kernel is stand_in:
            calls.append(launch._grid)
        call(launch, *arguments)

    stand_in = Counted()
    monkeypatch.setattr(module, name, stand_in)
    monkeypatch.setattr(Launch, "__call__", counted)
    monkeypatch.setattr(triton_paired, "_plan", triton_paired._plan.__wrapped__)
    return calls


# the least a product of matrices takes on a GPU: 16 of each side, 16 deep
SMALL = {"tile_i": 16, "tile_j": 16, "depth": 16}


@pytest.mark.parametrize(("count", "programs", "swap"), [(2, 1, 0), (2, 40, 1), (3, 1, 0), (3, 40, 0), (4, 40, 1)])
def test_tiles_and_splits_of_paired(monkeypatch, count, programs, swap):
    use_settings(monkeypatch, triton_paired, **SMALL | {"tile_i": 32}, programs=programs, swap=swap)
    embeddings = random_embeddings(count, 41, 19, torch.float32)
    check_against(triton_loss, embeddings, negatives="paired", **options_for(count, 41, masked=False))


@pytest.mark.parametrize(("count", "masked"), [(2, True), (3, False), (3, True), (4, False)])
def test_panels_of_paired(monkeypatch, count, masked):
    """Panels of 16 anchors and 16 samples, the last of nine: too few for a second split."""
    monkeypatch.setattr(triton_paired, "_PANEL_BYTES", 0)
    use_settings(monkeypatch, triton_paired, **SMALL, programs=40)
    calls = count_calls(monkeypatch, triton_paired.kernels, "paired_backward")
    embeddings = random_embeddings(count, 41, 7, torch.float32)
    check_against(triton_loss, embeddings, negatives="paired", **options_for(count, 41, masked))
    assert len(calls) == 9


def test_panels_of_several_splits(monkeypatch):
    """Panels of 32 anchors in two splits and 32 samples, the last of nine in one of them."""
    monkeypatch.setattr(triton_paired, "_PANEL_BYTES", 4 * 4 * 4 * 32 * 32)
    use_settings(monkeypatch, triton_paired, **SMALL, programs=40)
    calls = count_calls(monkeypatch, triton_paired.kernels, "paired_backward")
    embeddings = random_embeddings(4, 41, 7, torch.float32)
    check_against(triton_loss, embeddings, negatives="paired", **options_for(4, 41, masked=False))
    assert [grid[2] for grid in calls] == [2] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_panels_of_half_precision(monkeypatch, dtype):
    monkeypatch.setattr(triton_paired, "_PANEL_BYTES", 0)
    use_settings(monkeypatch, triton_paired, **SMALL, programs=8)
    check_against(triton_loss, random_embeddings(3, 37, 16, dtype), negatives="paired", temperature=0.1)
