"""What only a GPU shows of the loss by Triton kernels: launches, CUDA graphs, large sizes, faults in memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from benchmarks.gpu.stub_driver import every_kernel
from tests.kernels.sv_cases import random_embeddings, value_and_gradients
from tests.kernels.triton_device import DEVICE
from tests.tolerances import SV_LOSS
from unihpe_kernels import singular_value_contrastive_loss

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE != "cuda", reason="no CUDA device")]
ROOT = Path(__file__).parent.parent.parent
SANITIZER = shutil.which("compute-sanitizer", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")


def on_gpu(count, batch, width, dtype=torch.float32):
    return [e.detach().cuda().requires_grad_() for e in random_embeddings(count, batch, width, dtype)]


def step(embeddings, temperature, grad, negatives, present=None):
    """The loss and its gradients. Without the loss's graph: what it knows of the leaves' streams would draw the default
    stream into a later capture."""
    loss = singular_value_contrastive_loss(embeddings, temperature=temperature, negatives=negatives, present=present)
    return loss.detach(), *torch.autograd.grad(loss, [*embeddings, temperature], grad)


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
    # those of this package: what cuBLAS makes of a product is its own affair
    own = {kernel.__name__ for kernel in every_kernel()}
    ours = [name for name in launched if name.split("(")[0] in own]
    assert 6 <= len(ours) <= 9, launched


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
    assert abs(value - wanted) <= 2 * SV_LOSS[torch.float32]
    for gradient, other in zip(gradients[:3], wanted_gradients[:3], strict=True):
        assert (gradient - other).abs().max() <= 1e-3 * other.abs().max()
    torch.testing.assert_close(gradients[3], wanted_gradients[3], rtol=1e-3, atol=1e-3)


def captured(function, warm=True, **options):
    """A CUDA graph of the call, and what the call gave while it was captured."""
    if warm:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function()
        torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, **options):
        results = function()
    return graph, results


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_another_stream_than_the_default(negatives):
    """What the launches read was written on the same stream just before, after work that keeps it busy."""
    embeddings, grad = on_gpu(3, 67, 32), torch.ones((), device="cuda")
    temperature = torch.tensor(0.1, device="cuda", requires_grad=True)
    wanted = step(embeddings, temperature, grad, negatives)
    late = [torch.full_like(embedding, torch.nan) for embedding in embeddings]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for target, source in zip(late, embeddings, strict=True):
            target.copy_(source.detach())
        found = step([target.requires_grad_() for target in late], temperature, grad, negatives)
    stream.synchronize()
    same(found, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_another_device_than_the_current_one():
    embeddings = [e.detach().to("cuda:1").requires_grad_() for e in random_embeddings(3, 67, 32, torch.float32)]
    temperature = torch.tensor(0.1, device="cuda:1", requires_grad=True)
    with torch.cuda.device(0):
        found = step(embeddings, temperature, torch.ones((), device="cuda:1"), "paired")
    wanted = step(on_gpu(3, 67, 32), torch.tensor(0.1, device="cuda", requires_grad=True),
                  torch.ones((), device="cuda"), "paired")  # fmt: skip
    same([part.cpu() for part in found], [part.cpu() for part in wanted])


@pytest.mark.parametrize("negatives", ["all", "paired"])
def test_a_graph_follows_a_temperature_that_changes(negatives):
    embeddings, grad = on_gpu(3, 67, 32), torch.ones((), device="cuda")
    temperature = torch.tensor(0.1, device="cuda", requires_grad=True)
    graph, found = captured(lambda: step(embeddings, temperature, grad, negatives))
    for value in (0.07, 0.5, 1.0):
        with torch.no_grad():
            temperature.fill_(value)
        graph.replay()
        same(found, step(embeddings, temperature, grad, negatives))


def test_launches_while_another_stream_is_captured():
    """A step beside the capture is no part of it, and neither spoils the other."""
    embeddings, others, grad = on_gpu(3, 67, 32), on_gpu(3, 48, 32), torch.ones((), device="cuda")
    temperature = torch.tensor(0.1, device="cuda", requires_grad=True)
    wanted, wanted_beside = (step(leaves, temperature, grad, "paired") for leaves in (embeddings, others))
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        step(others, temperature, grad, "paired")  # the memory that it needs is its stream's now
    beside.synchronize()
    found_beside = []

    def both():
        with torch.cuda.stream(beside):
            found_beside.extend(step(others, temperature, grad, "paired"))
        return step(embeddings, temperature, grad, "paired")

    step(embeddings, temperature, grad, "paired")
    torch.cuda.synchronize()
    graph, found = captured(both, warm=False, capture_error_mode="relaxed")
    beside.synchronize()
    graph.replay()
    torch.cuda.synchronize()
    same(found, wanted)
    same(found_beside, wanted_beside)


def test_a_capture_of_what_is_not_compiled_is_refused():
    """With a width that no other test has: 1 is a constant of the kernels."""
    embeddings, grad = on_gpu(5, 1, 1), torch.ones((), device="cuda")
    temperature = torch.tensor(0.1, device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match="run the step once before the capture"):
        captured(lambda: step(embeddings, temperature, grad, "paired"), warm=False)
    torch.cuda.synchronize()
    # and it can be captured afterwards
    captured(lambda: step(embeddings, temperature, grad, "paired"))


@pytest.mark.parametrize("negatives", ["all", "paired"])
@pytest.mark.parametrize("offset", [1, 3])
def test_views_whose_memory_is_not_aligned(negatives, offset):
    """Rows that begin beside every boundary of 16 bytes: kernels for aligned pointers would fault or read wrong."""
    aligned, grad = on_gpu(3, 64, 32), torch.ones((), device="cuda")
    temperature = torch.tensor(0.1, device="cuda", requires_grad=True)
    views = []
    for embedding in aligned:
        buffer = torch.full((embedding.numel() + offset,), torch.nan, device="cuda")
        buffer[offset:] = embedding.detach().flatten()
        views.append(buffer[offset:].view_as(embedding).requires_grad_())
        assert views[-1].data_ptr() % 16
    same(step(views, temperature, grad, negatives), step(aligned, temperature, grad, negatives))


def test_sizes_that_change_every_call_compile_a_bounded_number_of_kernels(monkeypatch):
    from triton import knobs

    compiled = []
    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", lambda *, fn, **_: compiled.append(fn.name))
    grad, temperature = torch.ones((), device="cuda"), torch.tensor(0.1, device="cuda", requires_grad=True)
    for batch in (64, 80, 33, 35, 47, 48, 61, 96, 97):
        step(on_gpu(3, batch, 32), temperature, grad, "paired")
    before = len(compiled)
    for batch in range(98, 130):
        step(on_gpu(3, batch, 32), temperature, grad, "paired")
    assert len(compiled) - before <= 4, compiled[before:]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_peak_memory_of_paired_grows_with_the_batch(count):
    """O(B D): the tables and gradients, some eight times the embeddings, and panels of at most that or 64 MiB."""
    width, grad = 512, torch.ones((), device="cuda")
    temperature = torch.tensor(0.1, device="cuda", requires_grad=True)
    embeddings = on_gpu(count, 8192, width, torch.bfloat16)
    step(embeddings, temperature, grad, "paired")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(embeddings, temperature, grad, "paired")
    size = count * 8192 * width * 4
    assert torch.cuda.max_memory_allocated() - before <= 8 * size + 2**27


# without torch's caching of memory, so that each tensor's end is seen
SANITIZED = """
import torch
from benchmarks.gpu.cases import SANITIZED, LossCase

for case in SANITIZED:
    if isinstance(case, LossCase):
        embeddings, present = case.inputs()
        case.results([e.cuda() for e in embeddings], None if present is None else present.cuda(), "triton")
    else:
        case.results([x.cuda() for x in case.inputs()], "triton")
torch.cuda.synchronize()
"""


@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not on PATH")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer(tool):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    }
    # compiled before, where there is nothing to watch
    subprocess.run([sys.executable, "-c", SANITIZED], cwd=ROOT, env=environment, check=True)
    # only the kernels of this package: those of torch are slow to watch
    kernels = ("sv_all", "paired", "of_three", "mean_over", "weights_and", "pa_mpjpe", "procrustes", "svd3x3")
    command = [str(SANITIZER), "--tool", tool, "--error-exitcode", "86"]
    command += [word for name in kernels for word in ("--kernel-regex", f"kns={name}")]
    command += [sys.executable, "-c", SANITIZED]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
