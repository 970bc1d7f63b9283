"""Colours of body and background pixels, and the camera's blur and noise."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from unihpe_fast.data.render.appearance import BACKGROUND_SHAPES, MATERIALS, SHAPES, Appearance
from unihpe_fast.data.render.body import NUM_PARTS, PARTS, Parts
from unihpe_fast.data.render.raycast import Hits, cone_angle, part_of

_NOISE = 2**17
_CLOUD_GRIDS = (4, 12, 36)
_SKIN, _SHIRT, _TROUSERS, _SHOES, _HAIR = range(len(MATERIALS))
# material of a part up to its `cover`, and beyond; heights run from a part's start (0) to its end (1)
_COVERED = {"pelvis": (_TROUSERS, _SHIRT), "abdomen": (_SHIRT, _SHIRT), "chest": (_SHIRT, _SHIRT),
            "clavicle": (_SHIRT, _SHIRT), "neck": (_SHIRT, _SKIN), "head": (_SKIN, _SKIN), "nose": (_SKIN, _SKIN),
            "hair": (_HAIR, _HAIR), "upper_arm": (_SHIRT, _SKIN), "forearm": (_SHIRT, _SKIN), "hand": (_SKIN, _SKIN),
            "thigh": (_TROUSERS, _SKIN), "shin": (_TROUSERS, _SKIN), "foot": (_SHOES, _SHOES)}  # fmt: skip
_KINDS = [part.removeprefix("left_").removeprefix("right_") for part in PARTS]
_HEAD, _CHEST = PARTS.index("head"), PARTS.index("chest")


def shade_body(image: Tensor, hits: Hits, occluded: Tensor, parts: Parts, rays: Tensor, look: Appearance) -> None:
    """Writes the body's visible pixels into `image`, [3, B, S, S] in [0, 1].

    occluded: [B, S, S] bool. parts, rays: as for `raycast.cast`, which made the hits.
    """
    size = image.shape[-1]
    pixel = (hits.found & ~occluded).flatten().nonzero()[:, 0]
    code = hits.code.flatten().index_select(0, pixel)
    picture = pixel // (size * size)
    row, column = (pixel // size % size).float(), (pixel % size).float()
    kind = part_of(code)
    owner = picture * NUM_PARTS + kind

    ray = _pick(rays.flatten(1).t(), picture)  # [6, M]
    slope_x = torch.addcmul(torch.addcmul(ray[2], ray[0], column), ray[1], row)
    slope_y = torch.addcmul(torch.addcmul(ray[5], ray[3], column), ray[4], row)
    table = _pick(_part_table(parts, look), owner)
    to_left, to_along, to_front, start = table[0:3], table[3:6], table[6:9], table[9:12]
    shrink_x, shrink_z, base, cos2, length, cover = table[12:18]

    # where the point lies on its part, m to the left, along and to the front of its start
    x, y, z = code * slope_x - start[0], code * slope_y - start[1], code - start[2]
    left = _dot(to_left, x, y, z)
    along = _dot(to_along, x, y, z)
    front = _dot(to_front, x, y, z)
    # the sphere of the family that touches the surface here, then its normal, stretched back
    middle = ((along - base) / cos2).clamp(min=0).minimum(length)
    nx, ny, nz = left * shrink_x.square(), along - middle, front * shrink_z.square()
    scale = torch.rsqrt(_dot((nx, ny, nz), nx, ny, nz).clamp(min=1e-12))
    light, half = table[18:21], table[21:24]
    facing = _dot((to_left[2], to_along[2], to_front[2]), nx, ny, nz) * -scale
    lit = (_dot(light, nx, ny, nz) * scale * 0.85 + 0.15).clamp(min=0)
    shine = (_dot(half, nx, ny, nz) * scale).clamp(min=0).square().square().square().square()

    material = torch.where(along < cover * length, _material(0, kind), _material(1, kind))
    material, mark = _face(material, kind, left, along, front, look, picture, length)
    cloth = _pick(_material_table(look), picture * len(MATERIALS) + material)
    color, second, (across, down, wx, wy, wn, sharp, phase) = cloth[0:3], cloth[3:6], cloth[6:13]
    wave = wx * torch.sin(torch.addcmul(phase, across, left) * 6.2832)
    wave = torch.addcmul(wave, wy, torch.sin(torch.addcmul(phase, down, along) * 6.2832))
    wave = torch.addcmul(wave, wn, _cells(left, along, front, down, look.noise_seed.index_select(0, picture)))
    color = torch.lerp(color, second, (wave * sharp).clamp(-1, 1) * 0.5 + 0.5)
    color = _badge(color, kind, left, along, front, look, picture)

    # limbs darken towards their outline, so that one in front of another stands out
    fill = (facing.clamp(min=0) * 0.55 + 0.45) * mark
    plane = _pick(look.light_color.t(), picture) * lit + _pick(look.ambient.t(), picture)
    gloss = look.gloss.index_select(0, picture) * (material == _SKIN) * shine
    image.view(3, -1).scatter_(1, pixel.expand(3, -1), torch.addcmul(gloss, color * plane, fill))


def _part_table(parts: Parts, look: Appearance) -> Tensor:
    """What shading needs of every part, [24, B * P]."""
    r0, r1 = parts.radius.unbind(-1)
    length = (parts.end - parts.start).norm(dim=-1)
    sin, cos2 = cone_angle(length, r0, r1)
    half = F.normalize(look.light - look.light.new_tensor([0.0, 0.0, 1.0]), dim=1)
    light, half = ((parts.frame * v[:, None, None]).sum(-1) for v in (look.light, half))
    one = torch.ones_like(look.sleeve)
    cover = {"pelvis": look.hem, "neck": look.collar, "upper_arm": look.sleeve, "forearm": look.sleeve - 1,
             "thigh": look.leg, "shin": look.leg - 1}  # fmt: skip
    scalars = torch.stack(
        [
            1 / parts.stretch[..., 0],
            1 / parts.stretch[..., 1],
            # where one end sphere swallows the other, all normals point away from the larger one's centre
            torch.where(cos2 > 0, sin * r0, torch.where(r0 > r1, 1e3, -1e3)),
            cos2.clamp(min=1e-3),
            length,
            torch.stack([cover.get(kind, one) for kind in _KINDS], 1),
        ],
        -1,
    )
    return torch.cat([parts.frame.flatten(2), parts.start, scalars, light, half], -1).flatten(0, 1).t().contiguous()


def _material_table(look: Appearance) -> Tensor:
    """[13, B * 5]"""
    return torch.cat([look.color, look.second_color, look.pattern], -1).flatten(0, 1).t().contiguous()


def _material(side: int, part: Tensor) -> Tensor:
    return torch.tensor([_COVERED[kind][side] for kind in _KINDS], device=part.device).index_select(0, part)


def _face(material: Tensor, part: Tensor, left: Tensor, along: Tensor, front: Tensor, look: Appearance,
          picture: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Hair, beard, eyes and mouth of head pixels: their material and a factor that darkens. unit: the part's length."""
    x, y, z = left.abs() / unit, along / unit, front / unit
    hairline, beard = _pick(look.hairline.t(), picture), look.beard.index_select(0, picture)
    hair = (y > torch.addcmul(hairline[0], hairline[1], z)) | ((y < beard) & (z > 0.3))
    eye = ((x - 0.48) / 0.24).square() + ((y - 0.55) / 0.17).square() < 1
    mouth = (x / 0.4).square() + ((y + 0.4) / 0.12).square() < 1
    head = part == _HEAD
    material = torch.where(head & hair, _HAIR, material)
    return material, 1 - ((eye | mouth) & head & (z > 0.3)) * 0.6


