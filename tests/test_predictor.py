"""Predictor: shapes, units and conventions against the model itself, and input that cannot be used."""

import json
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.support.tiny import tiny
from tests.support.walkers import SIZE, STANDING, walkers
from unihpe_fast import Prediction, Predictor, load_model
from unihpe_fast.config import to_yaml
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.formats.keypoints import Keypoints, read_keypoints
from unihpe_fast.data.joint_sets import COCO17, KEYPOINT_NAMES, to_h36m17
from unihpe_fast.detector.interface import Detections
from unihpe_fast.engine.checkpoint import CONFIG, save_weights
from unihpe_fast.engine.packaged import ModelCard, package
from unihpe_fast.fileio import write_text
from unihpe_fast.lifting import camera_roll, fit_root, guess_size
from unihpe_fast.models.unihpe import UniHPE
from unihpe_fast.outputs import OutputError, npz, write
from unihpe_fast.outputs.motion import motions
from unihpe_fast.sequences import steady
from unihpe_kernels import pa_mpjpe

ROOT = Path(__file__).parent.parent
CAMERA = (1100.0, 640.0, 360.0)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    # float32: what is compared with the model itself agrees to rounding
    return Predictor(device="cpu", detector=Found(), dtype="float32")


class Found:
    """A detector that finds the people it was told of, frame by frame."""

    name, layout, licence = "told", "h36m17", ""

    def __init__(self, *frames: np.ndarray) -> None:
        from unihpe_fast.data.skeleton import JOINT_NAMES

        self.frames, self.keypoint_names = list(frames), JOINT_NAMES

    def __call__(self, image: np.ndarray) -> Detections:
        people = self.frames.pop(0)
        low, high = people.min(1), people.max(1)
        count = len(people)
        return Detections(
            people.astype(np.float32),
            np.full(people.shape[:2], 0.9, np.float32),
            np.concatenate([low, high], axis=1).astype(np.float32),
            np.ones(count, np.float32),
        )


def coco(count: int = 3) -> np.ndarray:
    """[count, 17, 3] px and confidence of people like a real one."""
    p = walkers(count)
    # shoulders and the rest of H36M-17 as COCO's: a face where the head is
    order = [9, 10, 10, 10, 10, 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3]
    points = p.joints_2d[:, order] + np.array([[0, 0], [4, 0], [-4, 0], [8, 0], [-8, 0], *[[0, 0]] * 12])
    return np.concatenate([points, np.full((count, 17, 1), 0.9)], axis=-1).astype(np.float32)


def test_a_lifted_pose_is_what_the_model_says_of_the_training_input(predictor: Predictor) -> None:
    """The box, the crop units and the context of Batch, written out by hand."""
    model, _ = load_model("lifting")
    points = coco()
    joints = to_h36m17(points, COCO17)
    bbox = square_bbox(joints)
    joints[..., :2] = (joints[..., :2] - bbox[:, None, :2]) / (bbox[:, None, 2:] / 2)
    # the model has seen confidences of 0 and 1 only
    joints[..., 2] = 1
    focal = np.hypot(*SIZE)
    box = np.concatenate([bbox[:, :2] - np.array(SIZE) / 2, bbox[:, 2:]], axis=1) / focal
    with torch.no_grad():
        want = model.lift(torch.from_numpy(joints).float(), torch.from_numpy(box).float())
    got = predictor.lift(points, size=SIZE)
    # float32 of about a metre, in mm
    np.testing.assert_allclose(got.joints_3d, want.numpy(), rtol=0, atol=2e-2)
    assert (got.joints_3d[:, 0] == 0).all()
    assert got.joints_3d.dtype == np.float32
    np.testing.assert_allclose(got.camera[0, :4], [focal, focal, SIZE[0] / 2, SIZE[1] / 2])
    np.testing.assert_allclose(got.joints_2d, to_h36m17(points, COCO17)[..., :2])
    assert got.layout == "coco17"


