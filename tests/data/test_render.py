"""The renderer: where the body is, what hides what, and that colours tell nothing about left and right."""

import cv2
import numpy as np
import pytest
import torch

from unihpe_fast.data.bbox import crop_map, square_bbox
from unihpe_fast.data.camera import Camera, pinhole, project
from unihpe_fast.data.records import Sample
from unihpe_fast.data.render import PARTS, Appearance, render, render_all, render_crops, sample_appearance
from unihpe_fast.data.render.appearance import BACKGROUND_SHAPES, NUM_RANDOM, appearance_from
from unihpe_fast.data.render.body import Parts, build_parts, frames
from unihpe_fast.data.render.draw import BACKGROUND, OCCLUDED
from unihpe_fast.data.render.raycast import cast, pixel_rays
from unihpe_fast.data.sources.synthetic import synthetic_people

LEFT_LIMBS = [PARTS.index(f"left_{part}") for part in ("upper_arm", "forearm", "thigh", "shin", "foot")]
RIGHT_LIMBS = [PARTS.index(f"right_{part}") for part in ("upper_arm", "forearm", "thigh", "shin", "foot")]
ARM = [PARTS.index(f"right_{part}") for part in ("upper_arm", "forearm", "hand")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standing(turn: float = 0.0, distance: float = 5000.0) -> torch.Tensor:
    """[1, 17, 3] mm: a person who faces the camera, mirror-symmetric, turned to its left by `turn` degrees."""
    right = [(-130, 0, 0), (-135, 440, -20), (-135, 890, 20), (-160, -480, 20), (-210, -200, 40), (-230, 50, -20)]
    middle = [(0, 0, 0), (0, -235, 10), (0, -490, 20), (0, -605, 0), (0, -720, 0)]
    joints = torch.zeros(17, 3)
    joints[[1, 2, 3, 14, 15, 16]] = torch.tensor(right).float()
    joints[[4, 5, 6, 11, 12, 13]] = torch.tensor(right).float() * torch.tensor([-1.0, 1.0, 1.0])
    joints[[0, 7, 8, 9, 10]] = torch.tensor(middle).float()
    angle = torch.deg2rad(torch.tensor(turn))
    cos, sin = angle.cos().item(), angle.sin().item()
    # left is +x and front is -z, so that a turn to the left brings the front to +x
    rotation = torch.tensor([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    return (joints @ rotation.mT + torch.tensor([0, 0, distance]))[None]


def photograph(joints: torch.Tensor, size: int, margin: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A camera [B, 9] and the crop [B, 2, 3] around the projected joints."""
    camera = torch.from_numpy(pinhole(1145.0, 1000, 1000)).float().expand(len(joints), 9).contiguous()
    bbox = square_bbox(project(joints, camera))
    crop = np.stack([crop_map(box, size, margin) for box in bbox.numpy()])
    return camera, torch.from_numpy(crop)


def plain(look: Appearance) -> Appearance:
    """No occluders, no noise, even light, nobody turns the head or has long hair."""
    return look._replace(
        shapes=torch.zeros_like(look.shapes),
        noise=torch.zeros_like(look.noise),
        light_color=torch.zeros_like(look.light_color),
        ambient=torch.ones_like(look.ambient),
        head_turn=torch.zeros_like(look.head_turn),
        long_hair=torch.zeros_like(look.long_hair),
        exposure=torch.ones_like(look.exposure),
    )


def people(count: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Joints, camera, crop and the joints' place in the crop, [B, 17, 2] px."""
    who = synthetic_people(count, generator(seed))
    crop = torch.from_numpy(np.stack([crop_map(box, size, 1.0) for box in who.bbox.numpy()]))
    place = who.keypoints_2d @ crop[:, :, :2].mT + crop[:, None, :, 2]
    return who.joints_3d, who.camera, crop, place


def swept_spheres(parts: Parts, image: int, slope: np.ndarray, grow: float) -> tuple[np.ndarray, np.ndarray]:
    """Reference in float64: first hit of rays [M, 2] with every part, as the union of densely placed spheres.

    Returns depth [M] in m (inf: none) and part [M]. grow: factor of all radii.
    """
    start, end, frame, radius, stretch = (field[image].double().numpy() for field in parts)
    rays = np.concatenate([slope, np.ones((len(slope), 1))], 1)
    depth = np.full((len(slope), len(PARTS)), np.inf)
    for p in range(len(PARTS)):
        if radius[p].max() == 0:
            continue
        to_local = frame[p] / np.array([stretch[p, 0], 1, stretch[p, 1]])[:, None]
        direction, origin = rays @ to_local.T, -to_local @ start[p]
        axis = to_local @ (end[p] - start[p])

        def first(s: np.ndarray, p=p, direction=direction, origin=origin, axis=axis) -> np.ndarray:
            """Entry into the spheres at shares s [M, S] of the axis."""
            to_ray = origin - s[..., None] * axis  # [M, S, 3]
            r = grow * (radius[p, 0] + s * (radius[p, 1] - radius[p, 0]))
            b = np.einsum("msk,mk->ms", to_ray, direction)
            a = (direction**2).sum(1)[:, None]
            square = b**2 - a * ((to_ray**2).sum(2) - r**2)
            return np.where(square > 0, (-b - np.sqrt(square.clip(0))) / a, np.inf)

        coarse = np.broadcast_to(np.linspace(0, 1, 101), (len(slope), 101))
        best = coarse[0, first(coarse).argmin(1)]
        fine = (best[:, None] + np.linspace(-0.011, 0.011, 201)).clip(0, 1)
        depth[:, p] = np.minimum(first(fine).min(1), first(coarse).min(1))
    return depth.min(1), depth.argmin(1)


def test_depth_matches_an_independent_float64_ray_caster():
    size = 64
    joints, camera, crop, _ = people(6, size)
    # a rolled and sheared crop and one where the person fills far more than the picture
    crop[1] = torch.tensor([[0.8, 0.6, 3.0], [-0.5, 0.7, 9.0]]) @ torch.cat([crop[1], torch.tensor([[0.0, 0.0, 1.0]])])
    crop[2] *= 3
    crop[2, :, 2] -= 64
    look = sample_appearance(6, generator(1))
    parts = build_parts(joints / 1000, look)
    hits = cast(parts, pixel_rays(camera, crop), size)
    rng = np.random.default_rng(0)
    compared = 0
    for k in range(6):
        found = hits.found[k].flatten().nonzero()[:, 0].numpy()
        pixels = np.unique(np.concatenate([rng.choice(found, 150), rng.choice(size * size, 100)]))
        row, column = np.divmod(pixels, size)
        back = np.linalg.inv(np.vstack([crop[k].double().numpy(), [0, 0, 1]]))
        full = np.stack([column, row, np.ones(len(pixels))], 1) @ back[:2].T
        vector = camera[k].double().numpy()
        slope = (full - vector[2:4]) / vector[:2]
        depth = hits.code[k].flatten().double().numpy()[pixels]
        got = hits.found[k].flatten().numpy()[pixels]
        near, near_part = swept_spheres(parts, k, slope, 1 + 1e-4)
        exact, exact_part = swept_spheres(parts, k, slope, 1.0)
        far, far_part = swept_spheres(parts, k, slope, 1 - 1e-4)
        # on a silhouette float32 rounding decides: there hits of 0.01 % thicker and thinner bodies bracket the answer
        assert np.all(got[np.isfinite(far)])
        assert not np.any(got[np.isinf(near)])
        # 2^-18 of the depth holds the part's index; 1e-4 of a 0.1 m radius is what thinner costs in depth
        slack = depth * 2.0**-17 + 2e-5
        assert np.all((depth >= near - slack)[got])
        assert np.all((depth <= far + slack)[got])
        clear = got & (near_part == exact_part) & (far_part == exact_part) & (far < near + 2e-4)
        np.testing.assert_allclose(depth[clear], exact[clear], rtol=2.0**-17, atol=2e-5)
        np.testing.assert_array_equal(hits.part[k].flatten().numpy()[pixels][clear], exact_part[clear])
        compared += clear.sum()
    assert compared > 700


@pytest.mark.parametrize("radii", [(0.1, 0.1), (0.15, 0.02), (0.02, 0.15), (0.1, 0.02)])
@pytest.mark.parametrize("length", [0.3, 0.05, 0.0])
def test_single_cones_seen_along_and_across_their_axis(radii, length):
    """Also those where one end sphere swallows the other, or the axis is a point."""
    ends = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2, 0.1], [0.02, -0.01, 1.0], [0.3, 0.5, -0.8]]), dim=1)
    count = len(PARTS)
    start = torch.tensor([0.05, -0.1, 2.0]).expand(3, count, 3).clone()
    end = start + length * ends[:, None]
    radius = torch.zeros(3, count, 2)
    radius[:, 4] = torch.tensor(radii)
    stretch = torch.tensor([1.3, 0.7]).expand(3, count, 2)
    parts = Parts(start, end, frames(start, end, torch.tensor([0.1, 1.0, 0.3]).expand_as(start)), radius, stretch)
    size = 41
    rays = torch.tensor([[0.01, 0.0, -0.2], [0.0, 0.01, -0.25]]).expand(3, 2, 3)
    hits = cast(parts, rays, size)
    row, column = np.divmod(np.arange(size * size), size)
    slope = np.stack([0.01 * column - 0.2, 0.01 * row - 0.25], 1)
    for k in range(3):
        got = hits.found[k].flatten().numpy()
        depth = hits.code[k].flatten().double().numpy()
        near, _ = swept_spheres(parts, k, slope, 1 + 1e-4)
        far, _ = swept_spheres(parts, k, slope, 1 - 1e-4)
        assert np.all(got[np.isfinite(far)])
        assert not np.any(got[np.isinf(near)])
        assert got.sum() > 5
        assert np.all((depth >= near - 5e-5)[got])
        assert np.all((depth <= far + 5e-5)[got])
        assert set(hits.part[k][hits.found[k]].tolist()) == {4}


