"""A webcam: people in 3D as they move, in a window where there is a display, frames a second where there is none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from unihpe_fast.prediction import Prediction, concatenate
from unihpe_fast.predictor import Keep, Predictor
from unihpe_fast.video import OneEuro, Rate, Tracker, open_video, open_window


def live(
    predictor: Predictor,
    number: int,
    *,
    say: Callable[[str], None],
    camera: Any = None,
    smooth: bool = True,
    draw: Callable[[np.ndarray, Prediction], np.ndarray] | None = None,
    keep: Keep | None = None,
    most_frames: int | None = None,
) -> tuple[Prediction | None, int]:
    """Follow a webcam until its window is closed, it ends or Ctrl-C.

    smooth: a One-Euro filter a person. draw: picture and poses to the picture that is shown. keep: is told of every
    frame, as by `Predictor.video`. Returns the poses of all frames, None where nobody was seen, and how many frames
    there were. Raises VideoError where there is no such webcam.
    """
    tracker, rate = Tracker(), Rate()
    filters: dict[int, OneEuro] = {}
    parts: list[Prediction] = []
    with open_video(number) as video:
        window, reason = open_window(f"unihpe_fast: {video.name}")
        say(f"{video.name}: {video.size[0]} x {video.size[1]} px; " + (reason or "q closes the window"))
        try:
            for frame in video:
                found = predictor.detect(frame.image)
                people = tracker.update(found, frame.index)
                if keep:
                    keep(frame.index, found, people, video.size, "")
                posed = predictor.placed(frame, found, people, camera=camera)
                for row in np.flatnonzero(np.isfinite(posed.joints_3d).all((1, 2))).tolist() if smooth else ():
                    steady = filters.setdefault(int(people[row]), OneEuro())
                    posed.joints_3d[row] = steady(posed.joints_3d[row], frame.time)
                parts.append(posed)
                late = rate.tick()
                shown = draw(frame.image, posed) if draw else frame.image
                if window is not None and not window.show(shown):
                    break
                if frame.index % 30 == 29:
                    say(f"{video.name}: {len(people)} people, {late:.1f} frames/s")
                if most_frames is not None and len(parts) >= most_frames:
                    break
        except KeyboardInterrupt:
            say(f"{video.name}: stopped")
        finally:
            if window is not None:
                window.close()
        fps = video.mean_fps
    if not any(len(part) for part in parts):
        return None, rate.frames
    whole = concatenate(parts)
    return replace(whole, fps=fps, source=np.full(len(whole), video.name, dtype=object)), rate.frames
