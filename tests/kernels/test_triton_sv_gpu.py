"""What only a GPU shows of the loss by Triton kernels: launches, CUDA graphs, large sizes, faults in memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.sv_cases import LOSS_TOLERANCE, random_embeddings, value_and_gradients
from tests.kernels.triton_device import DEVICE
from unihpe_kernels import singular_value_contrastive_loss

pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE != "cuda", reason="no CUDA device")]
ROOT = Path(__file__).parent.parent.parent
SANITIZER = shutil.which("compute-sanitizer", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")


def on_gpu(count, batch, width, dtype=torch.float32):
    return [e.detach().cuda().requires_grad_() for e in random_embeddings(count, batch, width, dtype)]


def step(embeddings, temperature, grad, negatives, present=None):
    loss = singular_value_contrastive_loss(embeddings, temperature=temperature, negatives=negatives, present=present)
    return loss, *torch.autograd.grad(loss, [*embeddings, temperature], grad)


@pytest.mark.parametrize(("negatives", "count"), [("all", 3), ("paired", 2), ("paired", 3), ("paired", 4)])
def test_launches_of_256_samples(negatives, count):
    arguments = on_gpu(count, 256, 512), torch.tensor(0.1, device="cuda", requires_grad=True)
    grad = torch.ones((), device="cuda")
    step(*arguments, grad, negatives)  # compiles
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step(*arguments, grad, negatives)
        torch.cuda.synchronize()
    launched = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert 8 <= len(launched) <= 12, launched


@pytest.mark.parametrize(("negatives", "count"), [("all", 3), ("paired", 2), ("paired", 4), ("paired", 8)])
def test_missing_modalities_do_not_synchronise(negatives, count):
    embeddings = on_gpu(count, 67, 32)
    temperature = torch.tensor(0.1, device="cuda", requires_grad=True)
    grad = torch.ones((), device="cuda")
    present = (torch.rand(count, 67, generator=torch.Generator().manual_seed(count)) < 0.75).cuda()
    step(embeddings, temperature, grad, negatives, present)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(embeddings, temperature, grad, negatives, present)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("negatives", "count"), [("all", 3), ("paired", 3), ("paired", 4)])
def test_cuda_graph(negatives, count, masked):
    embeddings = on_gpu(count, 67, 32)
    generator = torch.Generator().manual_seed(count)
    present = (torch.rand(count, 67, generator=generator) < 0.75).cuda() if masked else None
    temperature = torch.tensor(0.1, device="cuda", requires_grad=True)
    grad = torch.ones((), device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(embeddings, temperature, grad, negatives, present)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(embeddings, temperature, grad, negatives, present)
    # other numbers in the same memory, other modalities missing
    with torch.no_grad():
        if masked:
            present.copy_(torch.rand(count, 67, generator=generator) < 0.5)
        for embedding, other in zip(embeddings, random_embeddings(count, 67, 32, torch.float32, seed=1), strict=True):
            embedding.copy_(other)
    graph.replay()
    for found, wanted in zip(captured, step(embeddings, temperature, grad, negatives, present), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def loss_by(backend):
    def loss(leaves, **options):
        return singular_value_contrastive_loss(leaves, **options, backend=backend)

    return loss


@pytest.mark.slow
@pytest.mark.parametrize(("negatives", "batch", "width"), [("all", 4096, 32), ("paired", 65536, 48)])
def test_offsets_of_large_batches(negatives, batch, width):
    """Products of sizes beyond 32 bits, against the torch backend. Gradients are of 1/B of a sample."""
    embeddings = on_gpu(3, batch, width)
    options = {"negatives": negatives, "temperature": torch.tensor(0.1, device="cuda")}
    value, gradients = value_and_gradients(loss_by("triton"), embeddings, **options)
    wanted, wanted_gradients = value_and_gradients(loss_by("torch"), embeddings, **options)
    # the weights of a softmax over more samples are summed in another order
    assert abs(value - wanted) <= 2 * LOSS_TOLERANCE[torch.float32]
    for gradient, other in zip(gradients[:3], wanted_gradients[:3], strict=True):
        assert (gradient - other).abs().max() <= 1e-3 * other.abs().max()
    torch.testing.assert_close(gradients[3], wanted_gradients[3], rtol=1e-3, atol=1e-3)


# sizes beside every block's edge, masks and weights, a strided input; without torch's caching of memory, so that each
# tensor's end is seen
SANITIZED = """
import torch
from unihpe_kernels import pa_mpjpe, procrustes, singular_value_contrastive_loss, svd3x3

torch.manual_seed(0)
for negatives, count in (("all", 3), ("paired", 2), ("paired", 3), ("paired", 4)):
    for dtype in (torch.float32, torch.bfloat16):
        for masked in (False, True):
            leaves = [torch.randn(35, 19, device="cuda", dtype=dtype, requires_grad=True) for _ in range(count)]
            present = torch.rand(count, 35, device="cuda") < 0.75 if masked else None
            weights = torch.rand(35, device="cuda", requires_grad=True)
            loss = singular_value_contrastive_loss(leaves, negatives=negatives, present=present, weights=weights)
            loss.backward()
pred, target, matrices = (torch.randn(131, joints, 3, device="cuda", requires_grad=True) for joints in (17, 17, 3))
pa_mpjpe(pred, target).sum().backward()
sum(part.sum() for part in procrustes(pred, target)).backward()
svd3x3(matrices)[1].sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not on PATH")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer(tool):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    }
    # only the kernels of this package: those of torch are slow to watch
    kernels = ("sv_all", "paired", "of_three", "mean_over", "weights_and", "pa_mpjpe", "procrustes", "svd3x3")
    command = [str(SANITIZER), "--tool", tool, "--error-exitcode", "86"]
    command += [word for name in kernels for word in ("--kernel-regex", f"kns={name}")]
    command += [sys.executable, "-c", SANITIZED]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
