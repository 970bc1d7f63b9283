"""sigma_1 and its gradient in the registers of the Triton kernels: the closed form of three, the arrowhead solver, and
the one that takes inner products as they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_sv_scores import (
    EXACT,
    KINDS,
    NEAR_SYMMETRIC,
    PRODUCT,
    RATIO_BOUND,
    by_eigenvalues,
    spread,
    stacks,
)
from tests.kernels.triton_device import DEVICE, needs_triton
from tests.tolerances import EPS

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
closed_form = pytest.importorskip("unihpe_kernels.sv_contrastive.kernels_score")
arrowhead = pytest.importorskip("unihpe_kernels.sv_contrastive.kernels_arrowhead")
zero_diagonal_vector = pytest.importorskip("unihpe_kernels.sv_contrastive.kernels_zero_diagonal").zero_diagonal_vector
triple_mu, triple_sigma, triple_gradient = closed_form.triple_mu, closed_form.triple_sigma, closed_form.triple_gradient
arrowhead_root, arrowhead_gradient = arrowhead.arrowhead_root, arrowhead.arrowhead_gradient
arrowhead_entry = arrowhead.arrowhead_entry

pytestmark = needs_triton
# the interpreter pays for a program, not for its lanes
LANES = 128 if DEVICE == "cuda" else 2**16
TRIPLE_KINDS = ["uniform", "of unit vectors", "small", "near double", "near aligned", "one large"]


@triton.jit
def _score_triples(triples, sigmas, gradients, n, LANES: tl.constexpr):
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < n
    a = tl.load(triples + lane, mask=inside, other=0.0)
    b = tl.load(triples + n + lane, mask=inside, other=0.0)
    c = tl.load(triples + 2 * n + lane, mask=inside, other=0.0)
    sigma = triple_sigma(a, b, c)
    mu, m, f = triple_mu(a, b, c)
    n_a, n_b, n_c, h = triple_gradient(a, b, c, mu, m, f, sigma)
    tl.store(sigmas + lane, sigma, mask=inside)
    tl.store(gradients + lane, n_a * h, mask=inside)
    tl.store(gradients + n + lane, n_b * h, mask=inside)
    tl.store(gradients + 2 * n + lane, n_c * h, mask=inside)


def score_triples(triples):
    """[N, 3] -> sigma_1 [N] and its gradients [N, 3], in float64."""
    count = len(triples)
    columns = triples.float().T.contiguous().to(DEVICE)
    sigma = torch.full((count,), torch.nan, device=DEVICE)
    gradients = torch.full((3, count), torch.nan, device=DEVICE)
    _score_triples[(triton.cdiv(count, LANES),)](columns, sigma, gradients, count, LANES, enable_fp_fusion=True)
    return sigma.cpu().double(), gradients.T.cpu().double()


def check_triples(triples):
    triples = triples.float()
    sigma, gradients = score_triples(triples)
    exact, exact_gradients, gap = by_eigenvalues(triples)
    assert (sigma - exact).abs().max() <= 5e-7
    assert gradients.isfinite().all()
    assert (gradients * sigma[:, None]).abs().max() <= RATIO_BOUND[torch.float32]
    # an eigenvector is known to rounding over the gap; products below 1e-10 are as good as nothing
    error = (gradients - exact_gradients).abs().amax(1) * gap
    sizeable = triples.abs().amax(1) > 1e-10
    assert (error[sizeable] <= 16 * EPS).all()


def test_closed_form_where_the_rounding_of_1_plus_x_counts():
    """With too small a guard, some 2 in 10^6 of them are off by 2e-5."""
    triples = spread("near double", 2_000_000, torch.Generator().manual_seed(5)).float()
    a, b, c = triples.double().unbind(1)
    cosine = a * b * c / ((a * a + b * b + c * c) / 3) ** 1.5
    check_triples(triples[cosine < -1 + 1e-6])


@pytest.mark.parametrize("kind", TRIPLE_KINDS)
def test_closed_form_of_hard_triples(kind):
    check_triples(spread(kind, 70_003, torch.Generator().manual_seed(0)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRIPLE_KINDS)
def test_closed_form_of_ten_million_triples(kind):
    generator = torch.Generator().manual_seed(1)
    for _ in range(7):
        check_triples(spread(kind, 240_000, generator))


@pytest.mark.parametrize("triple", EXACT)
def test_closed_form_of_exact_triples(triple):
    check_triples(torch.tensor([triple]))


def test_closed_form_of_nothing_pulls_nowhere():
    sigma, gradients = score_triples(torch.zeros(5, 3))
    assert torch.equal(sigma, torch.ones(5, dtype=torch.float64))
    assert not gradients.any()


@settings(max_examples=150, deadline=None)
@given(NEAR_SYMMETRIC)
def test_closed_form_near_a_symmetric_triple(triple):
    check_triples(torch.tensor([triple]))


@settings(max_examples=150, deadline=None)
@given(st.tuples(PRODUCT, PRODUCT, PRODUCT))
def test_closed_form_of_any_triple(triple):
    check_triples(torch.tensor([triple]))


@triton.jit
def _score_arrowheads(products, alphas, gaps, roots, gradients, entries, count, n: tl.constexpr, LANES: tl.constexpr):
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < count
    s = ()
    g = ()
    for k in tl.static_range(n):
        s = s + (tl.load(products + k * count + lane, mask=inside, other=0.0),)  # noqa: RUF005
        g = g + (tl.load(gaps + k * count + lane, mask=inside, other=0.0),)  # noqa: RUF005
    alpha = tl.load(alphas + lane, mask=inside, other=0.0)
    t = arrowhead_root(s, alpha, g, n)
    d_s, vector = arrowhead_gradient(s, alpha, g, t, tl.full([LANES], 2.0, tl.float32), n)
    tl.store(roots + lane, t, mask=inside)
    for p in tl.static_range(n):
        tl.store(gradients + p * count + lane, d_s[p], mask=inside)
        for q in tl.static_range(p, n):
            tl.store(entries + (p * n + q) * count + lane, arrowhead_entry(s, vector, p, q), mask=inside)


def score_arrowheads(products, alpha, gaps):
    """s [N, n], alpha [N], gaps [N, n] -> t [N], d sigma_1/d s [N, n], H [N, n, n], in float64, of weight 1."""
    count, n = products.shape
    root = torch.full((count,), torch.nan, device=DEVICE)
    gradient = torch.full((n, count), torch.nan, device=DEVICE)
    entries = torch.full((n, n, count), torch.nan, device=DEVICE)
    columns = [x.to(DEVICE) for x in (products.T.contiguous(), alpha, gaps.T.contiguous())]
    # not more than the samples there are: the interpreter would work on all lanes
    lanes = min(LANES, triton.next_power_of_2(count))
    grid = (triton.cdiv(count, lanes),)
    _score_arrowheads[grid](*columns, root, gradient, entries, count, n, lanes, enable_fp_fusion=True)
    entries = entries.permute(2, 0, 1).cpu().double() / 2
    lower = torch.ones(n, n, dtype=torch.bool).tril(-1)
    assert entries[:, lower].isnan().all()
    entries = torch.where(lower, entries.mT, entries)
    return root.cpu().double(), gradient.T.cpu().double() / 2, entries


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("kind", KINDS)
def test_arrowhead_against_eigh(n, kind):
    """Whole Gram matrices in the basis of their members, rounded to float32 and taken from there as exact."""
    rows = stacks(n + 1, kind, torch.float64, samples=1009)
    values, vectors = torch.linalg.eigh(rows[:, 1:] @ rows[:, 1:].mT)
    values, vectors = values.flip(1), vectors.flip(2)
    products = (rows[:, :1] @ rows[:, 1:].mT @ vectors)[:, 0].float()
    alpha = (values[:, 0] - 1).clamp(min=0).float()
    gaps = (values[:, :1] - values).clamp(min=0).float()
    root, gradient, entries = score_arrowheads(products, alpha, gaps)

    highest = 1 + alpha.double()
    whole = torch.diag_embed(torch.cat([torch.ones(len(rows), 1), highest[:, None] - gaps], 1).double())
    whole[:, 0, 1:] = whole[:, 1:, 0] = products.double()
    exact, vectors = torch.linalg.eigh(whole)
    sigma = exact[:, -1].sqrt()
    found = (highest + root).sqrt()
    assert (found - sigma).abs().max() <= 2 * EPS

    top = vectors[:, :, -1]
    bound = 0.5 + 8 * EPS  # of the product of two entries of a unit vector
    assert gradient.isfinite().all()
    assert (gradient * sigma[:, None]).abs().max() <= bound
    off_diagonal = entries - torch.diag_embed(entries.diagonal(dim1=1, dim2=2))
    assert (off_diagonal * sigma[:, None, None]).abs().max() <= bound
    assert entries.isfinite().all()
    assert (entries * sigma[:, None, None]).abs().max() <= 1 + 16 * EPS
    gap = exact[:, -1] - exact[:, -2]
    error = (gradient - top[:, :1] * top[:, 1:] / sigma[:, None]).abs().amax(1)
    assert (error * gap).max() <= 16 * EPS
    outer = top[:, 1:, None] * top[:, None, 1:] / sigma[:, None, None]
    assert ((entries - outer).abs().amax((1, 2)) * gap).max() <= 16 * EPS


@triton.jit
def _score_hollows(entries, mus, vectors, count, n: tl.constexpr, LANES: tl.constexpr):
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < count
    h = ()
    for k in tl.static_range(n * (n - 1) // 2):
        h = h + (tl.load(entries + k * count + lane, mask=inside, other=0.0),)  # noqa: RUF005
    mu, vector, inverse_square = zero_diagonal_vector(h, n)
    tl.store(mus + lane, mu, mask=inside)
    for k in tl.static_range(n):
        tl.store(vectors + k * count + lane, vector[k] * tl.sqrt(inverse_square), mask=inside)


def score_hollows(entries, n):
    """[N, n (n - 1)/2] -> mu [N], unit vectors [N, n], in float64."""
    count = len(entries)
    columns = entries.float().T.contiguous().to(DEVICE)
    mu = torch.full((count,), torch.nan, device=DEVICE)
    vectors = torch.full((n, count), torch.nan, device=DEVICE)
    lanes = min(LANES, triton.next_power_of_2(count))
    _score_hollows[(triton.cdiv(count, lanes),)](columns, mu, vectors, count, n, lanes, enable_fp_fusion=True)
    return mu.cpu().double(), vectors.T.cpu().double()


def hollow_stacks(n, kind):
    """Unit rows [N, n, ..] in float64, or zero rows where they are absent."""
    if kind in KINDS:
        return stacks(n, kind, torch.float64, samples=1009)
    generator = torch.Generator().manual_seed(n)
    size = 10 ** (-8 * torch.rand(1009, 1, 1, generator=generator, dtype=torch.float64))
    noise = size * torch.randn(1009, n, n, generator=generator, dtype=torch.float64)
    unit = torch.eye(n, dtype=torch.float64)
    if kind == "near a simplex":  # the largest eigenvalue n - 1 times
        rows = unit - 1 / n + noise
    elif kind == "near pairs":  # n / 2 times
        rows = unit[torch.arange(n) // 2] + noise
    elif kind == "near parallel but the last":
        rows = unit[[0] * (n - 1) + [1]] + noise
    elif kind == "half absent":
        rows = torch.randn(1009, n, 4, generator=generator, dtype=torch.float64)
    rows = torch.nn.functional.normalize(rows, dim=-1)
    if kind == "half absent":
        rows[torch.rand(1009, n, generator=generator) < 0.5] = 0
    return rows


@pytest.mark.parametrize("n", range(4, 9))
@pytest.mark.parametrize("kind", [*KINDS, "near a simplex", "near pairs", "near parallel but the last", "half absent"])
def test_hollow_against_eigh(n, kind):
    """Inner products rounded to float32 and taken from there as exact."""
    rows = hollow_stacks(n, kind)
    upper, lower = torch.triu_indices(n, n, 1)
    entries = (rows @ rows.mT)[:, upper, lower].float()
    whole = torch.zeros(len(rows), n, n, dtype=torch.float64)
    whole[:, upper, lower] = whole[:, lower, upper] = entries.double()
    values, exact = torch.linalg.eigh(whole)
    mu, vectors = score_hollows(entries, n)
    sigma = (1 + values[:, -1]).sqrt()
    # of n rows: some three roundings for each reflection of numbers up to n
    assert ((1 + mu).sqrt() - sigma).abs().max() <= n * EPS
    assert (vectors.square().sum(1) - 1).abs().max() <= 8 * EPS
    outer, top = (v[:, :, None] * v[:, None, :] for v in (vectors, exact[:, :, -1]))
    # of a repeated eigenvalue it is any vector of its space
    gap = values[:, -1] - values[:, -2]
    assert ((outer - top).abs().amax((1, 2)) * gap).max() <= 128 * EPS
    residual = (whole @ vectors[:, :, None])[:, :, 0] - values[:, -1:] * vectors
    assert residual.norm(dim=1).max() <= 512 * EPS


@pytest.mark.parametrize("n", [4, 8])
def test_hollow_keeps_a_nan(n):
    """Every entry has a say: a maximum would swallow it."""
    count = n * (n - 1) // 2
    entries = torch.full((count, count), 0.25)
    entries.fill_diagonal_(torch.nan)
    mu, _ = score_hollows(entries, n)
    assert mu.isnan().all()
