"""What a picture shows besides the pose, drawn at random: light, clothes, body build, background, occluders, camera."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# uniform numbers that one appearance takes
NUM_RANDOM = 317
MATERIALS = ("skin", "shirt", "trousers", "shoes", "hair")
BACKGROUND_SHAPES = 7
OCCLUDERS = 3
SHAPES = BACKGROUND_SHAPES + OCCLUDERS

_SKIN = ((0.98, 0.84, 0.74), (0.91, 0.72, 0.58), (0.78, 0.57, 0.42), (0.58, 0.39, 0.27), (0.36, 0.23, 0.16))
_HAIR = ((0.06, 0.05, 0.05), (0.22, 0.13, 0.08), (0.42, 0.26, 0.13), (0.78, 0.62, 0.38), (0.62, 0.60, 0.58))


class Appearance(NamedTuple):
    """B looks. Lengths in m, colours RGB in [0, 1], directions in camera space; nothing tells left from right.

    light: [B, 3] unit vector to the light. light_color, ambient: [B, 3]. gloss: [B] of the skin.
    color, second_color: [B, 5, 3] of the MATERIALS, mixed by a pattern. pattern: [B, 5, 7]: waves a metre across and
    along, their weights, weight of the noise, sharpness, phase.
    girth: [B, 4] factors of torso, head, arms, legs. head_turn: [B] rad. long_hair: [B] m below the neck, 0: none.
    sleeve, leg: [B] where sleeves and trouser legs end, 0 at shoulder or hip, 1 at elbow or knee, 2 at wrist or ankle.
    hem, collar: [B] where the shirt ends, as a share of the pelvis and the neck part.
    hairline: [B, 2] height of the hair above the jaw over the ear, in units of the head part's length, and its slope to
    the front. beard: [B] height, likewise.
    badge: [B, 7] on the chest: centre left and up, half width, half height, RGB; half width 0 for none.
    noise_seed: [B] int64 where in the noise table to read.
    wall: [B, 2, 3] background at the top and the bottom. cloud: [B, 3, 3] strength of coarse to fine noise a channel.
    shapes: [B, 10, 6], rows (centre, half sizes, angle, roundness 0 box .. 1 ellipse) in units of half a crop from its
    middle, later ones in front, the last 3 in front of the body; half size 0: absent. shape_color: [B, 10, 3].
    shape_grain: [B, 11] how much of the image-wide grating the wall and the shapes have. grating: [B, 3] radians
    across and down half a crop, phase.
    blur: [B] px. noise: [B] standard deviation. exposure: [B, 3] gain a channel.
    """

    light: Tensor
    light_color: Tensor
    ambient: Tensor
    gloss: Tensor
    color: Tensor
    second_color: Tensor
    pattern: Tensor
    girth: Tensor
    head_turn: Tensor
    long_hair: Tensor
    sleeve: Tensor
    leg: Tensor
    hem: Tensor
    collar: Tensor
    hairline: Tensor
    beard: Tensor
    badge: Tensor
    noise_seed: Tensor
    wall: Tensor
    cloud: Tensor
    shapes: Tensor
    shape_color: Tensor
    shape_grain: Tensor
    grating: Tensor
    blur: Tensor
    noise: Tensor
    exposure: Tensor

    def rows(self, start: int, stop: int) -> "Appearance":
        return Appearance(*(field[start:stop] for field in self))


def sample_appearance(batch: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Appearance:
    """Draws `batch` looks on `device` with numbers that `generator` makes on its own."""
    numbers = torch.rand(batch, NUM_RANDOM, generator=generator, device=generator.device)
    return appearance_from(numbers.to(device))


def appearance_from(numbers: Tensor) -> Appearance:
    """The look that [B, NUM_RANDOM] uniform numbers in [0, 1) stand for, row by row."""
    if numbers.ndim != 2 or numbers.shape[1] != NUM_RANDOM:
        raise ValueError(f"numbers: wanted [B, {NUM_RANDOM}], got {list(numbers.shape)}")
    draw = _Draw(numbers)

    color = torch.stack(
        [
            _from_palette(draw, _SKIN),
            draw.color(),
            draw.color() * draw.uniform(0.45, 1, 1),
            draw.color() * draw.uniform(0.3, 1, 1),
            _from_palette(draw, _HAIR),
        ],
        1,
    )
    other = torch.stack([color[:, 0], draw.color(), draw.color(), draw.color(), color[:, 4] * 1.5], 1)
    # skin and hair are nearly plain, half of the clothes have a visible pattern
    strength = torch.stack([draw.uniform(lo, hi) * draw.chance(p) for lo, hi, p in (
        (0, 0.05, 1), (0.15, 1, 0.55), (0.1, 0.8, 0.4), (0.2, 1, 0.5), (0.3, 0.8, 1))], 1)  # fmt: skip
    # across, along, both: stripes, hoops, checks; noise: camouflage
    weights = (draw.uniform(0, 1, 5, 3) > 0.55).float()
    pattern = torch.cat([draw.uniform(4, 26, 5, 2), weights, draw.uniform(1, 6, 5, 1), draw.uniform(0, 6.28, 5, 1)], 2)

    shapes = torch.cat(
        [
            draw.uniform(-1.1, 1.1, SHAPES, 2),
            _shape_sizes(draw),
            draw.uniform(-0.5, 0.5, SHAPES, 1).pow(3) * 12.6,  # mostly upright
            draw.chance(0.4, SHAPES, 1),
        ],
        2,
    )
    # the floor: a wide box from somewhere at knee height down
    floor = torch.stack([draw.uniform(lo, hi) for lo, hi in (
        (-0.2, 0.2), (1.3, 2.2), (6, 8), (0.9, 1.1), (-0.06, 0.06), (0, 0))], 1)  # fmt: skip
    shapes[:, 0] = torch.where(draw.chance(0.7, 1) > 0, floor, shapes[:, 0])

    warm = draw.uniform(-0.12, 0.12, 1) * numbers.new_tensor([1.0, 0.0, -1.0])
    wall = draw.color(vivid=0.8)
    key = draw.uniform(0.4, 1.0, 1)
    look = Appearance(
        light=_light(draw),
        light_color=key * (1 + warm),
        ambient=draw.uniform(0.35, 0.7, 1) * (1 - warm * 0.7),
        gloss=draw.uniform(0, 0.25),
        color=color,
        second_color=color + (other - color) * strength[..., None],
        pattern=pattern,
        girth=draw.uniform(0.88, 1.18, 1) * draw.uniform(0.9, 1.1, 4) * numbers.new_tensor([1.0, 0.97, 1.0, 1.0]),
        head_turn=draw.uniform(-0.6, 0.6),
        long_hair=draw.uniform(0.02, 0.2) * draw.chance(0.35),
        sleeve=torch.where(draw.chance(0.5) > 0, draw.uniform(0.3, 1.0), draw.uniform(1.4, 2.1)),
        leg=torch.where(draw.chance(0.35) > 0, draw.uniform(0.4, 1.1), draw.uniform(1.7, 2.2)),
        hem=draw.uniform(-0.8, 1.5),
        collar=draw.uniform(-0.3, 0.35),
        hairline=torch.stack([draw.uniform(0.45, 1.0) + 3 * draw.chance(0.07), draw.uniform(0.3, 0.8)], 1),
        beard=draw.uniform(-0.5, 0.1) - 3 * draw.chance(0.75),
        badge=torch.cat(
            [
                draw.uniform(-0.06, 0.06, 1),
                draw.uniform(0.0, 0.2, 1),
                draw.uniform(0.012, 0.1, 1) * draw.chance(0.6, 1),
                draw.uniform(0.03, 0.2, 1),
                draw.color(),
            ],
            1,
        ),
        noise_seed=(draw.uniform(0, 1) * 2**20).long(),
        wall=torch.stack([wall, wall + draw.uniform(-0.3, 0.3, 1) + draw.uniform(-0.1, 0.1, 3)], 1),
        cloud=draw.uniform(0, 0.22, 3, 1) * draw.uniform(0, 1, 3, 1) * draw.uniform(0.6, 1, 3, 3),
        shapes=shapes,
        shape_color=draw.color(SHAPES, vivid=1.0),
        shape_grain=draw.uniform(0.03, 0.3, SHAPES + 1) * draw.chance(0.35, SHAPES + 1),
        grating=torch.cat([draw.uniform(-1, 1, 2) * draw.uniform(4, 40, 1), draw.uniform(0, 6.28, 1)], 1),
        blur=draw.uniform(0.25, 0.8),
        noise=draw.uniform(0, 0.03),
        exposure=draw.uniform(0.8, 1.2, 1) * draw.uniform(0.93, 1.07, 3),
    )
    return look


class _Draw:
    """Deals out the columns of a table of uniform numbers."""

    def __init__(self, numbers: Tensor):
        self.numbers, self.used = numbers, 0

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        count = math.prod(shape)
        x = self.numbers[:, self.used : self.used + count].reshape(-1, *shape)
        self.used += count
        return low + (high - low) * x

    def chance(self, probability: float, *shape: int) -> Tensor:
        """1 with this probability, else 0."""
        return (self.uniform(0, 1, *shape) < probability).float()

    def color(self, *shape: int, vivid: float = 1.2) -> Tensor:
        """[B, *shape, 3] of any brightness, from grey to saturated."""
        tint = self.uniform(0, 1, *shape, 3)
        tint = tint - tint.mean(-1, keepdim=True)
        return (self.uniform(0.03, 0.97, *shape, 1) + self.uniform(0, vivid, *shape, 1) * tint).clamp(0.02, 0.98)


def _from_palette(draw: _Draw, palette: tuple[tuple[float, float, float], ...]) -> Tensor:
    """[B, 3] between two neighbours of the palette."""
    colors = draw.numbers.new_tensor(palette)
    place = draw.uniform(0, len(palette) - 1)
    index = place.long().clamp(max=len(palette) - 2)
    return torch.lerp(colors[index], colors[index + 1], (place - index)[:, None]) * draw.uniform(0.94, 1.06, 3)


def _light(draw: _Draw) -> Tensor:
    """Unit vectors, mostly from above and from the camera's side; left and right are equally likely."""
    azimuth = draw.uniform(-1, 1) * torch.where(draw.chance(0.75) > 0, 0.5, 1.0) * math.pi  # 0: from the camera
    height = draw.uniform(-0.15, 0.95)
    flat = (1 - height.square()).sqrt()
    return torch.stack([flat * azimuth.sin(), -height, -flat * azimuth.cos()], 1)


def _shape_sizes(draw: _Draw) -> Tensor:
    """Half sizes [B, SHAPES, 2]: blobs and thin lines; a shape that is not there has 0."""
    size = draw.uniform(0.08, 0.7, SHAPES, 1)
    aspect = torch.cat([torch.ones_like(size), draw.uniform(0.02, 1, SHAPES, 1)], 2)
    lying = draw.chance(0.35, SHAPES, 1) > 0
    occluder = torch.arange(SHAPES, device=size.device)[:, None] >= BACKGROUND_SHAPES
    there = draw.uniform(0, 1, SHAPES, 1) < torch.where(occluder, 0.17, 0.6)
    return torch.where(occluder, 0.6, 1.0) * size * torch.where(lying, aspect, aspect.flip(2)) * there
