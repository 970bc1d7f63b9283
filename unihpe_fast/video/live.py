"""What is seen as it is seen: a window where there is a display, and frames a second."""

import time
from collections import deque
from typing import Any

import cv2
import numpy as np

LONGEST = 960  # px of a window


class NoDisplayError(RuntimeError):
    """There is no display, or no toolkit to open a window with; the message says which."""


class LiveWindow:
    """A window that shows pictures until it is closed, or q or Escape is pressed.

    toolkit: the module tkinter, Python's own; OpenCV's headless build has no windows. Raises NoDisplayError where no
    window can be opened.
    """

    def __init__(self, title: str, toolkit: Any = None) -> None:
        if toolkit is None:
            try:
                import tkinter as toolkit
            except ImportError as error:
                raise NoDisplayError(f"no window: Python's tkinter is not installed ({error})") from error
        try:
            self._root = toolkit.Tk()
        except toolkit.TclError as error:
            raise NoDisplayError(f"no window: {error}") from error
        self._toolkit = toolkit
        self._root.title(title)
        self._label = toolkit.Label(self._root)
        self._label.pack()
        self.closed = False
        for key in ("q", "<Escape>"):
            self._root.bind(key, self._close)
        self._root.protocol("WM_DELETE_WINDOW", self._close)

    def show(self, image: np.ndarray) -> bool:
        """Show image uint8 [H, W, 3] RGB, made smaller where it is large; False when the window is closed."""
        if self.closed:
            return False
        scale = LONGEST / max(image.shape[:2])
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = image.shape[:2]
        # kept on the label: a picture that Python forgets, tk forgets too
        data = f"P6 {width} {height} 255 ".encode() + np.ascontiguousarray(image).tobytes()
        self._label.image = self._toolkit.PhotoImage(data=data, format="PPM")
        self._label.configure(image=self._label.image)
        self._root.update()
        return not self.closed

    def close(self) -> None:
        self._close()

    def _close(self, *_: object) -> None:
        if not self.closed:
            self.closed = True
            self._root.destroy()


def open_window(title: str) -> tuple[LiveWindow | None, str]:
    """A window, or None and the reason why there is none."""
    try:
        return LiveWindow(title), ""
    except NoDisplayError as error:
        return None, str(error)


class Rate:
    """Frames a second over the last `span` of them, and of all."""

    def __init__(self, span: int = 30) -> None:
        self._times: deque[float] = deque(maxlen=span + 1)
        self._start: float | None = None
        self.frames = 0

    def tick(self) -> float:
        """Count a frame; returns the frames a second of late, 0 at the first."""
        now = time.perf_counter()
        self._start = now if self._start is None else self._start
        self._times.append(now)
        self.frames += 1
        passed = now - self._times[0]
        return (len(self._times) - 1) / passed if passed > 0 else 0.0

    @property
    def mean(self) -> float:
        """Frames a second from the first frame to now."""
        passed = 0.0 if self._start is None else time.perf_counter() - self._start
        return self.frames / passed if passed > 0 else 0.0
