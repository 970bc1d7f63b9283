"""MoveNet against its graphs' own numbers and on a real photograph, scikit-image's astronaut."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from tests.detector.graph_inputs import inputs
from unihpe_fast.detector import Detections, Detector, DetectorError, open_detector
from unihpe_fast.detector.movenet_fetch import GRAPHS, load

OUTPUTS = json.loads((Path(__file__).parent / "graph_outputs.json").read_text())["results"]
# a share of the picture's side; what was seen is 3e-6
AGREEMENT = 5e-4
CASES = [(graph, name) for graph in GRAPHS for name in OUTPUTS[graph]]
# nose, left eye, right eye, left shoulder, right shoulder: read off the photograph, px
SEEN = {0: (223, 122), 1: (247, 103), 2: (203, 100), 5: (325, 262), 6: (97, 255)}


@cache
def detector(name: str, folder: Path) -> Detector:
    return open_detector(f"{name}={folder}")


@pytest.mark.parametrize(("graph", "name"), CASES)
def test_network_gives_the_graphs_numbers(movenet_weights, graph, name):
    picture = inputs()[graph][name]
    with torch.inference_mode():
        found = load(graph, movenet_weights)(torch.from_numpy(picture)).numpy().ravel()
    wanted = np.array(OUTPUTS[graph][name])
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < AGREEMENT


@pytest.mark.parametrize("graph", ["movenet-thunder", "movenet-multipose"])
def test_pictures_of_a_batch_do_not_meet(movenet_weights, graph):
    net = load(graph, movenet_weights)
    one = next(iter(inputs()[graph].values()))[:, :256, :256]
    both = torch.from_numpy(np.concatenate([one, one[:, ::-1].copy()]))
    with torch.inference_mode():
        together, alone = net(both), [net(picture[None]) for picture in both]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "within"), [("movenet", 12), ("movenet-multipose", 30), ("movenet-lightning", 20)])
def test_astronaut(movenet_weights, name, within):
    found = detector(name, movenet_weights)(astronaut())
    assert len(found) == 1
    _check(found, 512, 512)
    for joint, place in SEEN.items():
        assert np.linalg.norm(found.keypoints_2d[0, joint] - place) < within, joint
        assert found.confidence[0, joint] > 0.4
    assert found.confidence[0, [13, 14, 15, 16]].max() < 0.2, "knees and ankles are not in the picture"
    left, top, right, bottom = found.bbox[0]
    assert left < 110
    assert right > 310
    assert bottom > 480
    assert top < 130


def test_keypoints_move_with_the_person(movenet_weights):
    detect = detector("movenet", movenet_weights)
    canvas = np.full((900, 1400, 3), 128, np.uint8)
    canvas[300:812, 700:1212] = astronaut()
    moved, alone = detect(canvas), detect(astronaut())
    assert len(moved) == 1
    difference = moved.keypoints_2d[0] - [700, 300] - alone.keypoints_2d[0]
    # the two boxes differ by a little, and a cell of thunder's map is 6 px here; hips are guesses at the edge
    assert np.abs(difference[list(SEEN)]).max() < 12


def test_two_people_the_surer_first(movenet_weights):
    both = np.concatenate([astronaut(), astronaut()[:, ::-1]], axis=1)
    found = detector("movenet", movenet_weights)(both)
    assert len(found) == 2
    _check(found, 512, 1024)
    noses = np.sort(found.keypoints_2d[:, 0, 0])
    np.testing.assert_allclose(noses, [223, 1023 - 223], atol=15)
    # in the mirror the left shoulder is still the person's own left: to the right of the face in one, to the left
    # in the other is the right one
    assert (found.keypoints_2d[:, 5, 0] > found.keypoints_2d[:, 6, 0]).all()


@pytest.mark.parametrize("name", ["movenet", "movenet-multipose", "movenet-lightning"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (700, 3), (64, 64), (480, 640)])
def test_nobody(movenet_weights, name, shape):
    found = detector(name, movenet_weights)(np.full((*shape, 3), 90, np.uint8))
    assert len(found) == 0
    assert found.keypoints_2d.shape == (0, 17, 2)
    assert found.bbox.shape == (0, 4)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        "x",
    ],
)
def test_other_images_are_refused(movenet_weights, image):
    with pytest.raises(ValueError, match="detector: image must"):
        detector("movenet", movenet_weights)(image)


def test_unknown_names_and_folders_are_refused(tmp_path):
    with pytest.raises(DetectorError, match=r"name must be one of movenet, .* got 'yolo'"):
        open_detector("yolo")
    with pytest.raises(DetectorError, match="folder must be one that exists"):
        open_detector(f"movenet={tmp_path}/none")
    with pytest.raises(DetectorError, match=r"folder must have movenet-\w+\.safetensors"):
        open_detector(f"movenet={tmp_path}")


def _check(found: Detections, height: int, width: int) -> None:
    people = len(found)
    assert found.keypoints_2d.shape == (people, 17, 2)
    assert found.confidence.shape == (people, 17)
    for array in (found.keypoints_2d, found.confidence, found.bbox, found.score):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
    assert (np.diff(found.score) <= 0).all()
    assert (found.bbox[:, :2] >= 0).all()
    assert (found.bbox[:, 2:] <= [width, height]).all()
    assert (found.bbox[:, 2:] > found.bbox[:, :2]).all()
