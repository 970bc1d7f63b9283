"""The choice of a backend and the tensor check."""

import pytest
import torch

from unihpe_kernels import checks


class Fake:
    """Stands for a CUDA tensor where there is no device."""

    def __init__(self, device="cuda", dtype=torch.float32):
        self.device, self.dtype = torch.device(device), dtype


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(checks, "TRITON_KERNELS", {"op": (torch.float32,)})
    monkeypatch.setattr(checks, "_TRITON_FOUND", True)
    monkeypatch.setattr(checks, "_TRITON_INTERPRETED", False)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("backend", "tensor", "chosen"),
    [
        ("auto", Fake(), "triton"),
        ("triton", Fake(), "triton"),
        ("torch", Fake(), "torch"),
        ("auto", Fake("cpu"), "torch"),
        ("auto", Fake(dtype=torch.float64), "torch"),
    ],
)
def test_choice(backend, tensor, chosen):
    assert checks.check_backend(backend, tensor, "op") == chosen


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("tensor", "op", "why"),
    [
        (Fake("cpu"), "op", "needs CUDA tensors .* got cpu"),
        (Fake(dtype=torch.float64), "op", "take torch.float32, got torch.float64"),
        (Fake(), "other", "no Triton kernels"),
    ],
)
def test_refusal_says_why(tensor, op, why):
    with pytest.raises(ValueError, match=why):
        checks.check_backend("triton", tensor, op)


@pytest.mark.usefixtures("kernels")
def test_without_triton(monkeypatch):
    monkeypatch.setattr(checks, "_TRITON_FOUND", False)
    assert checks.check_backend("auto", Fake(), "op") == "torch"
    with pytest.raises(ValueError, match="not installed"):
        checks.check_backend("triton", Fake(), "op")


@pytest.mark.usefixtures("kernels")
def test_interpreter_takes_cpu_tensors_when_asked(monkeypatch):
    monkeypatch.setattr(checks, "_TRITON_INTERPRETED", True)
    assert checks.check_backend("triton", Fake("cpu"), "op") == "triton"
    assert checks.check_backend("auto", Fake("cpu"), "op") == "torch"


def test_leading_batch_dimensions():
    for shape in ((3, 3), (2, 3, 3), (0, 4, 3, 3)):
        checks.check_tensor("a", torch.zeros(shape), (..., 3, 3))
    for shape in ((3,), (3, 2), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"a must have shape \[\.\.\., 3, 3\]"):
            checks.check_tensor("a", torch.zeros(shape), (..., 3, 3))
