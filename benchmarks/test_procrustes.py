"""PA-MPJPE and the 3x3 SVD against their peers: python -m pytest benchmarks --benchmark-only"""

import functools
from functools import partial

import pytest
import torch

from benchmarks.harness import DEVICE, OURS, Competitor, Group, copies_for, measure
from benchmarks.peers.procrustes import numpy_svd, roma_registration, torch_svd
from benchmarks.peers.published import absent
from benchmarks.static_cost import limit
from unihpe_kernels import pa_mpjpe, svd3x3
from unihpe_kernels.procrustes import reference

GPU = DEVICE == "cuda"
JOINTS = 17
USES = {64: "a training batch", 4096: "a validation batch", 100_000: "a test set", 1_000_000: "all of Human3.6M"}
SIZES = [4096, 32_768, 262_144, 1_000_000] if GPU else [64, 1024, 8192, 32_768, 100_000]
ROUNDS = 20 if GPU else 7


def make_poses(samples, seed=0):
    """Targets of 500 mm spread and their turned, scaled, noisy predictions, 1 % of them mirrored."""
    draw = partial(torch.randn, generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE)
    target = draw(samples, JOINTS, 3) * 500
    pred = 0.9 * target @ rotations(draw(samples, 4)) + 50 * draw(samples, JOINTS, 3)
    pred[::100, :, 0] *= -1
    return pred, target


def rotations(quaternions):
    """[N, 4] of any length -> [N, 3, 3]."""
    w, x, y, z = (quaternions / torch.linalg.vector_norm(quaternions, dim=1, keepdim=True)).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@functools.lru_cache(maxsize=1)
def copies_of_poses(samples, gradient):
    """The same for all competitors; no work writes to its inputs."""
    inputs = [make_poses(samples, seed) for seed in range(copies_for(samples * JOINTS * 24))]
    for pred, _ in inputs:
        pred.requires_grad_(gradient)
    return inputs


def forward_backward(error, pred, target):
    """The error as a training loss: the target is data."""
    value = error(pred, target)
    (gradient,) = torch.autograd.grad(value.mean(), pred)
    return value.detach(), gradient


def prepare_poses(error, gradient, samples):
    inputs = copies_of_poses(samples, gradient)
    run = partial(forward_backward, error) if gradient else error
    return lambda k: run(*inputs[k % len(inputs)])


def check_poses(error, gradient, samples=2000):
    pred, target = make_poses(samples)
    exact_pred, exact_target = pred.double().requires_grad_(), target.double()
    expected = reference.pa_mpjpe(exact_pred, exact_target)
    off = (error(pred, target).double() - expected).abs().max().item()
    assert off <= 1e-3, f"off by {off:.1e} mm"
    if gradient:
        (wanted,) = torch.autograd.grad(expected.mean(), exact_pred)
        _, found = forward_backward(error, pred.requires_grad_(), target)
        off = (found.double() - wanted).abs().max().item()
        # an entry is about 1 / (17 * samples)
        assert off <= 2e-5 / samples, f"a gradient is off by {off:.1e}"


@functools.cache
def pose_group(gradient):
    def make(name, error, **more):
        return Competitor(name, partial(prepare_poses, error, gradient), partial(check_poses, error, gradient), **more)

    competitors = [
        make(OURS, pa_mpjpe),
        make("torch.linalg.svd", torch_svd),
        make("roma", roma_registration, absent=absent("roma")),
    ]
    if not gradient:
        competitors.append(make("numpy, VideoPose3D's formula", numpy_svd, absent="numpy has no GPU" if GPU else ""))
    row, numbers = ("with gradient", 9 * JOINTS) if gradient else ("", 6 * JOINTS)
    floors = {n: limit.poses(f"pa_mpjpe_forward {row}".strip(), n, 4 * numbers + 4) for n in SIZES}
    name = "procrustes, forward + backward" if gradient else "procrustes, forward"
    return Group(name, "N", competitors, {"J": JOINTS, "dtype": "float32"}, {"": (1, 1)}, floors, USES)


def make_matrices(samples, seed=0):
    return torch.randn(samples, 3, 3, generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE)


@functools.lru_cache(maxsize=1)
def copies_of_matrices(samples, gradient):
    return [make_matrices(samples, k).requires_grad_(gradient) for k in range(copies_for(samples * 36))]


def all_of_svd(svd, a, gradient):
    u, s, vh = svd(a)
    if gradient:
        torch.autograd.grad((s * s.detach()).sum() + (u @ vh).diagonal(dim1=-2, dim2=-1).sum(), a)
    return u, s, vh


def prepare_matrices(svd, gradient, samples):
    inputs = copies_of_matrices(samples, gradient)
    return lambda k: all_of_svd(svd, inputs[k % len(inputs)], gradient)


def check_matrices(svd):
    a = make_matrices(2000)
    u, s, vh = svd(a)
    size = torch.linalg.svdvals(a.double())[:, :1, None]
    off = (((u * s[:, None]).double() @ vh.double() - a) / size).abs().max().item()
    assert off <= 2e-6, f"reconstruction is off by {off:.1e} of the largest singular value"


@functools.cache
def svd_group(gradient):
    competitors = [
        Competitor(name, partial(prepare_matrices, svd, gradient), partial(check_matrices, svd), largest)
        for name, svd, largest in ((OURS, svd3x3, float("inf")), ("torch.linalg.svd", torch.linalg.svd, 300_000))
    ]
    floors = {} if gradient else {n: limit.poses("svd3x3_forward", n, 120) for n in SIZES}
    name = "svd3x3, forward + backward" if gradient else "svd3x3, forward"
    return Group(name, "N", competitors, {"dtype": "float32"}, {"": (1, 1)}, floors, USES)


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "forward_backward"])
def test_poses(benchmark, gradient, samples):
    measure(benchmark, pose_group(gradient), samples, rounds=ROUNDS)


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "forward_backward"])
def test_svd3x3(benchmark, gradient, samples):
    measure(benchmark, svd_group(gradient), samples, rounds=ROUNDS)