def test_leading_shapes_torch_and_numpy_are_one(predictor: Predictor) -> None:
    points = coco(6)
    want = predictor.lift(points, size=SIZE)
    shaped = predictor.lift(torch.from_numpy(points).reshape(2, 3, 17, 3), size=SIZE)
    assert (shaped.shape, shaped.joints_3d.shape, shaped.root.shape) == ((2, 3), (2, 3, 17, 3), (2, 3, 3))
    np.testing.assert_array_equal(shaped.flat().joints_3d, want.joints_3d)
    single = predictor.lift(points[0, :, :2], points[0, :, 2], size=SIZE)
    assert single.joints_3d.shape == (17, 3)
    # another batch size rounds differently, mm
    np.testing.assert_allclose(single.joints_3d, want.joints_3d[0], atol=2e-2)
    sizes = np.tile(SIZE, (6, 1))
    np.testing.assert_array_equal(predictor.lift(points, size=sizes).joints_3d, want.joints_3d)
    cameras = np.tile(CAMERA, (6, 1))
    np.testing.assert_array_equal(
        predictor.lift(points, camera=cameras).joints_3d, predictor.lift(points, camera=CAMERA).joints_3d
    )
    assert predictor.lift(points[:0], size=SIZE).joints_3d.shape == (0, 17, 3)


def test_absent_joints_are_absent_whatever_stands_in_them(predictor: Predictor) -> None:
    points = coco()
    points[:, 9, 2] = 0
    want = predictor.lift(points, size=SIZE)
    for junk in (np.nan, 1e5, 0):
        points[:, 9, :2] = junk
        np.testing.assert_array_equal(predictor.lift(points, size=SIZE).joints_3d, want.joints_3d)
    points[:, 9] = 300, 200, 0.05
    got = predictor.lift(points, size=SIZE)
    np.testing.assert_array_equal(got.joints_3d, want.joints_3d)
    assert np.isnan(got.joints_2d[:, 13]).all()
    assert (got.confidence[:, 13] == 0).all()
    points[0, :, 2] = 0
    points[1, :, :2] = points[1, :, :2] / 1000
    sparse = predictor.lift(points, size=SIZE)
    assert np.isnan(sparse.joints_3d[:2]).all()
    np.testing.assert_allclose(sparse.joints_3d[2], want.joints_3d[2], atol=2e-2)


def test_the_model_that_comes_along_beats_a_mean_pose_on_our_walk(predictor: Predictor) -> None:
    """Not a score: left and right, up and down, near and far must not be confused anywhere on the way."""
    import runpy

    walk = runpy.run_path(str(ROOT / "examples/make_walk.py"))
    found = read_keypoints(ROOT / "examples/walk.json")
    got = predictor.keypoints(found, size=walk["SIZE"], fps=30)
    truth = []
    for frame in range(walk["FRAMES"]):
        points, _ = walk["placed"](frame)
        joints = to_h36m17(np.concatenate([1000 * points, np.ones((17, 1))], axis=1), COCO17)[:, :3]
        truth.append(joints - joints[:1])
    want = np.stack(truth)
    error = np.linalg.norm(got.joints_3d - want, axis=-1).mean()
    mean_pose = want.mean(0)
    assert error < 120 < np.linalg.norm(mean_pose - want, axis=-1).mean()
    assert pa_mpjpe(torch.from_numpy(got.joints_3d).double(), torch.from_numpy(want)).mean() < 90
    np.testing.assert_array_equal(got.frame, np.arange(90))
    np.testing.assert_allclose(got.time, np.arange(90) / 30)
    assert got.is_sequence


def test_the_root_is_where_the_pose_projects_onto_its_keypoints() -> None:
    p = walkers(4, 2)
    keypoints = np.concatenate([p.joints_2d, p.confidence[..., None]], axis=-1).astype(np.float64)
    keypoints[0, 3] = np.nan, np.nan, 0
    found = fit_root(p.joints_3d, keypoints, p.camera)
    # float32 pixels
    np.testing.assert_allclose(found, p.root, rtol=0, atol=1.0)
    keypoints[1, 2:, 2] = 0
    assert np.isnan(fit_root(p.joints_3d, keypoints, p.camera)[1]).all()
    # all in one line of sight: how far away cannot be seen
    keypoints[2, :, :2] = keypoints[2, :1, :2]
    assert np.isnan(fit_root(p.joints_3d, keypoints, p.camera)[2]).all()
    assert np.isnan(fit_root(p.joints_3d, keypoints, np.full_like(p.camera, np.nan))).all()


