"""Exact nearest hits of pixel rays with stretched rounded cones, worked out only in the tiles a part can touch."""

from typing import NamedTuple

import torch
from torch import Tensor

from unihpe_fast.data.render.body import Parts

TILE = 8
NEAR = 0.05  # m; what lies nearer to the camera is not drawn
_FAR = 1e8  # depth of nothing
_ID_BITS = 31


class Hits(NamedTuple):
    """The nearest surface of every pixel.

    code: [B, S, S] float32, depth in m with the part's index in the lowest 5 bits of the mantissa (so that one minimum
    finds both; depth is good to 2^-18 relative); 1e8 or more where there is no body.
    """

    code: Tensor

    @property
    def found(self) -> Tensor:
        return self.code < 0.5 * _FAR

    @property
    def part(self) -> Tensor:
        return part_of(self.code)


def part_of(code: Tensor) -> Tensor:
    return code.view(torch.int32) & _ID_BITS


def pixel_rays(camera: Tensor, crop: Tensor) -> Tensor:
    """Crop px to ray slopes: [B, 2, 3] with (x/z, y/z) = rays @ (i, j, 1) for the pixel of column i and row j.

    camera: [B, 9] without distortion. crop: [B, 2, 3] full-image px to crop px.
    """
    back = torch.linalg.inv(crop[:, :, :2])
    offset = -product(back, crop[:, :, 2:])
    full = torch.cat([back, offset - camera[:, 2:4, None]], dim=2)
    return full / camera[:, :2, None]


