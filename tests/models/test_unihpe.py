from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.support.models import SIZE, TINY_MLP, TINY_TRANSFORMER, make_batch, model_inputs, poisoned, tiny_config
from unihpe_fast.config import LossConfig, ModelConfig
from unihpe_fast.engine.parameters import parameter_groups
from unihpe_fast.losses import Criterion
from unihpe_fast.models.unihpe import UniHPE, fill_missing_images

ALL_TERMS = LossConfig(singular_value=0.3, pairwise=0.2, joints_3d=1.0, joints_2d=0.7, pa_mpjpe=0.5)
SUBSETS = [s for n in (1, 2, 3) for s in combinations(("image", "pose2d", "pose3d"), n)]
# which samples have which modality: every combination occurs, and none at all
MIXED = torch.tensor([[1, 1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]], dtype=torch.bool)


def build(config: ModelConfig | None = None) -> UniHPE:
    torch.manual_seed(0)
    model = UniHPE(config or tiny_config(), image_size=SIZE)
    model.set_mean_pose(torch.randn(17, 3) * 300)
    return model


def loss_and_gradients(model: UniHPE, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    criterion = Criterion(ALL_TERMS, model.modalities)
    model.zero_grad()
    total, terms = criterion(model(*model_inputs(batch)), batch)
    total.backward()
    parameters = {**dict(model.named_parameters()), **dict(criterion.named_parameters(prefix="criterion"))}
    return terms | {"total": total.detach()}, {name: p.grad for name, p in parameters.items()}


@pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
@pytest.mark.parametrize("pose", [TINY_MLP, TINY_TRANSFORMER], ids=["mlp", "transformer"])
def test_every_subset_trains_every_parameter(modalities: tuple[str, ...], pose) -> None:
    model = build(tiny_config(*modalities, pose=pose, source_tokens=True))
    batch = make_batch(5)
    outputs = model(*model_inputs(batch))
    m = len(modalities)
    assert outputs.embeddings.shape == (m, 5, 24)
    assert outputs.pred_joints_3d.shape == (m, 5, 17, 3)
    assert outputs.pred_joints_3d[:, :, 0].eq(0).all()
    assert (outputs.pred_keypoints_2d is None) == ("image" not in modalities)
    terms, gradients = loss_and_gradients(model, batch)
    assert all(value.isfinite() and value > 0 for value in terms.values())
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name
    # modalities outside are not built
    assert {n.split("_encoder")[0] for n in gradients if "_encoder" in n} == set(modalities)


def test_tensors_of_other_modalities_may_be_none() -> None:
    batch = make_batch(2)
    outputs = build(tiny_config("pose3d"))(None, None, batch["joints_3d"], batch["box"], batch["present"])
    assert outputs.embeddings.shape == (1, 2, 24)


def test_rows_follow_the_order_of_the_options() -> None:
    batch = make_batch(3)
    model = build(tiny_config("pose3d", "image", source_tokens=True)).eval()
    torch.nn.init.normal_(model.source_tokens)
    outputs = model(*model_inputs(batch))
    pose3d, image = model.encode_pose3d(batch["joints_3d"]), model.encode_image(batch["image"], batch["box"])
    torch.testing.assert_close(outputs.embeddings, torch.stack([pose3d, image]))
    torch.testing.assert_close(outputs.pred_joints_3d[0], model.decode(pose3d, "pose3d"), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(outputs.pred_joints_3d[1], model.decode(image, "image"), rtol=1e-5, atol=1e-3)
    assert not torch.allclose(outputs.pred_joints_3d[1], model.decode(image, "pose3d"), rtol=1e-2)
    with pytest.raises(ValueError, match=r"source must be one or more of \('pose3d', 'image'\) .* got None"):
        model.decode(image)


def test_single_calls_give_what_forward_gives() -> None:
    batch = make_batch(3)
    model = build().eval()
    outputs = model(*model_inputs(batch))
    embeddings = (
        model.encode_image(batch["image"], batch["box"]),
        model.encode_pose2d(batch["keypoints_2d"], batch["box"]),
        model.encode_pose3d(batch["joints_3d"]),
    )
    for row, embedding in enumerate(embeddings):
        torch.testing.assert_close(outputs.embeddings[row], embedding)
        # mm: one rounding of 1 m is 6e-5
        torch.testing.assert_close(outputs.pred_joints_3d[row], model.decode(embedding), rtol=1e-5, atol=1e-3)


def test_mean_pose_is_added_in_millimetres_and_saved() -> None:
    model = build()
    embedding = torch.randn(4, 24)
    pose = torch.randn(17, 3) * 400
    model.set_mean_pose(torch.zeros(17, 3))
    bare = model.decode(embedding)
    torch.testing.assert_close(bare, 1000 * model.decoder(embedding))
    model.set_mean_pose(pose)
    torch.testing.assert_close(model.decode(embedding) - bare, (pose - pose[0]).expand(4, 17, 3), rtol=1e-5, atol=1e-3)
    assert model.decode(embedding)[:, 0].eq(0).all()
    other = build()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.mean_pose, pose - pose[0])


def test_a_new_model_says_the_mean_pose() -> None:
    model = build()
    said = model(*model_inputs(make_batch(8))).pred_joints_3d
    assert (said - model.mean_pose).norm(dim=-1).mean() < 250


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("training", [True, False])
def test_batch_sizes(size: int, training: bool) -> None:
    terms, gradients = loss_and_gradients(build().train(training), make_batch(size))
    assert all(value.isfinite() for value in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("pose", [TINY_MLP, TINY_TRANSFORMER], ids=["mlp", "transformer"])
def test_what_stands_in_absent_entries_changes_nothing(pose) -> None:
    """Losses, gradients and BatchNorm's statistics are the same bits with zeros and with NaN there."""
    clean = make_batch(7, present=MIXED)
    for name, row in (("image", 0), ("keypoints_2d", 1), ("target_2d", 1), ("joints_3d", 2)):
        clean[name][~MIXED[row]] = 0
    results = []
    for batch in (clean, poisoned(clean)):
        model = build(tiny_config(pose=pose, source_tokens=True, rays=True))
        results.append((loss_and_gradients(model, batch), dict(model.named_buffers())))
    ((terms, gradients), buffers), ((terms_nan, gradients_nan), buffers_nan) = results
    assert terms["total"] > 0
    for plain, spoilt in ((terms, terms_nan), (gradients, gradients_nan), (buffers, buffers_nan)):
        assert plain.keys() == spoilt.keys()
        for name in plain:
            assert plain[name].isfinite().all(), name
            assert torch.equal(plain[name], spoilt[name]), name


def test_a_sample_without_anything_changes_nothing() -> None:
    """Dropping samples that have no modality leaves every term and gradient as it was."""
    keep = torch.tensor([0, 2, 3])
    present = torch.ones(3, 5, dtype=torch.bool)
    present[:, [1, 4]] = False
    batch = make_batch(5, present=present)
    dropped = {name: x[:, keep] if name == "present" else x[keep] for name, x in batch.items()}
    # fixed statistics: lent images count twice in those of the batch
    (terms, gradients), (terms_few, gradients_few) = (
        loss_and_gradients(
            build().double().eval(), {n: x.double() if x.is_floating_point() else x for n, x in b.items()}
        )
        for b in (batch, dropped)
    )
    for name in terms:
        # the contrastive terms are computed in fp32
        torch.testing.assert_close(terms[name], terms_few[name], rtol=1e-5, atol=1e-6)
    for name in gradients:
        torch.testing.assert_close(gradients[name], gradients_few[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("absent", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_a_modality_that_a_whole_batch_lacks(absent: tuple[int, ...]) -> None:
    present = torch.ones(3, 3, dtype=torch.bool)
    present[list(absent)] = False
    model = build()
    terms, gradients = loss_and_gradients(model, poisoned(make_batch(3, present=present)))
    assert all(value.isfinite() for value in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    for row, name in enumerate(("image", "pose2d", "pose3d")):
        moved = max(g.abs().max() for n, g in gradients.items() if n.startswith(name))
        # nothing is left to train it with if it is absent, or if it and pose3d are all there is of the batch
        assert (moved > 0) == ((row not in absent and len(absent) < 2) or (row == 2 and 2 not in absent))


def test_images_are_lent_in_turn() -> None:
    image = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 2, 2)
    present = torch.tensor([False, True, False, True, False])
    assert fill_missing_images(image, present)[:, 0, 0, 0].tolist() == [1, 1, 1, 3, 1]
    assert fill_missing_images(image, torch.ones(5, dtype=torch.bool)).equal(image)
    assert fill_missing_images(image.log(), torch.zeros(5, dtype=torch.bool)).eq(0).all()


@pytest.mark.parametrize("pose", [TINY_MLP, TINY_TRANSFORMER], ids=["mlp", "transformer"])
def test_bfloat16_autocast_keeps_poses_in_full_precision(pose) -> None:
    model = build(tiny_config(pose=pose)).eval()
    batch = make_batch(6, present=MIXED[:, :6])
    exact = model(*model_inputs(batch))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*model_inputs(batch))
        total, terms = Criterion(ALL_TERMS, model.modalities)(outputs, batch)
    assert outputs.pred_joints_3d.dtype == outputs.pred_keypoints_2d.dtype == outputs.embeddings.dtype == torch.float32
    assert all(x.dtype == torch.float32 and x.isfinite() for x in (total, *terms.values()))
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    # bfloat16 inside: a hundredth of a pose's size; the numbers themselves are not rounded to 8 bits
    assert (outputs.pred_joints_3d - exact.pred_joints_3d).abs().max() < 15
    assert not torch.equal(outputs.pred_joints_3d, outputs.pred_joints_3d.bfloat16().float())
    torch.testing.assert_close(outputs.pred_keypoints_2d, exact.pred_keypoints_2d, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("backend", "pose", "negatives"),
    [
        ("aot_eager", TINY_MLP, "paired"),
        ("aot_eager", TINY_TRANSFORMER, "all"),
        pytest.param("inductor", TINY_TRANSFORMER, "paired", marks=pytest.mark.slow),
    ],
    ids=["aot_eager-mlp-paired", "aot_eager-transformer-all", "inductor-transformer-paired"],
)
def test_model_and_losses_are_one_graph_compiled_once(backend: str, pose, negatives: str) -> None:
    model = build(tiny_config(pose=pose, source_tokens=True, rays=True))
    config = LossConfig(0.3, negatives, 0.2, 1.0, 0.7, 0.5)
    criterion = Criterion(config, model.modalities)
    counter = CompileCounterWithBackend(backend)

    def step(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return criterion(model(*model_inputs(batch)), batch)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(step, fullgraph=True, dynamic=False, backend=counter)
    optimizer = torch.optim.AdamW(parameter_groups(model, criterion, 0.05), lr=1e-3)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    losses = {}
    for run, function in (("eager", step), ("compiled", compiled)):
        model.load_state_dict(state)
        optimizer.zero_grad()
        # the presence pattern changes from batch to batch, shapes do not
        totals = []
        for seed, present in enumerate((MIXED, MIXED.flip(1), torch.ones_like(MIXED), torch.zeros_like(MIXED))):
            total, terms = function(make_batch(7, seed, present))
            total.backward()
            totals += [total.detach(), *terms.values()]
        losses[run] = (torch.stack(totals), {n: p.grad.clone() for n, p in model.named_parameters()})
    assert counter.frame_count == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    torch.testing.assert_close(losses["compiled"][0], losses["eager"][0], rtol=1e-4, atol=1e-5)
    for name, gradient in losses["eager"][1].items():
        # relative to each tensor's own size; an inductor build adds up in another order
        scale = gradient.abs().max().item()
        torch.testing.assert_close(losses["compiled"][1][name], gradient, rtol=1e-3, atol=1e-3 * scale + 1e-6, msg=name)
    # the optimiser takes the compiled gradients, and the same graph goes on
    optimizer.step()
    compiled(make_batch(7, 9, MIXED))
    assert counter.frame_count == 1


def test_a_few_steps_learn_a_small_batch() -> None:
    model = build()
    batch = make_batch(8)
    criterion = Criterion(LossConfig(), model.modalities)
    optimizer = torch.optim.AdamW(parameter_groups(model, criterion, 0.05), lr=1e-3)
    history = []
    for _ in range(150):
        total, terms = criterion(model(*model_inputs(batch)), batch)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(terms)
    for name in ("singular_value", "pairwise", "joints_3d"):
        assert history[-1][name] < 0.4 * history[0][name], name


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (("image", "image"), "each once"),
        (("image", "smpl"), r"modalities must be among .* got \['smpl'\]"),
    ],
)
def test_bad_modalities(modalities: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny_config(*modalities))


def test_an_image_encoder_needs_an_image_size() -> None:
    with pytest.raises(ValueError, match="image_size must be a positive multiple of 32 px, got 0"):
        UniHPE(tiny_config(), image_size=0)
    UniHPE(tiny_config("pose2d", "pose3d"), image_size=0)


def test_bad_calls_are_named() -> None:
    model = build(tiny_config("image", "pose2d"))
    batch = make_batch(3)
    image, keypoints, joints, box, present = model_inputs(batch)
    with pytest.raises(ValueError, match="no pose3d encoder, only image, pose2d"):
        model.encode_pose3d(joints)
    with pytest.raises(ValueError, match=r"image must have shape \[B, 3, 64, 64\], got \[3, 3, 32, 64\]"):
        model.encode_image(image[:, :, :32], box)
    with pytest.raises(ValueError, match=r"keypoints_2d must have shape \[B, 17, 3\], got \[3, 17, 2\]"):
        model.encode_pose2d(keypoints[..., :2], box)
    with pytest.raises(ValueError, match=r"box must have shape \[3, 3\], got \[2, 3\]"):
        model.encode_pose2d(keypoints, box[:2])
    with pytest.raises(ValueError, match=r"box must have shape \[B, 3\], got \[3, 2\]"):
        model(image, keypoints, joints, box[:, :2], present)
    with pytest.raises(ValueError, match=r"present must be bool \[3, 3\], got torch.float32 \[3, 3\]"):
        model(image, keypoints, joints, box, present.float())
    with pytest.raises(ValueError, match=r"image must hold 3 samples, .* got None"):
        model(None, keypoints, joints, box, present)
    with pytest.raises(ValueError, match=r"keypoints_2d must hold 3 samples, .* got 2"):
        model(image, keypoints[:2], joints, box, present)
    with pytest.raises(ValueError, match=r"pose must have shape \[17, 3\], got \[16, 3\]"):
        model.set_mean_pose(torch.zeros(16, 3))
    with pytest.raises(ValueError, match="pose must be finite"):
        model.set_mean_pose(torch.full((17, 3), torch.nan))


def test_fusing_is_the_unit_mean_at_the_mean_length() -> None:
    model = build(tiny_config("image", "pose2d", "pose3d", source_tokens=True)).eval()
    torch.nn.init.normal_(model.source_tokens)
    a, b, c = torch.randn(3, 4, 24, dtype=torch.float64).unbind()
    assert model.fuse(pose2d=a) is a
    fused = model.fuse(image=a, pose2d=b, pose3d=c)
    direction = sum(x / x.norm(dim=-1, keepdim=True) for x in (a, b, c))
    torch.testing.assert_close(
        fused / fused.norm(dim=-1, keepdim=True), direction / direction.norm(dim=-1, keepdim=True)
    )
    torch.testing.assert_close(fused.norm(dim=-1), (a.norm(dim=-1) + b.norm(dim=-1) + c.norm(dim=-1)) / 3)
    # a long embedding counts no more than a short one
    torch.testing.assert_close(model.fuse(image=a, pose2d=-a), torch.zeros_like(a))
    embedding = torch.randn(4, 24)
    both = model._pose(embedding + model.source_tokens[:2].mean(0))
    torch.testing.assert_close(model.decode(embedding, ("image", "pose2d")), both)
    with pytest.raises(ValueError, match="at least one of image, pose2d, pose3d, got none"):
        model.fuse()
    with pytest.raises(ValueError, match=r"one shape, got image \[4, 24\], pose3d \[3, 24\]"):
        model.fuse(image=a, pose3d=b[:3])
