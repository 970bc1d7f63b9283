"""sigma_1 and its gradient by the closed form and by the arrowhead solver, where eigenvalues meet."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import SIGMA
from unihpe_kernels import native
from unihpe_kernels.contrastive.contract import Options
from unihpe_kernels.contrastive.paired import add_own
from unihpe_kernels.contrastive.torch_blocks import BACKEND
from unihpe_kernels.scores import SCORES
from unihpe_kernels.sv_contrastive import native_triples
from unihpe_kernels.sv_contrastive.closed_form import Operand, TripleTile

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler is found")

HARD = ["uniform", "of unit vectors", "small", "near double", "near aligned", "one large"]
# |d sigma_1 / d a| sigma_1 is the product of two entries of a unit vector, at most 1/2; two roundings on top
RATIO_BOUND = {torch.float32: 0.5 + 2.4e-7, torch.float64: 0.5 + 4.5e-16}


def closed_form(triples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, 3] -> sigma_1 [N] and its gradients [N, 3]; the buffers start as NaN."""
    columns = triples.unbind(1)
    tile = TripleTile(len(triples), columns[0])
    tile._store.fill_(torch.nan)
    sigma = tile.sigma(*(Operand.of(column.contiguous()) for column in columns), (len(triples),)).clone()
    gradients = torch.stack([g.clone() for g in tile.gradients(torch.ones_like(sigma))], 1)
    return sigma, gradients


