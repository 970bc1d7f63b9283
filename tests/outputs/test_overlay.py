"""Overlays are read back: where lines must be, there are lines; videos have their frames, their rate and their size."""

import resource
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.walkers import SIZE, GreyPictures, walkers
from unihpe_fast.data.skeleton import BONES
from unihpe_fast.outputs import write
from unihpe_fast.outputs.overlay import COLOURS, OverlayVideo, draw_overlay


def near(image: np.ndarray, point: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether the colour is found within 4 px of a point."""
    x, y = np.round(point).astype(int)
    window = image[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].astype(int)
    return bool((np.abs(window - colour).max(-1) < 40).any())


def test_bones_lie_on_the_keypoints_and_sides_have_their_colours() -> None:
    one = walkers(1)
    ground = np.full((*SIZE[::-1], 3), 90, np.uint8)
    image = draw_overlay(ground, one.joints_2d, one.confidence, one.joints_3d, size=SIZE)
    assert image.shape[0] == SIZE[1]
    assert image.shape[1] > SIZE[0]
    points = one.joints_2d[0]
    for a, b, side in ((4, 5, "left"), (1, 2, "right"), (0, 7, "middle")):
        assert near(image, (points[a] + points[b]) / 2, COLOURS[side]), side
    # the person's right is on the left of the picture, and nothing of the left's colour is there
    assert not near(image, (points[1] + points[2]) / 2, COLOURS["left"])
    # the panel in 3D shows a person of the same colours
    panel = image[:, SIZE[0] :].astype(int)
    for colour in COLOURS.values():
        assert (np.abs(panel - colour).max(-1) < 20).sum() > 50


def test_what_is_absent_is_not_drawn() -> None:
    one = walkers(1)
    ground = np.full((*SIZE[::-1], 3), 90, np.uint8)
    confidence, points, joints = one.confidence.copy(), one.joints_2d.copy(), one.joints_3d.copy()
    confidence[:, [5, 6]], points[:, [12, 13]], joints[:] = 0, np.nan, np.nan
    image = draw_overlay(ground, points, confidence, joints, size=SIZE)
    for a, b in BONES:
        drawn = not {a, b} & {5, 6, 12, 13}
        middle = (one.joints_2d[0, a] + one.joints_2d[0, b]) / 2
        assert any(near(image, middle, colour) for colour in COLOURS.values()) == drawn, (a, b)
    plain = draw_overlay(ground, np.empty((0, 17, 2)), np.empty((0, 17)), np.empty((0, 17, 3)), size=SIZE)
    assert (plain[:, : SIZE[0]] == 90).all()


@pytest.mark.parametrize("size", [(4000, 3000), (90, 60), (101, 333)])
def test_any_size_of_picture_gives_even_sides(size: tuple[int, int]) -> None:
    one = walkers(1)
    image = draw_overlay(np.zeros((*size[::-1], 3), np.uint8), one.joints_2d, one.confidence, one.joints_3d, size=size)
    assert image.shape[0] % 2 == image.shape[1] % 2 == 0
    assert 200 < image.shape[0] <= 720


def test_a_video_becomes_a_video_of_every_frame(tmp_path: Path) -> None:
    prediction = walkers(12, people=2)
    # nobody is found in frame 5, and only one person in frame 7
    kept = (prediction.frame != 5) & ~((prediction.frame == 7) & (prediction.person == 1))
    (path,) = write(prediction.select(kept), tmp_path / "clip", "overlay", GreyPictures(12))
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip_overlay.mp4"]
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(25)
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 12
    assert {frame.shape for frame in frames} == {frames[0].shape}
    # the pictures grow lighter, as those of GreyPictures do
    corners = [frame[:40, :40].mean() for frame in frames]
    assert np.all(np.diff(corners) > 2)


def test_photographs_become_a_picture_each(tmp_path: Path) -> None:
    one = walkers(2, fps=None, source="photo.jpg")
    (path,) = write(one.select(one.frame == 0), tmp_path / "out", "overlay", GreyPictures(1, "photo.jpg"))
    assert path.name == "out_overlay.png"
    assert cv2.imread(str(path)).shape[0] == SIZE[1]
    both = write(one, tmp_path / "out", "overlay", GreyPictures(3, "photo.jpg"))
    assert [path.name for path in both] == ["out_overlay_photo_0.png", "out_overlay_photo_1.png"]


@pytest.mark.parametrize("known_size", [True, False])
def test_without_pictures_keypoints_stand_on_an_empty_ground(tmp_path: Path, known_size: bool) -> None:
    one = walkers(1, fps=None)
    if not known_size:
        one = replace(one, size=np.zeros_like(one.size))
    (path,) = write(one, tmp_path / "out", "overlay")
    image = cv2.imread(str(path))[..., ::-1]
    for colour in COLOURS.values():
        assert (np.abs(image.astype(int) - colour).max(-1) < 40).sum() > 100


def test_two_hundred_people_fit_beside_the_picture(tmp_path: Path) -> None:
    crowd = walkers(2, people=200)
    (path,) = write(crowd, tmp_path / "crowd", "overlay")
    video = cv2.VideoCapture(str(path))
    _, image = video.read()
    assert image.shape[1] <= SIZE[0] + 3 * SIZE[1]
    view = image[:, SIZE[0] :, ::-1].astype(int)
    # a place of 36 by 6 each: the first is taken, the last of the last row is not
    place = view.shape[0] // 6, view.shape[1] // 36
    left = np.abs(view - COLOURS["left"]).max(-1) < 60
    assert left[: place[0], : place[1]].any()
    assert left[-place[0] :, 19 * place[1] : 20 * place[1]].any()
    assert not left[-place[0] :, 21 * place[1] :].any()


def test_a_disk_that_is_full_leaves_the_old_video(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path / "clip.mp4", 25) as video:
        video.add(np.zeros((64, 96, 3), np.uint8))
    before = (tmp_path / "clip.mp4").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    rng = np.random.default_rng(0)
    video = OverlayVideo(tmp_path / "clip.mp4", 25)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        # OpenCV says nothing of what it cannot write
        for _ in range(30):
            video.add(rng.integers(0, 255, (64, 96, 3), np.uint8))
        with pytest.raises(OSError, match=r"clip\.mp4: 30 frames must be written, got"):
            video.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == before


def test_a_video_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), OverlayVideo(tmp_path / "clip.mp4", 25) as video:  # noqa: PT012
        video.add(np.zeros((64, 96, 3), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with OverlayVideo(tmp_path / "none.mp4", 25):
        pass
    assert list(tmp_path.iterdir()) == []
