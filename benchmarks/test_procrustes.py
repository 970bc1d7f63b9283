"""Time of PA-MPJPE and of the 3x3 SVD against their peers: python -m pytest benchmarks/test_procrustes.py

Every competitor is checked against SVD in float64 before it is timed.
"""

import pytest
import torch

from benchmarks.peers_procrustes import BACKWARD, FORWARD
from unihpe_kernels import pa_mpjpe, svd3x3
from unihpe_kernels.procrustes import reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
JOINTS = 17
SIZES = [64, 4096, 100_000]


def make_poses(samples):
    """Targets of 500 mm spread and their turned, scaled, noisy predictions, 1 % of them mirrored."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(samples, JOINTS, 3, generator=generator) * 500
    rotation = torch.linalg.qr(torch.randn(samples, 3, 3, generator=generator))[0]
    rotation *= torch.det(rotation)[:, None, None]
    pred = 0.9 * target @ rotation + 50 * torch.randn(samples, JOINTS, 3, generator=generator)
    pred[::100, :, 0] *= -1
    return pred.to(DEVICE), target.to(DEVICE)


def forward(error, pred, target):
    value = error(pred, target)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return value


def forward_backward(error, pred, target):
    """The error as a training loss: the target is data."""
    value = error(pred, target)
    (gradient,) = torch.autograd.grad(value.mean(), pred)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return value.detach(), gradient


def check(error, differentiable):
    pred, target = make_poses(2000)
    exact_pred, exact_target = pred.double().requires_grad_(), target.double()
    expected = reference.pa_mpjpe(exact_pred, exact_target)
    torch.testing.assert_close(error(pred, target).double(), expected.detach(), rtol=0, atol=1e-3)
    if differentiable:
        (wanted,) = torch.autograd.grad(expected.mean(), exact_pred)
        _, gradient = forward_backward(error, pred.requires_grad_(), target)
        # an entry is about 1 / (17 * 2000)
        torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=1e-8)


def run(benchmark, function, *args, samples):
    benchmark.extra_info.update(device=DEVICE, samples=samples, joints=JOINTS, threads=torch.get_num_threads())
    benchmark.pedantic(function, args=args, rounds=9 if samples > 10_000 else 50, warmup_rounds=2)


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("name", ["ours", *FORWARD])
def test_forward(benchmark, name, samples):
    if DEVICE == "cuda" and name == "numpy.linalg.svd":
        pytest.skip("numpy has no GPU")
    error = pa_mpjpe if name == "ours" else FORWARD[name]
    check(error, differentiable=False)
    benchmark.group = f"PA-MPJPE forward, {samples} x {JOINTS}"
    run(benchmark, forward, error, *make_poses(samples), samples=samples)


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("name", ["ours", *BACKWARD])
def test_forward_backward(benchmark, name, samples):
    error = pa_mpjpe if name == "ours" else BACKWARD[name]
    check(error, differentiable=True)
    pred, target = make_poses(samples)
    benchmark.group = f"PA-MPJPE forward + backward, {samples} x {JOINTS}"
    run(benchmark, forward_backward, error, pred.requires_grad_(), target, samples=samples)


@pytest.mark.parametrize("name", ["ours", "torch.linalg.svd"])
def test_svd3x3(benchmark, name):
    samples = 100_000
    svd = svd3x3 if name == "ours" else torch.linalg.svd
    a = torch.randn(samples, 3, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    u, s, vh = svd(a)
    size = torch.linalg.svdvals(a.double())[:, :1, None]
    torch.testing.assert_close((u * s[:, None]).double() @ vh.double() / size, a / size, rtol=0, atol=2e-6)
    benchmark.group = f"3x3 SVD forward, {samples}"
    run(benchmark, lambda: (svd(a), DEVICE == "cuda" and torch.cuda.synchronize()), samples=samples)
