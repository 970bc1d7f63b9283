from dataclasses import replace

import pytest
import torch

from tests.support.models import TINY_MLP, TINY_TRANSFORMER
from unihpe_fast.config import PoseEncoderConfig
from unihpe_fast.models.pose_encoder import PoseEncoder

KINDS = pytest.mark.parametrize("config", [TINY_MLP, TINY_TRANSFORMER], ids=["mlp", "transformer"])


def encoder_2d(config: PoseEncoderConfig) -> PoseEncoder:
    torch.manual_seed(0)
    encoder = PoseEncoder(config, coordinates=2, context=3, width=24)
    for parameter in encoder.parameters():
        # away from the zeros of the start, so that every part shows
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


@KINDS
def test_every_input_moves_the_embedding(config: PoseEncoderConfig) -> None:
    encoder = encoder_2d(config)
    joints, context = torch.rand(2, 17, 3) + 0.1, torch.rand(2, 3)
    base = encoder(joints, context)
    assert base.shape == (2, 24)
    for joint in range(17):
        for channel in range(3):
            moved = joints.clone()
            moved[0, joint, channel] += 0.3
            change = (encoder(moved, context) - base).abs().amax(1)
            assert change[0] > 1e-4
            assert change[1] == 0
    for channel in range(3):
        moved = context.clone()
        moved[1, channel] += 0.3
        change = (encoder(joints, moved) - base).abs().amax(1)
        assert change[1] > 1e-4
        assert change[0] == 0


@KINDS
@pytest.mark.parametrize("garbage", [1e6, torch.nan, torch.inf])
def test_a_missing_joint_is_its_learned_token_whatever_stands_there(config: PoseEncoderConfig, garbage: float) -> None:
    encoder = encoder_2d(config)
    joints, context = torch.rand(2, 17, 3) + 0.1, torch.rand(2, 3)
    joints[0, 5] = 0
    spoilt = joints.clone()
    spoilt[0, 5, :2] = garbage
    assert torch.equal(encoder(spoilt, context), encoder(joints, context))
    encoder(spoilt, context).square().sum().backward()
    missing = encoder.trunk.missing.grad
    assert missing is not None
    # the MLP has a token a joint, the transformer one for all
    assert (missing[5] if missing.dim() == 2 else missing).abs().min() > 0
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    # and it differs from a joint seen in the middle of the crop
    joints[0, 5, 2] = 1
    assert not torch.allclose(encoder(joints, context), encoder(spoilt, context))


@KINDS
def test_samples_do_not_see_each_other(config: PoseEncoderConfig) -> None:
    encoder = encoder_2d(config).double()
    joints, context = torch.rand(7, 17, 3).double(), torch.rand(7, 3).double()
    alone = torch.cat([encoder(joints[i : i + 1], context[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(encoder(joints, context), alone)


@KINDS
def test_without_context(config: PoseEncoderConfig) -> None:
    encoder = PoseEncoder(config, coordinates=3, context=0, width=8)
    encoder(torch.rand(3, 17, 4)).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match='kind must be "transformer" or "mlp", got \'cnn\''):
        PoseEncoder(replace(TINY_MLP, kind="cnn"), coordinates=2, context=3, width=8)
