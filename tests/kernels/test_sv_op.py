"""Registration, compilation, memory and argument checks of the loss."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.kernels.conftest import of_torch_alone
from tests.kernels.sv_cases import random_embeddings, value_and_gradients
from tests.support.memory import peak_bytes
from unihpe_kernels import scratch, singular_value_contrastive_loss
from unihpe_kernels.sv_contrastive.arguments import Arguments
from unihpe_kernels.sv_contrastive.op import sv_contrastive, sv_contrastive_backward

pytestmark = pytest.mark.usefixtures("cpu_backend")

OPTIONS = [
    {"negatives": "all"},
    {"negatives": "paired"},
    {"negatives": "paired", "weights": torch.linspace(0.5, 1.5, 7)},
    {"negatives": "all", "weights": torch.linspace(0.5, 1.5, 7), "present": torch.arange(21).view(3, 7) % 5 > 0},
]


def operator_arguments(options, backend, dtype=torch.float32, grad=True, count=3):
    embeddings = [e.requires_grad_(grad) for e in random_embeddings(count, 7, 5, dtype)]
    weights = options.get("weights")
    if weights is not None:
        weights = weights.clone().requires_grad_(grad)
    temperature = torch.tensor(0.1, requires_grad=grad)
    return embeddings, temperature, weights, options.get("present"), options["negatives"], True, backend


# the last has all that the others have; pairs of plain torch are the engine's: test_tuple_op.py
@pytest.mark.parametrize(
    ("cpu_backend", "options", "dtype"),
    [("native", options, torch.float32) for options in OPTIONS]
    + [("torch", options, torch.float32) for options in OPTIONS if options["negatives"] == "all"]
    + [(backend, OPTIONS[-1], torch.bfloat16) for backend in ("native", "torch")]
    + [("torch", OPTIONS[-1], torch.float64)],
    indirect=["cpu_backend"],
)
def test_opcheck(options, dtype, cpu_backend):
    check_operators(
        operator_arguments(options, cpu_backend, dtype), operator_arguments(options, cpu_backend, dtype, grad=False)
    )


@pytest.mark.parametrize("cpu_backend", ["native"], indirect=True)
@pytest.mark.parametrize(("negatives", "count"), [("all", 2), ("paired", 2), ("paired", 5)])
def test_opcheck_of_other_counts(negatives, count, cpu_backend):
    options = {"negatives": negatives}
    with_grad, without = (operator_arguments(options, cpu_backend, grad=grad, count=count) for grad in (True, False))
    check_operators(with_grad, without)


def check_operators(arguments_with_grad, arguments):
    torch.library.opcheck(sv_contrastive, arguments_with_grad)
    outputs = sv_contrastive(*arguments)
    grad = torch.ones((), dtype=outputs[0].dtype).expand(())
    backward_arguments = (grad, *arguments[:4], list(outputs), *arguments[4:])
    torch.library.opcheck(sv_contrastive_backward, backward_arguments)


@pytest.mark.parametrize(("options", "autocast"), [*((options, False) for options in OPTIONS), (OPTIONS[-1], True)])
def test_full_graph_matches_eager(options, autocast):
    """Compiled as part of a model, with gradients of every leaf; other batch sizes must not compile again."""
    torch._dynamo.reset()  # the same lines count as recompiled for every backend
    compiles = []

    def backend(graph, inputs):
        compiles.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def compiled(leaves, **extra):
        return model(leaves, **extra)

    def model(leaves, **extra):
        return singular_value_contrastive_loss([2 * leaf for leaf in leaves], **extra) * 3

    for batch in (7, 11, 13):
        embeddings = random_embeddings(3, batch, 5, torch.float32)
        extra = {**options, "temperature": torch.tensor(0.1)}
        if "weights" in options:
            extra["weights"] = torch.linspace(0.5, 1.5, batch)
        if "present" in options:
            extra["present"] = torch.arange(3 * batch).view(3, batch) % 5 > 0
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            eager = value_and_gradients(model, embeddings, **extra)
            graph = value_and_gradients(compiled, embeddings, **extra)
        assert eager[0] == graph[0]
        for gradient, wanted in zip(graph[1], eager[1], strict=True):
            assert torch.equal(gradient, wanted)
    assert len(compiles) == 1


def test_full_graph_through_aot_autograd():
    """The joint graph, with the operator's registered backward and shapes; with and without a learned temperature."""
    compiled = torch.compile(singular_value_contrastive_loss, fullgraph=True, backend="aot_eager")
    embeddings = random_embeddings(3, 7, 5, torch.float32)
    for options in ({}, {"temperature": torch.tensor(0.1)}):
        for negatives in ("all", "paired"):
            eager = value_and_gradients(singular_value_contrastive_loss, embeddings, negatives=negatives, **options)
            graph = value_and_gradients(compiled, embeddings, negatives=negatives, **options)
            assert eager[0] == graph[0]
            assert len(graph[1]) == 3 + len(options)
            for gradient, wanted in zip(graph[1], eager[1], strict=True):
                assert torch.equal(gradient, wanted)
    assert graph[1][3] != 0


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation gave back; looks into the operators too."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def largest_tensor(batch: int) -> int:
    from unihpe_kernels.sv_contrastive import torch_backend

    embeddings = [e.detach() for e in random_embeddings(3, batch, 8, torch.float32)]
    temperature = torch.tensor(0.1)
    with LargestTensor() as largest:
        given = Arguments(embeddings, temperature, None, None, "all", True, "torch")
        torch_backend.backward(torch.ones(()), given, torch_backend.forward(given))
    return largest.elements


