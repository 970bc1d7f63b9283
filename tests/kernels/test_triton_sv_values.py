"""The loss by Triton kernels, values and gradients: against the definition by SVD in float64, all samples complete."""

import math

import pytest
import torch

from tests.kernels.sv_cases import (
    check_against,
    check_temperature,
    in_float64,
    random_embeddings,
    value_and_gradients,
)
from tests.kernels.test_sv_loss import CASES, KINDS
from tests.kernels.test_sv_range import SIZES, check_relative, converged, moved
from tests.kernels.triton_device import DEVICE, needs_triton
from tests.kernels.triton_sv_cases import poisoned_buffers, triton_loss  # noqa: F401
from tests.tolerances import SV_GRADIENT, SV_LOSS
from unihpe_kernels import singular_value_contrastive_loss
from unihpe_kernels.sv_contrastive import reference

pytest.importorskip("triton")
pytestmark = [needs_triton, pytest.mark.usefixtures("poisoned_buffers")]

# a tile of 32 crossed by one and by a few, several blocks of columns, fewer columns than rows
TILES = [("all", 2, 37, 13), ("all", 3, 33, 7), ("paired", 2, 37, 13), ("paired", 3, 33, 131), ("paired", 4, 37, 3)]
WIDE = [("all", 3, 5, 263), ("paired", 3, 5, 263), ("paired", 5, 5, 131)]


def with_options(batch, dtype=torch.float32, **options):
    generator = torch.Generator().manual_seed(batch)
    weights = torch.rand(batch, generator=generator, dtype=torch.float64).to(dtype)
    return {"temperature": torch.tensor(0.1, dtype=dtype), "weights": weights, **options}


# of six modalities and more the interpreter takes long; eight are near convergence below
FEW = [pytest.param(*case, marks=pytest.mark.slow if case[1] > 5 else []) for case in CASES]


@pytest.mark.parametrize(("negatives", "count", "batch", "width"), [*FEW, *TILES, *WIDE])
def test_matches_definition(negatives, count, batch, width):
    embeddings = random_embeddings(count, batch, width, torch.float32)
    check_against(triton_loss, embeddings, negatives=negatives, **with_options(batch))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_half_precision_computes_in_float32(negatives, count, dtype):
    embeddings = random_embeddings(count, 11, 19, dtype)
    check_against(triton_loss, embeddings, negatives=negatives, temperature=0.1)


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_three_tiles_against_the_torch_backend(negatives):
    """B = 70: too many tuples for the SVD."""
    check_against(
        triton_loss,
        random_embeddings(3, 70, 5, torch.float32),
        singular_value_contrastive_loss,
        negatives=negatives,
        **with_options(70),
    )


