from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.models import SIZE, TINY_BACKBONE, TINY_IMAGE
from unihpe_fast.config import ImageEncoderConfig
from unihpe_fast.data.images import MEAN, STD
from unihpe_fast.detector import DetectorError
from unihpe_fast.detector.movenet_fetch import load
from unihpe_fast.models.heatmap import cell_centers, soft_argmax
from unihpe_fast.models.image_encoder import ImageEncoder

BACKBONES = {
    "resnet": ("resnet10t", TINY_BACKBONE),
    # one stride of 16 throughout
    "vit": ("vit_tiny_patch16_224", {"depth": "3", "embed_dim": "24", "num_heads": "2"}),
    # channels last, no map of stride 2
    "swin": ("swin_tiny_patch4_window7_224", {"depths": "[1, 1, 1, 1]", "embed_dim": "24", "window_size": "2"}),
    # four maps
    "convnext": ("convnext_atto", {"depths": "[1, 1, 1, 1]", "dims": "[8, 16, 24, 32]"}),
    "hrnet_w32": ("hrnet_w32", {"feature_location": "''"}),
}


def build(config: ImageEncoderConfig = TINY_IMAGE, size: int = SIZE) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(config, image_size=size, width=24)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_train_end_to_end(name: str) -> None:
    backbone, arguments = BACKBONES[name]
    encoder = build(replace(TINY_IMAGE, backbone=backbone, backbone_args=arguments))
    features = encoder(torch.randn(2, 3, SIZE, SIZE), torch.rand(2, 3))
    assert features.embedding.shape == (2, 24)
    assert features.keypoints_2d.shape == (2, 17, 2)
    assert features.keypoints_2d.abs().max() < 1
    (features.embedding.square().sum() + features.keypoints_2d.square().sum()).backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("backbone", ["hrnet_w32", "hrnet_w48"])
@pytest.mark.parametrize("arguments", [{}, {"feature_location": "''"}])
def test_hrnet_as_the_presets_use_it(backbone: str, arguments: dict[str, str]) -> None:
    encoder = build(ImageEncoderConfig(backbone, arguments, fuse_width=256), 256)
    assert encoder.scales == [4, 3, 2, 1]
    with torch.no_grad():
        features = encoder.eval()(torch.randn(1, 3, 256, 256), torch.rand(1, 3))
    assert features.embedding.isfinite().all()


def test_blocks_on_the_fused_map_see_neighbouring_cells() -> None:
    one_cell = torch.zeros(1, TINY_IMAGE.fuse_width, 8, 8)
    one_cell[..., 4, 4] = 1
    reach = {}
    for depth in (0, 2):
        encoder = build(replace(TINY_IMAGE, fuse_depth=depth)).eval()
        with torch.no_grad():
            seen = encoder.heatmaps(encoder.refine(one_cell)) - encoder.heatmaps(encoder.refine(0 * one_cell))
        reach[depth] = int((seen.abs().amax((0, 1)) > 1e-9).sum())
        for parameter in encoder.refine.parameters():
            assert parameter.requires_grad
    assert reach[0] == 1
    assert reach[2] > 9
    with pytest.raises(ValueError, match="fuse_depth must not be negative, got -1"):
        build(replace(TINY_IMAGE, fuse_depth=-1))


def test_what_the_embedding_is_made_from_modulates_the_2d_head() -> None:
    # the same picture twice; the box is known to the embedding's layers alone
    image = torch.randn(1, 3, SIZE, SIZE).expand(2, -1, -1, -1)
    box = torch.tensor([[0.0, 0.0, 0.3], [1.0, -1.0, 0.2]])
    moved = {}
    for modulate in (False, True):
        encoder = build(replace(TINY_IMAGE, modulate=modulate))
        features = encoder(image, box)
        moved[modulate] = (features.keypoints_2d[0] - features.keypoints_2d[1]).abs().max().item()
        assert features.log_heatmaps.exp().sum((-2, -1)).allclose(torch.ones(2, 17))
        features.keypoints_2d.square().sum().backward()
        assert (encoder.mlp.input.weight.grad is not None) == modulate
    assert moved[False] < 1e-6
    assert moved[True] > 1e-4


def test_only_the_last_map_without_fusion() -> None:
    encoder = build(replace(TINY_IMAGE, fuse=False))
    assert len(encoder.laterals) == 1
    assert encoder.laterals[0].in_channels == 16
    assert encoder(torch.randn(2, 3, SIZE, SIZE), torch.rand(2, 3)).keypoints_2d.shape == (2, 17, 2)


@pytest.mark.parametrize(("stride", "cells"), [(2, 32), (8, 8), (64, 1)])
def test_heatmap_stride_sets_the_grid(stride: int, cells: int) -> None:
    encoder = build(replace(TINY_IMAGE, heatmap_stride=stride))
    seen = []
    encoder.heatmaps.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-2:]))
    encoder(torch.randn(2, 3, SIZE, SIZE), torch.rand(2, 3))
    assert seen == [(cells, cells)]


def test_the_embedding_knows_where_the_joints_are_and_what_is_there() -> None:
    """With the pooled last map switched off, image content must still reach the embedding through the joints."""
    encoder = build().eval()
    with torch.no_grad():
        encoder.mlp.input.weight[:, :16] = 0
    a = encoder(torch.randn(1, 3, SIZE, SIZE), torch.zeros(1, 3))
    b = encoder(torch.randn(1, 3, SIZE, SIZE), torch.zeros(1, 3))
    assert (a.embedding - b.embedding).abs().max() > 1e-4
    boxed = encoder(torch.zeros(1, 3, SIZE, SIZE), torch.ones(1, 3))
    unboxed = encoder(torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 3))
    assert (boxed.embedding - unboxed.embedding).abs().max() > 1e-4


