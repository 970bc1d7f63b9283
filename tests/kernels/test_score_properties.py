"""What docs/loss.md says of the scores, of the functions that the engine computes them with."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unihpe_kernels.contrastive import reference
from unihpe_kernels.scores import SCORES

CASES = [(name, count) for name, score in SCORES.items() for count in score.modalities if count <= 5]


def score_of(name: str, rows: Tensor) -> Tensor:
    """Of stacks of unit rows [.., M, D], by the score's own functions of inner products."""
    anchor, *members = rows.unbind(-2)
    products = [(anchor * z).sum(-1) for z in members]
    gram = [(y * z).sum(-1) for y, z in itertools.combinations(members, 2)]
    torch_score = SCORES[name].torch
    return torch_score.score(products, torch_score.members(gram, len(members)))[0]


def stacks(count: int, number: int = 200, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    drawn = torch.randn(number, count, width, generator=generator, dtype=torch.float64)
    # from far apart to nearly parallel
    drawn += 10 ** torch.linspace(-2, 3, number, dtype=torch.float64)[:, None, None] * drawn[:, :1]
    return normalize(drawn, dim=-1)


@pytest.mark.parametrize(("name", "count"), CASES)
def test_the_score_is_its_definition(name: str, count: int) -> None:
    rows = stacks(count)
    # of a volume only its square is good to the last digits
    tolerance = 1e-7 if name == "volume" else 1e-9
    torch.testing.assert_close(score_of(name, rows), reference.score_of(name, rows), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "count"), CASES)
def test_range(name: str, count: int) -> None:
    score = SCORES[name]
    found = score_of(name, stacks(count, width=max(count, 4)))
    slack = 1e-7
    assert found.min() >= score.lowest(count) - slack
    assert found.max() <= score.highest(count) + slack


def test_the_range_of_the_area_is_attained() -> None:
    angles = torch.tensor([0, 1, 2], dtype=torch.float64) * 2 * math.pi / 3
    equilateral = torch.stack([angles.cos(), angles.sin()], dim=-1)
    assert score_of("area", equilateral).item() == pytest.approx(SCORES["area"].lowest(3), rel=1e-12)


@pytest.mark.parametrize(("name", "count"), CASES)
def test_equal_rows_are_the_best(name: str, count: int) -> None:
    row = normalize(torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=0)
    found = score_of(name, row.expand(1, count, 4)).item()
    assert found == pytest.approx(SCORES[name].highest(count), abs=1e-7)


@pytest.mark.parametrize(("name", "count"), CASES)
def test_sign(name: str, count: int) -> None:
    """sigma_1 and the volume do not see the sign of a modality, area and cosine do, of rows that are far apart."""
    rows = stacks(count)[:20]
    for m in range(count):
        negated = rows.clone()
        negated[:, m] *= -1
        same = torch.isclose(score_of(name, negated), score_of(name, rows), rtol=0, atol=1e-7)
        assert same.all() if name in ("singular_value", "volume") else not same.any()


def test_two_equal_rows_and_one_orthogonal_to_them() -> None:
    x, z = torch.eye(4, dtype=torch.float64)[:2]
    rows = torch.stack([x, x, z])
    for order in itertools.permutations(range(3)):
        assert score_of("singular_value", rows[list(order)]).item() == pytest.approx(math.sqrt(2), rel=1e-12)
        # their best value, as of three equal rows
        assert score_of("volume", rows[list(order)]) == 0
        assert score_of("area", rows[list(order)]) == 0
    # so the area does not see the sign of a modality either, once the others agree
    assert score_of("area", torch.stack([-x, x, x])) == 0
    assert [score_of("cosine", rows[[m, n]]).item() for m, n in ((0, 1), (0, 2), (1, 2))] == [1, 0, 0]


def test_the_order_of_modalities_does_not_matter() -> None:
    for name, count in CASES:
        rows = stacks(count)
        for order in itertools.islice(itertools.permutations(range(count)), 6):
            other = score_of(name, rows[:, list(order)])
            torch.testing.assert_close(other, score_of(name, rows), rtol=0, atol=1e-7)


def test_only_the_product_depends_on_the_axes() -> None:
    rows = stacks(3)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    for name in SCORES:
        some = rows[:, : SCORES[name].modalities.start + (name != "cosine")][:, :3]
        torch.testing.assert_close(score_of(name, some @ rotation), score_of(name, some), rtol=0, atol=1e-7)
    product = reference.score_of("product", rows)
    assert (reference.score_of("product", rows @ rotation) - product).abs().max() > 0.1
    negated = torch.cat([-rows[:, :1], rows[:, 1:]], dim=1)
    torch.testing.assert_close(reference.score_of("product", negated), -product)
    assert reference.score_of("product", torch.eye(4)[:1].expand(3, 4)) == 1
