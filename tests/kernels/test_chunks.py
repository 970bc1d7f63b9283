"""Chunks of a batch on several threads."""

import multiprocessing

import pytest
import torch

from tests.kernels.pose_cases import pose_pairs
from unihpe_kernels import pa_mpjpe, procrustes, svd3x3
from unihpe_kernels.small_linalg import chunks

CPU = torch.device("cpu")
SAMPLES = 700


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 64)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def everything():
    pred, target = (points.float().requires_grad_() for points in pose_pairs(SAMPLES))
    error, similarity = pa_mpjpe(pred, target), procrustes(pred, target)
    factors = svd3x3(similarity.rotation.detach() * 3 + 1)
    loss = error.sum() + sum(part.sum() for part in similarity)
    return [error, *similarity, *factors, *torch.autograd.grad(loss, (pred, target))]


@pytest.mark.parametrize("chunk", [64, 8_176])
@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_the_threads(threads, chunk, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    torch.set_num_threads(1)
    expected = everything()
    torch.set_num_threads(threads)
    for got, want in zip(everything(), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("samples", [0, 1, 64, 65, 1000])
def test_every_sample_is_met_once(samples, threads):
    torch.set_num_threads(threads)
    met = torch.zeros(samples)

    def work(part):
        met[part] += 1

    chunks.for_each_chunk(samples, CPU, work)
    assert torch.equal(met, torch.ones(samples))


def test_operations_of_a_worker_are_not_split_and_those_of_the_caller_are():
    torch.set_num_threads(3)
    seen = []
    chunks.for_each_chunk(SAMPLES, CPU, lambda part: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 3


def test_an_error_in_a_worker_reaches_the_caller():
    torch.set_num_threads(2)

    def work(part):
        if part.start == 128:
            raise ArithmeticError("in the third chunk")

    with pytest.raises(ArithmeticError, match="in the third chunk"):
        chunks.for_each_chunk(SAMPLES, CPU, work)


def test_in_inference_mode():
    torch.set_num_threads(2)
    pred, target = pose_pairs(SAMPLES)
    expected = pa_mpjpe(pred, target)
    with torch.inference_mode():
        assert torch.equal(pa_mpjpe(pred, target), expected)
        assert torch.equal(pa_mpjpe(pred.clone(), target.clone()), expected)


def _error_in_child(pred, target, results):
    torch.set_num_threads(1)  # libgomp does not outlive a fork either
    torch.mul(pred, 2)
    torch.get_num_threads = lambda: 2  # type: ignore[assignment]
    results.put(pa_mpjpe(pred, target).tolist())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_its_own_threads():
    torch.set_num_threads(2)
    pred, target = pose_pairs(SAMPLES)
    expected = pa_mpjpe(pred, target).tolist()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_error_in_child, args=(pred, target, results), daemon=True)
    child.start()
    assert results.get(timeout=60) == expected
    child.join(60)
