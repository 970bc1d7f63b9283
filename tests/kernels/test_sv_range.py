"""The loss where float32 has little to spare: near convergence, at sizes whose squares leave its range, and for rows
and weights that are not what they should be."""

import pytest
import torch
from torch import Tensor

from tests.kernels.sv_cases import random_embeddings, value_and_gradients
from unihpe_kernels import checks
from unihpe_kernels import singular_value_contrastive_loss as loss

KINDS = [("paired", 2), ("paired", 3), ("paired", 7), ("paired", 8), ("all", 3)]


@pytest.fixture(autouse=True)
def _both(cpu_backend: str) -> None:
    pass


def converged(count: int, batch: int = 12, width: int = 32) -> list[Tensor]:
    """Modalities that all but agree, of samples far from each other."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(batch, width, generator=generator)
    return [common + 0.01 * torch.randn(batch, width, generator=generator) for _ in range(count)]


def check_relative(value: Tensor, exact: Tensor, tolerance: float) -> None:
    """Relative to the largest number, which is more than nothing."""
    assert exact.abs().max() > 0
    assert (value.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_near_convergence_the_loss_is_not_negative_and_its_slope_has_the_right_sign(negatives, count, masked):
    """The sum of p (s - s_positive) does not cancel: it was -0.033 for +0.003, the loss -6e-7. Errors are relative to
    the loss and to the gradients themselves, however small those are."""
    embeddings = converged(count)
    present = None
    if masked:
        present = torch.rand(count, 12, generator=torch.Generator().manual_seed(1)) > 0.2
    for tau in (0.01, 0.03):
        options = {"temperature": torch.tensor(tau), "negatives": negatives, "present": present}
        value, gradients = value_and_gradients(loss, embeddings, **options)
        exact, exact_gradients = value_and_gradients(
            loss, [e.double() for e in embeddings], **{**options, "temperature": torch.tensor(tau).double()}
        )
        # scores are good to 5e-7, over the temperature: so far is a softmax weight off, relative to itself
        check_relative(value, exact, 1e-6 / tau)
        for gradient, wanted in zip(gradients, exact_gradients, strict=True):
            check_relative(gradient, wanted, 1e-6 / tau)


# powers of two for two modalities, which change no bits but those of the exponent: squares and products that float32
# does not hold, the least rows that are not zero
SIZES = [(67, 0), (110, -30), (-36, 100), (100, 100)]


def moved(embeddings: list[Tensor], powers: tuple[int, int]) -> list[Tensor]:
    return [embeddings[0] * 2.0 ** powers[0], embeddings[1] * 2.0 ** powers[1], *embeddings[2:]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_the_size_of_a_row_does_not_matter(negatives, count, dtype):
    """Its square did, beyond 1e19: the loss was that of a zero row, and so was the gradient."""
    embeddings = random_embeddings(count, 6, 5, dtype)
    embeddings = [e.detach() for e in embeddings]
    value, gradients = value_and_gradients(loss, embeddings, negatives=negatives)
    for powers in SIZES:
        got, got_gradients = value_and_gradients(loss, moved(embeddings, powers), negatives=negatives)
        torch.testing.assert_close(got, value, rtol=1e-6, atol=0)
        for gradient, wanted, power in zip(got_gradients, gradients, (*powers, *[0] * (count - 2)), strict=True):
            torch.testing.assert_close(gradient * 2.0**power, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_a_row_shorter_than_1e_12_is_a_zero_row(negatives, count, dtype):
    """As in torch.nn.functional.normalize; 2^-80 squared is below float32, and so is the gradient of such a row."""
    embeddings = [e.detach() for e in random_embeddings(count, 6, 5, dtype)]
    value, gradients = value_and_gradients(loss, [embeddings[0] * 0, *embeddings[1:]], negatives=negatives)
    got, got_gradients = value_and_gradients(loss, moved(embeddings, (-80, 0)), negatives=negatives)
    assert torch.equal(got, value)
    assert not got_gradients[0].any()
    assert torch.equal(got_gradients[1], gradients[1])


@pytest.mark.parametrize("backend", ["auto", "torch", "native"])
@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_rows_that_are_not_unit_vectors_are_refused(negatives, count, backend):
    units = [torch.nn.functional.normalize(e.detach(), dim=1) for e in random_embeddings(count, 6, 5, torch.float32)]
    if backend != "auto" and checks._native_obstacle(units[0], "singular_value_contrastive_loss"):
        pytest.skip("no C++ in this case")
    options = {"negatives": negatives, "normalize": False, "backend": backend}
    for factor in (3.0, 0.9):
        wrong = [units[0], units[1].clone(), *units[2:]]
        wrong[1][4] *= factor
        with pytest.raises(
            ValueError, match=rf"embeddings\[1\] must hold rows of length 1 or 0 .* got length {factor:g} in row 4"
        ):
            loss(wrong, **options)
        present = torch.ones(count, 6, dtype=torch.bool)
        present[1, 4] = False
        assert loss(wrong, present=present, **options).isfinite()
    assert loss([units[0] * 0, *units[1:]], **options).isfinite()


@pytest.mark.parametrize("bad", [-1.0, torch.nan])
def test_weights_that_are_negative_or_nan_are_refused(bad):
    weights = torch.ones(6)
    weights[2] = bad
    with pytest.raises(ValueError, match=f"weights must not be negative or NaN, got {bad:g}"):
        loss(random_embeddings(3, 6, 5, torch.float32), weights=weights)


@pytest.mark.parametrize("options", [{"weights": torch.tensor([1.0, -1.0, 1.0])}, {"normalize": False}])
def test_what_may_not_be_looked_at_makes_the_loss_nan(options, monkeypatch):
    """As on a GPU, which is not waited for."""
    embeddings = [e.detach() for e in random_embeddings(3, 3, 5, torch.float32)]
    for module in ("checks", "sv_contrastive.arguments"):
        monkeypatch.setattr(f"unihpe_kernels.{module}.is_readable", lambda *_: False)
    value, gradients = value_and_gradients(loss, embeddings, **options)
    assert value.isnan()
    assert all(gradient.isnan().any() for gradient in gradients[:3])