def _badge(color: Tensor, part: Tensor, left: Tensor, along: Tensor, front: Tensor, look: Appearance,
           picture: Tensor) -> Tensor:  # fmt: skip
    """The print on the chest's front."""
    x, y, wide, high, *print_color = _pick(look.badge.t(), picture)
    inside = (part == _CHEST) & (front > 0) & ((left - x).abs() < wide) & ((along - y).abs() < high)
    return torch.where(inside, torch.stack(print_color), color)


def shade_background(look: Appearance, size: int) -> tuple[Tensor, Tensor]:
    """Picture without the body and where something stands before it: [3, B, S, S] and [B, S, S] bool."""
    batch = len(look.light)
    unit = (torch.arange(size, device=look.light.device) * 2 + 1) / size - 1  # -1 .. 1 across the crop
    x, y = unit[None, None, :], unit[None, :, None]
    top = torch.zeros(batch, size, size, device=unit.device)
    for k in range(SHAPES):
        cx, cy, wide, high, angle, round_ = look.shapes[:, k, :, None, None].unbind(1)
        cos, sin = angle.cos(), angle.sin()
        wide, high = 1 / wide.clamp(min=1e-6), 1 / high.clamp(min=1e-6)
        u = (cos * wide * (x - cx) + sin * wide * (y - cy)).square_()
        v = (cos * high * (y - cy) - sin * high * (x - cx)).square_()
        # masks as floats: a comparison that makes bools costs several times as much on a CPU
        inside = torch.lerp(torch.maximum(u, v), u.add_(v), round_).lt_(1)
        top = torch.maximum(top, inside.mul_(k + 1))
    first = (SHAPES + 1) * torch.arange(batch, device=unit.device)
    index = (top.int() + first[:, None, None]).flatten()

    wave_x, wave_y, phase = look.grating[:, :, None, None].unbind(1)
    grain = torch.sin(wave_x * x + (wave_y * y + phase)) * _lookup(look.shape_grain, index).view_as(top)
    tilt = (look.wall[:, 1] - look.wall[:, 0]) / 2
    paint = torch.cat([look.wall.mean(1)[:, None], look.shape_color], 1)
    image = _clouds(look, size)
    for channel in range(3):
        image[channel] += _lookup(paint[..., channel], index).view_as(top)
        image[channel] += grain.addcmul(tilt[:, channel, None, None], y)
    return image, top > BACKGROUND_SHAPES


