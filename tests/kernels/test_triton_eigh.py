"""The symmetric eigen-solver inside the Triton kernels, against torch.linalg.eigh in float64."""

import pytest
import torch

from tests.kernels.triton_device import DEVICE, needs_triton
from tests.tolerances import EPS

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
solver = pytest.importorskip("unihpe_kernels.small_linalg.eigh_kernels")
symmetric_eigen = solver.symmetric_eigen

pytestmark = needs_triton
EACH = 16  # matrices of a kind
LANES = 256  # a power of two, at least EACH times the kinds


@triton.jit
def _solve(matrices, values_out, vectors_out, n: tl.constexpr, LANES: tl.constexpr):
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    entries = ()
    for i in tl.static_range(n):
        for j in tl.static_range(i, n):
            entries = entries + (tl.load(matrices + (lane * n + i) * n + j),)  # noqa: RUF005
    values, vectors = symmetric_eigen(entries, n)
    for k in tl.static_range(n):
        tl.store(values_out + lane * n + k, values[k])
        for i in tl.static_range(n):
            tl.store(vectors_out + (lane * n + k) * n + i, vectors[k * n + i])


def eigen(matrices):
    """[LANES, n, n] -> values [LANES, n], vectors [LANES, n, n] in rows."""
    count = matrices.shape[1]
    values = torch.full((LANES, count), torch.nan, device=DEVICE)
    vectors = torch.full((LANES, count, count), torch.nan, device=DEVICE)
    # the lower triangle is not the solver's to read
    lower = torch.ones(count, count, dtype=torch.bool).tril(-1)
    upper = matrices.float().masked_fill(lower, torch.nan).to(DEVICE)
    _solve[(1,)](upper, values, vectors, count, LANES, num_warps=1)
    return values.cpu().double(), vectors.cpu().double()


def hard_matrices(count):
    """kind -> [EACH, n, n]"""
    generator = torch.Generator().manual_seed(count)

    def randn(*size):
        return torch.randn(EACH, *size, generator=generator, dtype=torch.float64)

    def with_values(values):
        basis = torch.linalg.qr(randn(count, count)).Q
        return (basis * values[:, None, :]) @ basis.mT

    unit = torch.nn.functional.normalize(randn(count, 16), dim=-1)
    noisy = torch.nn.functional.normalize(randn(1, 16) + 1e-3 * randn(count, 16), dim=-1)
    simplex = torch.full((count, count), -1 / max(count - 1, 1), dtype=torch.float64).fill_diagonal_(1)
    square = randn(count, count)
    return {
        "indefinite": square + square.mT,
        "Gram": unit @ unit.mT,
        "nearly aligned": noisy @ noisy.mT,
        "aligned": torch.ones(EACH, count, count, dtype=torch.float64),
        "simplex": simplex.expand(EACH, count, count),
        "graded": with_values(10 ** -torch.arange(count, dtype=torch.float64).expand(EACH, count)),
        "one cluster": with_values(1 + 1e-5 * randn(count)),
        "two clusters": with_values(torch.where(randn(count) < 0, 0.0, 1.0) + 1e-6 * randn(count)),
        "plus and minus one": with_values(randn(count).sign()),
        "diagonal": torch.diag_embed(randn(count)),
        "identity": torch.eye(count, dtype=torch.float64).expand(EACH, count, count),
        "zero": torch.zeros(EACH, count, count, dtype=torch.float64),
    }


def gram_matrices(count):
    unit = torch.nn.functional.normalize(torch.randn(LANES, count, 16, generator=torch.Generator().manual_seed(0)))
    return (unit @ unit.mT).double()


@pytest.mark.parametrize("count", range(1, 9))
def test_matches_eigh(count):
    kinds = hard_matrices(count)
    matrices = torch.zeros(LANES, count, count, dtype=torch.float64)
    matrices[: EACH * len(kinds)] = torch.cat(list(kinds.values()))
    matrices = (matrices + matrices.mT).float().double()
    values, vectors = eigen(matrices)
    assert (values.diff(dim=1) <= 0).all()
    exact = torch.linalg.eigvalsh(matrices).flip(1)
    size = exact.abs().amax(1)
    wrong = (values - exact).abs().amax(1) / size
    skew = (vectors @ vectors.mT - torch.eye(count)).abs().amax((1, 2))
    # a vector is one of its value; inside a cluster that converges last
    left = (vectors @ matrices - values[..., None] * vectors).abs().amax((1, 2)) / size
    # Measured at most 1 + n / 2 eps for the values and 2 n for the vectors; a GPU's square roots and quotients are an
    # ulp looser than the interpreter's.
    for k, kind in enumerate(kinds):
        lanes = slice(k * EACH, (k + 1) * EACH)
        assert skew[lanes].max() <= (4 + 2 * count) * EPS, kind
        if kind == "zero":
            assert not values[lanes].any()
            continue
        assert wrong[lanes].max() <= (3 + count) * EPS, kind
        assert left[lanes].max() <= (1e-4 if kind == "two clusters" else 16 * EPS), kind


@pytest.mark.parametrize("scale", [1e-10, 1e15])
def test_scale(scale):
    matrices = (gram_matrices(5) * scale).float().double()
    values, _ = eigen(matrices)
    exact = torch.linalg.eigvalsh(matrices).flip(1)
    assert ((values - exact).abs() <= 8 * EPS * exact[:, :1]).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy speaks of inf - inf
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_bad_lane_is_spoiled_alone(bad):
    matrices = gram_matrices(4)
    clean = eigen(matrices)
    matrices[5, 0, 2] = matrices[5, 2, 0] = bad
    values, vectors = eigen(matrices)
    assert values[5].isnan().all()
    others = torch.arange(LANES) != 5
    assert torch.equal(values[others], clean[0][others])
    assert torch.equal(vectors[others], clean[1][others])