def test_products_in_bfloat16_move_a_pose_by_millimetres_at_most(predictor: Predictor) -> None:
    points = coco(200)
    exact = predictor.lift(points, camera=CAMERA).joints_3d
    rounded = Predictor(device="cpu", dtype="bfloat16").lift(points, camera=CAMERA).joints_3d
    moved = np.linalg.norm(rounded - exact, axis=-1)
    assert 0 < moved.mean() < 1
    assert moved.max() < 10
    with pytest.raises(ValueError, match="dtype must be auto, float32 or bfloat16, got 'float16'"):
        Predictor(device="cpu", dtype="float16")  # type: ignore[arg-type]


def test_batches_of_any_size_say_the_same(predictor: Predictor) -> None:
    points = coco(5)
    points[2] = np.nan
    few = Predictor(device="cpu", batch_size=2, dtype="float32").lift(points, camera=CAMERA)
    for name, want in predictor.lift(points, camera=CAMERA).arrays.items():
        if want.dtype != object:
            np.testing.assert_allclose(few.arrays[name], want, rtol=1e-4, atol=2e-2, err_msg=name)


def test_a_clip_on_arrays_is_what_files_need(predictor: Predictor, tmp_path: Path) -> None:
    points = np.stack([coco(40), coco(40)[::-1]], axis=1)
    points[:10, 1], points[20:24, 0] = np.nan, 0
    found = predictor.clip(points, fps=25, size=SIZE, smooth=None)
    assert (len(found), found.fps, found.is_sequence) == (40 + 30, 25.0, True)
    lifted = predictor.lift(points, size=SIZE).joints_3d
    first = found.select(found.person == 0)
    assert first.frame.tolist() == list(range(40))
    # straight lines through what is missing, and nothing else is changed
    known = np.isfinite(lifted[:, 0]).all((1, 2))
    np.testing.assert_allclose(first.joints_3d[known], lifted[known, 0], rtol=0, atol=2e-2)
    want = lifted[19, 0] + (lifted[24, 0] - lifted[19, 0]) * 0.4
    np.testing.assert_allclose(first.joints_3d[21], want, rtol=0, atol=2e-2)
    paths = write(found, tmp_path / "clip", "bvh")
    texts = [path.read_text().splitlines() for path in paths]
    # who is first seen in frame 10 stands still until then: both move in step
    assert [text[text.index("MOTION") + 1] for text in texts] == ["Frames: 40", "Frames: 40"]
    moved = texts[1][-40:]
    assert len(set(moved[:11])) == 1
    assert moved[10] != moved[11]
    with pytest.raises(ValueError, match="clip: fps must be frames a second above 0, got 0"):
        predictor.clip(points, fps=0, size=SIZE)


