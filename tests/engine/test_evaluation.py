import dataclasses
import json
import logging
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.fakes import STANDING, people, truth
from tests.support.tiny import TINY, tiny
from unihpe_fast.data.records import FUSED, MODALITIES, Batch, SampleInfo
from unihpe_fast.data.skeleton import FLIP
from unihpe_fast.engine.evaluation import Predictions, predict, scorable, score
from unihpe_fast.engine.flip import mirrored
from unihpe_fast.models.unihpe import Outputs, UniHPE

DIRECTIONS = {f"{a}->{b}" for a in MODALITIES for b in MODALITIES if a != b} | {f"{FUSED}->pose3d"}


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in _numbers(part)]
    return [] if value is None else [value]


def _clone(p: Predictions) -> Predictions:
    return dataclasses.replace(
        p,
        embeddings={m: x.clone() for m, x in p.embeddings.items()},
        joints_3d={m: x.clone() for m, x in p.joints_3d.items()},
        keypoints_2d=None if p.keypoints_2d is None else p.keypoints_2d.clone(),
        target_3d=p.target_3d.clone(),
        target_2d=p.target_2d.clone(),
        present=p.present.clone(),
    )


class _Echo(nn.Module):
    """Answers with numbers made of its input, one recognisable set a modality."""

    modalities = ("pose2d", "image")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool, bool]] = []

    def forward(self, image, keypoints_2d, joints_3d, box, present) -> Outputs:
        self.seen.append((self.training, torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()))
        pose = joints_3d[..., :3]
        base = keypoints_2d.flatten(1)
        return Outputs(
            torch.stack([base, base + 1]).bfloat16(), torch.stack([pose + 1, pose + 2]), keypoints_2d[..., :2] + 3
        )

    def fuse(self, *, image, pose2d):
        return 4 * image + pose2d

    def decode(self, embedding, source):
        assert list(source) == ["image", "pose2d"]
        return embedding.unflatten(-1, (17, 3)) + 5

    def to_rays(self, joints_3d, keypoints_2d, box):
        return joints_3d


def test_predictions_keep_the_order_of_the_batches_and_the_names_of_the_modalities() -> None:
    batches = [people(3), people(2, seed=1, start=3)]
    model = _Echo().train()
    got = predict(model, batches, device="cpu")
    joints = torch.cat([b.joints_3d for b in batches])
    keypoints = torch.cat([b.keypoints_2d for b in batches])
    pose2d, image = keypoints.flatten(1).bfloat16(), (keypoints.flatten(1) + 1).bfloat16()
    fused = 4 * image + pose2d
    torch.testing.assert_close(got.embeddings, {"pose2d": pose2d.float(), "image": image.float(), FUSED: fused.float()})
    torch.testing.assert_close(
        got.joints_3d,
        {
            "pose2d": joints[..., :3] + 1,
            "image": joints[..., :3] + 2,
            FUSED: (fused.unflatten(-1, (17, 3)) + 5).float(),
        },
    )
    torch.testing.assert_close(got.keypoints_2d, keypoints[..., :2] + 3)
    torch.testing.assert_close(got.target_3d, joints)
    assert len(got) == 5
    assert got.info.index.tolist() == [0, 1, 2, 3, 4]
    assert got.present.shape == (3, 5)
    assert got.info.action == batches[0].info.action + batches[1].info.action
    assert got.info.subject == batches[0].info.subject + batches[1].info.subject
    assert got.info.camera_id == batches[0].info.camera_id + batches[1].info.camera_id
    assert got.info.frame.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(got.scale_2d, torch.cat([b.scale_2d for b in batches]))
    # evaluation mode, no autocast in float32, no graph; the mode comes back
    assert model.seen == [(False, False, True)] * 2
    assert model.training
    predict(model.eval(), batches, device="cpu", dtype=torch.bfloat16)
    assert model.seen[-1] == (False, True, True)
    assert not model.training


def test_the_mode_comes_back_when_a_batch_fails() -> None:
    def failing():
        yield people(2)
        raise OSError("disk")

    model = _Echo().train()
    with pytest.raises(OSError, match="disk"):
        predict(model, failing(), device="cpu")
    assert model.training
    with pytest.raises(ValueError, match="batches: found none"):
        predict(model, [], device="cpu")


