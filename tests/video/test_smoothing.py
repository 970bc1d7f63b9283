"""Gaps and jitter."""

import numpy as np
import pytest

from unihpe_fast.video import OneEuro, fill_gaps, smooth

FPS = 60.0
TIMES = np.arange(240) / FPS


def wave(hertz: float, times: np.ndarray = TIMES) -> np.ndarray:
    return np.stack([100 * np.sin(2 * np.pi * hertz * times), np.zeros_like(times)], axis=1)


def gain_and_lag(filtered: np.ndarray, hertz: float) -> tuple[float, float]:
    """Of what came of `wave`: amplitude, and radians by which it is late. The ends are left out."""
    middle = slice(60, -60)
    phase = np.exp(-2j * np.pi * hertz * TIMES[middle])
    ratio = (filtered[middle, 0] * phase).sum() / (wave(hertz)[middle, 0] * phase).sum()
    return abs(ratio), -np.angle(ratio)


@pytest.mark.parametrize(("hertz", "gain"), [(1, 1.0), (6, 2**-0.5), (20, 0.0)])
def test_butterworth_keeps_slow_motion_and_nothing_is_late(hertz, gain):
    found, lag = gain_and_lag(smooth(wave(hertz), FPS, cutoff=6.0), hertz)
    assert found == pytest.approx(gain, abs=0.02)
    if gain:
        assert lag == pytest.approx(0, abs=1e-3)


def test_butterworth_halves_jitter_of_a_still_person():
    noise = np.random.default_rng(0).normal(size=(600, 17, 3)).astype(np.float32)
    done = smooth(noise, FPS)
    assert done.dtype == np.float32
    assert done.std() < 0.5 * noise.std()
    constant = np.full((50, 2, 3), 7.0)
    np.testing.assert_allclose(smooth(constant, FPS), constant, atol=1e-9)


def test_stretches_are_filtered_by_themselves():
    values = wave(1) + 1000
    values[100:120] = np.nan
    present = np.isfinite(values[:, 0])
    done = smooth(values, FPS, present=present)
    assert np.isnan(done[100:120]).all()
    np.testing.assert_array_equal(done[:100], smooth(values[:100], FPS))
    np.testing.assert_array_equal(done[120:], smooth(values[120:], FPS))


def test_joints_have_their_own_gaps():
    values = np.repeat(wave(1)[:, None], 2, axis=1)
    present = np.ones((240, 2), bool)
    present[50:60, 1] = False
    done = smooth(values, FPS, present=present)
    np.testing.assert_array_equal(done[:, 0], smooth(values[:, 0], FPS))
    np.testing.assert_array_equal(done[50:60, 1], values[50:60, 1])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 12])
def test_short_stretches(count):
    values = np.random.default_rng(0).normal(size=(count, 17, 3))
    done = smooth(values, FPS)
    assert done.shape == values.shape
    assert np.isfinite(done).all()


def test_a_cutoff_beyond_what_the_rate_can_show_changes_nothing():
    values = wave(1)
    np.testing.assert_array_equal(smooth(values, 10.0, cutoff=6.0), values)


def test_a_varying_rate():
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 4, 240))
    error = np.abs(smooth(wave(0.5, times), FPS, times=times) - wave(0.5, times))
    assert error[30:-30].max() < 6
    uneven = np.abs(smooth(wave(0.5, times), FPS) - wave(0.5, times))
    assert uneven[30:-30].max() > error[30:-30].max()


def test_one_euro_is_steady_at_rest_and_quick_in_motion():
    rng = np.random.default_rng(0)
    still = rng.normal(0, 5, (300, 1, 3))
    live = OneEuro()
    done = np.stack([live(frame, time) for frame, time in zip(still, np.arange(300) / FPS, strict=True)])
    assert done[60:].std() < 0.6 * still.std()
    # 3 m a second: no more than 20 mm behind
    moving = OneEuro()
    for i in range(120):
        place = np.array([[3000 * i / FPS, 0.0, 0.0]])
        found = moving(place, i / FPS)
    assert np.linalg.norm(found - place) < 250
    slow = OneEuro(beta=0.0)
    for i in range(120):
        late = slow(np.array([[3000 * i / FPS, 0.0, 0.0]]), i / FPS)
    assert np.linalg.norm(late - place) > 1.2 * np.linalg.norm(found - place)


def test_one_euro_begins_anew_after_a_gap():
    live = OneEuro()
    live(np.zeros((2, 3)), 0.0)
    live(np.full((2, 3), np.nan), 0.1, np.array([False, False]))
    back = live(np.full((2, 3), 500.0), 0.2, np.array([True, True]))
    np.testing.assert_array_equal(back, 500)
    assert np.isfinite(live(np.full((2, 3), 510.0), 0.3)).all()


def test_one_euro_refuses_what_cannot_be():
    live = OneEuro()
    live(np.zeros((2, 3)), 1.0)
    with pytest.raises(ValueError, match="OneEuro: time must be later"):
        live(np.zeros((2, 3)), 1.0)
    with pytest.raises(ValueError, match=r"OneEuro: values must have shape \[2, 3\]"):
        live(np.zeros((3, 3)), 2.0)
    with pytest.raises(ValueError, match="OneEuro: cutoffs must be above 0"):
        OneEuro(min_cutoff=0)


def test_gaps_up_to_the_stated_length():
    values = np.arange(20, dtype=np.float32)[:, None] * np.array([1, -2], np.float32)
    present = np.ones(20, bool)
    present[[0, 5, 6, 7, 10, 11, 12, 13, 19]] = False
    known = np.where(present[:, None], values, np.nan).astype(np.float32)
    filled, there = fill_gaps(known, present, max_gap=3)
    assert filled.dtype == np.float32
    np.testing.assert_allclose(filled[5:8], values[5:8])
    assert np.isnan(filled[[0, 10, 11, 12, 13, 19]]).all(), "longer ones and the ends stay"
    assert np.flatnonzero(~there).tolist() == [0, 10, 11, 12, 13, 19]
    assert not present[5], "the arguments are untouched"
    np.testing.assert_array_equal(fill_gaps(known, present, max_gap=0)[0], known)


def test_gaps_of_single_joints_and_by_time():
    values = np.zeros((5, 2, 1))
    values[:, 0, 0] = [0, 0, 0, 30, 40]
    present = np.ones((5, 2), bool)
    present[1:3, 0] = False
    times = np.array([0, 0.2, 0.8, 1.0, 1.1])
    filled, there = fill_gaps(values, present, max_gap=2, times=times)
    np.testing.assert_allclose(filled[:, 0, 0], [0, 6, 24, 30, 40])
    assert there.all()


@pytest.mark.parametrize("call", [fill_gaps, smooth])
def test_shapes_that_do_not_fit(call):
    more = {"max_gap": 3} if call is fill_gaps else {"fps": 30.0}
    with pytest.raises(ValueError, match=r"present must have shape \[4\] or \[4, 2\], got \[3\]"):
        call(np.zeros((4, 2, 3)), present=np.ones(3, bool), **more)


def test_numbers_that_cannot_be():
    with pytest.raises(ValueError, match="fill_gaps: max_gap"):
        fill_gaps(np.zeros((4, 3)), np.ones(4, bool), max_gap=-1)
    with pytest.raises(ValueError, match="fill_gaps: times"):
        fill_gaps(np.zeros((4, 3)), np.ones(4, bool), max_gap=1, times=np.zeros(3))
    with pytest.raises(ValueError, match="smooth: cutoff and fps"):
        smooth(np.zeros((4, 3)), 30.0, cutoff=0)