@pytest.mark.parametrize("size", [96, 61])
def test_every_joint_lies_on_the_body_and_behind_its_surface(size):
    joints, camera, crop, place = people(64, size)
    result = render_all(joints, camera, crop, size, sample_appearance(64, generator(2)))
    pixel = place.round().long()
    assert ((pixel >= 0) & (pixel < size)).all()
    part = result.part[torch.arange(64)[:, None], pixel[..., 1], pixel[..., 0]]
    depth = result.depth[torch.arange(64)[:, None], pixel[..., 1], pixel[..., 0]]
    assert (part != BACKGROUND).all()
    assert depth.isfinite().all()
    # half a pixel beside the joint the surface may lie a little behind the joint itself
    assert (depth <= joints[..., 2] + 30).all()
    assert (part == OCCLUDED).float().mean() < 0.3


def test_parts_and_depth_agree_with_the_joints_where_they_are_seen():
    joints, camera, crop, place = people(64, 96)
    look = plain(sample_appearance(64, generator(3)))
    result = render_all(joints, camera, crop, 96, look)
    pixel = place.round().long()
    limbs = (
        (2, ("right_thigh", "right_shin"), 70),
        (5, ("left_thigh", "left_shin"), 70),
        (12, ("left_upper_arm", "left_forearm"), 60),
        (15, ("right_upper_arm", "right_forearm"), 60),
        (10, ("head", "hair"), 130),
    )
    for joint, names, thick in limbs:
        at = torch.arange(64), pixel[:, joint, 1], pixel[:, joint, 0]
        seen = (result.depth[at] - joints[:, joint, 2]).abs() < thick
        own = torch.isin(result.part[at], torch.tensor([PARTS.index(name) for name in names]))
        assert seen.sum() > 25
        # another limb that touches the joint may show instead
        assert own[seen].float().mean() > 0.85


