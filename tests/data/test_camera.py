import math

import numpy as np
import pytest
import torch

from unihpe_fast.data.camera import look_at, pinhole, project


def reference(point: list[float], camera: list[float]) -> list[float]:
    """Human3.6M's projection of one point, in scalars, as the dataset's readers write it."""
    fx, fy, cx, cy, k1, k2, k3, q0, q1 = camera
    u, v = (min(max(c / point[2], -1.0), 1.0) for c in point[:2])
    r2 = u * u + v * v
    d = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + q0 * u + q1 * v
    return [fx * (u * d + q0 * r2) + cx, fy * (v * d + q1 * r2) + cy]


def test_projection_follows_the_distortion_model_of_human36m():
    # a calibration like Human3.6M's, and a point far enough off the axis to be clamped
    camera = [1145.0, 1143.8, 512.5, 515.5, -0.2, 0.24, -0.002, -0.0009, -0.0014]
    points = [[100.0, -900.0, 5000.0], [-1200.0, 300.0, 4000.0], [0.0, 0.0, 1000.0], [9000.0, -50.0, 3000.0]]
    pixels = project(torch.tensor(points, dtype=torch.float64), torch.tensor(camera, dtype=torch.float64))
    np.testing.assert_allclose(pixels.numpy(), [reference(point, camera) for point in points], rtol=1e-12)


def test_projection_takes_one_camera_a_person():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 5, 3, generator=generator, dtype=torch.float64) * 500 + torch.tensor([0.0, 0.0, 5000.0])
    cameras = torch.from_numpy(np.stack([pinhole(1000 + 100 * i, 640, 480) for i in range(3)]))
    pixels = project(points, cameras)
    for i in range(3):
        np.testing.assert_array_equal(pixels[i].numpy(), project(points[i], cameras[i]).numpy())
    want = points[1, 2, :2] / points[1, 2, 2] * 1100 + torch.tensor([320.0, 240.0])
    np.testing.assert_allclose(pixels[1, 2].numpy(), want.numpy(), rtol=1e-12)


def test_a_camera_looks_at_its_target_with_the_sky_up():
    generator = torch.Generator().manual_seed(1)
    eye = torch.randn(7, 3, generator=generator, dtype=torch.float64) * 3000
    target = torch.randn(7, 3, generator=generator, dtype=torch.float64) * 500
    rotation, translation = look_at(eye, target)
    seen = (rotation @ target[..., None])[..., 0] + translation
    np.testing.assert_allclose(seen[:, :2].numpy(), 0, atol=1e-9)
    np.testing.assert_allclose(seen[:, 2].numpy(), (target - eye).norm(dim=-1).numpy(), rtol=1e-12)
    np.testing.assert_allclose((rotation @ rotation.mT).numpy(), np.eye(3)[None].repeat(7, 0), atol=1e-12)
    np.testing.assert_allclose(torch.linalg.det(rotation).numpy(), 1, atol=1e-12)
    # up in the world is up in the image (y points down), without a lean to either side
    sky = rotation[..., 2]
    assert (sky[:, 1] < 0).all()
    np.testing.assert_allclose(sky[:, 0].numpy(), 0, atol=1e-12)


def test_left_of_a_person_who_faces_the_camera_is_right_in_the_image():
    # the person stands at the origin and faces +x, so +y is to their left; the camera is ahead of them
    rotation, translation = look_at(torch.tensor([4000.0, 0.0, 0.0]), torch.zeros(3))
    left = rotation @ torch.tensor([0.0, 200.0, 0.0]) + translation
    np.testing.assert_allclose(left.numpy(), [200, 0, 4000], atol=1e-3)


def test_roll_turns_the_camera_clockwise():
    eye, target = torch.tensor([0.0, -4000.0, 1000.0]), torch.tensor([0.0, 0.0, 1000.0])
    angles = torch.tensor([0.0, 0.3])
    rotation, _ = look_at(eye.expand(2, 3), target.expand(2, 3), angles)
    np.testing.assert_allclose(rotation[0].numpy(), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-7)
    # what was straight up appears turned counter-clockwise: to the left of up
    up = rotation[1] @ torch.tensor([0.0, 0.0, 1.0])
    np.testing.assert_allclose(up.numpy(), [-math.sin(0.3), -math.cos(0.3), 0], atol=1e-7)
    np.testing.assert_allclose(look_at(eye, target, 0.3)[0].numpy(), rotation[1].numpy(), atol=1e-7)


@pytest.mark.parametrize("target", [[0.0, 0.0, 500.0], [0.0, 0.0, 0.0]])
def test_a_camera_cannot_look_straight_up_or_at_itself(target):
    with pytest.raises(ValueError, match="straight up or down"):
        look_at(torch.zeros(3), torch.tensor(target))
