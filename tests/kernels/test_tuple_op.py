"""Registration, compilation, memory of the losses of tuples and of pairs, and where float32 has little to spare."""

import pytest
import torch
from torch import Tensor

from tests.kernels.sv_cases import random_embeddings, value_and_gradients
from tests.kernels.test_sv_range import converged
from tests.support.memory import peak_bytes
from unihpe_kernels import pairwise_contrastive_loss, tuple_contrastive_loss
from unihpe_kernels.contrastive.op import contrastive, contrastive_backward
from unihpe_kernels.contrastive.options import Spec, check_arguments

pytestmark = pytest.mark.usefixtures("cpu_backend")

# name -> the loss with its options, how many modalities
LOSSES = {
    "volume": (lambda e, **o: tuple_contrastive_loss(e, score="volume", anchors=0, direction="both", **o), 3),
    "volume of five": (lambda e, **o: tuple_contrastive_loss(e, score="volume", **o), 5),
    "area": (lambda e, **o: tuple_contrastive_loss(e, score="area", label_smoothing=0.1, **o), 3),
    "cosine": (lambda e, **o: tuple_contrastive_loss(e, score="cosine", direction="both", **o), 2),
    "sigmoid": (lambda e, **o: tuple_contrastive_loss(e, score="cosine", form="sigmoid", bias=-3.0, **o), 2),
    "sigma_1": (lambda e, **o: tuple_contrastive_loss(e, anchors=0, **o), 3),
    "product": (lambda e, **o: tuple_contrastive_loss(e, score="product", **o), 3),
    "pairwise": (pairwise_contrastive_loss, 3),
}
SPECS = {
    "volume both": Spec("volume", (0,), True, 0.1, False, False, True, "torch"),
    "sigmoid": Spec("cosine", (), False, 0.0, True, False, True, "torch"),
    "pairwise": Spec("cosine", (), False, 0.0, False, True, True, "torch"),
}
MASK = torch.arange(21).view(3, 7) % 5 > 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_opcheck(name: str, masked: bool, cpu_backend: str) -> None:
    spec = SPECS[name]._replace(backend=cpu_backend)
    count = 2 if spec.sigmoid else 3
    bias = torch.tensor(-1.0) if spec.sigmoid else None
    weights, present = (torch.linspace(0.5, 1.5, 7), MASK[:count]) if masked else (None, None)

    def arguments(grad: bool) -> tuple:
        tensors = [x if x is None else x.clone().requires_grad_(grad) for x in (torch.tensor(0.1), bias, weights)]
        embeddings = [e.requires_grad_(grad) for e in random_embeddings(count, 7, 5, torch.float32)]
        return embeddings, *tensors, present, spec.text, grad

    utils = ("test_schema", "test_autograd_registration", "test_faketensor")  # aot_eager's is the compiled test below
    torch.library.opcheck(contrastive, arguments(True), test_utils=utils)
    given = arguments(False)
    outputs = contrastive(*given)
    backward = (torch.ones(()).expand(()), *given[:5], list(outputs), spec.text)
    torch.library.opcheck(contrastive_backward, backward, test_utils=utils[::2])


def test_the_word_of_a_spec_says_all() -> None:
    for spec in SPECS.values():
        assert Spec.of(spec.text) == spec


@pytest.mark.parametrize("name", ["volume", "sigmoid", "pairwise"])
def test_full_graph_matches_eager_for_any_batch(name: str) -> None:
    loss, count = LOSSES[name]
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda *e, **o: loss(e, **o) * 3, fullgraph=True, dynamic=True, backend=backend)
    for batch in (7, 11, 13):
        embeddings = random_embeddings(count, batch, 5, torch.float32)
        options = {"temperature": torch.tensor(0.1), "weights": torch.linspace(0.5, 1.5, batch)}
        found = value_and_gradients(lambda e, **o: compiled(*e, **o), embeddings, **options)
        wanted = value_and_gradients(lambda e, **o: loss(e, **o) * 3, embeddings, **options)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert len(graphs) == 1


@pytest.mark.parametrize("name", ["volume", "pairwise"])
def test_memory_does_not_grow_with_the_square_of_the_batch(name: str) -> None:
    loss, count = LOSSES[name]
    embeddings = [e.detach().requires_grad_() for e in random_embeddings(count, 4000, 16, torch.float32)]

    def step(size: int = 4000) -> object:
        value = loss([e[:size] for e in embeddings])
        return value, torch.autograd.grad(value, embeddings)

    step(5)  # loads libraries
    peak = peak_bytes(step)
    if peak is None:
        pytest.skip("no /proc")
    # one B x B matrix is 61 MiB; a block of products is 2, torch keeps some six of its size, and what the allocator had
    # given back to the system before comes on top: 6 to 25 were seen
    assert peak <= 40 * 2**20


