"""Videos and webcams frame by frame, people followed through them, gaps and jitter."""

from unihpe_fast.video.gaps import fill_gaps
from unihpe_fast.video.live import LiveWindow, NoDisplayError, Rate, open_window
from unihpe_fast.video.reading import Frame, Video, VideoError, open_video
from unihpe_fast.video.smoothing import OneEuro, smooth
from unihpe_fast.video.tracking import Tracker, oks

__all__ = [
    "Frame", "LiveWindow", "NoDisplayError", "OneEuro", "Rate", "Tracker", "Video", "VideoError", "fill_gaps", "oks",
    "open_video", "open_window", "smooth",
]  # fmt: skip
