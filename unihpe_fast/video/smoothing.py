"""Less jitter: a zero-lag Butterworth filter for what is recorded, a One-Euro filter for what is live."""

import math

import numpy as np
from scipy.signal import butter, sosfiltfilt

from unihpe_fast.video.gaps import alike, runs

_ORDER = 2
# two passes weaken the cutoff twice: this much higher, and it is at -3 dB after both (Winter, Biomechanics, 2.3)
_CORRECTION = (math.sqrt(2) - 1) ** (-1 / (2 * _ORDER))


def smooth(
    values: np.ndarray,
    fps: float,
    *,
    cutoff: float = 6.0,
    present: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """A Butterworth filter of second order forwards and backwards, so that nothing is late.

    values: [T, ..., C]. fps: frames a second. cutoff: Hz at which half of the power is left; 6 Hz is usual for human
    motion. present: bool [T] or [T, ...]; every stretch of True is filtered by itself, the rest stays. times: [T] s of
    the frames; where the rate varies, values are filtered as if taken at `fps`, by straight lines there and back.
    Returns the values in their floating dtype; a cutoff beyond fps / 2 changes nothing. Raises ValueError for shapes
    that do not fit and a cutoff that is not above 0.
    """
    if not cutoff > 0 or not fps > 0:
        raise ValueError(f"smooth: cutoff and fps must be above 0, got {cutoff} and {fps}")
    present = np.ones(len(values), bool) if present is None else present
    if present.shape not in (values.shape[:1], values.shape[:-1]):
        wanted = f"{list(values.shape[:1])} or {list(values.shape[:-1])}"
        raise ValueError(f"smooth: present must have shape {wanted}, got {list(present.shape)}")
    result = values.copy()
    if not len(values) or cutoff * _CORRECTION >= fps / 2:
        return result
    sos = butter(_ORDER, cutoff * _CORRECTION, fs=fps, output="sos")
    joints = present.reshape(len(values), -1)
    numbers = result.reshape(len(values), joints.shape[1], -1)
    for group in alike(joints):
        for start, end in runs(joints[:, group[0]]):
            at = None if times is None else np.asarray(times[start:end], np.float64)
            stretch = numbers[start:end, group]
            numbers[start:end, group] = _filtered(stretch.reshape(end - start, -1), sos, fps, at).reshape(stretch.shape)
    return result


def _filtered(values: np.ndarray, sos: np.ndarray, fps: float, times: np.ndarray | None) -> np.ndarray:
    """values: [n, C], all there."""
    if len(values) < 3:
        return values
    even = None
    if times is not None and np.ptp(np.diff(times)) > 0.1 / fps:
        even = np.linspace(times[0], times[-1], max(3, round((times[-1] - times[0]) * fps) + 1))
        values = np.stack([np.interp(even, times, column) for column in values.T], axis=1)
    # a second of reflection at either end; scipy wants it shorter than the stretch
    padding = min(len(values) - 1, max(9, round(fps)))
    done = sosfiltfilt(sos, values.astype(np.float64), axis=0, padlen=padding)
    if even is None or times is None:
        return done
    return np.stack([np.interp(times, even, column) for column in done.T], axis=1)


class OneEuro:
    """The One-Euro filter (Casiez et al. 2012) of one person: steady when still, quick when moving.

    min_cutoff: Hz, at rest; lower is steadier. beta: Hz for every unit a second of speed; higher lags less. The
    defaults are for mm; for px of a person 500 px high they do too. derivative_cutoff: Hz, of the speed itself.
    """

    def __init__(self, min_cutoff: float = 1.5, beta: float = 0.005, derivative_cutoff: float = 1.0) -> None:
        if not (min_cutoff > 0 and derivative_cutoff > 0 and beta >= 0):
            given = f"{min_cutoff}, {beta} and {derivative_cutoff}"
            raise ValueError(f"OneEuro: cutoffs must be above 0 and beta 0 or more, got {given}")
        self.min_cutoff, self.beta, self.derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self._last: np.ndarray | None = None
        self._speed = np.zeros(0)
        self._seen = np.zeros(0, bool)
        self._time = 0.0

    def __call__(self, values: np.ndarray, time: float, present: np.ndarray | None = None) -> np.ndarray:
        """values [..., C] of a frame at `time` s, later than the one before -> the same, smoothed, in their dtype.

        present: bool [...]; a joint that is False is passed on as it is and begins anew when it comes back. Raises
        ValueError for a time that does not go on and for another shape than before.
        """
        now = np.asarray(values, np.float64)
        seen = np.ones(now.shape[:-1], bool) if present is None else np.asarray(present, bool)
        if self._last is None:
            self._last, self._speed, self._seen, self._time = now.copy(), np.zeros_like(now), seen, time
            return values.copy()
        if now.shape != self._last.shape:
            raise ValueError(f"OneEuro: values must have shape {list(self._last.shape)}, got {list(now.shape)}")
        step = time - self._time
        if not step > 0:
            raise ValueError(f"OneEuro: time must be later than {self._time}, got {time}")
        known = (seen & self._seen)[..., None]
        speed = np.where(known, (now - self._last) / step, 0)
        share = _share(np.asarray(self.derivative_cutoff), step)
        self._speed = np.where(known, self._speed + share * (speed - self._speed), 0)
        # one cutoff a joint: its coordinates must not lag differently
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(self._speed, axis=-1, keepdims=True)
        smoothed = np.where(known, self._last + _share(cutoff, step) * (now - self._last), now)
        self._last, self._seen, self._time = smoothed, seen, time
        return smoothed.astype(values.dtype)


def _share(cutoff: np.ndarray, step: float) -> np.ndarray:
    """Of a new value, what a low-pass filter of first order takes over in `step` s."""
    ratio = 2 * math.pi * cutoff * step
    return ratio / (ratio + 1)
