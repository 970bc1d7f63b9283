"""The renderer: joints, camera and look in, RGB out."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_fast.data.camera import CAMERA_SIZE
from unihpe_fast.data.render.appearance import Appearance
from unihpe_fast.data.render.body import build_parts
from unihpe_fast.data.render.raycast import Hits, cast, pixel_rays
from unihpe_fast.data.render.shade import expose, shade_background, shade_body
from unihpe_fast.data.skeleton import NUM_JOINTS

# pixels worked on at once on a CPU: few enough for the caches, enough to hide the cost of a call
_CPU_PIXELS = 16 * 96 * 96

BACKGROUND, OCCLUDED = -1, -2


class Rendering(NamedTuple):
    """image: uint8 [B, 3, S, S] RGB. part: int64 [B, S, S], index in `body.PARTS`, -1 background, -2 an occluder.

    depth: float32 [B, S, S], camera-space z in mm of the body (whether or not an occluder hides it), inf without one.
    """

    image: Tensor
    part: Tensor
    depth: Tensor


def render(joints_3d: Tensor, camera: Tensor, crop: Tensor, size: int, appearance: Appearance) -> Tensor:
    """Photographs of people, uint8 [B, 3, size, size] RGB.

    joints_3d: [B, 17, 3] camera-space mm. camera: [B, 9] px, without distortion. crop: [B, 2, 3] full-image px to crop
    px, pixel centres at integers. appearance: B looks, on the same device. The result is a pure function of its
    arguments. Raises ValueError for a wrong shape, device or size, for joints that are not finite, for a lens with
    distortion and for a crop that is no invertible map.
    """
    _check(joints_3d, camera, crop, size, appearance)
    return torch.cat([image for image, _, _ in _pictures(joints_3d, camera, crop, size, appearance)])


def render_all(joints_3d: Tensor, camera: Tensor, crop: Tensor, size: int, appearance: Appearance) -> Rendering:
    """`render` together with what every pixel shows."""
    _check(joints_3d, camera, crop, size, appearance)
    chunks = []
    for image, hits, occluded in _pictures(joints_3d, camera, crop, size, appearance):
        part = torch.where(hits.found, hits.part.long(), BACKGROUND)
        depth = torch.where(hits.found, hits.code * 1000, torch.inf)
        chunks.append(Rendering(image, torch.where(occluded, OCCLUDED, part), depth))
    return Rendering(*(torch.cat(field) for field in zip(*chunks, strict=True)))


@torch.no_grad()
def _pictures(
    joints_3d: Tensor, camera: Tensor, crop: Tensor, size: int, look: Appearance
) -> Iterator[tuple[Tensor, Hits, Tensor]]:
    """Image, hits and occluded pixels, a chunk of the batch at a time."""
    chunk = max(1, _CPU_PIXELS // size**2) if joints_3d.device.type == "cpu" else len(joints_3d)
    for k in range(0, len(joints_3d), chunk):
        part_look = look.rows(k, k + chunk)
        rows = slice(k, k + chunk)
        parts = build_parts(joints_3d[rows].float() / 1000, part_look)
        rays = pixel_rays(camera[rows].float(), crop[rows].float())
        hits = cast(parts, rays, size)
        image, occluded = shade_background(part_look, size)
        shade_body(image, hits, occluded, parts, rays, part_look)
        yield expose(image, part_look), hits, occluded


def _check(joints_3d: Tensor, camera: Tensor, crop: Tensor, size: int, look: Appearance) -> None:
    batch = len(joints_3d)
    wanted = {"joints_3d": (joints_3d, (batch, NUM_JOINTS, 3)), "camera": (camera, (batch, CAMERA_SIZE)),
              "crop": (crop, (batch, 2, 3)), "appearance.light": (look.light, (batch, 3))}  # fmt: skip
    for name, (tensor, shape) in wanted.items():
        if batch == 0 or tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: wanted shape {['B > 0', *shape[1:]]}, got {list(tensor.shape)} (B is {batch})")
        if tensor.device != joints_3d.device:
            raise ValueError(f"{name}: wanted on {joints_3d.device} like joints_3d, got {tensor.device}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name}: wanted finite numbers, got some that are not")
    if size < 1:
        raise ValueError(f"size: wanted at least 1, got {size}")
    if camera[:, 4:].any():
        raise ValueError("camera: wanted cameras without distortion (columns 4 to 8 zero), got some with")
    if (camera[:, :2] <= 0).any():
        raise ValueError("camera: wanted focal lengths above 0, got some that are not")
    if (torch.linalg.det(crop[:, :, :2].double()) == 0).any():
        raise ValueError("crop: wanted invertible maps, got some that are not")