@pytest.mark.parametrize(("offset", "arm_seen"), [(-250.0, True), (250.0, False)])
def test_the_nearer_limb_hides_the_farther(offset, arm_seen):
    joints = standing()
    joints[0, 15] = torch.tensor([-200.0, -250.0, 5000.0 + 0.6 * offset])
    joints[0, 16] = torch.tensor([0.0, -330.0, 5000.0 + offset])
    camera, crop = photograph(joints, 96)
    result = render_all(joints, camera, crop, 96, plain(sample_appearance(1, generator())))
    column, row = (project(joints, camera)[0, 16] @ crop[0, :, :2].T + crop[0, :, 2]).round().long().tolist()
    part = result.part[0, row, column].item()
    assert (part in ARM) == arm_seen
    if arm_seen:
        assert abs(result.depth[0, row, column].item() - joints[0, 16, 2].item()) < 60
    else:
        assert part in (PARTS.index("abdomen"), PARTS.index("chest"))


def test_an_occluder_hides_the_body():
    joints = standing()
    camera, crop = photograph(joints, 48)
    look = plain(sample_appearance(1, generator()))
    look.shapes[0, BACKGROUND_SHAPES] = torch.tensor([0.0, -1.0, 5.0, 1.0, 0.0, 0.0])  # a box over the upper half
    look.shape_color[0, BACKGROUND_SHAPES] = torch.tensor([1.0, 0.0, 0.0])
    look = look._replace(cloud=look.cloud * 0, wall=look.wall * 0, shape_grain=look.shape_grain * 0)
    result = render_all(joints, camera, crop, 48, look)
    assert (result.part[0, :24] == OCCLUDED).all()
    assert (result.part[0, 24:] != OCCLUDED).all()
    assert (result.part[0, 24:] >= 0).any()
    assert result.depth[0, :24].isfinite().any()
    assert (result.image[0, 0, :23] == 255).all()
    assert (result.image[0, 1:, :23] == 0).all()


