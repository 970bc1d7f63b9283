"""Parts of pictures and the way back to px."""

import numpy as np
import pytest

from unihpe_fast.detector.crops import around, square, whole


def spot(height: int, width: int, x: int, y: int) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[y - 4 : y + 4, x - 4 : x + 4] = 255  # its middle is (x, y), counted from the upper left corner
    return picture


def centroid(pixels: np.ndarray) -> np.ndarray:
    weight = pixels[..., 0].astype(float)
    rows, columns = np.indices(weight.shape) + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize(("height", "width"), [(200, 300), (301, 97), (64, 64), (1080, 1920)])
def test_whole_pictures(height, width):
    x, y = width // 3, height // 2
    part = whole(spot(height, width, x, y), 256, 32)
    assert max(part.pixels.shape[:2]) == 256
    assert part.pixels.shape[0] % 32 == part.pixels.shape[1] % 32 == 0
    np.testing.assert_allclose(part.to_picture(centroid(part.pixels)), [x, y], atol=0.5)


@pytest.mark.parametrize("center", [(150, 100), (20, 30), (290, 190)])
@pytest.mark.parametrize("side", [60.0, 133.7, 900.0])
def test_squares(center, side):
    picture = spot(200, 300, center[0] + 5, center[1] - 5)
    part = square(picture, np.array(center, float), side, 256)
    assert part.pixels.shape == (256, 256, 3)
    # a px of the crop at most
    np.testing.assert_allclose(part.to_picture(centroid(part.pixels)), [center[0] + 5, center[1] - 5], atol=side / 256)


def test_a_square_beside_the_picture_is_black():
    part = square(np.full((10, 10, 3), 255, np.uint8), np.array([500.0, 500.0]), 50, 64)
    assert part.pixels.max() == 0


@pytest.mark.parametrize("side", [0.0, 0.2, 1.0, 1e4])
def test_people_of_one_pixel_and_huge_ones(side):
    part = square(np.full((1, 1, 3), 255, np.uint8), np.array([0.5, 0.5]), side, 64)
    assert np.isfinite(part.to_picture(np.array([32.0, 32.0]))).all()


def test_around_boxes():
    center, side = around(np.array([[10, 20, 30, 100.0]]), 1.25)
    np.testing.assert_array_equal(center, [[20, 60]])
    np.testing.assert_array_equal(side, [100])