def _clouds(look: Appearance, size: int) -> Tensor:
    """Smooth noise of a few grid sizes, [3, B, S, S]."""
    total: Tensor | None = None
    for octave, grid in enumerate(_CLOUD_GRIDS):
        values = _noise(look.noise_seed, octave, 3 * grid, grid).view(-1, 3, grid, grid)
        values = torch.lerp(values, values[:, :1], 0.75)  # mostly grey, as shadows and textures are
        values = values * look.cloud[:, octave, :, None, None]
        total = values if total is None else values + _resize(total, grid)
    assert total is not None
    return _resize(total, size).transpose(0, 1).contiguous()


def _resize(image: Tensor, size: int) -> Tensor:
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


def expose(image: Tensor, look: Appearance) -> Tensor:
    """The camera: blur, gain, sensor noise. [3, B, S, S] in [0, 1] to uint8 [B, 3, S, S]."""
    side = torch.exp(-0.5 / look.blur.square())
    side = (side / (1 + 2 * side))[:, None, None]
    for dim in (2, 3):
        image = _blur(image, side, dim)
    size = image.shape[3]
    grain = _noise(look.noise_seed, len(_CLOUD_GRIDS), 3 * size, size).view(-1, 3, size, size).transpose(0, 1)
    image = torch.addcmul(image * look.exposure.t()[:, :, None, None], grain, look.noise[:, None, None])
    return image.mul_(255).add_(0.5).clamp_(0, 255).transpose(0, 1).to(torch.uint8).contiguous()


def _blur(image: Tensor, side: Tensor, dim: int) -> Tensor:
    """Three-tap blur along one axis; the border is repeated."""
    last = image.shape[dim] - 1
    before = torch.cat([image.narrow(dim, 0, 1), image.narrow(dim, 0, last)], dim)
    after = torch.cat([image.narrow(dim, 1, last), image.narrow(dim, last, 1)], dim)
    return torch.addcmul(image, before.add_(after).sub_(image, alpha=2), side)


def _cells(x: Tensor, y: Tensor, z: Tensor, frequency: Tensor, seed: Tensor) -> Tensor:
    """A random value a cell of a cubic grid of 2 * frequency cells a metre."""
    frequency = 2 * frequency
    place = (x * frequency).long() * 7919 + (y * frequency).long() * 104729 + (z * frequency).long() * 1299709
    return noise_table(x.device).index_select(0, (place + seed) & (_NOISE - 1))


def _noise(seed: Tensor, salt: int, rows: int, width: int) -> Tensor:
    """Normal numbers [B, rows, width]: a stretch of the noise table a row."""
    table = noise_table(seed.device)
    row = torch.arange(rows, device=seed.device) * 40503 + salt * 7919
    start = (seed[:, None] + row) % (_NOISE - width)
    return table.unfold(0, width, 1).index_select(0, start.flatten()).view(len(seed), rows, width)


@functools.lru_cache(maxsize=8)
def noise_table(device: torch.device) -> Tensor:
    """The same normal numbers everywhere and always: all noise is read from here."""
    return torch.randn(_NOISE, generator=torch.Generator().manual_seed(0)).to(device)


def _dot(a: Tensor | tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return torch.addcmul(torch.addcmul(a[0] * x, a[1], y), a[2], z)


def _pick(table: Tensor, index: Tensor) -> Tensor:
    """Columns of [K, N] at [M]; several times as fast on a CPU as table[:, index]."""
    return table.index_select(1, index)


def _lookup(table: Tensor, index: Tensor) -> Tensor:
    return table.flatten().index_select(0, index)