def limb_colors(count: int, seed: int = 4) -> np.ndarray:
    """Mean colour of left (row 0) and right (row 1) limbs, [2, N, 3], of a person filmed from all sides."""
    turns = 360 * torch.rand(count, generator=generator(seed))
    joints = torch.cat([standing(turn) for turn in turns.tolist()])
    camera, crop = photograph(joints, 40)
    result = render_all(joints, camera, crop, 40, sample_appearance(count, generator(seed + 1)))
    image = result.image.float() / 255
    colors = []
    for limbs in (LEFT_LIMBS, RIGHT_LIMBS):
        mask = torch.isin(result.part, torch.tensor(limbs))[:, None]
        colors.append((image * mask).sum((2, 3)) / mask.sum((2, 3)))
    both = torch.stack(colors)
    return both[:, both.isfinite().all(-1).all(0)].double().numpy()


def accuracy(colors: np.ndarray) -> tuple[float, int]:
    """Fisher's discriminant, learned on a half of the people, tells left from right on the other half."""
    half = colors.shape[1] // 2
    train, test = colors[:, :half].reshape(-1, 3), colors[:, half:].reshape(-1, 3)
    label = np.repeat([True, False], half)
    difference = train[label].mean(0) - train[~label].mean(0)
    spread = np.cov(train[label].T) + np.cov(train[~label].T)
    direction = np.linalg.solve(spread, difference)
    threshold = train.mean(0) @ direction
    correct = (test @ direction > threshold) == np.repeat([True, False], len(test) // 2)
    # the two limbs of a person have one colour, so people count, not limbs
    return correct.mean(), len(test) // 2


def paired_accuracy(colors: np.ndarray) -> tuple[float, int]:
    """The same for the sharper question which of a person's two sides is the left one."""
    difference = colors[0] - colors[1]
    half = len(difference) // 2
    direction = np.linalg.solve(np.cov(difference[:half].T) + 1e-9 * np.eye(3), difference[:half].mean(0))
    return (difference[half:] @ direction > 0).mean(), len(difference) - half


@pytest.mark.parametrize("classify", [accuracy, paired_accuracy])
def test_clothes_do_not_tell_left_from_right(classify):
    colors = limb_colors(1000)
    got, count = classify(colors)
    assert count > 350
    # 4 standard deviations of a fair coin: a false alarm in 16,000 seeds, and the seed is fixed
    assert abs(got - 0.5) < 4 * 0.5 / count**0.5
    # the classifier does see a tint that a person would hardly notice
    tinted = colors + np.array([0.03, 0.0, -0.03]) * np.array([1.0, 0.0])[:, None, None]
    floor = 0.5 + 4 * 0.5 / count**0.5
    assert paired_accuracy(tinted)[0] > floor


def test_the_face_is_in_front_and_hair_behind():
    joints = torch.cat([standing(0), standing(180)])
    camera, crop = photograph(joints, 96)
    look = plain(sample_appearance(1, generator()))
    look = look._replace(
        color=torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1.0]])[None],
        second_color=torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1.0]])[None],
        hairline=torch.tensor([[0.6, 0.5]]),
        beard=torch.tensor([-3.0]),
    )
    look = Appearance(*(torch.cat([field, field]) for field in look))
    result = render_all(joints, camera, crop, 96, look)
    head = (result.part == PARTS.index("head")).float()
    skin, hair = ((result.image[:, c].float() / 255 * head).sum((1, 2)) / head.sum((1, 2)) for c in (0, 2))
    assert skin[0] > 1.5 * hair[0]
    assert hair[1] > 3 * skin[1]
    nose = (result.part == PARTS.index("nose")).sum((1, 2))
    assert nose[0] > 0
    assert nose[1] == 0