def test_the_real_model_says_the_same_in_batches_and_at_once() -> None:
    torch.manual_seed(0)
    model = UniHPE(TINY.model, image_size=0)
    model.set_mean_pose(STANDING)
    whole = people(10, image_size=0)
    parts = [
        dataclasses.replace(
            whole,
            **{n: x[:, rows] if n == "present" else x[rows] for n, x in whole.tensors().items()},
            info=SampleInfo(**{name: values[rows] for name, values in vars(whole.info).items()}),
        )
        for rows in (slice(0, 6), slice(6, 10))
    ]
    got = predict(model, parts, device="cpu")
    outputs = model.eval()(None, whole.keypoints_2d, whole.joints_3d, whole.box, whole.present)
    assert got.keypoints_2d is None
    for row, modality in enumerate(model.modalities):
        # matrix products of another batch size round differently: fp32 of about a metre, in mm
        torch.testing.assert_close(got.joints_3d[modality], outputs.pred_joints_3d[row].detach(), rtol=0, atol=1e-3)
        torch.testing.assert_close(got.embeddings[modality], outputs.embeddings[row].detach())
    scores = score(got, model.mean_pose)
    assert scores["image"] is None
    assert scores["keypoints2d"] is None
    assert scores["pose2d"]["mpjpe"] > 0
    assert {name for name, values in scores["retrieval"].items() if values} == {"pose2d->pose3d", "pose3d->pose2d"}


def test_the_right_answers_score_full_marks_in_the_published_form() -> None:
    p = truth(people(8))
    scores = score(p, STANDING)
    assert list(scores) == ["n", "mean_pose", *MODALITIES, FUSED, "keypoints2d", "per_action", "retrieval"]
    assert scores["n"] == 8
    assert set(scores["mean_pose"]) == {"mpjpe", "pa_mpjpe"}
    assert scores["mean_pose"]["mpjpe"] > scores["mean_pose"]["pa_mpjpe"] > 10
    for modality in (*MODALITIES, FUSED):
        assert set(scores[modality]) == {"mpjpe", "pa_mpjpe", "n_mpjpe", "pck150", "auc"}
        assert scores[modality]["mpjpe"] == 0
        assert scores[modality]["pa_mpjpe"] < 1e-2
        assert scores[modality]["pck150"] == 100
        assert scores[modality]["auc"] == pytest.approx(3000 / 31)
    assert scores["keypoints2d"] == {"px": 0.0, "pck": 100.0, "pck_torso": 100.0}
    assert set(scores["retrieval"]) == DIRECTIONS
    for values in scores["retrieval"].values():
        assert values == {"r1": pytest.approx(1), "r5": pytest.approx(1), "mpjpe": 0.0}
    # the two takes of Walking are one action
    assert {name: row["n"] for name, row in scores["per_action"].items()} == {
        "Sitting": 2,
        "SittingDown": 2,
        "Walking": 4,
    }
    assert set(scores["per_action"]["Sitting"]) == {"n", *MODALITIES}
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert all(type(number) in (int, float) for number in _numbers(scores))


def test_errors_are_those_put_in() -> None:
    p = _clone(truth(people(8)))
    # sample k is wrong by k * 17 mm at one joint of 17
    p.joints_3d["pose2d"][:, 3, 0] += 17 * torch.arange(8)
    assert p.keypoints_2d is not None
    p.keypoints_2d[:, 4, 1] += 0.17
    scores = score(p, STANDING)
    assert scores["pose2d"]["mpjpe"] == pytest.approx(3.5, abs=1e-4)
    assert scores["image"]["mpjpe"] == 0
    # people 0, 3, 4 and 7 walk
    assert scores["per_action"]["Walking"]["pose2d"]["mpjpe"] == pytest.approx(3.5, abs=1e-4)
    assert scores["per_action"]["Sitting"]["pose2d"]["mpjpe"] == pytest.approx(3.0, abs=1e-4)
    assert scores["keypoints2d"]["px"] == pytest.approx(0.01 * p.scale_2d.mean().item(), rel=1e-4)
    assert scores["keypoints2d"]["pck"] == pytest.approx(100 * 16 / 17)


def test_absent_modalities_and_invalid_joints_are_not_scored_whatever_stands_there() -> None:
    p = _clone(truth(people(8)))
    p.target_3d[:, 9, :3], p.target_3d[:, 9, 3] = 1e6, 0
    p.target_2d[:, 9, :2], p.target_2d[:, 9, 2] = 1e6, 0
    p.present[0, :3] = False
    p.joints_3d["image"][:3] = torch.nan
    p.embeddings["image"][:3] = torch.nan
    assert p.keypoints_2d is not None
    p.keypoints_2d[:3] = torch.nan
    p.present[2, 7] = False
    p.target_3d[7] = 1e6
    scores = score(p, STANDING)
    assert scores["image"]["mpjpe"] == scores["pose2d"]["mpjpe"] == 0
    assert scores["keypoints2d"]["px"] == 0
    assert scores["retrieval"]["image->pose3d"] == {"r1": pytest.approx(1), "r5": pytest.approx(1), "mpjpe": 0.0}
    assert {name: int(row.keep.sum()) for name, row in scorable(p).items()} == {
        "image": 4,
        "pose2d": 7,
        "pose3d": 7,
        FUSED: 4,
        "keypoints2d": 5,
        "image->pose2d": 5,
        "image->pose3d": 4,
        "pose2d->image": 5,
        "pose2d->pose3d": 7,
        "pose3d->image": 4,
        "pose3d->pose2d": 7,
        f"{FUSED}->pose3d": 4,
    }


