"""Decoded joints moved towards the lines of sight of the 2D keypoints that they were read from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unihpe_fast.data.skeleton import NUM_JOINTS, ROOT
from unihpe_fast.models.layers import FullPrecisionLinear
from unihpe_fast.units import MM_PER_METRE

# a person whose nearest joint is closer to the camera than this, mm, was not placed well
_NEAREST = 200.0
# a person whose lines of sight spread less than this, squared slopes, could be at any depth
_SMALLEST_SPREAD = 1e-6
# mm off a line of sight as the hidden layer takes them: some centimetres are usual
_OFF_SCALE = 0.01


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
        """joints_3d: [B, 17, 3] root-relative mm in camera axes; keypoints_2d [B, 17, 3], box [B, 3]: as in `Batch`.
        Returns the joints likewise.

        It works on [coordinate, joint, B]: fastest where people lie next to each other in memory, as they do in what it
        returns.
        """
        joints, keypoints, box = joints_3d.permute(2, 1, 0), keypoints_2d.permute(2, 1, 0), box.T.contiguous()
        seen = keypoints[2] > 0
        points = torch.where(seen, keypoints, 0)
        confidence = points[2:]
        slopes = torch.addcmul(box[:2, None], points[:2], box[2] / 2)
        offsets, placed = _to_lines(joints, slopes, confidence, seen)
        offsets = offsets * (seen & placed)  # [2, 17, B]
        features = torch.cat([offsets * _OFF_SCALE, confidence]).transpose(0, 1).flatten(0, 1).T
        share, depth = self.output(F.gelu(self.hidden(features))).T.contiguous().unflatten(0, (2, NUM_JOINTS)).unbind()
        sideways = torch.addcmul(joints[:2], share.sigmoid(), offsets)
        along = torch.addcmul(joints[2:], depth, placed * MM_PER_METRE)
        moved = torch.cat([sideways, along])
        return (moved - moved[:, ROOT, None]).permute(2, 1, 0)


def _to_lines(joints: Tensor, slopes: Tensor, weights: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """From joints [3, 17, B] mm to their lines of sight, slopes [2, 17, B] = x / z, y / z, at the joints' own depths:
    [2, 17, B] mm, and who could be placed [B].

    The root t solves X + t_x = slope (Z + t_z) by weighted least squares, as `lifting.fit_root` does in px for poses
    that are done. weights: [1, 17, B], 0 where a joint is not seen [17, B].
    """
    share = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
    # the slopes, and what X lacks to lie on the line of Z; t_x and t_y are means of the same equations
    sides = torch.stack([slopes, slopes * joints[2] - joints[:2]])
    centred = sides - (share * sides).sum(2, keepdim=True)
    square, product = (share * centred[0] * centred).sum((1, 2))
    depth = -product / square.clamp(min=_SMALLEST_SPREAD)
    placed = (seen.sum(0) >= 3) & (square > _SMALLEST_SPREAD) & (depth + joints[2].amin(0) > _NEAREST)
    # slope (Z + t_z) less t_x, t_y and X; far away the first two are large and nearly the same
    return torch.addcmul(centred[1], depth, centred[0]), placed