@pytest.mark.parametrize(
    ("cover", "wearing"),
    [
        (0.0, {"upper_arm": "skin", "forearm": "skin", "thigh": "skin", "shin": "skin"}),
        (1.0, {"upper_arm": "shirt", "forearm": "skin", "thigh": "trousers", "shin": "skin"}),
        (2.2, {"upper_arm": "shirt", "forearm": "shirt", "thigh": "trousers", "shin": "trousers"}),
    ],
)
def test_sleeves_and_trouser_legs_end_where_the_look_says(cover, wearing):
    joints = standing()
    camera, crop = photograph(joints, 96)
    look = plain(sample_appearance(1, generator()))
    # one colour channel each; shoes and hair are grey
    color = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])[None]
    look = look._replace(color=color, second_color=color, blur=torch.full((1,), 0.2))
    look = look._replace(sleeve=torch.tensor([cover]), leg=torch.tensor([cover]), hem=torch.tensor([0.5]))
    result = render_all(joints, camera, crop, 96, look)
    expected = {f"{side}_{part}": worn for part, worn in wearing.items() for side in ("left", "right")}
    expected |= {"left_hand": "skin", "chest": "shirt", "nose": "skin"}
    for part, worn in expected.items():
        mask = result.part[0] == PARTS.index(part)
        assert mask.any()
        colors = result.image[0, :, mask].float().median(1).values
        assert colors.argmax() == ("skin", "shirt", "trousers").index(worn)
        assert colors.max() > 10 * colors.median()


def test_the_chest_print_is_in_front():
    joints = torch.cat([standing(0), standing(180)])
    camera, crop = photograph(joints, 96)
    look = plain(sample_appearance(2, generator()))
    look.color[:] = 0
    look.second_color[:] = 0
    look.badge[:] = torch.tensor([0.0, 0.1, 0.08, 0.1, 0.0, 1.0, 0.0])
    green = render(joints, camera, crop, 96, look)[:, 1] * (
        render_all(joints, camera, crop, 96, look).part == PARTS.index("chest")
    )
    assert green[0].max() > 200
    assert green[1].max() < 60


