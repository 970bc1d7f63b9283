""" "paired" negatives in C++: scores where eigenvalues meet, tiles, threads, memory."""

import threading

import pytest
import torch

from tests.kernels.sv_cases import check_against, random_embeddings, value_and_gradients
from tests.kernels.test_sv_op import LargestTensor
from tests.kernels.test_sv_scores import KINDS, stacks
from unihpe_kernels import native, scratch, singular_value_contrastive_loss
from unihpe_kernels.sv_contrastive import native_backend, native_pairs
from unihpe_kernels.sv_contrastive.arguments import Arguments
from unihpe_kernels.sv_contrastive.native_pairs import NativePairs

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler is found")


def own_scores(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """sigma_1 of every sample's own stack [B, M, D] and its gradient; the other tuples get no weight."""
    size, count, _ = rows.shape
    columns = [part.contiguous() for part in rows.unbind(1)]
    scale = 16.0  # of logits to base 2: rounding of the exponentials is a sixteenth of that in the scores
    pairs = NativePairs(columns, scale, False, rows.new_empty(0))
    scores = pairs.forward()[1][0].double().log2() / scale + pairs.middle
    infinite, one = torch.full((count, size), torch.inf), torch.ones(count, size)
    gradients = pairs.backward(infinite, one, torch.full((size,), -1.0))[0]
    return scores, torch.stack(gradients, 1) / count  # of as many anchors


def special_embeddings(kind: str, count: int) -> list[torch.Tensor]:
    if kind == "random":
        return [e.detach() for e in random_embeddings(count, 64, 32, torch.float32)]
    generator = torch.Generator().manual_seed(count)
    one = torch.randn(64, 32, generator=generator)
    if kind == "mirrored":
        return [(-1) ** m * one for m in range(count)]
    return [one + 0.1 * torch.randn(64, 32, generator=generator) for _ in range(count)]


def check_small_temperature(kind: str, count: int, negatives: str, temperature: float) -> None:
    """Loss and the temperature's gradient against float64, within what float32 scores allow.

    Scores are off by 5e-7 at most. A logit's difference to the own one is off by twice that over the temperature, and
    so are the other tuples' softmax weights, relative to themselves; their sum is less than 1 and less than the loss.
    A softmax weight that is 1 and its logarithm are off by some roundings of 1: in the temperature's gradient those
    are multiplied with how far own scores are from their mean.
    """
    embeddings = special_embeddings(kind, count)
    options = {"temperature": torch.tensor(temperature), "negatives": negatives}
    value, gradients = value_and_gradients(singular_value_contrastive_loss, embeddings, backend="native", **options)
    options["temperature"] = options["temperature"].double()
    doubles = [e.double() for e in embeddings]
    exact, exact_gradients = value_and_gradients(singular_value_contrastive_loss, doubles, backend="torch", **options)
    own = torch.linalg.svdvals(torch.nn.functional.normalize(torch.stack(doubles, 1), dim=2))[:, 0]
    score, roundings = 2 * 5e-7, 4 * torch.finfo(torch.float32).eps
    others = min(exact.item(), 1)
    assert abs(value - exact) <= others * score / temperature + roundings * max(exact.item(), 1)
    of_one = (others * score + roundings * (own - own.mean()).abs().max()) / temperature**2
    wanted = exact_gradients[-1]
    # and a sum in float32 of terms that do not cancel
    assert abs(gradients[-1] - wanted) <= of_one + abs(wanted) * (score / temperature + roundings)


@pytest.mark.parametrize("temperature", [0.01, 0.02])
@pytest.mark.parametrize("kind", ["aligned", "random", "mirrored"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_small_temperature(count, kind, temperature):
    check_small_temperature(kind, count, "paired", temperature)


@pytest.mark.parametrize("kind", ["aligned", "random", "mirrored"])
def test_small_temperature_for_eight(kind):
    """0.01 is too small for float32."""
    check_small_temperature(kind, 8, "paired", 0.02)


@pytest.mark.parametrize("temperature", [0.02, 0.07])
@pytest.mark.parametrize("count", range(2, 9))
def test_one_sample_has_no_loss(count, temperature):
    """Its tuple is all there is."""
    for seed in range(5):
        embeddings = random_embeddings(count, 1, 20, torch.float32, seed)
        tau = torch.tensor(temperature)
        value, gradients = value_and_gradients(
            singular_value_contrastive_loss, embeddings, temperature=tau, backend="native"
        )
        assert value == 0
        assert gradients[-1] == 0


@pytest.mark.parametrize("count", range(2, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_scores_against_svd(count, kind):
    """The gradient is finite and in bound also where it is not unique."""
    rows = stacks(count, kind, torch.float32, samples=403)
    sigma, gradient = own_scores(rows)
    exact = torch.linalg.svd(rows.double(), full_matrices=False)
    eps = torch.finfo(torch.float32).eps
    # products and Gram entries carry a few roundings each, M^2 of them
    assert (sigma.double() - exact.S[:, 0]).abs().max() <= 4 * count * eps
    assert gradient.isfinite().all()
    tangent = gradient.double() - (gradient * rows).sum(-1, keepdim=True) * rows
    assert tangent.norm(dim=-1).max() <= 1 + 1e-5
    wanted = exact.U[:, :, :1] * exact.Vh[:, :1]
    wanted = wanted - (wanted * rows).sum(-1, keepdim=True) * rows
    gap = exact.S[:, 0] - exact.S[:, 1]
    assert ((tangent - wanted).abs().amax((1, 2)) * gap).max() <= 16 * count * eps


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_blocks_smaller_than_the_batch(monkeypatch, count, partial):
    """Three blocks of samples, the last one not of whole vectors."""
    monkeypatch.setattr(native_pairs, "_MOST_KEPT", 0)
    monkeypatch.setattr(native_pairs, "_MOST_IN_TILE", 16**2)
    monkeypatch.setattr(
        "unihpe_kernels.contrastive.native.backend.NativeBackend.cpu_block", 0
    )  # of samples that lack modalities
    generator = torch.Generator().manual_seed(count)
    check_against(
        singular_value_contrastive_loss,
        random_embeddings(count, 41, 8, torch.float32),
        temperature=0.1,
        weights=torch.rand(41, generator=generator),
        present=torch.rand(count, 41, generator=generator) < 0.8 if partial else None,
    )


@pytest.mark.parametrize("kept", [0, 2**20])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_threads_do_not_change_a_bit(monkeypatch, count, kept):
    monkeypatch.setattr(native_pairs, "_MOST_KEPT", kept)
    embeddings = random_embeddings(count, 150, 16, torch.float32)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(value_and_gradients(singular_value_contrastive_loss, embeddings, temperature=torch.tensor(0.1)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(one, three) for one, three in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_memory_is_linear(monkeypatch, count):
    monkeypatch.setattr(native_pairs, "_MOST_KEPT", 2**14)
    monkeypatch.setattr(native_pairs, "_MOST_IN_TILE", 2**14)
    monkeypatch.setattr(scratch, "_held", threading.local())  # of earlier tests, larger
    embeddings = [e.detach() for e in random_embeddings(count, 1024, 8, torch.float32)]
    temperature = torch.tensor(0.1)
    with LargestTensor() as largest:
        given = Arguments(embeddings, temperature, None, None, "paired", True, "native")
        outputs = native_backend.forward(given)
        native_backend.backward(torch.ones(()), given, outputs)
    assert outputs.saved.numel() == count * 1024  # the shares; no table
    # two tables at once; the embeddings are B M D = 32,768; B^2 would be 1,048,576
    assert 2**14 <= largest.elements <= 4 * 2**14


@pytest.mark.parametrize("count", [2, 3, 5])
def test_nan_reaches_the_loss(count):
    embeddings = [e.detach() for e in random_embeddings(count, 20, 8, torch.float32)]
    embeddings[1][17, 3] = torch.nan
    assert singular_value_contrastive_loss(embeddings).isnan()


def test_eight_modalities_at_a_temperature_too_small_for_float32():
    embeddings = random_embeddings(8, 9, 16, torch.float32)
    native_value, _ = value_and_gradients(singular_value_contrastive_loss, embeddings, temperature=0.005)
    exact, _ = value_and_gradients(singular_value_contrastive_loss, [e.double() for e in embeddings], temperature=0.005)
    assert not native_pairs.fits(8, 9, 1.4427 / 0.005)
    assert abs(native_value - exact) <= 1e-6 / 0.005 + 1e-5
