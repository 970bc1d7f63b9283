"""Decoded joints moved towards the lines of sight of the 2D keypoints that they were read from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unihpe_fast.data.skeleton import NUM_JOINTS, ROOT
from unihpe_fast.models.layers import FullPrecisionLinear

# a person whose nearest joint is closer to the camera than this, metres, was not placed well
_NEAREST = 0.2
# metres off a line of sight as the hidden layer takes them: some centimetres are usual
_OFF_SCALE = 10.0


class RayCorrection(nn.Module):
    """Lets a pose that was decoded from 2D keypoints agree with them better than the embedding alone does.

    The pose is placed where it projects onto the keypoints best, each joint's line of sight is followed to the joint's
    depth, and the joint moves a share of the way there. The share is learned, by joint, from the keypoints' confidences
    and from how far all joints are from their lines, so that exact keypoints are followed more than a detector's. So is
    a change of every joint's depth. A joint that is not seen goes where the root goes; a person with fewer than three
    seen joints, without a camera or with all joints in one line stays as it is.

    The camera is a pinhole with one focal length, as `Batch.box` tells it: lens distortion and the difference of two
    focal lengths are left out, and a focal length that was guessed is taken for the true one.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.hidden = FullPrecisionLinear(3 * NUM_JOINTS, width)
        self.output = FullPrecisionLinear(width, 2 * NUM_JOINTS)
        # begins about half-way to the lines, with the depths about as they are
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, joints_3d: Tensor, keypoints_2d: Tensor, box: Tensor) -> Tensor:
        """joints_3d: [B, 17, 3] root-relative metres in camera axes; keypoints_2d [B, 17, 3], box [B, 3]: as in
        `Batch`. Returns the joints likewise."""
        seen = keypoints_2d[..., 2:] > 0
        points = torch.where(seen, keypoints_2d, 0)
        confidence = points[..., 2:]
        slopes = box[:, None, :2] + points[..., :2] * box[:, None, 2:] / 2
        offsets, placed = _to_lines(joints_3d, slopes, confidence)
        offsets = torch.where(seen & placed, offsets, 0)  # [B, 17, 2]
        features = torch.cat([offsets * _OFF_SCALE, confidence], dim=-1).flatten(1)
        share, depth = self.output(F.gelu(self.hidden(features))).unflatten(-1, (2, NUM_JOINTS)).unbind(1)
        moved = joints_3d + torch.cat([share.sigmoid()[..., None] * offsets, depth[..., None] * placed], dim=-1)
        return moved - moved[:, ROOT, None]


def _to_lines(joints: Tensor, slopes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """From joints [B, 17, 3] to their lines of sight [B, 17, 2] = x / z, y / z at their own depths, [B, 17, 2], and who
    could be placed [B, 1, 1].

    The root t solves X + t_x = slope (Z + t_z) by weighted least squares, as `lifting.fit_root` does in px for poses
    that are done.
    """
    share = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
    right = slopes * joints[..., 2:] - joints[..., :2]
    slope_mean, right_mean = (share * slopes).sum(1, keepdim=True), (share * right).sum(1, keepdim=True)
    centred = slopes - slope_mean
    spread = share * centred
    square = (spread * centred).sum((1, 2), keepdim=True)
    enough = ((weights > 0).sum(1, keepdim=True) >= 3) & (square > 1e-6)
    depth = -(spread * right).sum((1, 2), keepdim=True) / torch.where(enough, square, 1)
    placed = enough & (depth + joints[..., 2:].amin(1, keepdim=True) > _NEAREST)
    # slope (Z + t_z) less t_x, t_y, which are means of the same equations; far away they are large and nearly the same
    return slopes * joints[..., 2:] + depth * centred - right_mean - joints[..., :2], placed
