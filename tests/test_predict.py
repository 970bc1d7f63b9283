"""The command: inputs told apart, results whole, what was left out said, exit codes."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pytest

from tests.data.keypoints import files
from tests.support.walkers import SIZE, walkers
from tests.test_predictor import Found, coco
from unihpe_fast import predict, prepare
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.keypoints import read_keypoints
from unihpe_fast.data.joint_sets import KEYPOINT_NAMES
from unihpe_fast.inputs import InputError, distinct, find
from unihpe_fast.outputs import npz
from unihpe_fast.predict import main

FAST = ("--write", "npz", "csv", "--device", "cpu")


def clip(folder: Path, frames: int = 5, name: str = "my clip ü") -> Path:
    return files.openpose(folder / name, [[person] for person in _body25(frames)])


def _body25(frames: int) -> np.ndarray:
    points = coco(frames)
    body = np.zeros((frames, 25, 3), np.float32)
    order = {0: 0, 2: 6, 3: 8, 4: 10, 5: 5, 6: 7, 7: 9, 9: 12, 10: 14, 11: 16, 12: 11, 13: 13, 14: 15, 15: 2, 16: 1}
    for target, source in order.items():
        body[:, target] = points[:, source]
    body[:, 1], body[:, 8] = points[:, 5:7].mean(1), points[:, 11:13].mean(1)
    return body


def test_keypoints_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results of ü"
    assert main([str(clip(tmp_path)), "--out", str(out), "--fps", "25", "--size", "1280,720", *FAST]) == 0
    said = capsys.readouterr().out
    assert "5 poses of 1 person in 5 frames" in said
    assert "written in " in said
    assert "frames/s" in said
    assert sorted(path.name for path in out.iterdir()) == ["my clip ü.csv", "my clip ü.npz"]
    got = npz.read(out / "my clip ü.npz")
    assert (len(got), got.fps, got.layout, got.size[0].tolist()) == (5, 25.0, "body25", [1280, 720])
    np.testing.assert_allclose(got.time, np.arange(5) / 25)


def test_what_a_file_does_not_say_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clip(tmp_path)
    (folder / "video_000000000007_keypoints.json").write_text('{"version":1.3,"people":[]}')
    assert main([str(folder), "--out", str(tmp_path / "out"), *FAST]) == 0
    said = capsys.readouterr().out
    assert "1280 x 720 px is taken" in said or "px is taken as the smallest usual one" in said
    assert "does not say its frame rate, 30/s is taken" in said
    assert "left out: frames without a person" in said


def test_results_are_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(clip(tmp_path)), "--out", str(tmp_path / "out"), "--fps", "25", *FAST]
    assert main(arguments) == 0
    before = (tmp_path / "out/my clip ü.npz").read_bytes()
    assert main(arguments) == 1
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert (tmp_path / "out/my clip ü.npz").read_bytes() == before
    assert main([*arguments, "--overwrite"]) == 0


def test_inputs_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results in the folder of the keypoints would be called as those are."""
    file = files.mmpose_demo(tmp_path / "walk.json", [[p[:17]] for p in coco(5)], KEYPOINT_NAMES["coco17"])
    before = file.read_bytes()
    options = ["--size", "1280,720", "--overwrite", "--write", "json", "--device", "cpu"]
    assert main([str(file), "--out", str(tmp_path), *options]) == 1
    assert "walk.json: is an input, and would be replaced by a result; --out FOLDER" in capsys.readouterr().err
    assert file.read_bytes() == before
    # what --save-keypoints wrote beside results is called otherwise than they are
    saved = file.rename(tmp_path / "walk_keypoints.json")
    assert main([str(saved), "--out", str(tmp_path), *options]) == 0
    assert saved.read_bytes() == before
    assert len(json.loads((tmp_path / "walk.json").read_text())["poses"]) == 5


