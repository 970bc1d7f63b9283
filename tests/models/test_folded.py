"""The folded lifter against the model that it was made of."""

import numpy as np
import pytest
import torch

from unihpe_fast.config import ModelConfig
from unihpe_fast.models.folded import FoldedLifter
from unihpe_fast.models.unihpe import UniHPE


def people(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints in crop units, of which some are absent with NaN in them, and the context of their boxes."""
    torch.manual_seed(0)
    keypoints = torch.cat([torch.rand(count, 17, 2) * 2 - 1, torch.rand(count, 17, 1)], dim=-1)
    keypoints[::2, 3] = torch.tensor([torch.nan, torch.nan, 0])
    return keypoints, torch.rand(count, 3) - 0.5


@pytest.mark.parametrize("tokens", [False, True])
def test_in_float32_it_says_what_the_model_says(tokens: bool) -> None:
    torch.manual_seed(1)
    config = ModelConfig(modalities=("pose3d", "pose2d"), width=24, source_tokens=tokens, rays=tokens)
    model = UniHPE(config, image_size=64)
    # every parameter has something to say, the zeros and ones of a fresh model too
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.set_mean_pose(100 * torch.randn(17, 3))
    keypoints, box = people(5)
    lifter = FoldedLifter(model, torch.float32)
    model = model.double().eval()
    with torch.no_grad():
        want = model.lift(keypoints.double(), box.double())
    got = lifter(keypoints, box)
    # float32 of about a metre, in mm
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=0, atol=2e-2)
    assert (got[:, 0] == 0).all()
    assert got.dtype == torch.float32
