"""What the BVH and the ASF/AMC reader share: opening a file, parsing numbers, rotations by Euler angles."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# far above any motion file; stops a small archive that unpacks to fill the memory
MAX_BYTES = 1 << 28
AXES = "XYZ"


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, plain or gzipped by its suffix, with any line ends and byte order mark.

    ValueError on a broken archive.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: broken gzip file ({error})") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: unpacks to more than {MAX_BYTES >> 20} MiB, no motion file is that large")
    # a byte order mark is no part of the text
    return data.removeprefix(b"\xef\xbb\xbf").decode("latin-1").splitlines()


# of what a motion file may hold, in any unit: squares and products of such numbers are finite
LARGEST_NUMBER = 1e12


def parse_numbers(words: Sequence[str], where: str) -> list[float]:
    """Floats of the words, within 1e12; ValueError that begins with `where` and shows the word that is none."""
    numbers = []
    for word in words:
        try:
            number = float(word)
        except ValueError:
            raise ValueError(f"{where}: want a number, got {word!r:.60}") from None
        if not abs(number) <= LARGEST_NUMBER:
            raise ValueError(
                f"{where}: want a finite number, got {word!r:.60}, and no larger one than {LARGEST_NUMBER:g}"
            )
        numbers.append(number)
    return numbers


def euler_matrix(degrees: np.ndarray, axes: str) -> np.ndarray:
    """Product of the rotations about `axes` in their written order, for column vectors.

    degrees: [..., len(axes)], one angle an axis, e.g. axes "ZYX" for Rz Ry Rx. Returns [..., 3, 3] float64.
    """
    result = np.broadcast_to(np.eye(3), (*degrees.shape[:-1], 3, 3))
    for angle, axis in zip(np.moveaxis(np.deg2rad(degrees), -1, 0), axes, strict=True):
        i = AXES.index(axis)
        j, k = (i + 1) % 3, (i + 2) % 3
        rotation = np.zeros((*angle.shape, 3, 3))
        rotation[..., i, i] = 1
        rotation[..., j, j] = rotation[..., k, k] = np.cos(angle)
        rotation[..., k, j] = np.sin(angle)
        rotation[..., j, k] = -rotation[..., k, j]
        result = result @ rotation
    return result
