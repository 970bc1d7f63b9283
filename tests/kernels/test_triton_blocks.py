"""One block of "paired" by the Triton kernels against the same block in plain torch and float64: every score, number of
modalities, form and way, at odd sizes, with several tiles and splits, in poisoned memory."""

import math

import pytest
import torch
from torch import Tensor

from tests.kernels.triton_device import DEVICE, needs_triton
from tests.kernels.triton_sv_cases import poisoned_buffers  # noqa: F401
from unihpe_kernels.contrastive.contract import Block, Centers, Factors, Options, Samples, Statistics
from unihpe_kernels.contrastive.torch_blocks import BACKEND as TORCH
from unihpe_kernels.scores import LOG2_E, SCORES

pytest.importorskip("triton")
backend = pytest.importorskip("unihpe_kernels.contrastive.triton.backend")
pytestmark = [needs_triton, pytest.mark.usefixtures("poisoned_buffers")]

ROWS, COLUMNS, WIDTH = 11, 37, 12
TWO_WAYS, ONE_WAY, DIAGONAL = (True, False), (False, False), (False, True)
PLAIN = {"with_scores": False}
BOTH = {"both": True, "with_totals": True}  # directions, and label smoothing
SIGMOID = {"sigmoid": True, "shift": -1.5, "with_totals": True}
SMALL = {"tile_i": 8, "tile_j": 32, "tile_long": 32, "tile_short": 16, "programs": 4}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    chosen = backend.settings
    monkeypatch.setattr(backend, "settings", lambda *arguments: chosen(*arguments) | SMALL)


def make_options(score: str, count: int, anchors: tuple[int, ...] = (), shift: float | None = None, **flags) -> Options:
    middle, scale = SCORES[score].middle(count), LOG2_E / 0.1
    return Options(
        SCORES[score],
        count,
        anchors or tuple(range(count)),
        scale,
        -middle * scale if shift is None else shift,
        middle,
        **flags,
    )


def _embeddings(count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, WIDTH, generator=generator) for _ in range(8)]


def _samples(of, options: Options, embeddings: list[Tensor]) -> Samples:
    units, _ = of.units(embeddings, True, None)
    inner = of.inner(units)
    samples = Samples(units, of.members(inner, options), inner)
    samples.sums = of.new_sums(samples, options)
    return samples


def _needed(options: Options, two_ways: bool, m: int, slot: int) -> bool:
    return m in options.anchors or (two_ways and slot + (slot >= m) in options.anchors)