@pytest.mark.parametrize("turn", [0.0, 60.0, 90.0, 180.0, 270.0])
def test_feet_point_forward(turn):
    joints = standing(turn)
    parts = build_parts(joints / 1000, plain(sample_appearance(1, generator())))
    angle = torch.deg2rad(torch.tensor(turn))
    front = torch.stack([angle.sin(), torch.tensor(0.0), -angle.cos()])
    for foot in ("left_foot", "right_foot"):
        toes = (parts.end - parts.start)[0, PARTS.index(foot)]
        assert toes @ front > 0.9 * toes.norm()
        assert toes[1] > 0  # the ankle is above the toes; y points down


def test_bent_knees_point_where_the_toes_do():
    joints = synthetic_people(200, generator(5)).joints_3d / 1000
    parts = build_parts(joints, sample_appearance(200, generator(6)))
    for hip, knee, ankle, foot in ((1, 2, 3, "right_foot"), (4, 5, 6, "left_foot")):
        poke = joints[:, knee] - (joints[:, hip] + joints[:, ankle]) / 2
        bent = poke.norm(dim=1) > 0.1
        shin = torch.nn.functional.normalize(joints[:, ankle] - joints[:, knee], dim=1)
        poke = poke - (poke * shin).sum(1, keepdim=True) * shin
        toes = (parts.end - parts.start)[:, PARTS.index(foot)]
        assert bent.sum() > 20
        assert ((toes * poke).sum(1)[bent] > 0).all()


def test_pictures_are_a_function_of_the_seed():
    joints, camera, crop, _ = people(3, 48)
    one, same, other = (render(joints, camera, crop, 48, sample_appearance(3, generator(s))) for s in (7, 7, 8))
    assert one.dtype == torch.uint8
    assert one.shape == (3, 3, 48, 48)
    assert torch.equal(one, same)
    for k in range(3):
        assert (one[k].float() - other[k].float()).abs().mean() > 10
        assert (one[k].float() - one[k - 1].float()).abs().mean() > 10


@pytest.mark.parametrize("size", [1, 7, 33, 130])
def test_any_size_and_batch_draws_the_same_person(size):
    """A picture does not depend on its neighbours; 35 people of 130 px are more than are drawn at once."""
    joints, camera, crop, _ = people(35, size)
    look = sample_appearance(35, generator(9))
    together = render_all(joints, camera, crop, size, look)
    assert together.image.shape == (35, 3, size, size)
    assert together.part.shape == together.depth.shape == (35, size, size)
    for k in (0, 34):
        alone = render_all(
            joints[k : k + 1].double(), camera[k : k + 1].double(), crop[k : k + 1], size, look.rows(k, k + 1)
        )
        assert torch.equal(alone.part[0], together.part[k])
        # vectorised and scalar tails of the same function may round differently
        assert (alone.image[0].int() - together.image[k].int()).abs().max() <= 1


def test_a_rolled_crop_rolls_the_picture():
    size = 65
    joints = standing(30)
    camera, crop = photograph(joints, size)
    look = plain(sample_appearance(1, generator()))
    quarter = torch.tensor([[[0.0, -1.0, size - 1.0], [1.0, 0.0, 0.0]]])  # (x, y) -> (S - 1 - y, x)
    rolled = quarter[:, :, :2] @ crop
    rolled[:, :, 2] += quarter[:, :, 2]
    upright = render_all(joints, camera, crop, size, look).part
    turned = render_all(joints, camera, rolled, size, look).part
    different = torch.rot90(upright, -1, (1, 2)) != turned
    assert (upright >= 0).sum() > 400
    assert different.sum() <= 3  # silhouettes, where rounding decides


