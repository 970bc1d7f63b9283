"""Launches and memory of the Triton loss kernels, counted without running them."""

import collections

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

triton_backend = pytest.importorskip("unihpe_kernels.sv_contrastive.triton_backend")
from unihpe_kernels.launching import forget_plans  # noqa: E402
from unihpe_kernels.sv_contrastive import kernels_all, kernels_paired, kernels_rows  # noqa: E402
from unihpe_kernels.sv_contrastive.arguments import Arguments  # noqa: E402

# operations that launch nothing
FREE = {"empty", "new_empty", "empty_like", "view", "_unsafe_view", "split", "split_with_sizes", "unbind", "select",
        "slice", "t", "transpose", "permute", "detach", "alias", "expand", "device"}  # fmt: skip


class Cost(TorchDispatchMode):
    """Names of what is launched, by torch and, as `kernel`, by Triton; float32 numbers of all storages made."""

    def __init__(self):
        super().__init__()
        self.launches = collections.Counter()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.launches[name] += 1
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.storages[storage._cdata] = storage  # kept alive, so that its place is not used again
        return result

    def kernel(self, name):
        class Stub:
            def __getitem__(stub, grid):
                return lambda *arguments, **options: self.launches.update([name])

        return Stub()

    def sizes(self):
        return sorted((storage.nbytes() // 4 for storage in self.storages.values()), reverse=True)


@pytest.fixture
def cost(monkeypatch):
    cost = Cost()
    for module in (kernels_all, kernels_paired, kernels_rows):
        for name, value in vars(module).items():
            if hasattr(value, "__getitem__") and hasattr(value, "fn"):
                monkeypatch.setattr(module, name, cost.kernel(name))
    monkeypatch.setattr(triton_backend, "residues", lambda *tensors: (0,) * len(tensors))  # they lie nowhere
    forget_plans()
    yield cost
    forget_plans()


def run(cost, negatives, count, batch, width, masked=False):
    """Forward and backward on tensors without memory; launches of the two."""
    launches = []
    with FakeTensorMode():
        embeddings = [torch.empty(batch, width) for _ in range(count)]
        temperature, grad = torch.empty(()), torch.empty(())
        present = torch.empty(count, batch, dtype=torch.bool) if masked else None
        with cost:
            given = Arguments(embeddings, temperature, None, present, negatives, True, "triton")
            outputs = triton_backend.forward(given)
            launches.append(cost.launches.total())
            triton_backend.backward(grad, given, outputs)
            launches.append(cost.launches.total() - launches[0])
    return launches


@pytest.mark.parametrize(("negatives", "count"), [("all", 2), ("all", 3), *(("paired", m) for m in range(2, 9))])
def test_launches_of_256_samples(cost, negatives, count):
    launches = run(cost, negatives, count, 256, 512)
    # a temperature that comes as a number costs one more, to write it where kernels read it
    assert sum(launches) + 1 <= 12, cost.launches
    assert min(launches) >= 4, cost.launches  # the stubs were called


@pytest.mark.parametrize("count", range(2, 9))
def test_launches_with_missing_modalities(cost, count):
    """Masks are made by a dozen operations of torch, forward and again backward; no kernel is added."""
    launches = run(cost, "paired", count, 256, 512, masked=True)
    assert sum(launches) <= 99, cost.launches
    kernels = [name for name in cost.launches if name.startswith(("paired", "mean", "weights"))]
    assert sum(cost.launches[name] for name in kernels) == 8, cost.launches


def test_memory_of_all_is_quadratic(cost):
    batch, width = 4096, 512
    run(cost, "all", 3, batch, width)
    # no tensor beyond three Gram matrices beside the units, or their gradients' partial sums; B^3 would be 69 billion
    assert cost.sizes()[0] <= 3 * batch**2 + 5 * batch * width + 8 * batch
    assert sum(cost.sizes()) <= 16 * batch**2


@pytest.mark.parametrize("count", [2, 3, 4])
def test_memory_of_paired_is_linear(cost, count):
    batch, width = 16384, 512
    run(cost, "paired", count, batch, width)
    embeddings = count * batch * width
    basis = count * batch * (1 + count * (count - 1))
    # stack, its gradient, the gradients handed out and, of M/2 embeddings, a panel; one B x B tensor would be another
    # 268 million
    limit = (4 + count / 2) * embeddings + 3 * basis
    assert sum(cost.sizes()) <= limit <= batch**2