def test_frames_far_apart_take_the_memory_of_their_poses(predictor: Predictor, tmp_path: Path) -> None:
    """Times in microseconds for numbers of frames."""
    lifted = predictor.clip(coco(30), fps=30, size=SIZE, smooth=None)
    apart = replace(lifted, frame=lifted.frame * 33_333, time=lifted.frame / 30)
    # [29 * 33,333, 18, 3] float64 alone would be 400 MB
    tracemalloc.start()
    got = steady(apart, max_gap=10, cutoff=6.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
    np.testing.assert_array_equal(got.joints_3d, apart.joints_3d)
    with pytest.raises(OutputError, match="frames must be those of a video, got 30 poses over 966658 frames"):
        write(replace(apart, time=np.full(30, np.nan)), tmp_path / "clip", "bvh")


def test_a_varying_rate_is_made_even_in_files_of_motion(predictor: Predictor) -> None:
    lifted = predictor.clip(coco(40), fps=30, size=SIZE, smooth=None)
    # every pose moves in a straight line in time, and every third frame was dropped
    start, speed = lifted.joints_3d[0], lifted.joints_3d[1] * 0.1
    times = (np.arange(60)[np.arange(60) % 3 != 2] / 30)[:40]
    moving = (start + times[:, None, None] * speed).astype(np.float32)
    motion = motions(replace(lifted, joints_3d=moving, time=times), "clip")[0]
    assert motion.present.all()
    want = (start + np.arange(len(motion.joints))[:, None, None] / 30 * speed) * [1, -1, -1]
    np.testing.assert_allclose(motion.joints, want, rtol=0, atol=1e-2)
    assert len(motion.joints) == 59


def test_photographs_are_levelled_each(predictor: Predictor) -> None:
    upright = coco(4)
    turned = upright.copy()
    for row, angle in enumerate(np.radians([30, -30, 30, -30])):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned[row, :, :2] = (upright[row, :, :2] - CAMERA[1:]) @ turn.T + CAMERA[1:]
    found = Keypoints(
        turned, KEYPOINT_NAMES["coco17"], "coco17", np.arange(4), np.full(4, -1), [f"{n}.jpg" for n in range(4)],
        np.tile(SIZE, (4, 1)), 4, sequence=False,
    )  # fmt: skip
    got = predictor.keypoints(found, camera=CAMERA, level=True)
    want = [predictor.lift(one, camera=CAMERA, level=True) for one in turned]
    np.testing.assert_allclose(got.roll, [float(one.roll) for one in want], rtol=0, atol=1e-6)
    assert np.ptp(got.roll) > 0.9
    np.testing.assert_allclose(got.joints_3d, np.stack([one.joints_3d for one in want]), rtol=0, atol=2e-2)


def test_roots_are_the_least_squares_of_numpy() -> None:
    rng = np.random.default_rng(5)
    poses = rng.normal(0, 300, (50, 17, 3))
    camera = np.zeros((50, 9))
    camera[:, :4] = rng.uniform([500, 900, 300, 200], [900, 1500, 700, 600], (50, 4))
    true = np.column_stack([rng.normal(0, 500, (50, 2)), rng.uniform(3000, 6000, 50)])
    at = poses + true[:, None]
    keypoints = np.ones((50, 17, 3))
    keypoints[..., :2] = camera[:, None, :2] * at[..., :2] / at[..., 2:] + camera[:, None, 2:4]
    keypoints[..., :2] += rng.normal(0, 5, (50, 17, 2))
    keypoints[rng.random((50, 17)) < 0.3] = 0
    found = fit_root(poses, keypoints, camera)
    for row in range(50):
        seen = keypoints[row, :, 2] > 0
        left, right = [], []
        for axis in range(2):
            pixel = keypoints[row, seen, axis] - camera[row, 2 + axis]
            column = np.zeros((seen.sum(), 3))
            column[:, axis], column[:, 2] = camera[row, axis], -pixel
            left.append(column)
            right.append(pixel * poses[row, seen, 2] - camera[row, axis] * poses[row, seen, axis])
        want = np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0]
        # float32 results
        np.testing.assert_allclose(found[row], want, rtol=1e-6, atol=1e-3)


def test_levelling_takes_a_turned_camera_back(predictor: Predictor) -> None:
    points = coco(5)
    angle = np.radians(17)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = points.copy()
    turned[..., :2] = (points[..., :2] - CAMERA[1:]) @ turn.T + CAMERA[1:]
    want, got = (predictor.lift(p, camera=CAMERA, level=True) for p in (points, turned))
    assert got.roll == pytest.approx(want.roll - angle, abs=1e-5)
    # float32 px
    np.testing.assert_allclose(got.joints_3d, want.joints_3d, rtol=0, atol=0.1)
    np.testing.assert_allclose(got.root, want.root, rtol=0, atol=1)
    assert np.abs(predictor.lift(turned, camera=CAMERA).joints_3d - want.joints_3d).mean() > 10
    lying = points.copy()
    lying[..., :2] = lying[..., [1, 0]]
    assert camera_roll(to_h36m17(lying, COCO17)) == 0
    assert camera_roll(np.zeros((3, 17, 3))) == 0


