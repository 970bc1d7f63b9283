from dataclasses import replace

import numpy as np
import torch

from tests.support.fakes import STANDING, people
from tests.support.people import H36M_CAMERA, pixels_of, samples
from tests.support.tiny import TINY
from unihpe_fast.data.augment import flip
from unihpe_fast.data.loader import FileDataset, _people
from unihpe_fast.data.store import write_store
from unihpe_fast.engine.evaluation import predict
from unihpe_fast.engine.flip import averaged, mirrored
from unihpe_fast.models.unihpe import Outputs, UniHPE


def test_the_mirrored_input_is_that_of_the_mirrored_person(tmp_path) -> None:
    """Against the training augmentation, which mirrors people, camera and picture in full-image px."""
    write_store(tmp_path / "a.h5", samples(4, picture=True), dataset="a", split="val")
    dataset = FileDataset(str(tmp_path / "a.h5"), image_size=32)
    batch = dataset.batch(np.arange(4), None)
    columns = dataset.store.read(np.arange(4))
    turned = flip(_people(columns, np.zeros(4, bool)), np.ones(4, bool))
    picture = dataset._pictures(columns, turned, np.ones(4, bool), ())
    found = mirrored(batch)
    # the mirrored camera's distortion has q0 negated
    camera = H36M_CAMERA * [1, 1, 1, 1, 1, 1, 1, -1, 1]
    wanted = np.stack([pixels_of(joints, camera) for joints in turned.joints_3d[..., :3]])
    normalised = (wanted - turned.bbox[:, None, :2]) / (turned.bbox[:, None, 2:] / 2)
    np.testing.assert_allclose(found.keypoints_2d[..., :2], normalised, atol=1e-4)
    np.testing.assert_allclose(
        found.joints_3d[..., :3], turned.joints_3d[..., :3] - turned.joints_3d[:, :1, :3], atol=1e-2
    )
    np.testing.assert_allclose(found.box[:, :2], (turned.bbox[:, :2] - H36M_CAMERA[2:4]) / H36M_CAMERA[:2], atol=1e-5)
    # one bilinear warp reads the noise from the right, the other from the left: at whole px they agree exactly
    assert (found.image - picture).abs().median() < 0.02
    np.testing.assert_array_equal(found.target_2d, batch.target_2d)
    again = mirrored(found)
    for name, tensor in batch.tensors().items():
        assert torch.equal(again.tensors()[name].nan_to_num(1), tensor.nan_to_num(1)), name


def test_outputs_are_averaged_with_the_mirror_undone() -> None:
    batch = people(3)
    pose, keypoints = batch.joints_3d[None, ..., :3], batch.target_2d[..., :2]
    mirror = mirrored(batch)
    right = Outputs(torch.zeros(1, 3, 2), pose, keypoints)
    of_mirror = Outputs(torch.ones(1, 3, 2), mirror.joints_3d[None, ..., :3] + 2, mirror.keypoints_2d[..., :2] + 2)
    found = averaged(right, of_mirror)
    assert torch.equal(found.embeddings, right.embeddings)
    # x was mirrored back, so its error of 2 came back as -2
    torch.testing.assert_close(found.pred_joints_3d, pose + torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(found.pred_keypoints_2d, keypoints + torch.tensor([-1.0, 1.0]))
    assert (
        averaged(right._replace(pred_keypoints_2d=None), of_mirror._replace(pred_keypoints_2d=None)).pred_keypoints_2d
        is None
    )


def test_predictions_of_a_person_and_its_mirror_image_mirror_each_other() -> None:
    torch.manual_seed(0)
    model = UniHPE(TINY.model, image_size=0)
    model.set_mean_pose(STANDING)
    batch = people(6, image_size=0)
    plain = predict(model, [batch], device="cpu")
    one = predict(model, [batch], device="cpu", flip_test=True)
    two = predict(model, [mirrored(batch)], device="cpu", flip_test=True)
    for modality in ("pose2d", "pose3d"):
        answers = torch.cat([two.joints_3d[modality], torch.ones(6, 17, 1)], dim=-1)
        back = mirrored(replace(batch, joints_3d=answers)).joints_3d[..., :3]
        torch.testing.assert_close(one.joints_3d[modality], back, rtol=1e-5, atol=1e-3)
        assert not torch.allclose(one.joints_3d[modality], plain.joints_3d[modality], atol=1)
        assert torch.equal(one.embeddings[modality], plain.embeddings[modality])
