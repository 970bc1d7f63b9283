"""Missing modalities in the Triton kernels: as if each set of modalities had a dense loss of its own."""

import pytest
import torch

from tests.kernels.sv_cases import check_against, random_embeddings, value_and_gradients
from tests.kernels.triton_device import needs_triton
from tests.kernels.triton_sv_cases import poisoned_buffers, triton_loss  # noqa: F401
from tests.tolerances import SV_LOSS
from unihpe_kernels import singular_value_contrastive_loss
from unihpe_kernels.sv_contrastive import reference

pytest.importorskip("triton")
pytestmark = [needs_triton, pytest.mark.usefixtures("poisoned_buffers")]

# more modalities take the interpreter long, see test_many_modalities
MASKED = [("all", 2), ("all", 3), ("paired", 2), ("paired", 3), ("paired", 4)]


def check(present, negatives, width=11):
    """Against the definition, with NaN in every absent row."""
    count, batch = present.shape
    embeddings = random_embeddings(count, batch, width, torch.float32)
    generator = torch.Generator().manual_seed(count)
    options = {
        "negatives": negatives,
        "temperature": torch.tensor(0.1),
        "weights": torch.rand(batch, generator=generator),
        "present": present,
    }
    poisoned = [e.detach().masked_fill(~has[:, None], torch.nan) for e, has in zip(embeddings, present, strict=True)]
    check_against(triton_loss, embeddings, given=poisoned, **options)


@pytest.mark.parametrize(("negatives", "count"), MASKED)
def test_random_masks(negatives, count):
    check(torch.rand(count, 7, generator=torch.Generator().manual_seed(count)) < 0.75, negatives)


@pytest.mark.parametrize(("negatives", "count"), [("all", 3), ("paired", 3)])
def test_random_masks_over_several_tiles(negatives, count):
    check(torch.rand(count, 37, generator=torch.Generator().manual_seed(3)) < 0.75, negatives, width=5)


SPARSE = ["one modality", "one sample of two", "nobody complete"]


# of four modalities the case that has most sets
@pytest.mark.parametrize(
    ("negatives", "count", "case"),
    [
        *((negatives, 3, case) for negatives in ("all", "paired") for case in SPARSE),
        ("paired", 4, "nobody complete"),
    ],
)
def test_sparse_masks(negatives, count, case):
    present = torch.ones(count, 7, dtype=torch.bool)
    if case == "one modality":
        present[1:, 2] = False
    elif case == "one sample of two":
        present[2:, 3] = False
    elif case == "nobody complete":
        present[torch.arange(7) % count, torch.arange(7)] = False
    check(present, negatives)


@pytest.mark.parametrize("count", [6, *(pytest.param(count, marks=pytest.mark.slow) for count in (5, 7, 8))])
def test_many_modalities(count):
    """A sample of two modalities, of one, of none; sets within others; every set but one smaller than all."""
    present = torch.rand(count, 7, generator=torch.Generator().manual_seed(count)) < 0.8
    present[:, 0] = True
    present[:, 1:4] = False
    present[[1, count - 1], 1] = True
    present[2, 2] = True
    check(present, "paired", width=9)


@pytest.mark.parametrize("case", ["identical members", "identical samples", "zero rows"])
def test_degenerate_rows(case):
    """Values against the definition, which may have no gradient there; the gradients finite."""
    embeddings = [e.detach() for e in random_embeddings(4, 5, 6, torch.float32)]
    if case == "identical members":
        embeddings[2] = embeddings[3] = embeddings[1]
    elif case == "identical samples":
        embeddings = [e[:1].expand(5, 6).contiguous() for e in embeddings]
    else:
        embeddings = [torch.zeros(5, 6) for _ in embeddings]
    present = torch.ones(4, 5, dtype=torch.bool)
    present[0, 1] = present[3, 2] = present[2:, 3] = False
    options = {"negatives": "paired", "present": present, "temperature": 0.1}
    value, gradients = value_and_gradients(triton_loss, embeddings, **options)
    exact = reference.singular_value_contrastive_loss([e.double() for e in embeddings], **options)
    assert abs(value.double() - exact) <= SV_LOSS[torch.float32]
    for gradient, has in zip(gradients, present, strict=True):
        assert gradient.isfinite().all()
        assert not gradient[~has].any()
        if case == "zero rows":
            assert not gradient.any()


@pytest.mark.parametrize(("negatives", "count"), MASKED)
@pytest.mark.parametrize("case", ["nothing there", "one modality each"])
def test_no_anchor_gives_zero(negatives, count, case):
    present = torch.zeros(count, 5, dtype=torch.bool)
    if case == "one modality each":
        present[torch.arange(5) % count, torch.arange(5)] = True
    value, gradients = value_and_gradients(
        triton_loss,
        random_embeddings(count, 5, 4, torch.float32),
        negatives=negatives,
        present=present,
        temperature=torch.tensor(0.1),
        weights=torch.ones(5),
    )
    assert value == 0
    for gradient in gradients:
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("negatives", "count"), MASKED)
def test_present_equals_dropping(negatives, count):
    """Samples with nothing or one modality alone are as if they were not in the batch, whatever stands there."""
    embeddings = random_embeddings(count, 9, 8, torch.float32)
    present = torch.ones(count, 9, dtype=torch.bool)
    present[:, 4] = False
    present[1:, 7] = False
    dropped, kept = [4, 7], [0, 1, 2, 3, 5, 6, 8]
    poisoned = [e.detach().index_fill(0, torch.tensor(dropped), torch.nan) for e in embeddings]
    value, gradients = value_and_gradients(triton_loss, poisoned, negatives=negatives, present=present)
    dense, dense_gradients = value_and_gradients(
        triton_loss, [e.detach()[kept] for e in embeddings], negatives=negatives
    )
    # sums in another order
    torch.testing.assert_close(value, dense, rtol=0, atol=5e-6)
    for gradient, wanted in zip(gradients, dense_gradients, strict=True):
        torch.testing.assert_close(gradient[kept], wanted, rtol=0, atol=5e-6)
        assert not gradient[dropped].any()


@pytest.mark.parametrize(("negatives", "count"), MASKED[1:])
def test_mask_in_another_layout(negatives, count):
    embeddings = random_embeddings(count, 7, 6, torch.float32)
    present = torch.rand(count, 7, generator=torch.Generator().manual_seed(1)) < 0.75
    transposed = present.T.contiguous().T
    options = {"negatives": negatives}
    assert triton_loss(embeddings, present=transposed, **options) == triton_loss(embeddings, present=present, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("negatives", "count"), [("all", 3), ("paired", 4)])
def test_half_precision(negatives, count, dtype):
    present = torch.rand(count, 7, generator=torch.Generator().manual_seed(2)) < 0.75
    embeddings = random_embeddings(count, 7, 16, dtype)
    check_against(triton_loss, embeddings, negatives=negatives, temperature=0.1, present=present)


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_many_samples_against_the_torch_backend(negatives):
    present = torch.rand(3, 70, generator=torch.Generator().manual_seed(4)) < 0.75
    embeddings = random_embeddings(3, 70, 5, torch.float32)
    options = {"negatives": negatives, "present": present, "temperature": 0.1}
    poisoned = [e.detach().masked_fill(~has[:, None], torch.nan) for e, has in zip(embeddings, present, strict=True)]
    check_against(triton_loss, embeddings, singular_value_contrastive_loss, given=poisoned, **options)