def test_a_levelled_model_says_so_and_files_of_motion_keep_its_up(tmp_path: Path) -> None:
    config = tiny(data={"level": True})
    torch.manual_seed(0)
    model = UniHPE(config.model, image_size=0).eval()
    model.set_mean_pose(torch.from_numpy(STANDING))
    write_text(tmp_path / "run" / CONFIG, to_yaml(config))
    save_weights(tmp_path / "run", model.state_dict())
    package(tmp_path / "packaged.safetensors", model, config, ModelCard("", ""))
    points, wanted = coco(4), None
    for source in (tmp_path / "run", tmp_path / "packaged.safetensors"):
        predictor = Predictor(source, device="cpu", dtype="float32")
        clip = predictor.clip(points, fps=30, camera=CAMERA, smooth=None)
        assert predictor.axes == clip.axes == "level"
        # how the person is pitched before the camera is not known
        assert np.isnan(clip.root).all()
        assert np.isfinite(clip.joints_3d).all()
        wanted = clip.joints_3d if wanted is None else wanted
        np.testing.assert_allclose(clip.joints_3d, wanted, rtol=0, atol=2)
    assert (Predictor(model).axes, Predictor(model, axes="level").axes) == ("camera", "level")
    with pytest.raises(ValueError, match="axes must be camera or level, got 'world'"):
        Predictor(model, axes="world")
    for name in ("npz", "json"):
        write(clip, tmp_path / "clip", name)
    assert npz.read(tmp_path / "clip.npz").axes == "level"
    write(replace(clip, axes="world"), tmp_path / "other", "npz")
    with pytest.raises(OutputError, match=r"other\.npz: must be a prediction in \.npz, got axes .world."):
        npz.read(tmp_path / "other.npz")
    assert json.loads((tmp_path / "clip.json").read_text())["axes"].startswith("level: ")
    # y of the poses is down the vertical, that of motion up
    motion = motions(clip, "clip")[0]
    np.testing.assert_array_equal(motion.joints, clip.joints_3d * np.array([1, -1, -1], np.float32))


def test_sizes_are_guessed_from_the_usual_ones() -> None:
    assert guess_size(np.array([[10.0, 20], [600, 470]])) == (640, 480)
    assert guess_size(np.array([[10.0, 20], [600, 900]])) == (720, 1280)
    assert guess_size(np.array([[1000.0, 20], [np.nan, np.nan]])) == (1280, 720)
    assert guess_size(np.array([[9000.0, 20]])) == (9000, 20)


