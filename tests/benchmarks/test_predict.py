"""The benchmarks of `predict`: what they name is there, and the stand-in for a detector says where its person is."""

import numpy as np

from benchmarks.predict import memory, speed
from unihpe_fast.detector.registry import DETECTORS
from unihpe_fast.outputs import FORMATS
from unihpe_fast.predictor import Predictor


def test_what_is_listed_is_what_there_is() -> None:
    assert set(speed.DETECTORS) <= set(DETECTORS)
    assert set(memory.FORMATS) <= set(FORMATS)


def test_one_person_walks_through_a_video_and_is_followed() -> None:
    walker, pictures = memory.Walker(), [frame.image for frame in memory.frames(3)]
    assert {picture.shape for picture in pictures} == {(memory.SIZE[1], memory.SIZE[0], 3)}
    first, *_, last = (walker(picture) for picture in pictures)
    assert np.abs(last.keypoints_2d - first.keypoints_2d).max() > 0.5
    assert (first.bbox[0, :2] <= first.keypoints_2d[0].min(0)).all()
    found = Predictor(device="cpu", detector=memory.Walker()).video(memory.frames(5), fps=memory.FPS)
    assert len(found) == 5
    assert np.unique(found.person).size == 1
