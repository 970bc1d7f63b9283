import numpy as np
import pytest

from unihpe_fast.data.sampling import Order


def test_an_epoch_shows_every_sample_once_in_an_order_of_its_own() -> None:
    order = Order([7, 5], (), seed=3)
    epochs = [order.at(12 * k, 12 * (k + 1)) for k in range(4)]
    for source, row in epochs:
        assert sorted(zip(source.tolist(), row.tolist(), strict=True)) == [(0, i) for i in range(7)] + [
            (1, i) for i in range(5)
        ]
    assert len({tuple(row.tolist()) for _, row in epochs}) == 4


def test_any_piece_can_be_asked_for() -> None:
    order = Order([7, 5], (0.9, 0.1), seed=3)
    whole = order.at(0, 100)
    for start, stop in [(0, 1), (11, 13), (30, 95), (50, 50)]:
        for found, wanted in zip(Order([7, 5], (0.9, 0.1), seed=3).at(start, stop), whole, strict=True):
            np.testing.assert_array_equal(found, wanted[start:stop])


@pytest.mark.parametrize("weights", [(1, 1, 2), (0.05, 0, 0.95), (3, 0.001, 1)])
def test_weights_are_shares_and_no_sample_is_favoured(weights: tuple[float, ...]) -> None:
    sizes = [20, 300, 1000]
    order = Order(sizes, weights, seed=0)
    epochs = 50
    source, row = order.at(0, epochs * order.epoch_length)
    counts = np.bincount(source, minlength=3)
    wanted = np.array(weights) / sum(weights) * len(source)
    # a share is rounded to whole samples an epoch
    assert np.abs(counts - wanted).max() <= epochs
    for number, size in enumerate(sizes):
        shown = np.bincount(row[source == number], minlength=size)
        assert len(shown) == size
        # in the middle of an own epoch, some samples are one ahead; the shuffled slots add the two of a cut epoch
        assert np.ptp(shown) <= 2


def test_seeds_differ() -> None:
    assert (Order([100], (), seed=0).at(0, 100)[1] != Order([100], (), seed=1).at(0, 100)[1]).any()


@pytest.mark.parametrize(
    ("sizes", "weights", "seed", "message"),
    [
        ([], (), 0, "sizes: found \\[\\]"),
        ([3, 0], (), 0, "sizes: found \\[3, 0\\], wanted at least one sample"),
        ([3], (1, 2), 0, "weights: found \\[1, 2\\], wanted 1 non-negative shares"),
        ([3, 3], (1, -1), 0, "weights: found"),
        ([3, 3], (0, 0), 0, "weights: found .* not all 0"),
        ([3], (), -1, "seed: found -1, wanted 0 or more"),
    ],
)
def test_bad_arguments_are_named(sizes: list[int], weights: tuple, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(sizes, weights, seed)
