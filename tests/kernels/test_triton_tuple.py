"""The losses of tuples and of pairs as a whole by the Triton blocks, against float64 and published numbers."""

import pytest
import torch
from torch import Tensor

from tests.kernels.sv_cases import random_embeddings, value_and_gradients
from tests.kernels.test_public_losses import CASES, needs_published, tangent
from tests.kernels.triton_device import DEVICE, needs_triton
from unihpe_kernels import pairwise_contrastive_loss, tuple_contrastive_loss
from unihpe_kernels.contrastive import loss as engine
from unihpe_kernels.contrastive import reference
from unihpe_kernels.contrastive.spec import Spec

pytestmark = needs_triton

TAU = 0.2
# name -> modalities, options of the loss, whether samples lack modalities
LOSSES = {
    "gram": (3, {"score": "volume", "anchors": [0], "direction": "both", "label_smoothing": 0.1}, False),
    "volume, masked": (4, {"score": "volume"}, True),
    "sigma_1, both ways, masked": (3, {"direction": "both"}, True),
    "area": (3, {"score": "area"}, False),
    "sigmoid": (2, {"score": "cosine", "form": "sigmoid", "bias": torch.tensor(-2.0)}, False),
}


def close(found: tuple, wanted: tuple, tolerance: float) -> None:
    for one, other in ((found[0], wanted[0]), *zip(found[1], wanted[1], strict=True)):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one.cpu().double(), other.double(), rtol=0, atol=tolerance * scale)


def both(name: str, loss, exact, embeddings: list[Tensor], tolerance: float, **options) -> None:
    given = {k: x.to(DEVICE) if isinstance(x, Tensor) else x for k, x in options.items()}
    found = value_and_gradients(loss, [e.to(DEVICE) for e in embeddings], backend="triton", **given)
    wide = {k: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for k, x in options.items()}
    close(found, value_and_gradients(exact, [e.double() for e in embeddings], **wide), tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients(name: str) -> None:
    count, options, masked = LOSSES[name]
    embeddings = random_embeddings(count, 13, 8, torch.float32)
    if masked:
        options = {**options, "present": torch.rand(count, 13, generator=torch.Generator().manual_seed(2)) > 0.3}
    weights = torch.linspace(0.5, 2, 13)
    arguments = {"temperature": torch.tensor(TAU), "weights": weights, **options}
    both(name, tuple_contrastive_loss, reference.tuple_contrastive_loss, embeddings, 2e-5, **arguments)


@pytest.mark.parametrize("masked", [False, True])
def test_pairwise(masked: bool) -> None:
    present = torch.rand(3, 13, generator=torch.Generator().manual_seed(2)) > 0.3 if masked else None
    arguments = {"temperature": torch.tensor(TAU), "weights": torch.linspace(0.5, 2, 13), "present": present}
    embeddings = random_embeddings(3, 13, 8, torch.float32)
    both("pairwise", pairwise_contrastive_loss, reference.pairwise_contrastive_loss, embeddings, 1e-5, **arguments)


def test_the_temperature_of_clip() -> None:
    """A tensor's value is not looked at: exponentials of cosines over 0.01 are kept in float32 by their upper end."""
    embeddings = [e.detach() for e in random_embeddings(2, 9, 4, torch.float32)]
    embeddings[1][0] = -embeddings[0][0]
    options = {"temperature": torch.tensor(0.01)}
    # of test_tuple_op.py's test of the same name, over gradients of up to 6
    both("clip", pairwise_contrastive_loss, reference.pairwise_contrastive_loss, embeddings, 1e-3, **options)


@needs_published
@pytest.mark.parametrize(("number", "name"), [(0, "gram"), (0, "triangle"), (4, "gram")])
def test_published_numbers(number: int, name: str) -> None:
    case = CASES[number]
    wanted = case[f"{name}_loss_ls0.1"]
    z = [torch.tensor(x, dtype=torch.float32, device=DEVICE).requires_grad_() for x in case["z"]]
    value = tuple_contrastive_loss(
        z, score={"gram": "volume", "triangle": "area"}[name], temperature=case["tau"], anchors=0, direction="both",
        label_smoothing=0.1, backend="triton",
    )  # fmt: skip
    assert value.item() == pytest.approx(wanted["mean"], rel=max(1e-6, 1.2e-7 / case["tau"]))
    # a volume's gradient is divided by it
    tolerance = 2e-6 / case["tau"] * (1 / min(map(min, case["volume"])) if name == "gram" else 1)
    for m, gradient in enumerate(torch.autograd.grad(value, z)[:2]):
        error = (gradient.cpu().double() - tangent(wanted[f"grad_z{m}"], case["z"][m])).abs().max()
        assert error <= tolerance


@pytest.mark.parametrize(("direction", "tau"), [("anchor", 0.002), ("both", 0.003)])
def test_a_temperature_too_small_is_nan_and_not_a_wrong_number(direction: str, tau: float) -> None:
    """Rows all but orthogonal: exponentials of the lowest scores are no float32 numbers. The loss was 0 for 26.8."""
    embeddings = [e.detach().to(DEVICE) for e in random_embeddings(3, 8, 64, torch.float32)]
    temperature = torch.tensor(tau, device=DEVICE)
    spec = Spec("singular_value", (), direction == "both", 0.0, False, False, True, "triton")
    outputs = engine.forward(embeddings, temperature, None, None, None, spec)
    assert outputs.loss.isnan()
    spec = spec._replace(backend="torch")
    assert engine.forward(embeddings, temperature, None, None, None, spec).loss > 10