def test_joints_on_one_spot_and_behind_the_camera_draw_no_nonsense():
    joints = torch.zeros(3, 17, 3)
    joints[:, :, 2] = 3000
    joints[1] = standing()[0] - torch.tensor([0.0, 0.0, 9000.0])
    joints[2] = standing()[0] - torch.tensor([0.0, 0.0, 5000.0])  # the camera is inside the body
    camera, crop = photograph(standing().expand(3, -1, -1), 32)
    result = render_all(joints, camera, crop, 32, plain(sample_appearance(3, generator())))
    assert (result.part[1] == BACKGROUND).all()
    assert (result.depth[result.part >= 0] > 0).all()
    assert result.image.float().std() > 0


def test_all_random_numbers_are_used():
    numbers = torch.full((1, NUM_RANDOM), 0.5)
    base = appearance_from(numbers)
    for column in (0, NUM_RANDOM - 1):
        moved = numbers.clone()
        moved[0, column] = 0.9
        assert any(not torch.equal(a, b) for a, b in zip(base, appearance_from(moved), strict=True))
    with pytest.raises(ValueError, match="numbers: wanted"):
        appearance_from(numbers[:, 1:])


def test_appearances_are_in_range_and_mirror_symmetric():
    look = sample_appearance(4000, generator(10))
    assert all(field.isfinite().all() for field in look)
    torch.testing.assert_close(look.light.norm(dim=1), torch.ones(4000))
    sideways = torch.cat([look.light[:, :1], look.badge[:, :1], look.head_turn[:, None], look.shapes[:, 1:, 0]], 1)
    error = sideways.std(0) / 4000**0.5
    assert (sideways.mean(0).abs() < 4.5 * error).all()
    occluded = (look.shapes[:, BACKGROUND_SHAPES:, 2] > 0).any(1).float().mean()
    assert 0.3 < occluded < 0.6


def broken(**change: object) -> dict[str, object]:
    joints, camera, crop, _ = people(2, 16)
    look = sample_appearance(2, generator())
    return {"joints_3d": joints, "camera": camera, "crop": crop, "size": 16, "appearance": look} | change


