"""The rtmlib detector with a stand-in for the package: its weights can be had from the internet alone."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from unihpe_fast.detector import DetectorError, open_detector

IMAGE = np.zeros((100, 200, 3), np.uint8)
IMAGE[..., 0] = 255  # red


class Boxes:
    """As rtmlib's YOLOX: float [P, 4] of a BGR picture."""

    found = np.array([[10, 20, 50, 90], [60, 10, 120, 95]], np.float32)

    def __init__(self, height: object = 640, width: object = 480) -> None:
        shape = [1, 3, height, width]
        self.session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(shape=shape)])
        self.model_input_size = (1, 1)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        assert image[0, 0].tolist() == [0, 0, 255], "rtmlib reads BGR"
        return self.found


class Poses(Boxes):
    """As rtmlib's RTMPose: a whole picture is a person to it when there are no boxes."""

    def __init__(self, joints: int, height: object = 256, width: object = 192) -> None:
        super().__init__(height, width)
        self.joints = joints

    def __call__(self, image: np.ndarray, bboxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert len(bboxes), "the whole picture must not be taken for a person"
        middle = (bboxes[:, None, :2] + bboxes[:, None, 2:]) / 2
        scores = np.linspace(0.4, 1.2, len(bboxes))[:, None] * np.ones((1, self.joints))
        return np.repeat(middle, self.joints, axis=1), scores


@pytest.fixture
def rtmlib(monkeypatch) -> ModuleType:
    module = ModuleType("rtmlib")

    class Solution:
        joints = 26

        def __init__(self, det=None, pose=None, mode="", backend="", device="") -> None:
            print("load a model")  # as rtmlib does
            self.files = (det, pose)
            self.det_model, self.pose_model = Boxes(), Poses(self.joints)

    module.BodyWithFeet = Solution
    module.Wholebody = type("Wholebody", (Solution,), {"joints": 133})
    monkeypatch.setitem(sys.modules, "rtmlib", module)
    return module


@pytest.mark.parametrize(
    ("name", "layout", "joints"), [("rtmlib", "halpe26", 26), ("rtmlib-wholebody", "wholebody133", 133)]
)
def test_people(rtmlib, name, layout, joints, capsys):
    detector = open_detector(name)
    assert capsys.readouterr().out == ""
    assert detector.layout == layout
    assert len(detector.keypoint_names) == len(set(detector.keypoint_names)) == joints
    found = detector(IMAGE)
    assert found.keypoints_2d.shape == (2, joints, 2)
    np.testing.assert_array_equal(found.bbox, Boxes.found[::-1])
    np.testing.assert_array_equal(found.keypoints_2d[0, 0], [90, 52.5])
    assert found.confidence.max() == 1, "SimCC's scores may exceed 1"
    assert (np.diff(found.score) <= 0).all()


def test_nobody(rtmlib, monkeypatch):
    monkeypatch.setattr(Boxes, "found", np.zeros((0, 4), np.float32))
    assert len(open_detector("rtmlib")(IMAGE)) == 0


def test_local_files_and_their_own_sizes(rtmlib, tmp_path):
    for name in ("yolox_m.onnx", "rtmpose-l_384x288.onnx"):
        (tmp_path / name).write_bytes(b"")
    detector = open_detector(f"rtmlib={tmp_path}")
    model = detector._model
    assert model.files == (str(tmp_path / "yolox_m.onnx"), str(tmp_path / "rtmpose-l_384x288.onnx"))
    assert model.det_model.model_input_size == (640, 480), "rtmlib's boxes take rows first"
    assert model.pose_model.model_input_size == (192, 256), "and its keypoints columns"


def test_files_that_do_not_say_which_they_are(rtmlib, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(DetectorError, match=r"folder must have one yolox\*\.onnx .* got a\.onnx"):
        open_detector(f"rtmlib={tmp_path}")


def test_weights_that_cannot_be_had(rtmlib):
    def refuse(self, **options):
        raise OSError("no way there")

    rtmlib.BodyWithFeet.__init__ = refuse
    with pytest.raises(DetectorError, match=r"rtmlib: weights could not be had \(OSError: no way there\)"):
        open_detector("rtmlib")


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(DetectorError, match=r"pip install 'unihpe-fast\[rtmlib\]'"):
        open_detector("rtmlib")