def _results(of, options: Options, ways: tuple[bool, bool], dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """All that the functions of a backend make of a block."""
    two_ways, diagonal = ways
    count = options.num_modalities
    rows = _samples(of, options, [e.to(device, dtype) for e in _embeddings(ROWS, 0)[:count]])
    columns = rows
    if not diagonal:
        columns = _samples(of, options, [e.to(device, dtype) for e in _embeddings(COLUMNS, 1)[:count]])
    a, b = rows.units.shape[1], columns.units.shape[1]
    products = torch.full(
        (count, count - 1, a, b), torch.nan, dtype=dtype, device=device
    )  # what is not filled is not read
    for m in range(count):
        for slot in range(count - 1):
            if _needed(options, two_ways, m, slot):
                other = slot + (slot >= m)
                of.products(products[m, slot : slot + 1], rows.units[m], columns.units[other : other + 1])
    centers = Centers(of.positives(rows.inner, options), of.positives(columns.inner, options))
    block = Block(products, rows, columns, two_ways, diagonal)
    results = {"positives": centers.rows}
    for name, statistics in of.forward(block, options, centers)._asdict().items():
        for kind, part in (statistics or Statistics(None))._asdict().items():
            if part is not None:
                results[f"{name} {kind}"] = part.flatten(0, -3).sum(0) if part.dim() > 2 else part
    generator = torch.Generator().manual_seed(2)
    smoothed = options.with_totals and not options.sigmoid

    def factor(size: int, wanted: bool = True) -> Tensor | None:
        values = torch.rand(len(options.anchors), size, generator=generator, dtype=torch.float64)
        return values.to(device, dtype) if wanted else None

    def factors(anchors: int, tuples: int) -> Factors:
        both = options.both
        return Factors(
            factor(anchors), factor(tuples, both), factor(anchors, smoothed), factor(tuples, both and smoothed)
        )

    of_rows, of_columns = factors(a, b), factors(b, a)
    out = products if of.in_place(options) else torch.full_like(products, torch.nan)
    of.backward(block, options, of_rows, of_columns if two_ways else None, out)
    for m in range(count):
        for slot in range(count - 1):
            if _needed(options, two_ways, m, slot):
                results[f"d_products {m} {slot}"] = out[m, slot]
    results["own of columns"] = of.own(columns, options)
    if two_ways:
        results["own of rows"] = of.own(rows, options)
    weight = factor(a)[0]
    results["positives' gradient"] = of.positives_gradient(rows.inner, options, weight)
    return results


def check(score: str, count: int, ways: tuple[bool, bool], flags: dict, anchors: tuple[int, ...] = ()) -> None:
    options = make_options(score, count, anchors, **flags)
    exact = _results(TORCH, options, ways, torch.float64, "cpu")
    found = _results(backend.BACKEND, options, ways, torch.float32, DEVICE)
    assert exact.keys() == found.keys()
    for name, wanted in exact.items():
        # exponents of up to 1 / 0.1 of scores good to 5e-7; volumes divide by themselves
        tolerance = (6e-5 if score == "volume" else 2e-5) * max(wanted.abs().max().item(), 1e-6)
        error = (found[name].cpu().double() - wanted).abs().max()
        assert error <= tolerance, name  # a NaN is not


CASES = [(score, count) for score, known in SCORES.items() for count in (2, 3) if count in known.modalities]


# what a form or a way does is the same for all scores: every score is taken once, every form and way with some of them
FEW = [("cosine", 2), ("singular_value", 3)]
BEYOND = [pytest.param(*case, marks=[] if case in FEW else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("score", "count"), CASES)
def test_both_ways_at_once(score, count):
    check(score, count, TWO_WAYS, BOTH)


@pytest.mark.parametrize(("score", "count"), BEYOND)
def test_both_ways_at_once_with_sigmoid(score, count):
    check(score, count, TWO_WAYS, SIGMOID)


@pytest.mark.parametrize(("score", "count"), BEYOND)
def test_one_way_over_a_diagonal(score, count):
    check(score, count, DIAGONAL, PLAIN)


def test_one_way_of_few():
    check("area", 3, ONE_WAY, PLAIN)


@pytest.mark.parametrize(("score", "count", "anchors"), [("volume", 3, (0,)), ("cosine", 2, (1,))])
def test_some_modalities_are_anchors(score, count, anchors):
    check(score, count, TWO_WAYS, PLAIN, anchors)


# of sigma_1 and more modalities the interpreter takes long
@pytest.mark.parametrize(
    ("score", "count", "ways", "flags", "anchors"),
    [
        ("volume", 4, TWO_WAYS, BOTH, ()),
        ("volume", 8, ONE_WAY, PLAIN, (7,)),
        ("singular_value", 4, TWO_WAYS, PLAIN, (0, 3)),
    ],
)
def test_four_modalities_and_more(score, count, ways, flags, anchors):
    check(score, count, ways, flags, anchors)


def test_equal_bits_in_two_runs():
    options = make_options("singular_value", 3)
    first, second = (_results(backend.BACKEND, options, TWO_WAYS, torch.float32, DEVICE) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("case", ["aligned", "collinear members", "one row for all"])
@pytest.mark.parametrize(
    ("score", "count"), [("volume", 2), ("volume", 3), pytest.param("volume", 4, marks=pytest.mark.slow), ("area", 3)]
)
def test_gradients_where_vectors_depend(score, count, case):
    """Finite, and of the size that the floor of the volume allows."""
    embeddings = [e.to(DEVICE) for e in _embeddings(ROWS, 0)[:count]]
    if case == "aligned":
        embeddings = [embeddings[0]] * count
    elif case == "collinear members":
        embeddings = [embeddings[0], *[embeddings[1]] * (count - 1)]
    else:
        embeddings = [e[:1].expand(ROWS, WIDTH).contiguous() for e in embeddings]
    known = SCORES[score]
    options = make_options(score, count, with_scores=False)
    of = backend.BACKEND
    rows = _samples(of, options, embeddings)
    products = torch.empty((count, count - 1, ROWS, ROWS), dtype=torch.float32, device=DEVICE)
    for m in range(count):
        for slot in range(count - 1):
            other = slot + (slot >= m)
            of.products(products[m, slot : slot + 1], rows.units[m], rows.units[other : other + 1])
    block = Block(products, rows, rows, False, True)
    factors = Factors(torch.full((count, ROWS), 1 / ROWS, device=DEVICE))
    out = torch.empty_like(products)
    of.backward(block, options, factors, None, out)
    inner = of.own(rows, options), of.positives_gradient(rows.inner, options, torch.ones(ROWS, device=DEVICE))
    for gradient in (out, *inner):
        assert gradient.isfinite().all()
    # cofactors are at most 1, exponentials exp(range / 2 tau)
    largest = math.exp((known.highest(count) - known.lowest(count)) / 2 / 0.1) * 1e4
    assert out.abs().max() <= largest


@pytest.mark.parametrize("score", ["volume", "singular_value"])
def test_rows_of_any_length(score):
    """Squares of the first would overflow; the last are shorter than what has a direction."""
    base = _embeddings(7, 3)[:2]
    lengths = torch.tensor([1e30, 1e20, 1.0, 1e-5, 1e-10, 1e-15, 0.0])[:, None]
    units, inverse_norms = backend.BACKEND.units([(e * lengths).to(DEVICE) for e in base], True, None)
    exact = [torch.nn.functional.normalize(e, dim=1) * (lengths > 1e-12) for e in base]
    torch.testing.assert_close(units.cpu(), torch.stack(exact), rtol=0, atol=2e-7)
    assert inverse_norms.isfinite().all()
    options = make_options(score, 2)
    assert backend.BACKEND.positives(backend.BACKEND.inner(units), options).isfinite().all()
