"""A live window, with a stand-in for the display, and frames a second."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from unihpe_fast.video import LiveWindow, NoDisplayError, Rate


class Toolkit:
    """As the module tkinter, as far as a window needs it."""

    class TclError(Exception):
        pass

    def __init__(self, display: bool = True) -> None:
        self.display, self.shown, self.keys = display, [], {}
        self.destroyed = 0

    def Tk(self):
        if not self.display:
            raise self.TclError("no display name and no $DISPLAY environment variable")

        def destroy() -> None:
            self.destroyed += 1

        return SimpleNamespace(
            title=lambda text: None,
            bind=self.keys.__setitem__,
            protocol=self.keys.__setitem__,
            update=lambda: None,
            destroy=destroy,
        )

    def Label(self, root):
        return SimpleNamespace(pack=lambda: None, configure=lambda image: self.shown.append(image))

    def PhotoImage(self, data, format):
        assert format == "PPM"
        head, width, height, most = data[:30].split(b" ")[:4]
        assert (head, most) == (b"P6", b"255")
        pixels = data[len(b" ".join([head, width, height, most])) + 1 :]
        return np.frombuffer(pixels, np.uint8).reshape(int(height), int(width), 3)


def test_pictures_are_shown_until_a_key():
    toolkit = Toolkit()
    window = LiveWindow("x", toolkit)
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert window.show(image)
    np.testing.assert_array_equal(toolkit.shown[-1], image)
    assert window.show(np.zeros((1920, 1080, 3), np.uint8))
    assert toolkit.shown[-1].shape == (960, 540, 3)
    toolkit.keys["q"]("event")
    assert not window.show(image)
    window.close()
    assert toolkit.destroyed == 1


def test_without_a_display():
    with pytest.raises(NoDisplayError, match="no window: no display name"):
        LiveWindow("x", Toolkit(display=False))


def test_rate(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    rate = Rate(span=4)
    assert rate.mean == 0
    assert rate.tick() == 0
    for step in (1.0, 1.0, 0.1, 0.1, 0.1, 0.1):
        now[0] += step
        late = rate.tick()
    assert late == pytest.approx(10)
    assert rate.mean == pytest.approx(7 / 2.4)