BENT = torch.tensor([1000.0, 1000, 500, 500, 0, 0, 0, 1e-3, 0]).expand(2, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints_3d": torch.zeros(2, 16, 3)}, r"joints_3d: wanted shape"),
        ({"joints_3d": torch.zeros(0, 17, 3)}, r"joints_3d: wanted shape \['B > 0', 17, 3\], got \[0, 17, 3\]"),
        ({"joints_3d": torch.full((2, 17, 3), torch.nan)}, "joints_3d: wanted finite"),
        ({"camera": BENT}, "camera: wanted cameras without distortion"),
        ({"camera": BENT * 0}, "camera: wanted focal lengths above 0"),
        ({"camera": BENT[:1]}, "camera: wanted shape"),
        ({"crop": torch.zeros(2, 2, 3)}, "crop: wanted invertible"),
        ({"crop": torch.zeros(2, 3, 3)}, "crop: wanted shape"),
        ({"size": 0}, "size: wanted at least 1, got 0"),
        ({"appearance": sample_appearance(3, generator())}, r"appearance.light: wanted shape"),
        ({"camera": torch.zeros(2, 9, device="meta")}, "camera: wanted on cpu"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        render(**broken(**change))


def samples(count: int) -> list[Sample]:
    who = synthetic_people(count, generator(11))
    done = []
    for k in range(count):
        camera = Camera("c", who.camera[k].double().numpy(), 1000, 1002)
        joints = np.concatenate([who.joints_3d[k].numpy(), np.ones((17, 1), np.float32)], 1)
        done.append(Sample(bbox=who.bbox[k].numpy(), joints_3d=joints, camera=camera, frame=k))
    return done


def decoded(sample: Sample) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
    return image[..., ::-1].astype(np.float32)


def test_crops_hold_the_rendered_picture_with_its_margin():
    made = list(render_crops(samples(3), 64, seed=1, margin=1.5))
    numbers = np.stack(
        [np.random.Generator(np.random.Philox(key=[1, k])).random(NUM_RANDOM, np.float32) for k in range(3)]
    )
    for k, sample in enumerate(made):
        assert sample.frame == k
        assert sample.crop.dtype == np.float32
        x, y, side = sample.bbox
        corners = np.array([[x, y], [x - 0.75 * side, y - 0.75 * side], [x + 0.75 * side, y + 0.75 * side]])
        placed = corners @ sample.crop[:, :2].T + sample.crop[:, 2]
        np.testing.assert_allclose(placed, [[31.5, 31.5], [-0.5, -0.5], [63.5, 63.5]], atol=1e-3)
        expected = render(
            torch.from_numpy(sample.joints_3d[None, :, :3]),
            torch.from_numpy(sample.camera.vector)[None],
            torch.from_numpy(sample.crop)[None],
            64,
            appearance_from(torch.from_numpy(numbers[k : k + 1])),
        )
        error = np.abs(decoded(sample) - expected[0].permute(1, 2, 0).float().numpy())
        assert error.mean() < 8  # JPEG halves the resolution of colour; swapped channels would cost far more
        assert (
            error.mean()
            < 0.5 * np.abs(decoded(sample)[..., ::-1] - expected[0].permute(1, 2, 0).float().numpy()).mean()
        )


def test_crops_do_not_depend_on_batches_but_on_the_seed():
    whole = [decoded(s) for s in render_crops(samples(7), 40, seed=2)]
    pieces = [decoded(s) for s in render_crops(iter(samples(7)), 40, seed=2, batch=3)]
    other = [decoded(s) for s in render_crops(samples(7), 40, seed=3)]
    for a, b, c in zip(whole, pieces, other, strict=True):
        # see test_any_size_and_batch_draws_the_same_person; JPEG may turn 1 into a few
        assert np.abs(a - b).mean() < 0.2
        assert np.abs(a - c).mean() > 10


def test_samples_that_cannot_or_need_not_be_drawn_come_back_as_they_are():
    given = samples(6)
    given[0].camera = None
    given[1].joints_3d = None
    given[2].joints_3d[5, 3] = 0
    given[4].image = b"a photograph"
    made = list(render_crops(given, 16, seed=0, batch=2))
    assert [s.frame for s in made] == list(range(6))
    for k in (0, 1, 2, 4):
        assert made[k] is given[k]
    for k in (3, 5):
        assert made[k].image
        assert given[k].image is None
    # sample 3 is number 3 of the stream, whatever became of those before it
    assert np.abs(decoded(made[3]) - decoded(list(render_crops(samples(6), 16, seed=0))[3])).mean() < 0.2
    assert list(render_crops([], 16, seed=0)) == []
    undrawable = given[:2]
    assert list(render_crops(undrawable, 16, seed=0)) == undrawable


@pytest.mark.parametrize("wrong", [{"size": 0}, {"batch": 0}, {"margin": 0.0}, {"seed": -1}])
def test_bad_options_fail_at_once(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        render_crops([], **({"size": 16, "seed": 0} | wrong))


def test_a_distorted_lens_is_refused():
    given = samples(1)
    given[0].camera.vector[4] = 0.1
    with pytest.raises(ValueError, match="without distortion"):
        list(render_crops(given, 16, seed=0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_the_cpu_draws():
    joints, camera, crop, _ = people(8, 96)
    host = render_all(joints, camera, crop, 96, sample_appearance(8, generator()))
    look = sample_appearance(8, generator(), device="cuda")
    device = render_all(joints.cuda(), camera.cuda(), crop.cuda(), 96, look)
    assert (host.part != device.part.cpu()).float().mean() < 1e-3  # silhouettes
    assert (host.image.int() - device.image.cpu().int()).abs().float().mean() < 0.1
