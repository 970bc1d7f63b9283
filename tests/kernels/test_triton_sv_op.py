"""Registration, compilation, autocast and repetition of the loss by Triton kernels."""

import pytest
import torch

from tests.kernels.sv_cases import random_embeddings, value_and_gradients
from tests.kernels.test_sv_op import OPTIONS
from tests.kernels.triton_device import DEVICE, needs_triton
from tests.kernels.triton_sv_cases import poisoned_buffers, to_device, triton_loss  # noqa: F401
from unihpe_kernels import singular_value_contrastive_loss
from unihpe_kernels.sv_contrastive.op import sv_contrastive, sv_contrastive_backward

pytest.importorskip("triton")
pytestmark = [needs_triton, pytest.mark.usefixtures("poisoned_buffers")]


def operator_arguments(options, dtype, grad):
    count = options.get("count", 3)
    embeddings = [to_device(e.detach()).requires_grad_(grad) for e in random_embeddings(count, 7, 5, dtype)]
    weights = options.get("weights")
    if weights is not None:
        weights = to_device(weights.clone()).requires_grad_(grad)
    temperature = torch.tensor(0.1, requires_grad=grad, device=DEVICE)
    return embeddings, temperature, weights, to_device(options.get("present")), options["negatives"], True, "triton"


# the last of each kind of negatives has all that those before it have
@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        *((options, torch.float32) for options in OPTIONS[2:]),
        (OPTIONS[-1], torch.bfloat16),
        ({"negatives": "paired", "count": 4}, torch.float32),
    ],
)
def test_opcheck(options, dtype):
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")  # aot_eager's is the compiled test below
    torch.library.opcheck(sv_contrastive, operator_arguments(options, dtype, grad=True), test_utils=utils)
    arguments = operator_arguments(options, dtype, grad=False)
    outputs = sv_contrastive(*arguments)
    grad = torch.ones((), dtype=outputs[0].dtype, device=DEVICE).expand(())
    backward = (grad, *arguments[:4], list(outputs), *arguments[4:])
    torch.library.opcheck(sv_contrastive_backward, backward, test_utils=utils[::2])


def on_device(embeddings, **options):
    """On the device throughout: a compiled graph with a copy between devices is none."""
    return singular_value_contrastive_loss([2 * e for e in embeddings], **options, backend="triton") * 3


@pytest.mark.parametrize(("options", "autocast"), [*((options, False) for options in OPTIONS), (OPTIONS[-1], True)])
def test_full_graph_matches_eager(options, autocast):
    embeddings = [to_device(e.detach()) for e in random_embeddings(3, 7, 5, torch.float32)]
    extra = {name: to_device(option) for name, option in options.items()}
    extra["temperature"] = torch.tensor(0.1, device=DEVICE)
    compiled = torch.compile(on_device, fullgraph=True, backend="aot_eager")
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        eager = value_and_gradients(on_device, embeddings, **extra)
        graph = value_and_gradients(compiled, embeddings, **extra)
    assert eager[0] == graph[0]
    for gradient, wanted in zip(graph[1], eager[1], strict=True):
        assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_autocast_computes_in_float32(negatives):
    embeddings = [to_device(e.detach()) for e in random_embeddings(3, 6, 64, torch.float32)]
    plain, plain_gradients = value_and_gradients(on_device, embeddings, negatives=negatives)

    def under_autocast(leaves, **options):
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = on_device(leaves, **options)
            for gradient, wanted in zip(  # backward inside the region, too
                torch.autograd.grad(loss, leaves, retain_graph=True), plain_gradients, strict=True
            ):
                assert torch.equal(gradient, wanted)
            return loss

    value, gradients = value_and_gradients(under_autocast, embeddings, negatives=negatives)
    assert value.dtype == torch.float32
    assert value == plain
    for gradient, wanted in zip(gradients, plain_gradients, strict=True):
        assert torch.equal(gradient, wanted)


@pytest.mark.parametrize(
    ("negatives", "count", "masked"),
    [("all", 3, True), ("paired", 2, True), ("paired", 3, True), ("paired", 4, False)],
)
def test_runs_repeat_bit_for_bit(negatives, count, masked):
    generator = torch.Generator().manual_seed(0)
    options = {
        "negatives": negatives,
        "temperature": torch.tensor(0.1),
        "weights": torch.rand(11, generator=generator),
        "present": torch.rand(count, 11, generator=generator) < 0.8 if masked else None,
    }
    embeddings = random_embeddings(count, 11, 8, torch.float32)
    first = value_and_gradients(triton_loss, embeddings, **options)
    second = value_and_gradients(triton_loss, embeddings, **options)
    assert first[0] == second[0]
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_second_derivative_is_refused():
    embeddings = random_embeddings(3, 4, 8, torch.float32)
    loss = triton_loss(embeddings)
    gradient = torch.autograd.grad(loss, embeddings[0], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="second derivative"):
        gradient.sum().backward()
