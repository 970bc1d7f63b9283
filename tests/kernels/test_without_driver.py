"""What the launchers ask of Triton, under its own binder with a driver that launches nothing: no GPU is needed."""

import os
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets here"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here"),
]

from benchmarks.gpu import stub_driver  # noqa: E402
from unihpe_kernels import checks, singular_value_contrastive_loss  # noqa: E402
from unihpe_kernels.sv_contrastive import triton_backend  # noqa: E402


def step(batch, count=3, width=32, negatives="paired", temperature=None):
    leaves = [torch.zeros(batch, width, requires_grad=True) for _ in range(count)]
    tau = temperature if temperature is not None else torch.tensor(0.1, requires_grad=True)
    loss = singular_value_contrastive_loss(leaves, temperature=tau, negatives=negatives, backend="triton")
    torch.autograd.grad(loss, leaves)


@pytest.fixture
def asked():
    with stub_driver.installed(compiles=False) as kernels:
        yield kernels


@pytest.mark.parametrize(("negatives", "count", "own"), [("paired", 2, 8), ("paired", 3, 8), ("paired", 4, 9)])
def test_a_step_launches_few_kernels(asked, negatives, count, own):
    step(256, count, negatives=negatives)
    # each of them once: what is launched is what is compiled
    assert len(asked) == len({name for name, _ in asked}) == own, asked


@pytest.mark.parametrize("negatives", ["paired", "all"])
def test_sizes_that_change_every_call_compile_a_bounded_number_of_kernels(asked, negatives):
    """What Triton tells apart of a size is whether it is 1 and whether 16 divides it, not its value."""
    for batch in (64, 80, 33, 35, 47, 48, 61, 96, 97):
        step(batch, negatives=negatives)
    after_some = len(asked)
    for batch in range(98, 130):
        step(batch, negatives=negatives)
    # counts of pieces that happen to be 16 or 1 are seldom
    assert len(asked) - after_some <= 4, asked[after_some:]


def test_a_temperature_that_changes_compiles_nothing(asked):
    step(64, temperature=torch.tensor(0.1))
    before = len(asked)
    for temperature in (1.0, 0.07, 16.0):
        step(64, temperature=torch.tensor(temperature))
    assert len(asked) == before


def test_what_is_not_compiled_is_refused_in_a_capture(monkeypatch, asked):
    from triton import knobs

    step(64)
    capturing = checks._compiled_before
    monkeypatch.setattr(
        triton_backend, "on_device", lambda tensor: capturing(checks.on_device(SimpleNamespace(device=tensor.device)))
    )
    step(64)  # all of it is there
    with pytest.raises(RuntimeError, match=r"got paired_prepare for the first time.*run the step once before"):
        step(33)
    assert knobs.runtime.jit_cache_hook is None
    with monkeypatch.context() as patch:
        patch.setattr(triton_backend, "on_device", checks.on_device)
        step(33)
    step(33)


def test_a_capture_is_noticed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: checks.contextlib.nullcontext())
    from triton import knobs

    with checks.on_device(SimpleNamespace(device=torch.device("cuda", 0))):
        assert knobs.runtime.jit_cache_hook is not None
    assert knobs.runtime.jit_cache_hook is None
