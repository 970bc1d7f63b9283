"""People keep their numbers."""

import numpy as np
import pytest

from unihpe_fast.detector import Detections
from unihpe_fast.video import Tracker, oks

SHAPE = np.random.default_rng(3).uniform([-40, -100], [40, 100], (17, 2))
PAIRED = np.ones((1, 1, 17))


def people(*places: tuple[float, float], confidence: float = 0.9) -> Detections:
    points = np.array([SHAPE + place for place in places], np.float32).reshape(-1, 17, 2)
    bbox = np.concatenate([points.min(1), points.max(1)], axis=1) if len(points) else np.zeros((0, 4), np.float32)
    return Detections(points, np.full(points.shape[:2], confidence, np.float32), bbox, np.ones(len(points), np.float32))


def test_oks_is_cocos():
    one = SHAPE[None]
    area = np.array([8000.0])
    assert oks(one, one, area, PAIRED)[0, 0] == pytest.approx(1)
    moved = oks(one + np.array([3, 4]), one, area, PAIRED)[0, 0]
    sigmas = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    assert moved == pytest.approx(np.exp(-25 / (2 * 8000 * (2 * sigmas) ** 2)).mean())
    # joints that are not seen in both do not count
    weight = PAIRED * (np.arange(17) == 5)
    broken = one.copy()
    broken[0, :5] += 1e4
    assert oks(broken, one, area, weight)[0, 0] == pytest.approx(1)
    assert oks(one, one, area, 0 * PAIRED)[0, 0] == 0
    assert oks(np.zeros((2, 26, 2)), np.zeros((3, 26, 2)), np.ones(3), np.ones((2, 3, 26))).shape == (2, 3)


def test_two_who_pass_each_other_keep_their_numbers():
    rng = np.random.default_rng(0)
    tracker = Tracker()
    assert tracker.update(people((92, 300), (748, 320)), 0).tolist() == [0, 1]
    for frame in range(1, 81):
        places = [(92 + 8 * frame, 300.0), (748 - 8 * frame, 320.0)]
        swap = bool(rng.integers(2))  # the detector's order means nothing
        found = tracker.update(people(*(places[::-1] if swap else places)), frame)
        assert found.tolist() == ([1, 0] if swap else [0, 1])


def test_the_best_pairing_as_a_whole_not_one_after_the_other():
    tracker = Tracker(min_similarity=0.05)
    tracker.update(people((100, 100), (130, 100)), 0)
    # the first is nearest to where the second was; taking that pair first would leave the other far away
    assert tracker.update(people((116, 100), (150, 100)), 1).tolist() == [0, 1]


def test_back_after_a_gap_and_gone_after_a_longer_one():
    tracker = Tracker(max_gap=5)
    assert tracker.update(people((100, 100)), 0).tolist() == [0]
    for frame in range(1, 6):
        assert tracker.update(people(), frame).tolist() == []
    assert tracker.update(people((100, 100)), 6).tolist() == [0]
    assert tracker.update(people((100, 100)), 13).tolist() == [1], "a number is never given twice"


def test_one_who_walks_on_while_hidden():
    tracker = Tracker()
    for frame in range(20):
        tracker.update(people((100 + 12 * frame, 100)), frame)
    assert tracker.update(people((100 + 12 * 27, 100)), 27).tolist() == [0]


def test_few_joints_are_compared_by_their_boxes():
    tracker = Tracker()
    tracker.update(people((100, 100), confidence=0.05), 0)
    assert tracker.update(people((105, 100), confidence=0.05), 1).tolist() == [0]
    assert tracker.update(people((400, 100), confidence=0.05), 2).tolist() == [1]


def test_a_stranger_elsewhere_is_new():
    tracker = Tracker()
    tracker.update(people((100, 100)), 0)
    assert tracker.update(people((500, 400)), 1).tolist() == [1]


def test_people_of_one_pixel():
    tracker = Tracker()
    point = Detections(
        np.full((1, 17, 2), 5, np.float32), np.ones((1, 17), np.float32), np.full((1, 4), 5, np.float32), np.ones(1)
    )
    assert [tracker.update(point, frame).tolist() for frame in range(3)] == [[0], [0], [0]]


def test_two_hundred_people():
    places = [(100.0 * (i % 20), 250.0 * (i // 20)) for i in range(200)]
    tracker = Tracker()
    tracker.update(people(*places), 0)
    order = np.random.default_rng(1).permutation(200)
    assert tracker.update(people(*(places[i] for i in order)), 1).tolist() == order.tolist()


def test_memory_does_not_grow_with_the_video():
    tracker = Tracker(max_gap=3)
    for frame in range(500):
        tracker.update(people((1000.0 * frame, 0)), frame)
    assert len(tracker._tracks) <= 5


def test_frames_go_on():
    tracker = Tracker()
    tracker.update(people((0, 0)), 3)
    with pytest.raises(ValueError, match="Tracker: frame must be later"):
        tracker.update(people((0, 0)), 3)