def cast(parts: Parts, rays: Tensor, size: int) -> Hits:
    """Nearest hit of the rays through the centres of size x size pixels. rays: [B, 2, 3] of `pixel_rays`."""
    batch, count = parts.start.shape[:2]
    side = -(-size // TILE)
    image, row, column, part = _overlaps(parts, rays, side).nonzero().unbind(1)
    table = _constants(parts, rays).flatten(0, 1)[image * count + part]
    code = _nearest(table, column * TILE, row * TILE)
    code = ((code.view(torch.int32) & ~_ID_BITS) | part[:, None].int()).view(torch.float32)
    tile = (image * side + row) * side + column
    best = code.new_full((batch * side * side, TILE * TILE), _FAR)
    best.scatter_reduce_(0, tile[:, None].expand_as(code), code, "amin")
    grid = best.view(batch, side, side, TILE, TILE).transpose(2, 3).reshape(batch, side * TILE, side * TILE)
    return Hits(grid[:, :size, :size].contiguous())


def _overlaps(parts: Parts, rays: Tensor, side: int) -> Tensor:
    """Which tiles a part may touch: [B, side, side, P] bool, never too few.

    A sphere of radius r around c is seen within r |c| / (z (z - r)) of c's own slope; a rounded cone is the hull of its
    two end spheres, and so is its image.
    """
    ends = torch.stack([parts.start, parts.end], 2)  # [B, P, 2, 3]
    stretched = parts.radius * parts.stretch.amax(-1, keepdim=True).clamp(min=1)
    depth = ends[..., 2]
    clear = depth - stretched
    to_pixel = torch.linalg.inv(rays[:, :, :2])  # [B, 2, 2] slope to crop px
    square, det = to_pixel.square().sum((1, 2)), torch.linalg.det(to_pixel)
    zoom = (0.5 * (square + (square.square() - 4 * det.square()).clamp(min=0).sqrt())).sqrt()  # largest singular value
    spread = zoom[:, None, None] * stretched * ends.norm(dim=-1) / (depth * clear)
    spread = torch.where(clear > NEAR, spread, torch.inf).amax(-1)  # [B, P]
    slope = ends[..., :2] / depth.clamp(min=NEAR)[..., None] - rays[:, None, None, :, 2]
    a, b = product(slope, to_pixel.mT[:, None]).unbind(2)  # [B, P, 2] crop px
    ab = b - a
    centre = torch.arange(side, device=a.device) * TILE + (TILE - 1) / 2
    dx = centre[None, None, None, :] - a[:, :, 0, None, None]
    dy = centre[None, None, :, None] - a[:, :, 1, None, None]
    abx, aby = ab[..., 0, None, None], ab[..., 1, None, None]
    s = ((dx * abx + dy * aby) / ab.square().sum(-1).clamp(min=1e-12)[..., None, None]).clamp(0, 1)
    distance = torch.hypot(dx - s * abx, dy - s * aby)
    reach = spread + (TILE - 1) * 0.5**0.5
    drawn = (parts.radius.amax(-1) > 0) & ((depth + stretched).amax(-1) > NEAR)
    return ((distance <= reach[..., None, None]) & drawn[..., None, None]).permute(0, 2, 3, 1)


def _constants(parts: Parts, rays: Tensor) -> Tensor:
    """What `_nearest` needs of a part: [B, P, 26].

    In the part's frame, shrunk by its stretch, the part is an unstretched rounded cone from (0, 0, 0) to (0, L, 0).
    There pixel (i, j) looks along D (i, j, 1), its ray at depth `ref` is at O (i, j, 1).
    """
    shrink = torch.stack([parts.stretch[..., 0], torch.ones_like(parts.stretch[..., 0]), parts.stretch[..., 1]], -1)
    to_local = parts.frame / shrink[..., None]
    last = torch.tensor([0.0, 0.0, 1.0], device=rays.device).expand(len(rays), 1, 3)
    direction = product(to_local, torch.cat([rays, last], 1)[:, None])  # [B, P, 3, 3]
    # near the part, so that the quadratics below do not cancel
    ref = (0.5 * (parts.start + parts.end)[..., 2]).clamp(min=NEAR)
    origin = direction * ref[..., None, None]
    origin[..., 2] -= product(to_local, parts.start[..., None])[..., 0]
    length = (parts.end - parts.start).norm(dim=-1)
    r0, r1 = parts.radius.unbind(-1)
    sin, cos2 = cone_angle(length, r0, r1)
    # an end sphere inside the other leaves no cone: an empty range of heights
    low, high = sin * r0, torch.where(cos2 > 0, sin * r0 + cos2 * length, -torch.inf)
    scalars = torch.stack([ref, length, r0, r1, sin, cos2, low, high], -1)
    return torch.cat([direction.flatten(2), origin.flatten(2), scalars], -1)


def cone_angle(length: Tensor, r0: Tensor, r1: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and squared cosine of the half opening angle; cosine 0 where one end sphere lies inside the other."""
    sin = (r0 - r1) / length.clamp(min=1e-9)
    inside = sin.abs() > 0.999
    return torch.where(inside, 0.0, sin), torch.where(inside, 0.0, 1 - sin.square())


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for stacks of small matrices, in full float32 even where matmul is allowed TF32 or autocast to bfloat16."""
    return (a[..., :, None] * b[..., None, :, :]).sum(-2)


def _nearest(table: Tensor, left: Tensor, top: Tensor) -> Tensor:
    """Depth of the first hit of the TILE x TILE rays of a tile with one part: [N, TILE * TILE] m, 1e8 for none.

    table: [N, 26] of `_constants`; left, top: [N] the tile's first pixel. The entry into the union of two spheres and
    the frustum that touches both is the nearest of the three entries.
    """
    table = torch.cat([table, left[:, None], top[:, None]], 1).t().contiguous()[:, :, None]  # [28, N, 1]
    axis = torch.arange(TILE, device=table.device, dtype=table.dtype)
    u, v = axis.repeat(TILE), axis.repeat_interleave(TILE)
    left_, top_ = table[26], table[27]

    def affine(k: int) -> Tensor:
        base = table[k + 2] + table[k] * left_ + table[k + 1] * top_
        return torch.addcmul(torch.addcmul(base, table[k + 1], v), table[k], u)

    dx, dy, dz, ox, oy, oz = (affine(k) for k in range(0, 18, 3))
    ref, length, r0, r1, sin, cos2, low, high = table[18:26]
    dd = torch.addcmul(dx * dx, dy, dy).addcmul_(dz, dz)
    do = torch.addcmul(dx * ox, dy, oy).addcmul_(dz, oz)
    oo = torch.addcmul(ox * ox, oy, oy).addcmul_(oz, oz)
    first = _entry(dd, do, oo - r0 * r0)
    # the other end sphere, seen from (0, L, 0)
    do1, oo1 = do - length * dy, oo - 2 * length * oy + (length * length - r1 * r1)
    first = torch.minimum(first, _entry(dd, do1, oo1))
    # the cone: cos^2 (x^2 + z^2) = (r0 - sin y)^2
    out = r0 - sin * oy
    k2 = cos2 * dd - dy * dy
    k1 = cos2 * (do - oy * dy) + sin * out * dy
    k0 = cos2 * (oo - oy * oy) - out * out
    side = _entry(k2, k1, k0)
    height = oy + side * dy
    first = torch.where((height >= low) & (height <= high), torch.minimum(first, side), first)
    depth = first + ref
    return torch.where(depth > NEAR, depth, _FAR)


def _entry(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Where a t^2 + 2 b t + c falls through 0; 1e8 for nowhere."""
    square = b * b - a * c
    t = (-b - square.clamp(min=0).sqrt()) / a  # the root of a negative number is slow on a CPU
    return torch.where(square > 0, t, _FAR)
