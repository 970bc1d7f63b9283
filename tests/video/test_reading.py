"""Videos as they come: long, broken, turned, of a varying rate, under odd names."""

import gc
import os
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest

from unihpe_fast.video import VideoError, open_video
from unihpe_fast.video.reading import DEFAULT_FPS, Video


def write_video(
    path: Path, count: int, *, fps: float = 25, size: tuple[int, int] = (64, 48), codec: str = "MJPG"
) -> Path:
    """Frame i is of the grey value i % 200 + 20, the left half red."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, size)
    for index in range(count):
        image = np.full((size[1], size[0], 3), index % 200 + 20, np.uint8)
        image[:, : size[0] // 2] = (0, 0, 255)
        writer.write(image)
    writer.release()
    return path


class Capture:
    """As cv2.VideoCapture. reads: a frame for every read(), None for one that fails."""

    def __init__(self, reads, *, count=0, fps=25.0, times=None) -> None:
        self.reads, self.count, self.fps, self.times = list(reads), count, fps, times
        self.at = -1

    def read(self):
        self.at += 1
        found = self.reads[self.at] if self.at < len(self.reads) else None
        return found is not None, found

    def get(self, what):
        if what == cv2.CAP_PROP_FPS:
            return self.fps
        if what == cv2.CAP_PROP_FRAME_COUNT:
            return self.count
        return self.times[self.at] * 1000 if self.times else self.at * 1000 / (self.fps or 25)

    def release(self) -> None:
        pass


GREY = np.full((4, 6, 3), 99, np.uint8)


@pytest.mark.parametrize("name", ["clip.avi", "ein Film, Straße 2%d.avi", "動画 01.avi"])
def test_frames(tmp_path, name):
    with open_video(write_video(tmp_path / name, 30)) as video:
        assert (video.fps, video.size, video.num_frames) == (25, (64, 48), 30)
        frames = list(video)
    assert [frame.index for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(30) / 25, atol=1e-3)
    assert all(frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8 for frame in frames)
    red, grey = frames[7].image[24, 10], frames[7].image[24, 50]
    assert red[0] > 200, "RGB, not BGR"
    assert red[2] < 60
    np.testing.assert_allclose(grey, 27, atol=4)
    assert video.broken == 0
    assert not video.variable_rate


def test_an_hour_is_read_in_constant_memory(tmp_path):
    # an hour at a frame a second; a frame is 9 kB, so keeping one in three would take 11 MB
    path = write_video(tmp_path / "hour.avi", 3600, fps=1)
    memory = []
    with open_video(path) as video:
        for frame in video:
            if frame.index in (400, 3599):
                gc.collect()
                memory.append(_resident_mb())
    assert frame.time == pytest.approx(3599)
    assert memory[1] - memory[0] < 10


def test_a_broken_frame_does_not_end_a_video(tmp_path):
    path = write_video(tmp_path / "broken.avi", 60)
    data = bytearray(path.read_bytes())
    # the pictures of two frames, all of them
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 60
    for index in (1, 40):
        room = starts[index + 1] - 8 - starts[index]
        data[starts[index] : starts[index] + room] = bytes(room)
    path.write_bytes(data)
    with open_video(path) as video:
        frames = list(video)
    assert len(frames) == 58
    assert video.broken == 2
    np.testing.assert_allclose(frames[-1].time, 59 / 25, atol=1e-3)


def test_a_video_that_ends_early_gives_what_there_is(tmp_path):
    path = write_video(tmp_path / "cut.avi", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_video(path) as video:
        frames = list(video)
    assert 10 < len(frames) < 40
    assert video.broken == 60 - len(frames)


def test_reads_that_fail_are_counted_and_passed():
    reads = [GREY, None, None, GREY, GREY]
    video = Video(Capture(reads, count=5), "x")
    assert [frame.index for frame in video] == [0, 3, 4]
    assert video.broken == 2


def test_what_the_header_promised_and_never_came_is_broken():
    video = Video(Capture([GREY] * 3, count=10), "x")
    assert len(list(video)) == 3
    assert video.broken == 7


def test_no_endless_waiting_for_a_header_that_lies():
    capture = Capture([GREY], count=10**9)
    assert len(list(Video(capture, "x"))) == 1
    assert capture.at < 1000


def test_times_of_a_varying_rate():
    times = [0.5, 0.54, 0.6, 0.9, 0.94]
    video = Video(Capture([GREY] * 5, count=5, times=times), "x")
    assert [round(frame.time, 6) for frame in video] == [0, 0.04, 0.1, 0.4, 0.44]
    assert video.variable_rate
    assert video.mean_fps == pytest.approx(4 / 0.44)


def test_times_that_stand_still_or_go_back():
    video = Video(Capture([GREY] * 4, count=4, times=[0, 0, 0.08, 0.02]), "x")
    times = [frame.time for frame in video]
    np.testing.assert_allclose(times, [0, 0.04, 0.08, 0.12])


@pytest.mark.parametrize("fps", [0, float("nan"), float("inf"), 90_000, -1])
def test_a_rate_that_is_none(fps):
    video = Video(Capture([GREY], fps=fps, count=float("nan")), "x")
    assert video.fps == DEFAULT_FPS
    assert video.num_frames is None


def test_grey_videos_have_three_channels():
    frame = next(iter(Video(Capture([GREY[..., 0]]), "x")))
    assert frame.image.shape == (4, 6, 3)


def test_a_phones_rotation_is_applied(tmp_path):
    path = write_video(tmp_path / "phone.mp4", 5, codec="mp4v", size=(64, 32))
    data = bytearray(path.read_bytes())
    # the track header's matrix: the identity becomes a turn by 90 degrees clockwise
    one, unit = (1 << 16).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    zero, minus = bytes(4), (-(1 << 16)).to_bytes(4, "big", signed=True)
    identity = one + zero * 3 + one + zero * 3 + unit
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = zero + one + zero + minus + zero * 4 + unit
    path.write_bytes(data)
    with open_video(path) as video:
        frame = next(iter(video))
    assert video.size == (32, 64)
    assert frame.image.shape == (64, 32, 3)
    # what was on the left is above
    assert frame.image[8, 16, 0] > 150 > frame.image[56, 16, 0]


def test_what_is_no_video_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"none\.mp4: video must be a file that exists, got none"):
        open_video(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="got a folder"):
        open_video(tmp_path)
    (tmp_path / "a b.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match=r"a b\.mp4: file must be a video"):
        open_video(tmp_path / "a b.mp4")
    (tmp_path / "text.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(VideoError, match=r"text\.mp4"):
        open_video(tmp_path / "text.mp4")
    with pytest.raises(VideoError, match="x: video must have a frame"):
        Video(Capture([]), "x")


def test_a_webcam_that_is_not_there():
    with pytest.raises(VideoError, match="webcam 99"):
        open_video(99)


def test_a_webcam_ends_when_it_is_pulled_out():
    video = Video(Capture([GREY, GREY, None, GREY], count=-1), "webcam 0", live=True)
    frames = list(video)
    assert [frame.index for frame in frames] == [0, 1]
    assert video.num_frames is None
    assert frames[1].time > frames[0].time == 0


def _resident_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * os.sysconf("SC_PAGESIZE") / 2**20