@of_torch_alone
def test_memory_of_all_is_quadratic(monkeypatch):
    monkeypatch.setattr("unihpe_kernels.sv_contrastive.torch_backend._TILE_PER_THREAD", 8192)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("unihpe_kernels.scratch._held", threading.local())  # of earlier tests, larger
    # five tile buffers in one store, beside the B^2 = 16,384 of a Gram matrix; B^3 would be 2.1 million
    assert 128 * 128 <= largest_tensor(128) <= 5 * 128 * 128


@pytest.mark.skipif(torch.cuda.is_available(), reason="resident memory is that of the CPU")
def test_memory_of_all_on_many_threads(monkeypatch):
    """Every thread has a share of the work memory: below 64 MiB for 512 samples, whatever their number."""
    embeddings = random_embeddings(3, 256, 256, torch.float32)

    def step(count=256):
        loss = singular_value_contrastive_loss([e[:count] for e in embeddings], negatives="all")
        return loss, torch.autograd.grad(loss, embeddings)

    step(5)  # loads libraries
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(scratch, "_held", threading.local())
    peak = peak_bytes(step)
    if peak is None:
        pytest.skip("no /proc")
    # the Gram matrices, their squares and gradients are 2.25 MiB alone; of 512 samples they would be 9
    assert 2.25 * 2**20 <= peak <= (64 - 6.75) * 2**20


@pytest.mark.parametrize(("batch", "kept"), [(101, True), (102, False)])
def test_scores_of_small_batches_are_kept(batch, kept):
    embeddings = [e.detach() for e in random_embeddings(3, batch, 4, torch.float32)]
    saved = sv_contrastive(embeddings, torch.tensor(0.1), None, None, "all", True, "torch")[3]
    assert (saved.numel() >= 2 * batch**3) == kept
    assert kept or saved.numel() <= 5 * batch * 4 + 3 * batch**2 + 7 * batch


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_runs_repeat_bit_for_bit(negatives):
    embeddings = random_embeddings(3, 23, 8, torch.float32)
    first = value_and_gradients(singular_value_contrastive_loss, embeddings, negatives=negatives)
    second = value_and_gradients(singular_value_contrastive_loss, embeddings, negatives=negatives)
    assert first[0] == second[0]
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def good():
    return [torch.ones(4, 3) for _ in range(3)]