def test_a_bright_spot_can_be_found_to_a_tenth_of_a_cell() -> None:
    """The 2D head learns where a spot is: x, y, their order, sign and scale are right, or this cannot be fitted."""
    torch.manual_seed(0)
    encoder = build()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    grid = torch.arange(SIZE).float()
    for step in range(120):
        px = torch.rand(16, 2) * (SIZE - 17) + 8
        spot = torch.exp(-((grid - px[:, :1]) ** 2)[:, None, :] / 18 - ((grid - px[:, 1:]) ** 2)[:, :, None] / 18)
        image = 3 * spot[:, None].expand(-1, 3, -1, -1)
        # pixel centres at integers, -0.5 .. S - 0.5 spans the crop
        target = (px + 0.5) / SIZE * 2 - 1
        error = (encoder(image, torch.zeros(16, 3)).keypoints_2d - target[:, None]).norm(dim=-1)
        if step < 119:
            error.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert error.mean() < 0.1 * 2 * 4 / SIZE


def test_soft_argmax_against_numpy() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((2, 17, 6, 9))
    maps /= maps.sum((-2, -1), keepdims=True)
    ys, xs = np.meshgrid((np.arange(6) + 0.5) / 6 * 2 - 1, (np.arange(9) + 0.5) / 9 * 2 - 1, indexing="ij")
    expected = np.stack([(maps * xs).sum((-2, -1)), (maps * ys).sum((-2, -1))], axis=-1)
    np.testing.assert_allclose(soft_argmax(torch.from_numpy(maps)).numpy(), expected, rtol=1e-12)


def test_a_peak_is_the_middle_of_its_cell() -> None:
    # stride 4, input 96: cell 5 holds pixels 20..23, whose middle is pixel 21.5
    centers = cell_centers(24, torch.device("cpu"), torch.float64)
    assert centers[5] == pytest.approx((21.5 + 0.5) / 96 * 2 - 1)
    heatmaps = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    heatmaps[0, 0, 7, 5] = 1
    assert torch.equal(soft_argmax(heatmaps)[0, 0], torch.stack([centers[5], centers[7]]))


@pytest.mark.parametrize("size", [0, -32, 16, 100])
def test_image_size_must_be_a_multiple_of_32(size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size must be a positive multiple of 32 px, got {size}"):
        build(size=size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet10z"}, "backbone must be the name of a timm model .*'resnet10z'"),
        ({"backbone_args": {"channels": "[8,"}}, r"backbone_args\['channels'\] must be a YAML literal"),
        ({"backbone_args": {"wings": "2"}}, "backbone 'resnet10t' cannot be built with {'wings': 2}"),
        ({"heatmap_stride": 0}, "heatmap_stride must divide image_size 64, got 0"),
        ({"heatmap_stride": 5}, "heatmap_stride must divide image_size 64, got 5"),
    ],
)
def test_bad_options_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(replace(TINY_IMAGE, **changes))


def movenet(**fields) -> ImageEncoder:
    return build(replace(TINY_IMAGE, backbone="movenet_lightning", backbone_args={}, **fields))


@pytest.mark.parametrize("frozen", [False, True])
def test_movenet_backbone_is_tuned_or_frozen(frozen: bool) -> None:
    encoder = movenet(frozen=frozen).train()
    features = encoder(torch.randn(2, 3, SIZE, SIZE), torch.rand(2, 3))
    (features.embedding.square().sum() + features.keypoints_2d.square().sum()).backward()
    without = {n for n, p in encoder.named_parameters() if p.grad is None}
    assert without == ({n for n, _ in encoder.named_parameters() if n.startswith("backbone.")} if frozen else set())


def test_frozen_backbone_keeps_its_batch_statistics() -> None:
    encoder = build(replace(TINY_IMAGE, frozen=True)).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder(torch.randn(2, 3, SIZE, SIZE), torch.rand(2, 3))
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    # the map that is fused behind the backbone is still being learned
    assert changed == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def test_movenet_backbone_sees_what_the_detector_sees(movenet_weights) -> None:
    net = load("movenet-lightning", movenet_weights)
    pixels = torch.randint(0, 256, (1, 3, 64, 96)).float()
    normalised = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    backbone = movenet(pretrained=True).backbone.eval()
    with torch.inference_mode():
        maps = backbone(normalised.float())
        # normalising and back rounds the pixels
        torch.testing.assert_close(maps[0], net.backbone(pixels), rtol=1e-3, atol=1e-3)
    info = backbone.feature_info
    assert [x.shape[1] for x in maps] == info.channels()
    assert [64 // x.shape[2] for x in maps] == info.reduction()


def test_movenet_without_weights_says_what_to_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DetectorError, match=r"python -m unihpe_fast\.detector fetch movenet"):
        movenet(pretrained=True)


def test_movenet_takes_no_backbone_args() -> None:
    with pytest.raises(ValueError, match="backbone_args must be empty for movenet_lightning"):
        build(replace(TINY_IMAGE, backbone="movenet_lightning", backbone_args={"channels": "[8]"}))