def test_arguments_that_cannot_be_used(predictor: Predictor) -> None:
    points = coco()
    for arguments, message in (
        ({}, "size must be the width and height of the picture in px, or camera given, got neither"),
        ({"size": (0, 3)}, "size must be width, height in px"),
        ({"size": SIZE, "layout": "coco18"}, "layout must be one of coco17"),
        ({"size": SIZE, "layout": "body25"}, r"keypoints_2d must be \[\.\., 25, 2\] or \[\.\., 25, 3\]"),
        ({"size": SIZE, "confidence": np.ones(3)}, "keypoints_2d must be"),
        ({"camera": (1.0, 2.0)}, "camera must be f, cx, cy"),
        ({"camera": (-1.0, 2.0, 3.0)}, "focal length above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.lift(points, **arguments)
    with pytest.raises(ValueError, match=r"confidence must be \[3, 17\], got \[3\]"):
        predictor.lift(points[..., :2], np.ones(3), size=SIZE)
    with pytest.raises(ValueError, match="min_confidence must be 0 to 1"):
        Predictor(predictor.model, min_confidence=2)
    pose3d = UniHPE(tiny(model={"modalities": ("pose3d",)}).model, image_size=0)
    with pytest.raises(ValueError, match="must read images or 2D poses"):
        Predictor(pose3d, device="cpu")


def video(frames: int, gap: range = range(0)) -> tuple[list[SimpleNamespace], list[np.ndarray]]:
    p = walkers(frames, 2)
    people = p.joints_2d.reshape(frames, 2, 17, 2)
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    listed = [SimpleNamespace(index=n, time=n / 25, image=image) for n in range(frames)]
    return listed, [pair[:1] if n in gap else pair for n, pair in enumerate(people)]


def test_a_video_is_tracked_and_its_gaps_are_filled(predictor: Predictor) -> None:
    frames, people = video(30, range(10, 14))
    finder = Predictor(predictor.model, device="cpu", detector=Found(*people))
    got = finder.video(frames, fps=25.0, source="a.mp4", max_gap=4)
    assert got.is_sequence
    assert {person: len(rows) for person, rows in got.tracks().items()} == {0: 30, 1: 30}
    filled = got.select((got.person == 1) & (got.frame >= 10) & (got.frame < 14))
    assert np.isnan(filled.joints_2d).all()
    assert (filled.confidence == 0).all()
    assert np.isfinite(filled.joints_3d).all()
    again = Predictor(predictor.model, device="cpu", detector=Found(*people))
    assert len(again.video(frames, fps=25.0, max_gap=3)) == 56
    smooth = Predictor(predictor.model, device="cpu", detector=Found(*people))
    steady = smooth.video(frames, fps=25.0, max_gap=4, smooth=3.0)
    jerk = [np.abs(np.diff(p.joints_3d[p.person == 0], 3, axis=0)).mean() for p in (got, steady)]
    assert jerk[1] < jerk[0]
    assert (steady.joints_3d[:, 0] == 0).all()


def test_frames_without_people_are_counted_and_an_empty_video_is_refused(predictor: Predictor) -> None:
    frames, people = video(6)
    people[2] = people[2][:0]
    left_out: Counter[str] = Counter()
    Predictor(predictor.model, device="cpu", detector=Found(*people)).video(frames, fps=25.0, left_out=left_out)
    assert left_out == {"frames without a person": 1}
    nobody = Found(*[people[2]] * 6)
    with pytest.raises(ValueError, match=r"a\.mp4: people must be at least one, got none in any frame"):
        Predictor(predictor.model, device="cpu", detector=nobody).video(frames, fps=25.0, source="a.mp4")


def test_a_model_with_an_image_encoder_looks_at_the_picture() -> None:
    model = UniHPE(tiny(model={"modalities": ("image", "pose2d", "pose3d")}).model, image_size=32).eval()
    people = walkers(1, 2).joints_2d
    # a picture that is the same everywhere: every crop of it is known without cutting any
    picture = np.full((SIZE[1], SIZE[0], 3), (124, 116, 104), np.uint8)
    one = Predictor(model, device="cpu", detector=Found(people)).image(picture)
    other = Predictor(model, device="cpu", detector=Found(people)).image(255 - picture)
    assert not np.allclose(one.joints_3d, other.joints_3d, atol=1e-3)
    # what both were read from goes to the keypoints' lines of sight
    model.to_rays = lambda joints_3d, keypoints_2d, box: joints_3d + 100 * keypoints_2d[:, :, 2:]
    moved = Predictor(model, device="cpu", detector=Found(people)).image(picture)
    np.testing.assert_allclose(moved.joints_3d, one.joints_3d + 100, atol=1e-3)
    blind = UniHPE(tiny(model={"modalities": ("pose2d",)}).model, image_size=0).eval()
    one = Predictor(blind, device="cpu", detector=Found(people)).image(picture)
    other = Predictor(blind, device="cpu", detector=Found(people)).image(255 - picture)
    np.testing.assert_array_equal(one.joints_3d, other.joints_3d)
    assert isinstance(one, Prediction)
    assert len(STANDING) == one.joints_3d.shape[1]


def test_a_level_video_is_refused_where_pictures_would_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "looks_at_pictures", True)
    with pytest.raises(ValueError, match="level must be False for the video"):
        Predictor().video([], fps=25, level=True)
