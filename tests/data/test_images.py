import struct

import cv2
import numpy as np
import pytest
import torch

from tests.support.people import jpeg
from unihpe_fast.data.images import jpeg_size, normalized, warp_jpeg


def bright_spot(side: int, x: float, y: float, sigma: float) -> np.ndarray:
    """uint8 [side, side, 3] with a Gaussian of light centred at x, y."""
    across = np.arange(side)
    spot = np.exp(-((across[None] - x) ** 2 + (across[:, None] - y) ** 2) / (2 * sigma**2))
    return np.repeat((250 * spot).round().astype(np.uint8)[..., None], 3, axis=2)


def centroid(picture: np.ndarray) -> np.ndarray:
    """x, y of the light in [S, S]; JPEG's ripples far from a spot do not count."""
    light = np.where(picture > 0.2 * picture.max(), picture, 0).astype(np.float64)
    y, x = np.indices(light.shape)
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum()


@pytest.mark.parametrize("scale", [1.7, 1.0, 0.6, 0.45, 0.3, 0.2, 0.11])
def test_pixel_centres_stay_where_the_map_puts_them(scale: float) -> None:
    """Also where the picture is decoded at a half, a quarter or an eighth of its size."""
    matrix = np.array(
        [[scale * np.cos(0.3), -scale * np.sin(0.3), 20.0], [scale * np.sin(0.3), scale * np.cos(0.3), 5.0]]
    )
    for x, y in [(61.3, 70.8), (90.0, 41.5)]:
        out = np.full((96, 96, 3), 77, np.uint8)
        warp_jpeg(np.frombuffer(jpeg(bright_spot(131, x, y, 2 / scale)), np.uint8), matrix, out)
        wanted = matrix @ [x, y, 1]
        if (wanted < 88).all():
            # 8 bits, JPEG and the clipped flanks of the spot move it by some hundredths of a px
            np.testing.assert_allclose(centroid(out[..., 0]), wanted, atol=0.06)


def test_a_shrunk_picture_is_averaged() -> None:
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    out = np.empty((32, 32, 3), np.uint8)
    scale = 32 / 256
    matrix = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])
    warp_jpeg(np.frombuffer(jpeg(np.repeat(board[..., None], 3, axis=2)), np.uint8), matrix * [[1, 1, 0.999]], out)
    # skipping pixels would give 0 or 255
    assert np.abs(out[2:-2, 2:-2].astype(int) - 127).max() < 20


def test_channels_are_rgb_and_outside_is_black() -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[...] = (0, 0, 255)  # red in OpenCV's order
    out = np.full((24, 24, 3), 77, np.uint8)
    warp_jpeg(np.frombuffer(jpeg(picture), np.uint8), np.array([[1.0, 0, 4], [0, 1, 4]]), out)
    assert (np.abs(out[6:18, 6:18].astype(int) - [255, 0, 0]) < 4).all()
    assert not out[:3].any()
    assert not out[:, -3:].any()


def test_an_orientation_tag_does_not_turn_the_picture() -> None:
    picture = bright_spot(64, 12, 30, 3)
    data = jpeg(picture)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    tagged = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR)[12, 33, 0] > 200  # turned by a quarter
    out = np.empty((64, 64, 3), np.uint8)
    warp_jpeg(np.frombuffer(tagged, np.uint8), np.eye(2, 3), out)
    np.testing.assert_allclose(centroid(out[..., 0]), [12, 30], atol=0.06)


def test_the_size_is_read_from_the_header() -> None:
    for quality in (30, 98):
        assert jpeg_size(jpeg(np.zeros((37, 91, 3), np.uint8), quality)) == (91, 37)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


GOOD = jpeg(np.zeros((16, 16, 3), np.uint8))
FRAME = GOOD.index(b"\xff\xc0")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found 0 bytes .*, wanted a whole JPEG"),
        (b"GIF89a", "wanted a whole JPEG"),
        (GOOD[:-2], "wanted a whole JPEG"),
        (b"\xff\xd8\xff\xd9", "without a frame header"),
        (patched(GOOD, FRAME + 5, b"\xff\xff\xff\xff"), "found a picture of 65535 x 65535 px, wanted at most 8192"),
        (patched(GOOD, FRAME + 5, b"\0\0"), "found a picture of 16 x 0 px"),
        (patched(GOOD, FRAME + 2, b"\xff\xff"), "found a broken JPEG of"),
        # what a decoder fills in is no picture
        (GOOD[:-6] + b"\xff\xd9", "found a broken JPEG of .*premature end"),
    ],
)
def test_a_broken_picture_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warp_jpeg(np.frombuffer(data, np.uint8), np.eye(2, 3), np.empty((8, 8, 3), np.uint8))


def test_random_damage_gives_a_picture_or_a_clear_error() -> None:
    rng = np.random.default_rng(0)
    good = jpeg(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8), 60)
    errors = []
    for _ in range(300):
        bad = bytearray(good)
        for at in rng.integers(0, 700, 3):
            bad[at] = rng.integers(0, 256)
        try:
            warp_jpeg(np.frombuffer(bytes(bad), np.uint8), np.eye(2, 3), np.empty((8, 8, 3), np.uint8))
        except ValueError as error:
            errors.append(str(error))
    assert 0 < len(errors) < 300
    assert all(error.startswith("found ") for error in errors)


def test_normalising_takes_out_imagenets_mean_and_deviation() -> None:
    pixels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    factor, offset = rng.random((2, 3)), rng.random((2, 3))
    x = pixels.numpy().astype(np.float64) / 255 * factor[:, None, None] + offset[:, None, None]
    wanted = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = normalized(pixels.permute(0, 3, 1, 2), factor, offset)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    np.testing.assert_allclose(found, wanted.transpose(0, 3, 1, 2), atol=2e-6)
    plain = (pixels.numpy() / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalized(pixels.permute(0, 3, 1, 2)), plain.transpose(0, 3, 1, 2), atol=2e-6)