def _without(batch: Batch, *modalities: str) -> Predictions:
    p = _clone(truth(batch))
    for m in modalities:
        p.present[MODALITIES.index(m)] = False
    return p


def test_data_without_3d_still_has_2d_scores_and_recall() -> None:
    p = _without(people(8), "pose3d")
    scores = score(p, STANDING)
    assert [scores[name] for name in ("mean_pose", *MODALITIES)] == [None] * 4
    assert scores["keypoints2d"] == {"px": 0.0, "pck": 100.0, "pck_torso": 100.0}
    assert scores["retrieval"]["image->pose2d"]["r1"] == pytest.approx(1)
    assert scores["retrieval"]["image->pose2d"]["mpjpe"] is None
    assert scores["retrieval"]["image->pose3d"] is None
    assert scores["per_action"]["Sitting"] == {"n": 2, "image": None, "pose2d": None, "pose3d": None}
    assert scorable(p)["image"].why_not == "no sample has both image and a 3D pose"


def test_data_without_images_and_models_without_encoders_are_told_apart() -> None:
    lacking_data = _without(people(8), "image")
    lacking_model = truth(people(8), ("pose2d", "pose3d"))
    for p in (lacking_data, lacking_model):
        scores = score(p, STANDING)
        assert scores["image"] is None
        assert scores["keypoints2d"] is None
        assert scores["pose2d"]["mpjpe"] == 0
        assert scores["per_action"]["Sitting"]["image"] is None
        assert {name for name, values in scores["retrieval"].items() if values is None} == {
            name for name in DIRECTIONS if "image" in name
        }
    assert "no sample" in scorable(lacking_data)["image"].why_not
    assert scorable(lacking_model)["image"].why_not == "the model has no image encoder"


def test_a_single_sample_has_no_recall() -> None:
    scores = score(truth(people(1)), STANDING)
    assert set(scores["retrieval"].values()) == {None}
    assert scores["image"]["mpjpe"] == 0


def test_predictions_that_are_not_finite_are_null_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    p = _clone(truth(people(8)))
    p.joints_3d["pose2d"][3, 2, 1] = torch.nan
    p.embeddings["pose2d"][4, 0] = torch.inf
    with caplog.at_level(logging.WARNING):
        scores = score(p, STANDING)
    assert scores["pose2d"] is None
    assert scores["image"]["mpjpe"] == 0
    assert scores["retrieval"]["pose2d->image"] is None
    assert scores["retrieval"]["image->pose3d"] is not None
    assert "pose2d is not scored: 1 of 8 predictions are NaN or infinite" in caplog.text
    json.dumps(scores, allow_nan=False)


@pytest.mark.parametrize("flip_test", [False, True])
def test_image_and_2d_pose_are_fused_in_a_row_of_their_own(flip_test: bool) -> None:
    """Against the two embeddings, averaged by hand; mirrored inputs too where the flip test is on."""
    config = tiny(model={"modalities": ("image", "pose2d", "pose3d")}).model
    model, batch = UniHPE(config, image_size=32).eval(), people(3, image_size=32)
    # in place of lines of sight, of which the keypoints and boxes here know nothing
    model.to_rays = lambda joints_3d, keypoints_2d, box: joints_3d + 100 * keypoints_2d[..., :1] + 10 * box[:, None]

    def by_hand(given: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = model.encode_image(given.image, given.box), model.encode_pose2d(given.keypoints_2d, given.box)
        units = a / a.norm(dim=1, keepdim=True) + b / b.norm(dim=1, keepdim=True)
        length = (a.norm(dim=1, keepdim=True) + b.norm(dim=1, keepdim=True)) / 2
        fused = units / units.norm(dim=1, keepdim=True) * length
        return fused, model.decode(fused) + 100 * given.keypoints_2d[..., :1] + 10 * given.box[:, None]

    with torch.no_grad():
        embedding, pose = by_hand(batch)
        if flip_test:
            other = by_hand(mirrored(batch))[1][:, FLIP] * torch.tensor([-1.0, 1, 1])
            pose = (pose + other) / 2
    got = predict(model, [batch], device="cpu", flip_test=flip_test)
    torch.testing.assert_close(got.embeddings[FUSED], embedding, rtol=1e-5, atol=1e-6)
    # fp32 of about a metre, in mm
    torch.testing.assert_close(got.joints_3d[FUSED], pose, rtol=0, atol=1e-3)
    scores = score(got, model.mean_pose)
    assert scores[FUSED]["mpjpe"] > 0
    assert scores["retrieval"][f"{FUSED}->pose3d"]["r1"] >= 0
