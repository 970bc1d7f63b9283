"""CPU or GPU time of the singular-value loss, forward plus backward, against its peers: python -m pytest benchmarks"""

from functools import partial

import pytest
import torch

from benchmarks.peers import PEERS, eigvalsh_of_grams
from unihpe_kernels import singular_value_contrastive_loss
from unihpe_kernels.sv_contrastive import reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WIDTH = 256
TEMPERATURE = 0.07
# the largest batch that a peer can take on a machine of 8 GiB in reasonable time
LARGEST = {"svdvals of stacks": 16, "svdvals of Grams": 64, "eigvalsh of Grams": 96, "closed form": 256}


def ours(embeddings, temperature, negatives="all"):
    return singular_value_contrastive_loss(embeddings, temperature=temperature, negatives=negatives)


def make_embeddings(count, batch):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, WIDTH, generator=generator).to(DEVICE).requires_grad_() for _ in range(count)]


def step(loss, embeddings):
    """One forward and backward; returns the loss and gradients."""
    value = loss(embeddings, TEMPERATURE)
    gradients = torch.autograd.grad(value, embeddings)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return value.detach(), gradients


def stacked_svd(embeddings, temperature, negatives):
    return reference.singular_value_contrastive_loss(embeddings, temperature=temperature, negatives=negatives)


def check(loss, exact_loss, count=3, batch=16):
    """Nothing is timed that is not right: against an independent form in float64."""
    embeddings = make_embeddings(count, batch)
    value, gradients = step(loss, embeddings)
    exact, exact_gradients = step(exact_loss, [e.detach().double().requires_grad_() for e in embeddings])
    assert abs(value - exact) < 1e-4
    for gradient, wanted in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=1e-5)


def run(benchmark, loss, embeddings, batch):
    benchmark.extra_info.update(device=DEVICE, batch=batch, width=WIDTH, threads=torch.get_num_threads())
    benchmark.pedantic(step, args=(loss, embeddings), rounds=7 if batch < 128 else 3, warmup_rounds=1)


@pytest.mark.parametrize("batch", [16, 64, 96, 256])
@pytest.mark.parametrize("name", ["ours", *PEERS])
def test_all_forward_backward(benchmark, name, batch):
    if batch > LARGEST.get(name, 256):
        pytest.skip("too large for this peer")
    loss = ours if name == "ours" else PEERS[name]
    check(loss, eigvalsh_of_grams)
    benchmark.group = f"all, B = {batch}, D = {WIDTH}"
    run(benchmark, loss, make_embeddings(3, batch), batch)


@pytest.mark.parametrize("batch", [256, 1024])
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_paired_forward_backward(benchmark, count, batch):
    loss = partial(ours, negatives="paired")
    check(loss, partial(stacked_svd, negatives="paired"), count)
    benchmark.group = f"paired, B = {batch}, D = {WIDTH}"
    run(benchmark, loss, make_embeddings(count, batch), batch)