@pytest.mark.parametrize("negatives", ["all", "paired"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_and_temperature_of_other_dtypes(negatives, dtype):
    embeddings = random_embeddings(3, 7, 11, torch.float32)
    options = with_options(7, dtype, negatives=negatives)
    options["temperature"] = torch.tensor(0.125, dtype=dtype)  # the same in bfloat16
    value, gradients = value_and_gradients(triton_loss, embeddings, **options)
    wide = {name: in_float64(option) for name, option in options.items()}
    exact, exact_gradients = value_and_gradients(
        reference.singular_value_contrastive_loss, [e.double() for e in embeddings], **wide
    )
    assert value.dtype == torch.float32
    assert abs(value.double() - exact) <= SV_LOSS[torch.float32]
    for gradient, wanted in zip(gradients[:3], exact_gradients[:3], strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=SV_GRADIENT[torch.float32])
    for gradient, wanted in zip(gradients[3:], exact_gradients[3:], strict=True):
        assert gradient.dtype == dtype
        # float32 inside: 4e-5 is sqrt(3) 8 eps / tau^2, as `check_against` has it
        torch.testing.assert_close(gradient.double(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_weights_of_zero(negatives, count):
    """Those samples are negatives still."""
    weights = torch.tensor([0.0, 1, 0, 0.5, 0, 2, 0])
    check_against(
        triton_loss,
        random_embeddings(count, 7, 11, torch.float32),
        negatives=negatives,
        weights=weights,
        temperature=torch.tensor(0.1),
    )


@pytest.mark.parametrize(("negatives", "count"), [*KINDS, ("paired", 8)])
@pytest.mark.parametrize("case", ["empty", "no weight"])
def test_no_anchor_gives_zero(negatives, count, case):
    batch = 0 if case == "empty" else 5
    value, gradients = value_and_gradients(
        triton_loss,
        random_embeddings(count, batch, 4, torch.float32),
        negatives=negatives,
        temperature=torch.tensor(0.1),
        weights=torch.zeros(batch),
    )
    assert value == 0
    assert [gradient.shape for gradient in gradients] == [*[(batch, 4)] * count, (), (batch,)]
    for gradient in gradients[: count + 1]:
        assert torch.equal(gradient, torch.zeros_like(gradient))
    assert gradients[count + 1].isfinite().all()


@pytest.mark.parametrize(("negatives", "count"), [*KINDS, ("paired", 8)])
def test_single_sample_has_nothing_to_tell_apart(negatives, count):
    embeddings = random_embeddings(count, 1, 5, torch.float32)
    value, gradients = value_and_gradients(triton_loss, embeddings, negatives=negatives)
    # two roundings of a logit of about 20
    assert abs(value) < 1e-5
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_rows_without_columns(negatives):
    """All tuples score 1: the loss is the log of their number."""
    empty = [torch.zeros(5, 0) for _ in range(3)]
    value, gradients = value_and_gradients(triton_loss, empty, negatives=negatives)
    assert abs(value - math.log(25 if negatives == "all" else 5)) < 1e-5
    assert [gradient.shape for gradient in gradients] == [(5, 0)] * 3


@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_unit_rows_taken_as_they_are(negatives, count):
    units = [torch.nn.functional.normalize(e.detach(), dim=1) for e in random_embeddings(count, 7, 11, torch.float32)]
    # not the reference: its gradient has a part along the rows, where sigma_1 of unit vectors is not defined
    options = {"negatives": negatives, "normalize": False, "temperature": 0.1}
    check_against(triton_loss, units, singular_value_contrastive_loss, **options)
    # without the division a row's length counts, as far as it is taken for 1
    short = [0.9995 * unit for unit in units]
    kept = triton_loss(short, negatives=negatives, normalize=False)
    assert abs(kept - triton_loss(units, negatives=negatives)) > 1e-5


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_float_temperature_is_that_of_a_tensor(negatives):
    embeddings = random_embeddings(3, 7, 11, torch.float32)
    options = {"negatives": negatives}
    assert triton_loss(embeddings, temperature=0.3, **options) == triton_loss(
        embeddings, temperature=torch.tensor(0.3), **options
    )


# the interpreter's numpy speaks of inf and NaN, also of those that a mask discards
WITHOUT_WARNING = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@WITHOUT_WARNING
@pytest.mark.parametrize("temperature", [0.001, 0.004, 0.02, 1.0, 50.0])
def test_every_temperature_of_paired(temperature):
    check_temperature(triton_loss, "paired", temperature)


@WITHOUT_WARNING
# 0.0052: what 7 samples need is said to leave float32's range at 0.00508
@pytest.mark.parametrize("temperature", [0.0052, 0.02, 1.0, 50.0])
def test_temperatures_of_all(temperature):
    check_temperature(triton_loss, "all", temperature)


@WITHOUT_WARNING
@pytest.mark.parametrize("temperature", [0.005, 0.003, 1e-3, 1e-5])
def test_too_small_a_temperature_gives_no_number_for_all(temperature):
    value, gradients = value_and_gradients(
        triton_loss, random_embeddings(3, 7, 8, torch.float32), negatives="all", temperature=torch.tensor(temperature)
    )
    assert value.isnan()
    for gradient in gradients:
        assert gradient.isnan().all()


DEGENERATE = ["zero", "aligned", "antipodal", "orthogonal", "tiny", "planar triples", "nearly equal"]


@pytest.mark.parametrize(("negatives", "count"), KINDS)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_embeddings(negatives, count, kind):
    """Values as by the torch backend in float64, gradients finite."""
    batch, width = 5, 20
    rows = torch.zeros(count, batch, width)
    generator = torch.Generator().manual_seed(0)
    if kind == "aligned":
        rows[..., 0] = 1
    elif kind == "antipodal":
        rows[..., 0] = 1 - 2 * (torch.arange(count) % 2)[:, None]
    elif kind == "orthogonal":
        rows.view(-1, width)[torch.arange(count * batch), torch.arange(count * batch)] = 1
    elif kind == "tiny":
        rows = torch.randn(count, batch, width, generator=generator) * 1e-9
    elif kind == "planar triples":  # inner products of exactly -1/2 within a sample, as near as float32 comes
        angle = torch.arange(count) * (2 * torch.pi / 3)
        rows[..., 0], rows[..., 1] = angle.cos()[:, None], angle.sin()[:, None]
    elif kind == "nearly equal":
        rows[..., 0] = 1
        rows += 1e-7 * torch.randn(count, batch, width, generator=generator)
    embeddings, temperature = list(rows), torch.tensor(0.05)
    value, gradients = value_and_gradients(
        triton_loss, embeddings, negatives=negatives, temperature=temperature, weights=torch.ones(batch)
    )
    exact = singular_value_contrastive_loss(
        [e.double() for e in embeddings], negatives=negatives, temperature=temperature.double()
    )
    assert abs(value - exact) <= 2e-5
    for gradient in gradients:
        assert gradient.isfinite().all()
    if kind in ("zero", "orthogonal"):  # every tuple scores 1 and no product is there to be pulled at
        for gradient in gradients[:count]:
            assert gradient.abs().max() <= 1e-6


@pytest.mark.parametrize("negatives", ["all", "paired"])
@pytest.mark.parametrize("grad", [2.0**16, 2.0**-16])
def test_scaled_upstream_gradient(negatives, grad):
    """As a gradient scaler of mixed precision sends it: a power of two scales every bit alike."""
    embeddings = random_embeddings(3, 7, 11, torch.float32)
    loss = triton_loss(embeddings, negatives=negatives)
    plain = torch.autograd.grad(loss, embeddings, retain_graph=True)
    scaled = torch.autograd.grad(loss * grad, embeddings)
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(other / grad, one, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("negatives", "count"), [("all", 3), ("paired", 3), ("paired", 4)])
def test_layouts_and_gradient_strides(negatives, count):
    """Transposed, strided and expanded inputs; the gradient of sum() arrives with stride 0."""

    def loss(leaves):
        return singular_value_contrastive_loss(leaves, negatives=negatives, backend="triton")

    dense = [e.detach().to(DEVICE).requires_grad_() for e in random_embeddings(count, 6, 10, torch.float32)]
    transposed = dense[0].detach().T.contiguous().T.requires_grad_()
    # NaN between the rows and the columns
    strided = torch.full((12, 20), torch.nan, device=DEVICE)[::2, ::2].copy_(dense[1].detach()).requires_grad_()
    views = [transposed, strided, *dense[2:]]
    assert not transposed.is_contiguous()
    assert not strided.is_contiguous()
    losses = torch.stack([loss(dense), loss(views)])
    assert losses[0] == losses[1]
    wanted = torch.autograd.grad(losses[0], dense, retain_graph=True)
    got = torch.autograd.grad(losses[1].expand(4).sum(), views)
    for gradient, single in zip(got, wanted, strict=True):
        assert torch.equal(gradient, 4 * single)

    stride_zero = dense[0].detach()[:1].expand(6, 10)
    assert loss([stride_zero, *dense[1:]]) == loss([stride_zero.contiguous(), *dense[1:]])


def test_mixed_dtypes_are_promoted():
    embeddings = random_embeddings(3, 6, 8, torch.float32)
    mixed = [embeddings[0].detach().bfloat16().requires_grad_(), *embeddings[1:]]
    value, gradients = value_and_gradients(triton_loss, mixed)
    promoted, wanted = value_and_gradients(triton_loss, [e.float() for e in mixed])
    assert value == promoted
    assert gradients[0].dtype == torch.bfloat16
    assert torch.equal(gradients[0], wanted[0].bfloat16())
    assert torch.equal(gradients[1], wanted[1])


@WITHOUT_WARNING  # of rows beyond the batch
@pytest.mark.parametrize(
    ("negatives", "count", "masked"), [("all", 3, False), ("paired", 3, True), ("paired", 8, False)]
)
def test_near_convergence_nothing_cancels(negatives, count, masked):
    """Errors are relative to the loss and to the gradients themselves, as in `test_sv_range`."""
    present = torch.rand(count, 12, generator=torch.Generator().manual_seed(1)) > 0.2 if masked else None
    tau = 0.01
    options = {"temperature": torch.tensor(tau), "negatives": negatives, "present": present}
    value, gradients = value_and_gradients(triton_loss, converged(count), **options)
    options["temperature"] = torch.tensor(tau).double()
    doubles = [e.double() for e in converged(count)]
    exact, exact_gradients = value_and_gradients(singular_value_contrastive_loss, doubles, **options)
    check_relative(value, exact, 1e-6 / tau)
    for gradient, wanted in zip(gradients, exact_gradients, strict=True):
        check_relative(gradient, wanted, 1e-6 / tau)


@pytest.mark.parametrize(("negatives", "count", "dtype"), [
    ("all", 3, torch.float32), ("paired", 2, torch.bfloat16), ("paired", 4, torch.float32),
])  # fmt: skip
def test_the_size_of_a_row_does_not_matter(negatives, count, dtype):
    embeddings = [e.detach() for e in random_embeddings(count, 6, 5, dtype)]
    value, gradients = value_and_gradients(triton_loss, embeddings, negatives=negatives)
    for powers in SIZES:
        got, got_gradients = value_and_gradients(triton_loss, moved(embeddings, powers), negatives=negatives)
        torch.testing.assert_close(got, value, rtol=1e-6, atol=0)
        for gradient, wanted, power in zip(got_gradients, gradients, (*powers, *[0] * (count - 2)), strict=True):
            torch.testing.assert_close(gradient * 2.0**power, wanted, rtol=1e-4, atol=1e-7)


@WITHOUT_WARNING
@pytest.mark.parametrize(("negatives", "count"), KINDS)
def test_nan_reaches_the_loss(negatives, count):
    embeddings = [e.detach() for e in random_embeddings(count, 4, 8, torch.float32)]
    embeddings[1][2, 3] = torch.nan
    assert triton_loss(embeddings, negatives=negatives).isnan()