def by_eigenvalues(triples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """sigma_1 [N], gradients [N, 3] and the gap of the two largest eigenvalues [N], in float64."""
    a, b, c = triples.double().unbind(1)
    one = torch.ones_like(a)
    gram = torch.stack([torch.stack(row, -1) for row in ((one, a, b), (a, one, c), (b, c, one))], -2)
    values, vectors = torch.linalg.eigh(gram)
    sigma = values[:, 2].clamp(min=1).sqrt()
    x, y, z = vectors[:, :, 2].unbind(1)
    return sigma, torch.stack([x * y, x * z, y * z], 1) / sigma[:, None], values[:, 2] - values[:, 1]


def native_closed_form(triples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `closed_form`, by C++."""
    sigma, gradients = torch.full((len(triples),), torch.nan), torch.full((3, len(triples)), torch.nan)
    native.call(native_triples.SOURCE, "triple_scores", triples.T.contiguous(), len(triples), sigma, gradients)
    return sigma, gradients.T


def check_triples(triples: torch.Tensor, method: Callable[..., Any] = closed_form) -> None:
    sigma, gradients = method(triples)
    exact, exact_gradients, gap = by_eigenvalues(triples)
    assert (sigma.double() - exact).abs().max() <= SIGMA[triples.dtype]
    assert gradients.isfinite().all()
    assert (gradients * sigma[:, None]).abs().max() <= RATIO_BOUND[triples.dtype]
    # an eigenvector is known to rounding over the gap; products below 1e-10 are as good as nothing
    eps = torch.finfo(triples.dtype).eps
    error = (gradients.double() - exact_gradients).abs().amax(1) * gap
    sizeable = triples.double().abs().amax(1) > 1e-10
    assert (error[sizeable] <= 16 * eps).all()


def spread(kind: str, count: int, generator: torch.Generator) -> torch.Tensor:
    """Triples [count, 3] of one hard kind, float64."""

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    values, small = 2 * uniform(count, 3) - 1, 10 ** (-12 * uniform(count, 1))
    if kind == "uniform":
        return values
    if kind == "of unit vectors":
        x = torch.nn.functional.normalize(torch.randn(count, 3, 4, generator=generator, dtype=torch.float64), dim=-1)
        gram = x @ x.mT
        return torch.stack([gram[:, 0, 1], gram[:, 0, 2], gram[:, 1, 2]], 1)
    if kind == "small":
        return values * small
    if kind == "near double":  # a = b = c < 0, and the same with two signs turned
        signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])[torch.arange(count) % 4]
        return (-0.5 * uniform(count, 1) * signs + small * values).clamp(-1, 1)
    if kind == "near aligned":
        return 1 - small * uniform(count, 3)
    if kind == "one large":
        return values * torch.tensor([1, 1e-6, 1e-6])
    raise ValueError(kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", HARD)
def test_closed_form_of_hard_triples(kind, dtype):
    check_triples(spread(kind, 50_000, torch.Generator().manual_seed(0)).to(dtype))


@pytest.mark.parametrize("kind", HARD)
@needs_compiler
def test_native_closed_form_of_hard_triples(kind):
    check_triples(spread(kind, 100_003, torch.Generator().manual_seed(0)).float(), native_closed_form)


@needs_compiler
def test_native_closed_form_of_next_to_nothing():
    """Of nothing no gradient, of a NaN NaN, and neither reaches its neighbours."""
    triples = torch.tensor([[0.0, 0.0, 0.0], [torch.nan, 0.1, 0.2], [1e-12, 2e-13, -3e-13], [1e-30, 1e-30, 1e-30]])
    sigma, gradients = native_closed_form(triples)
    assert torch.equal(sigma[[0, 2, 3]], torch.ones(3))
    assert sigma[1].isnan()
    assert torch.equal(gradients[0], torch.zeros(3))
    assert gradients[1].isnan().all()
    torch.testing.assert_close(gradients[2].double(), by_eigenvalues(triples[2:3] * 1e9)[1][0], rtol=1e-3, atol=0)
    assert gradients[3].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("method", [closed_form, pytest.param(native_closed_form, marks=needs_compiler)])
@pytest.mark.parametrize("kind", HARD)
def test_closed_form_of_ten_million_triples(kind, method):
    generator = torch.Generator().manual_seed(1)
    # C++ does the work on a CPU; torch's takes the same steps in float32 and is slower
    for _ in range(17 if method is native_closed_form else 3):
        check_triples(spread(kind, 100_000, generator).float(), method)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("recalled", [False, True])
def test_sums_of_gradients(dtype, recalled):
    """Unit vectors' inner products, away from a double eigenvalue: |a - b| of at least 0.2."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = (
        (low + width * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for low, width, shape in ((-0.9, 0.3, (3, 5, 1)), (0.1, 0.3, (3, 1, 7)), (-0.4, 0.8, (1, 5, 7)))
    )
    weight = torch.rand(3, 5, 7, generator=generator, dtype=dtype)
    triples = torch.stack([x.expand(3, 5, 7).flatten() for x in (a, b, c)], 1)
    exact = by_eigenvalues(triples)[1].view(3, 5, 7, 3) * weight.double()[..., None]

    tile = TripleTile(3 * 5 * 7, a)
    tile._store.fill_(torch.nan)
    operands = [Operand.of(x) for x in (a, b, c)]
    kept = list(torch.full((2, 3, 5, 7), torch.nan, dtype=dtype))
    tile.sigma(*operands, (3, 5, 7), kept)
    weight *= tile.slopes()
    if recalled:
        tile = TripleTile(3 * 5 * 7, a)
        tile._store.fill_(torch.nan)
        tile.recall(*operands, (3, 5, 7), kept[0])
    sums = [torch.ones(shape, dtype=dtype) for shape in ((3, 5), (3, 7), (5, 7))]
    tile.add_sums(weight, *sums)
    for n, axis in enumerate((2, 1, 0)):
        # up to seven terms of at most 1/2
        tolerance = 64 * torch.finfo(dtype).eps
        torch.testing.assert_close(sums[n].double() - 1, exact[..., n].sum(axis), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_least_gap(dtype):
    """(3 mu^2 - p)/p, by eigenvalues, of the triple nearest to a double one."""
    triples = torch.tensor([[-0.5, -0.5, -0.5 + 1e-3], [0.3, 0.2, -0.7], [0.9, 0.9, 0.9]], dtype=dtype)
    tile = TripleTile(3, triples)
    tile.sigma(*(Operand.of(column.contiguous()) for column in triples.unbind(1)), (3,))
    nearest = triples[0].double()
    mu = by_eigenvalues(triples)[0][0] ** 2 - 1
    gap = 3 * mu * mu / nearest.square().sum() - 1
    torch.testing.assert_close(tile.least_gap().double(), gap / (4 / 3) ** 0.5, rtol=2e-3, atol=0)


EXACT = [(-0.5, -0.5, -0.5), (0.5, 0.5, -0.5), (0, 0, 0), (1, 1, 1), (1, -1, -1), (1, 0, 0), (0, -1, 0), (-1, -1, -1)]
EXACT += [(1e-12, 1e-12, 1e-12), (-1e-12, -1e-12, -1e-12), (0, 1e-12, 0), (1e-30, -1e-30, 1e-30), (0.6, 0.8, 0.48)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("triple", EXACT)
def test_closed_form_of_exact_triples(triple, dtype):
    check_triples(torch.tensor([triple], dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_of_nothing_pulls_nowhere(dtype):
    sigma, gradients = closed_form(torch.zeros(5, 3, dtype=dtype))
    assert torch.equal(sigma, torch.ones(5, dtype=dtype))
    assert torch.equal(gradients, torch.zeros(5, 3, dtype=dtype))


PRODUCT = st.floats(-1, 1, width=32)


def _beside(base, signs, offsets, power):
    pairs = zip(signs, offsets, strict=True)
    return [max(-1.0, min(1.0, base * sign + offset * 10.0**-power)) for sign, offset in pairs]


NEAR_SYMMETRIC = st.builds(
    _beside,
    base=PRODUCT,
    signs=st.sampled_from([(1, 1, 1), (1, -1, -1)]),
    offsets=st.tuples(*[PRODUCT] * 3),
    power=st.integers(0, 12),
)


@settings(max_examples=300, deadline=None)
@given(NEAR_SYMMETRIC)
def test_closed_form_near_a_symmetric_triple(triple):
    for dtype in (torch.float32, torch.float64):
        check_triples(torch.tensor([triple], dtype=dtype))


@settings(max_examples=300, deadline=None)
@given(st.tuples(PRODUCT, PRODUCT, PRODUCT))
def test_closed_form_of_any_triple(triple):
    for dtype in (torch.float32, torch.float64):
        check_triples(torch.tensor([triple], dtype=dtype))


def stacks(count: int, kind: str, dtype: torch.dtype, samples: int = 2000, width: int = 6) -> torch.Tensor:
    """[samples, count, width] unit rows of one hard kind."""
    generator = torch.Generator().manual_seed(count)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = normal(samples, count, width)
    if kind == "clusters":  # rows that agree to 1 .. 1e-8 with one of two directions
        centres = normal(samples, 2, width)
        pick = torch.randint(0, 2, (samples, count, 1), generator=generator).expand(-1, -1, width)
        rows = centres.gather(1, pick) + rows * 10 ** (-8 * torch.rand(samples, count, 1, generator=generator))
    elif kind == "anchor nearly orthogonal":
        rows[..., 0] = 0
        rows[:, 0] *= 10 ** (-10 * torch.rand(samples, 1, generator=generator))
        rows[:, 0, 0] = 1
    elif kind == "all orthogonal":
        rows = torch.linalg.qr(normal(samples, max(count, width), max(count, width)))[0][:, :count]
    elif kind == "all parallel":
        rows = normal(samples, 1, width).expand(-1, count, -1) * (1 - 2.0 * (rows[..., :1] > 0))
    return torch.nn.functional.normalize(rows, dim=-1).to(dtype)


KINDS = ["random", "clusters", "anchor nearly orthogonal", "all orthogonal", "all parallel"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", range(2, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_scores_against_svd(count, kind, dtype):
    """Each sample's own stack against the SVD; the gradient finite and in bound also where it is not unique."""
    rows = stacks(count, kind, dtype)
    units = rows.transpose(0, 1).contiguous()
    options = Options(SCORES["singular_value"], count, tuple(range(count)), scale=1.0, shift=0.0, middle=0.0)
    inner = BACKEND.inner(units)
    sigma = BACKEND.positives(inner, options)
    exact = torch.linalg.svd(rows.double(), full_matrices=False)
    eps = torch.finfo(dtype).eps
    # products and Gram entries carry a few roundings each, M^2 of them; in float64 so does the SVD
    assert (sigma.double() - exact.S[:, 0]).abs().max() <= 4 * count * eps

    d_units = torch.zeros_like(units)
    add_own(d_units, units, BACKEND.positives_gradient(inner, options, torch.ones_like(sigma)))
    gradient = d_units.transpose(0, 1).double()
    assert gradient.isfinite().all()
    # d sigma_1 = u^T dZ v, each row of length |u_m| <= 1 before it is projected
    tangent = gradient - (gradient * rows).sum(-1, keepdim=True) * rows
    assert tangent.norm(dim=-1).max() <= 1 + 1e-5
    wanted = exact.U[:, :, :1] * exact.Vh[:, :1]
    wanted = wanted - (wanted * rows).sum(-1, keepdim=True) * rows
    gap = exact.S[:, 0] - (exact.S[:, 1] if exact.S.shape[1] > 1 else 0)
    error = (tangent - wanted).abs().amax((1, 2)) * gap
    assert error.max() <= 16 * count * eps
