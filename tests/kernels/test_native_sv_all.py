"""What is the C++ backend's own in "all" of three modalities; test_sv_loss.py has it compute what all backends do."""

import pytest
import torch

from tests.kernels.sv_cases import random_embeddings, value_and_gradients
from tests.kernels.test_native_sv_pairs import check_small_temperature
from tests.support.memory import peak_bytes
from tests.tolerances import SV_GRADIENT, SV_LOSS
from unihpe_kernels import native, singular_value_contrastive_loss
from unihpe_kernels.sv_contrastive.native_triples import SOURCE

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler is found")


def run(embeddings, backend="native", **options):
    return value_and_gradients(singular_value_contrastive_loss, embeddings, negatives="all", backend=backend, **options)


def test_the_library_compiles():
    assert native.obstacle(SOURCE) is None


@pytest.mark.parametrize("batch", [1, 2, 15, 16, 17, 31, 101, 131])
def test_batches_about_whole_vectors_and_tiles(batch):
    embeddings = random_embeddings(3, batch, 20, torch.float32)
    options = {"temperature": torch.tensor(0.1), "weights": torch.linspace(0, 2, batch)}
    value, gradients = run(embeddings, **options)
    doubles = {name: option.double() for name, option in options.items()}
    exact, exact_gradients = run([e.double() for e in embeddings], backend="torch", **doubles)
    assert abs(value - exact) <= SV_LOSS[torch.float32]
    for gradient, wanted in zip(gradients[:3], exact_gradients[:3], strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=SV_GRADIENT[torch.float32])
    # differences of sums of scores over the temperature squared, and losses
    assert abs(gradients[3] - exact_gradients[3]) <= 1e-4
    torch.testing.assert_close(gradients[4].double(), exact_gradients[4], rtol=0, atol=SV_LOSS[torch.float32])


def test_more_samples_than_small_tiles_hold():
    """Beyond 512 tiles grow with the batch; the last one is not whole."""
    embeddings = random_embeddings(3, 517, 16, torch.float32)
    value, gradients = run(embeddings, temperature=0.1)
    other, other_gradients = run(embeddings, backend="torch", temperature=0.1)
    assert abs(value - other) <= 2 * SV_LOSS[torch.float32]
    for gradient, wanted in zip(gradients, other_gradients, strict=True):
        # entries are of the size of 1/B
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=0.1 * SV_GRADIENT[torch.float32])


def test_threads_change_no_bit(monkeypatch):
    embeddings = random_embeddings(3, 75, 20, torch.float32)
    results = []
    for threads in (1, 2, 3, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        value, gradients = run(embeddings, temperature=torch.tensor(0.1))
        results.append([value, *gradients])
    for result in results[1:]:
        for part, first in zip(result, results[0], strict=True):
            assert torch.equal(part, first)


def test_nothing_is_read_before_it_is_written():
    """Deterministic algorithms fill new memory with NaN."""
    embeddings = random_embeddings(3, 21, 5, torch.float32)
    clean = run(embeddings, temperature=torch.tensor(0.1))
    torch.use_deterministic_algorithms(True)
    try:
        poisoned = run(embeddings, temperature=torch.tensor(0.1))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(poisoned[0], clean[0])
    for gradient, wanted in zip(poisoned[1], clean[1], strict=True):
        assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("temperature", [0.001, 0.0055, 0.006])
def test_small_temperature_that_is_a_tensor(temperature):
    """On both sides of what float32 holds; a number that small goes to the torch backend at once."""
    embeddings = random_embeddings(3, 23, 20, torch.float32)
    value, gradients = run(embeddings, temperature=torch.tensor(temperature))
    tau = torch.tensor(temperature).double()
    exact, exact_gradients = run([e.double() for e in embeddings], backend="torch", temperature=tau)
    # as check_temperature: scores good to 5e-7, over tau, and softmax weights off by that over tau again
    assert abs(value - exact) <= 1e-6 / temperature + 1e-5
    for gradient, wanted in zip(gradients[:3], exact_gradients[:3], strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=1e-6 / temperature**2 + 1e-6)


@pytest.mark.parametrize("temperature", [0.01, 0.02])
@pytest.mark.parametrize("kind", ["aligned", "random", "mirrored"])
def test_small_temperature(kind, temperature):
    check_small_temperature(kind, 3, "all", temperature)


@pytest.mark.parametrize("temperature", [0.01, 0.07])
def test_one_sample_has_no_loss(temperature):
    """Its triple is all there is."""
    for seed in range(5):
        value, gradients = run(random_embeddings(3, 1, 20, torch.float32, seed), temperature=torch.tensor(temperature))
        assert value == 0
        assert gradients[-1] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="resident memory is that of the CPU")
def test_memory_is_that_of_gram_matrices():
    embeddings = random_embeddings(3, 512, 256, torch.float32)
    run([e[:5] for e in embeddings])  # loads libraries
    peak = peak_bytes(lambda: run(embeddings))
    if peak is None:
        pytest.skip("no /proc")
    # three Gram matrices and their gradients are 6 MiB, rows and their gradients 2.5 MiB twice; B^3 would be 512 MiB
    assert peak <= 32 * 2**20
