import numpy as np
import pytest
import torch

from unihpe_fast.data.bbox import square_bbox

POINTS = np.array([[10.0, 20.0], [50.0, 40.0], [30.0, 120.0]], dtype=np.float32)


def test_bbox_is_centred_and_a_quarter_larger_than_the_longer_extent():
    np.testing.assert_allclose(square_bbox(POINTS), [30, 70, 125])
    assert square_bbox(POINTS).dtype == np.float32
    np.testing.assert_allclose(square_bbox(POINTS[:, ::-1]), [70, 30, 125])
    np.testing.assert_allclose(square_bbox(POINTS, margin=1.0), [30, 70, 100])


def test_joints_without_confidence_do_not_count():
    hidden = np.array([[1000.0, -1000.0, 0.0], [np.nan, np.nan, 0.0]], dtype=np.float32)
    keypoints = np.concatenate([np.insert(POINTS, 2, [1, 0.5, 0.01], axis=1), hidden])
    np.testing.assert_allclose(square_bbox(keypoints), [30, 70, 125])


def test_batches_of_both_kinds_agree():
    batch = np.random.default_rng(0).normal(0, 100, (4, 6, 17, 2))
    boxes = square_bbox(batch)
    assert boxes.shape == (4, 6, 3)
    assert boxes.dtype == np.float64
    np.testing.assert_array_equal(square_bbox(torch.from_numpy(batch)).numpy(), boxes)
    np.testing.assert_array_equal(square_bbox(batch[2, 3]), boxes[2, 3])


@pytest.mark.parametrize(
    "keypoints",
    [
        np.full((3, 2), 7.0),
        np.full((3, 2), np.nan),
        np.array([[1.0, 2.0, 1.0], [3.0, 4.0, 0.0]]),
        np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0]]),
    ],
)
def test_people_of_no_extent_have_no_bbox(keypoints):
    with pytest.raises(ValueError, match="two visible joints"):
        square_bbox(keypoints)


@pytest.mark.parametrize("shape", [(17, 4), (2,)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"keypoints_2d: want \[..., J, 2\]"):
        square_bbox(np.zeros(shape))
