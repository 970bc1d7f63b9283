"""Who is who in BlazePose: people are told apart by their faces, with a stand-in for its networks."""

import numpy as np
import torch

from benchmarks.pose2sim.blazepose import _ANCHORS, BlazePose, Face, Person, Region

SIDE = 896
# a face of 20 % of the picture
BOX = 0.2 * SIDE


def region(x: float, y: float) -> Region:
    return Region(np.array([x, y]), 500.0, 0.0)


def face(x: float, y: float = 200.0) -> Face:
    return Face(np.array([x, y]), np.full(2, BOX), region(x, y))


def test_overlap_is_the_intersection_over_union():
    assert face(100).overlap(face(100)) == 1
    # half of each is shared: 1 / 2 of 3 / 2
    np.testing.assert_allclose(face(100).overlap(face(100 + BOX / 2)), 1 / 3)
    assert face(100).overlap(face(100 + BOX)) == 0
    small = Face(np.array([100.0, 200.0]), np.full(2, BOX / 2), region(100, 200))
    np.testing.assert_allclose(small.overlap(face(100)), 1 / 4)
    np.testing.assert_allclose(face(100).overlap(small), 1 / 4)


class Networks(BlazePose):
    """Two people whose hips are 60 px apart and whose faces are 400; `looked` counts looks at a region."""

    def __init__(self) -> None:
        self._people: list[Person] = []
        self.looked = 0
        raw = np.zeros((len(_ANCHORS), 13), np.float32)
        raw[:, 0] = -100
        shown = 224 / SIDE
        # the same first person twice, and a second
        for index, score, nose, hip in ((40, 3.0, 240, 420), (41, 2.5, 250, 424), (900, 1.0, 640, 480)):
            raw[index, 0] = score
            anchor = _ANCHORS[index] * 224
            raw[index, 1:5] = [*(np.array([nose, 200.0]) * shown - anchor), BOX * shown, BOX * shown]
            raw[index, 5:9] = [*(np.array([hip, 500.0]) * shown - anchor), *(np.array([hip, 300.0]) * shown - anchor)]
        self._boxes = lambda pixels: {"person": torch.from_numpy(raw)[None]}

    def _look(self, image: np.ndarray, region: Region) -> Person | None:
        self.looked += 1
        nose = 240.0 if region.center[0] < 450 else 640.0
        keypoints = np.array([[nose, 200.0], *([[region.center[0], 500.0]] * 31), [nose, 800.0]])
        return Person(keypoints, np.ones(33), np.zeros((33, 3)), region)


def test_two_people_whose_hips_are_near_are_two():
    network = Networks()
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    assert [person.keypoints_2d[0, 0] for person in network(image)] == [240, 640]
    # those who are followed are not looked for again
    assert [person.keypoints_2d[0, 0] for person in network(image)] == [240, 640]
    assert network.looked == 4