def test_results_of_people_who_are_no_longer_found_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    kept = ["my clip ü_person_red.trc", "my clip ü 2_person7.trc", "other_person7.trc"]
    for name in ("my clip ü_person7.trc", *kept):
        (out / name).write_text("old")
    options = ["--size", "1280,720", "--fps", "25", "--write", "trc", "--device", "cpu"]
    assert main([str(clip(tmp_path)), "--out", str(out), *options]) == 1
    assert main([str(clip(tmp_path)), "--out", str(out), *options, "--overwrite"]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted([*kept, "my clip ü.trc"])


def test_every_file_of_a_folder_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b", "c"):
        files.alphapose(folder / f"{name}.json", [(f"{n}.jpg", p) for n, p in enumerate(_halpe(4))])
    (folder / "settings.json").write_text('{"threads": 4}')
    options = ["--size", "1280,720", "--fps", "25", "--write", "npz", "--device", "cpu"]
    assert main([str(folder), "--out", str(tmp_path / "out"), *options]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.npz", "b.npz", "c.npz"]
    assert "left out: settings.json: no keypoints" in capsys.readouterr().out
    with pytest.raises(SourceError, match=r"must be one file of alphapose, got a folder of 4: a\.json, b\.json"):
        read_keypoints(folder)


def _halpe(frames: int) -> np.ndarray:
    """[frames, 26, 3] of Halpe's order, whose first 17 are COCO's."""
    body = np.zeros((frames, 26, 3), np.float32)
    body[:, :17] = coco(frames)
    return body


def test_what_cannot_be_right_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", str(tmp_path / "out"), "--fps", "25", *FAST]
    assert main([str(clip(tmp_path)), "--size", "320,180", *options]) == 0
    assert "of the sure keypoints lie outside of pictures of 320 x 180 px" in capsys.readouterr().out
    for wrong, words in (
        (["--layout", "nonsense"], "--layout: must be one of coco17"),
        (["--camera", "-5,0,0"], "--camera: focal lengths must be above 0 px"),
        (["--detector", "nonsense"], "--detector: name must be one of movenet"),
    ):
        assert main([str(clip(tmp_path)), *options, *wrong]) == 2
        assert words in capsys.readouterr().err


def test_photographs_of_openpose_are_no_video(tmp_path: Path) -> None:
    folder = tmp_path / "party"
    folder.mkdir()
    made = clip(tmp_path)
    for file, name in zip(sorted(made.iterdir()), ("beach", "dog", "IMG_3", "me", "sea"), strict=True):
        file.rename(folder / f"{name}_keypoints.json")
    options = ["--size", "1280,720", "--out", str(tmp_path / "out"), *FAST]
    assert main([str(folder), *options]) == 0
    got = npz.read(tmp_path / "out/party.npz")
    assert (got.fps, got.source.tolist()) == (None, ["IMG_3", "beach", "dog", "me", "sea"])
    numbered = clip(tmp_path, name="numbered")
    (numbered / "video_000000000002_keypoints.json").write_text('{"people": [{"pose_key')
    assert main([str(numbered), "--photographs", *options]) == 0
    got = npz.read(tmp_path / "out/numbered.npz")
    assert (got.fps, len(set(got.source))) == (None, 4)


def test_saved_keypoints_are_not_replaced_unasked(
    tmp_path: Path, told: Found, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = photographs(tmp_path / "photos"), tmp_path / "out"
    out.mkdir()
    (out / "photos_keypoints.json").write_text("corrected by hand")
    assert main([str(folder), "--out", str(out), "--save-keypoints", *FAST]) == 1
    assert "photos_keypoints.json: is there already; --overwrite replaces it" in capsys.readouterr().err
    assert [path.read_text() for path in out.iterdir()] == ["corrected by hand"]


def test_where_nothing_can_be_written_nothing_is_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file/deep/out"):
        assert main(["x.json", "--out", str(out), "--device", "cpu"]) == 2
        assert f"--out: must be a folder, got the file {tmp_path / 'file'}" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unihpe_fast.outputs.npz.write", full)
    assert main([str(clip(tmp_path)), "--out", str(tmp_path / "out"), "--fps", "25", *FAST]) == 1
    printed = capsys.readouterr()
    assert "No space left on device" in printed.err
    assert f"written in 0.0 s: {tmp_path / 'out/my clip ü.csv'}" in printed.out.replace("0.1 s", "0.0 s")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["my clip ü.csv"]


def test_one_bad_input_does_not_keep_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"people": [')
    code = main([str(bad), str(clip(tmp_path)), "nowhere.mp4", "--out", str(tmp_path / "out"), "--fps", "25", *FAST])
    printed = capsys.readouterr()
    assert code == 1
    assert "bad.json: must be JSON as OpenPose writes it" in printed.err
    assert "nowhere.mp4: input must be a file, a folder or the number of a webcam" in printed.err
    assert (tmp_path / "out/my clip ü.npz").is_file()


@pytest.mark.parametrize(("options", "message"), [
    (["--run", "x", "--model", "y"], "--run and --model: must be one of them"),
    (["--format", "fbx"], "--format: must be one of openpose"),
    (["--write", "fbx"], "--write: must be of npz"),
    (["--size", "12"], "--size: must be 2 numbers"),
    (["--camera", "1,2"], "--camera: must be 3 or 4 numbers"),
    (["--smooth", "-1"], "--smooth: must be Hz above 0 or off"),
    (["--fps", "0"], "--fps: must be above 0"),
    (["--joints", "a"], "--joints: must be THEIRS=OURS"),
    (["--model", "nothing"], "nothing: must be a run folder"),
    (["--run", "nothing"], "--run: must be a run folder"),
    (["--device", "abacus"], "device: must be auto or a device of torch, got 'abacus'"),
])  # fmt: skip
def test_options_that_cannot_be_used(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["x.json", *options]) == 2
    assert message in capsys.readouterr().err
    assert main([]) == 2


def test_formats_without_a_file_are_left_out_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files.coco_annotations(tmp_path / "people.json", [(n, p) for n, p in enumerate(coco(2))])
    assert main([str(path), "--out", str(tmp_path / "out"), "--write", "npz", "bvh", "--device", "cpu"]) == 0
    assert "left out: bvh: " in capsys.readouterr().out
    got = npz.read(tmp_path / "out/people.npz")
    assert (got.fps, got.source.tolist()) == (None, ["000000000000.jpg", "000000000001.jpg"])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Found:
    """A detector that says what it is told, whatever picture it is shown."""
    people = walkers(6, 2).joints_2d.reshape(6, 2, 17, 2)
    found = Found(*people)
    monkeypatch.setattr("unihpe_fast.detector.open_detector", lambda name: found)
    return found


def photographs(folder: Path) -> Path:
    folder.mkdir()
    for number in (1, 2, 10):
        picture = np.full((SIZE[1], SIZE[0], 3), 10 * number, np.uint8)
        cv2.imwrite(str(folder / f"p {number}.png"), picture)
    (folder / "p 3.jpg").write_bytes(b"\xff\xd8 not a picture")
    return folder


def test_photographs(tmp_path: Path, told: Found, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photographs(tmp_path / "photos")
    arguments = [str(folder), "--out", str(tmp_path / "out"), "--save-keypoints", *FAST]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "6 people in 4 pictures" in said
    assert "p 3.jpg" in said
    assert "left out" in said
    got = npz.read(tmp_path / "out/photos.npz")
    # frame 2 is the broken one
    assert got.frame.tolist() == [0, 0, 1, 1, 3, 3]
    assert [Path(name).name for name in got.source[::2]] == ["p 1.png", "p 2.png", "p 10.png"]
    saved = read_keypoints(tmp_path / "out/photos_keypoints.json")
    assert (len(saved), saved.names) == (6, told.keypoint_names)
    np.testing.assert_allclose(saved.keypoints_2d[0, :, :2], walkers(1, 2).joints_2d[0], atol=1e-3)
    # which are photographs of a known size to whoever reads them
    assert main([str(tmp_path / "out/photos_keypoints.json"), "--out", str(tmp_path / "anew"), *FAST]) == 0
    assert "note:" not in capsys.readouterr().out
    anew = npz.read(tmp_path / "anew/photos.npz")
    assert (anew.fps, anew.size.tolist()) == (None, got.size.tolist())
    assert anew.source.tolist() == [Path(name).name for name in got.source]
    np.testing.assert_array_equal(anew.frame, got.frame)
    # and photographs with their pictures to training
    kept = [str(tmp_path / "out/photos_keypoints.json"), str(tmp_path / "photos.h5")]
    assert prepare.main(["keypoints", *kept, "--images", str(folder)]) == 0
    with h5py.File(kept[1]) as file:
        assert file["present"][:, 0].tolist() == [True] * 6
    # keypoints are kept to a thousandth of a px, which bfloat16 may round up here and down there
    np.testing.assert_allclose(anew.joints_3d, got.joints_3d, rtol=0, atol=5.0)


def test_a_video(tmp_path: Path, told: Found, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "walk.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, SIZE)
    for number in range(6):
        writer.write(np.full((SIZE[1], SIZE[0], 3), 20 * number, np.uint8))
    writer.release()
    arguments = ["--write", "npz", "trc", "--device", "cpu"]
    assert main([str(path), "--out", str(tmp_path / "out"), "--save-keypoints", *arguments]) == 0
    assert "12 poses of 2 people in 6 frames" in capsys.readouterr().out
    got = npz.read(tmp_path / "out/walk.npz")
    assert got.fps == 25
    assert sorted(p.name for p in (tmp_path / "out").glob("*.trc")) == ["walk_person0.trc", "walk_person1.trc"]
    # the keypoints that were kept give the same, without the video
    assert main([str(tmp_path / "out/walk_keypoints.json"), "--out", str(tmp_path / "anew"), *arguments]) == 0
    assert "note:" not in capsys.readouterr().out
    anew = npz.read(tmp_path / "anew/walk.npz")
    assert (anew.fps, anew.size.tolist()) == (25, got.size.tolist())
    for name in ("person", "frame", "time"):
        np.testing.assert_array_equal(getattr(anew, name), getattr(got, name))
    np.testing.assert_allclose(anew.joints_3d, got.joints_3d, rtol=0, atol=5.0)


def test_a_webcam(
    tmp_path: Path, told: Found, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)

    class Camera(list):
        name, size, mean_fps = "webcam 0", SIZE, 24.5

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None: ...

    frames = Camera(SimpleNamespace(index=n, time=0.04 * n + 0.001, image=image) for n in range(6))
    shown = []
    window = SimpleNamespace(show=lambda picture: shown.append(picture) is None and len(shown) < 4, close=lambda: None)
    monkeypatch.setattr("unihpe_fast.live.open_video", lambda number: frames)
    monkeypatch.setattr("unihpe_fast.live.open_window", lambda title: (window, ""))
    # nobody in the last one that is shown
    told.frames[3] = told.frames[3][:0]
    assert main(["0", "--out", str(tmp_path / "out"), "--save-keypoints", *FAST]) == 0
    assert len(read_keypoints(tmp_path / "out/webcam0_keypoints.json")) == 6
    got = npz.read(tmp_path / "out/webcam0.npz")
    assert (len(got), got.fps, got.source[0]) == (6, 24.5, "webcam 0")
    # the frame of nobody, which has no rows, counts too
    assert " in 4 frames, " in "".join(capsys.readouterr())
    assert shown[0].shape[1] > SIZE[0]


def test_a_photograph_by_the_real_detector(tmp_path: Path, movenet_weights: Path) -> None:
    """All of it: MoveNet and the model that comes along, on scikit-image's astronaut, who stands upright."""
    from skimage.data import astronaut

    path = tmp_path / "astronaut.png"
    cv2.imwrite(str(path), astronaut()[..., ::-1])
    options = ["--detector", f"movenet={movenet_weights}", "--write", "npz", "overlay", "--device", "cpu"]
    assert main([str(path), "--out", str(tmp_path / "out"), *options]) == 0
    got = npz.read(tmp_path / "out/astronaut.npz")
    assert len(got) == 1
    joints = dict(zip(got.joint_names, got.joints_3d[0], strict=True))
    assert joints["neck"][1] < joints["thorax"][1] < joints["pelvis"][1]
    # she faces the camera: her left is on the right of the picture
    across = joints["left_shoulder"] - joints["right_shoulder"]
    assert across[0] > 0
    assert 200 < np.linalg.norm(across) < 500
    # legs are not in the picture
    assert np.isnan(got.joints_2d[0, [3, 6]]).all()
    assert cv2.imread(str(tmp_path / "out/astronaut_overlay.png")) is not None


def test_a_detector_without_weights_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise predict.DetectorError("movenet: run python -m unihpe_fast.detector fetch movenet")

    monkeypatch.setattr("unihpe_fast.detector.open_detector", absent)
    assert main([str(photographs(tmp_path / "photos")), "--out", str(tmp_path / "out"), *FAST]) == 2
    assert "run python -m unihpe_fast.detector fetch movenet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_inputs_are_told_apart(tmp_path: Path) -> None:
    folder = clip(tmp_path)
    for number in range(9):
        (folder / f"rendered_{number}.png").write_bytes(b"")
    assert find(str(folder)).kind == "keypoints"
    assert find("0").kind == "webcam"
    assert find(str(photographs(tmp_path / "photos"))).kind == "photos"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="must have photographs or keypoint files"):
        find(str(tmp_path / "empty"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match=r"list\.json: must be keypoints in one of the formats openpose"):
        find(str(tmp_path / "list.json"))
    (tmp_path / "photos/._p 1.png").write_bytes(b"of a Mac")
    assert find(str(tmp_path / "photos")).paths[0].name == "p 1.png"
    video = tmp_path / "a.b.MP4"
    video.write_bytes(b"")
    assert (find(str(video)).kind, find(str(video)).stem) == ("video", "a.b")
    assert [item.stem for item in distinct([find(str(video))] * 3)] == ["a.b", "a.b_2", "a.b_3"]


def test_the_shipped_walk_is_read(tmp_path: Path) -> None:
    """As `make predict` does, without the drawings."""
    walk = Path(__file__).parent.parent / "examples/walk.json"
    options = ["--size", "1280,720", "--fps", "30", "--write", "json", "bvh", "trc", "--device", "cpu"]
    assert main([str(walk), "--out", str(tmp_path), *options]) == 0
    assert len(json.loads((tmp_path / "walk.json").read_text())["poses"]) == 90