BAD = [
    (TypeError, "embeddings must be a sequence", lambda: {"embeddings": torch.ones(3, 4, 3)}),
    (TypeError, r"embeddings\[0\] must be a torch.Tensor", lambda: {"embeddings": [1, 2]}),
    (ValueError, "2 to 8 tensors", lambda: {"embeddings": [torch.ones(4, 3)]}),
    (ValueError, "2 to 8 tensors", lambda: {"embeddings": [torch.ones(4, 3)] * 9}),
    (ValueError, "2 to 3 tensors", lambda: {"embeddings": [torch.ones(4, 3)] * 4, "negatives": "all"}),
    (ValueError, r"embeddings\[0\] must have shape \[B, D\], got \[4\]", lambda: {"embeddings": [torch.ones(4)] * 3}),
    (
        ValueError,
        r"embeddings\[1\] must have shape \[4, 3\], got \[4, 2\]",
        lambda: {"embeddings": [torch.ones(4, 3), torch.ones(4, 2)]},
    ),
    (TypeError, "dtype", lambda: {"embeddings": [torch.ones(4, 3, dtype=torch.int64)] * 3}),
    (ValueError, "on cpu", lambda: {"embeddings": [torch.ones(4, 3), torch.ones(4, 3, device="meta")]}),
    (ValueError, "negatives must be", lambda: {"negatives": "some"}),
    (ValueError, "temperature must be finite", lambda: {"temperature": 0.0}),
    (ValueError, "temperature must be finite", lambda: {"temperature": -1}),
    (ValueError, "temperature must be finite", lambda: {"temperature": float("nan")}),
    (ValueError, "temperature must be finite", lambda: {"temperature": float("inf")}),
    (TypeError, "temperature must be a float", lambda: {"temperature": "0.1"}),
    (TypeError, "temperature must be a float", lambda: {"temperature": True}),
    (ValueError, r"temperature must have shape \[\]", lambda: {"temperature": torch.ones(1)}),
    (TypeError, "temperature must have dtype", lambda: {"temperature": torch.tensor(1)}),
    (ValueError, r"weights must have shape \[4\], got \[3\]", lambda: {"weights": torch.ones(3)}),
    (TypeError, "weights must have dtype", lambda: {"weights": torch.ones(4, dtype=torch.bool)}),
    (ValueError, r"present must have shape \[3, 4\], got \[4, 3\]", lambda: {"present": torch.ones(4, 3) > 0}),
    (TypeError, "present must have dtype torch.bool", lambda: {"present": torch.ones(3, 4)}),
    (ValueError, "backend must be", lambda: {"backend": "cuda"}),
    (ValueError, 'backend="triton" cannot run singular_value_contrastive_loss', lambda: {"backend": "triton"}),
]


@pytest.mark.parametrize(("error", "message", "arguments"), BAD)
def test_bad_arguments_are_named(error, message, arguments):
    options = {"embeddings": good(), **arguments()}
    with pytest.raises(error, match=message):
        singular_value_contrastive_loss(options.pop("embeddings"), **options)


@pytest.mark.parametrize(("count", "negatives"), [(2, "paired"), (3, "paired"), (5, "paired"), (3, "all")])
def test_saved_tensors_may_come_back_at_any_address(count, negatives):
    def pack(tensor):
        return tensor.shape, tensor.dtype, tensor.numpy().tobytes()

    def unpack(packed):
        shape, dtype, content = packed
        first = dtype.itemsize  # not where vectors begin
        apart = torch.frombuffer(bytearray(first) + bytearray(content), dtype=torch.uint8)
        return apart[first:].view(dtype).view(shape) if content else torch.empty(shape, dtype=dtype)

    embeddings = [e.requires_grad_() for e in random_embeddings(count, 40, 16, torch.float32)]
    expected = torch.autograd.grad(singular_value_contrastive_loss(embeddings, negatives=negatives), embeddings)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        loss = singular_value_contrastive_loss(embeddings, negatives=negatives)
        got = torch.autograd.grad(loss, embeddings)
    for gradient, want in zip(got, expected, strict=True):
        assert torch.equal(gradient, want)