@pytest.mark.parametrize("name", LOSSES)
def test_equal_bits_in_two_runs(name: str) -> None:
    loss, count = LOSSES[name]
    embeddings = random_embeddings(count, 600, 8, torch.float32)  # several blocks
    runs = [value_and_gradients(loss, embeddings, temperature=torch.tensor(0.1)) for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(map(torch.equal, runs[0][1], runs[1][1]))


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if "volume" not in name and name not in ("sigmoid", "product")]
)
def test_near_convergence_nothing_cancels(name: str) -> None:
    """As for sigma_1 in test_sv_range.py. A volume near 0 has half of float32's digits, and its loss no more."""
    loss, count = LOSSES[name]
    for tau in (0.01, 0.03):
        value, gradients = value_and_gradients(loss, converged(count), temperature=torch.tensor(tau))
        exact, exact_gradients = value_and_gradients(
            loss, [e.double() for e in converged(count)], temperature=torch.tensor(tau).double()
        )
        assert value >= 0
        assert abs(value - exact) <= 4e-6 / tau * exact + 5e-7
        # label smoothing weighs all scores, which are good to 1e-7
        assert abs(gradients[-1] - exact_gradients[-1]) <= 4e-6 / tau * abs(exact_gradients[-1]) + 1e-7 / tau**2


@pytest.mark.parametrize("name", ["cosine", "pairwise"])
def test_temperatures_of_clip(name: str) -> None:
    """Exponentials of +-1 / 0.01 are no float32 numbers; the loss is. At 0.002 sums of them are none either, nor their
    inverses."""
    loss, count = LOSSES[name]
    embeddings = [e.detach() for e in random_embeddings(count, 9, 4, torch.float32)]
    embeddings[1][0] = -embeddings[0][0]  # the worst positive there is
    for tau in (0.01, torch.tensor(0.01), 0.002):
        value, gradients = value_and_gradients(loss, embeddings, temperature=tau)
        exact, others = value_and_gradients(
            loss, [e.double() for e in embeddings], temperature=tau.double() if isinstance(tau, Tensor) else tau
        )
        torch.testing.assert_close(value.double(), exact, rtol=2e-6, atol=0)
        for gradient, other in zip(gradients, others, strict=True):
            # scores are off by 1e-7, logits and softmax weights by that / tau, gradients of rows 0.5 long by twice
            # that / tau again, added over a few tuples
            torch.testing.assert_close(gradient.double(), other, rtol=0, atol=4e-7 / float(tau) ** 2)


@pytest.mark.parametrize("name", LOSSES)
def test_the_size_of_a_row_does_not_matter(name: str) -> None:
    loss, count = LOSSES[name]
    embeddings = [e.detach() for e in random_embeddings(count, 6, 5, torch.float32)]
    value, gradients = value_and_gradients(loss, embeddings)
    for power in (67, 110, -30):
        got, got_gradients = value_and_gradients(loss, [embeddings[0] * 2.0**power, *embeddings[1:]])
        torch.testing.assert_close(got, value, rtol=1e-6, atol=0)
        torch.testing.assert_close(got_gradients[0] * 2.0**power, gradients[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad weights and rows; where values may not be looked at, as on a GPU, they make the loss NaN."""
    loss, count = LOSSES[name]
    embeddings = [e.detach() for e in random_embeddings(count, 6, 5, torch.float32)]
    weights = torch.tensor([1, 1, -1, 1, 1, 1.0])
    with pytest.raises(ValueError, match="weights must not be negative or NaN, got -1"):
        loss(embeddings, weights=weights)
    if name != "product":  # which takes rows of any length
        with pytest.raises(ValueError, match=r"embeddings\[0\] must hold rows of length 1 or 0 for normalize=False"):
            loss(embeddings, normalize=False)
    for module in ("checks", "sv_contrastive.arguments"):
        monkeypatch.setattr(f"unihpe_kernels.{module}.is_readable", lambda *_: False)
    assert loss(embeddings, weights=weights).isnan()
    assert name == "product" or loss(embeddings, normalize=False).isnan()


def test_temperatures_that_no_dtype_holds() -> None:
    embeddings = random_embeddings(3, 4, 5, torch.float64)
    with pytest.raises(ValueError, match=r'temperature must be at least 0.0024 for score="area" of 3 modalities'):
        check_arguments(embeddings, temperature=0.001, score="area").resolve_backend(4)
