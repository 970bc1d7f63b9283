import copy
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.models import SIZE, make_batch, tiny_config
from unihpe_fast.config import LossConfig
from unihpe_fast.engine.parameters import parameter_groups
from unihpe_fast.losses import CONTRASTIVE, TERMS, Criterion, SingularValueContrastiveLoss
from unihpe_fast.models.unihpe import Outputs, UniHPE
from unihpe_kernels import PairwiseInfoNCE, singular_value_contrastive_loss, tuple_contrastive_loss
from unihpe_kernels.modules import Temperature

NONE = LossConfig(singular_value=0, pairwise=0, joints_3d=0, joints_2d=0, heatmaps=0, pa_mpjpe=0)
MIXED = torch.tensor([[1, 1, 0, 0, 1, 0, 0], [1, 0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]], dtype=torch.bool)


def embeddings(batch: int, modalities: int = 3, width: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return [
        torch.randn(batch, width, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(modalities)
    ]


# temperature


@pytest.mark.parametrize("value", [0.01, 0.07, 1.0])
def test_temperature_starts_where_it_is_told(value: float) -> None:
    temperature = Temperature(value, learnable=True)
    assert temperature().item() == pytest.approx(value, rel=1e-6)
    temperature().backward()
    # d tau / d log tau = tau
    assert temperature.log_temperature.grad.item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("log", "held"), [(-50.0, 0.01), (3.0, 1.0)])
def test_temperature_is_held_in_its_range_and_can_come_back(log: float, held: float) -> None:
    temperature = Temperature(0.07, learnable=True)
    nn.init.constant_(temperature.log_temperature, log)
    assert temperature().item() == pytest.approx(held, rel=1e-5)
    temperature().backward()
    assert temperature.log_temperature.grad.item() == pytest.approx(held, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, -1.0, 0.009, 1.1, math.nan])
def test_temperature_out_of_range(value: float) -> None:
    with pytest.raises(ValueError, match=r"temperature must be in \[0.01, 1.0\]"):
        Temperature(value, learnable=True)


def test_a_fixed_temperature_is_saved_but_not_trained() -> None:
    loss = SingularValueContrastiveLoss(0.2, learnable_temperature=False)
    assert [p.requires_grad for p in loss.parameters()] == [False]
    other = SingularValueContrastiveLoss()
    other.load_state_dict(loss.state_dict())
    assert other.temperature().item() == pytest.approx(0.2)


# singular value loss


@pytest.mark.parametrize("negatives", ["paired", "all"])
@pytest.mark.parametrize("normalize", [True, False])
def test_singular_value_loss_hands_everything_on(negatives: str, normalize: bool) -> None:
    z = [nn.functional.normalize(x.detach(), dim=-1).requires_grad_() for x in embeddings(7)]
    weights = torch.rand(7, dtype=torch.float64) + 0.5
    loss = SingularValueContrastiveLoss(0.3, negatives=negatives, normalize=normalize, backend="torch").double()
    value = loss(*z, weights=weights, present=MIXED)
    expected = singular_value_contrastive_loss(
        z, temperature=0.3, negatives=negatives, weights=weights, present=MIXED, normalize=normalize, backend="torch"
    )
    # the temperature went through a float32 logarithm
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    unlike = SingularValueContrastiveLoss(0.3, backend="torch").double()(*z)
    assert abs(value.item() - unlike.item()) > 1e-3
    value.backward()
    assert loss.temperature.log_temperature.grad.abs() > 0
    assert all(x.grad.abs().max() > 0 for x in z)


def test_singular_value_loss_refuses_unknown_options() -> None:
    with pytest.raises(ValueError, match='negatives must be "paired" or "all", got \'some\''):
        SingularValueContrastiveLoss(negatives="some")
    with pytest.raises(ValueError, match="backend"):
        SingularValueContrastiveLoss(backend="cuda")(*embeddings(3))


# pairwise InfoNCE


def naive_pairwise(z: list[Tensor], present: Tensor, weights: Tensor, temperature: float) -> float:
    """One anchor, one direction, one candidate at a time, in numpy."""
    unit = [x.detach().numpy() / np.linalg.norm(x.detach().numpy(), axis=1, keepdims=True) for x in z]
    total = count = 0.0
    for pair in combinations(range(len(z)), 2):
        for a, b in (pair, pair[::-1]):
            for i in range(len(unit[0])):
                if not (present[a, i] and present[b, i]):
                    continue
                scores = [unit[a][i] @ unit[b][j] / temperature for j in range(len(unit[0])) if present[b, j]]
                loss = np.log(np.sum(np.exp(scores))) - unit[a][i] @ unit[b][i] / temperature
                total += weights[i].item() * loss
                count += weights[i].item()
    return total / count


@pytest.mark.parametrize("modalities", [2, 3, 4])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_pairwise_against_numpy(batch: int, modalities: int) -> None:
    z = embeddings(batch, modalities)
    weights = torch.rand(batch, dtype=torch.float64) + 0.5
    everything = torch.ones(modalities, batch, dtype=torch.bool)
    loss = PairwiseInfoNCE(0.2).double()
    value = loss(*z, weights=weights)
    assert value.item() == pytest.approx(naive_pairwise(z, everything, weights, 0.2), rel=1e-6, abs=1e-9)
    ones = torch.ones(batch, dtype=torch.float64)
    assert loss(*z).item() == pytest.approx(naive_pairwise(z, everything, ones, 0.2), rel=1e-6, abs=1e-9)


def test_pairwise_with_absent_modalities() -> None:
    z = embeddings(7)
    weights = torch.rand(7, dtype=torch.float64) + 0.5
    loss = PairwiseInfoNCE(0.2).double()
    value = loss(*z, weights=weights, present=MIXED)
    assert value.item() == pytest.approx(naive_pairwise(z, MIXED, weights, 0.2), rel=1e-6)
    gradients = torch.autograd.grad(value, z)
    spoilt = []
    for x, has in zip(z, MIXED, strict=True):
        y = x.detach().clone()
        y[~has] = torch.nan
        spoilt.append(y.requires_grad_())
    other = loss(*spoilt, weights=weights, present=MIXED)
    assert torch.equal(other, value)
    for gradient, same in zip(gradients, torch.autograd.grad(other, spoilt), strict=True):
        assert torch.equal(gradient, same)


def test_pairwise_gradients() -> None:
    z = embeddings(5, width=3)
    loss = PairwiseInfoNCE(0.5).double()
    present = MIXED[:, :5]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, present=present), z)
    loss(*z).backward()
    assert loss.temperature.log_temperature.grad.abs() > 0


def test_pairwise_without_any_pair_is_zero() -> None:
    z = embeddings(4)
    present = torch.eye(3, 4, dtype=torch.bool)
    value = PairwiseInfoNCE()(*z, present=present)
    assert value == 0
    value.backward()
    assert all(x.grad.eq(0).all() for x in z)


def test_pairwise_is_worked_out_in_full_precision() -> None:
    z = [x.detach().bfloat16() for x in embeddings(7)]
    loss = PairwiseInfoNCE(0.02)
    assert loss(*z).dtype == torch.float32
    torch.testing.assert_close(loss(*z), loss(*[x.double() for x in z]).float(), rtol=1e-5, atol=1e-6)


def test_pairwise_names_bad_arguments() -> None:
    loss, z = PairwiseInfoNCE(), embeddings(3)
    with pytest.raises(ValueError, match="embeddings must hold 2 to 8 tensors for pairwise_contrastive_loss, got 1"):
        loss(z[0])
    with pytest.raises(ValueError, match=r"embeddings\[1\] must have shape \[3, 6\], got \[2, 6\]"):
        loss(z[0], z[1][:2])
    with pytest.raises(ValueError, match=r"embeddings\[0\] must have shape \[B, D\], got \[6\]"):
        loss(z[0][0], z[1][0])
    with pytest.raises(ValueError, match=r"present must have shape \[2, 3\], got \[3, 3\]"):
        loss(z[0], z[1], present=MIXED[:, :3])
    with pytest.raises(TypeError, match=r"present must have dtype torch.bool, got torch.float32"):
        loss(z[0], z[1], present=torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"weights must have shape \[3\], got \[2\]"):
        loss(z[0], z[1], weights=torch.ones(2))


# criterion


def outputs_for(batch: int, modalities: int, seed: int = 3) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    joints = torch.randn(modalities, batch, 17, 3, generator=generator) * 300
    return Outputs(
        torch.randn(modalities, batch, 24, generator=generator),
        joints - joints[:, :, :1],
        torch.rand(batch, 17, 2, generator=generator) * 2 - 1,
        torch.randn(batch, 17, 20, generator=generator).log_softmax(-1).unflatten(-1, (4, 5)),
    )


def naive_heatmaps(outputs: Outputs, batch: dict[str, Tensor]) -> float:
    """Cross entropy with a Gaussian of a cell's width over the middles of 4 x 5 cells."""
    total = count = 0.0
    for i in range(len(batch["weights"])):
        if batch["present"][0, i] and batch["present"][1, i]:
            for j in range(17):
                x, y, seen = batch["target_2d"][i, j].double().tolist()
                if not seen or abs(x) >= 1 or abs(y) >= 1:
                    continue
                across, down = (np.arange(5) + 0.5), (np.arange(4) + 0.5)
                bell = np.exp(-((across - (x + 1) * 2.5) ** 2 + (down[:, None] - (y + 1) * 2) ** 2) / 2)
                weight = batch["weights"][i].item() * seen
                total -= weight * (bell / bell.sum() * outputs.log_heatmaps[i, j].double().numpy()).sum()
                count += weight
    return total / count


def naive_joints_3d(outputs: Outputs, batch: dict[str, Tensor], rows: list[int]) -> float:
    total = count = 0.0
    for m, row in enumerate(rows):
        for i in range(len(batch["weights"])):
            if not (batch["present"][row, i] and batch["present"][2, i]):
                continue
            for j in range(17):
                if batch["joints_3d"][i, j, 3]:
                    offset = outputs.pred_joints_3d[m, i, j].double() - batch["joints_3d"][i, j, :3].double()
                    total += batch["weights"][i].item() * offset.norm().item() / 1000
                    count += batch["weights"][i].item()
    return total / count


def naive_joints_2d(outputs: Outputs, batch: dict[str, Tensor]) -> float:
    total = count = 0.0
    for i in range(len(batch["weights"])):
        if batch["present"][0, i] and batch["present"][1, i]:
            for j in range(17):
                weight = (batch["weights"][i] * batch["target_2d"][i, j, 2]).item()
                offset = outputs.pred_keypoints_2d[i, j].double() - batch["target_2d"][i, j, :2].double()
                total += weight * offset.norm().item()
                count += weight
    return total / count


def naive_pa_mpjpe(outputs: Outputs, batch: dict[str, Tensor], rows: list[int]) -> float:
    """Umeyama's alignment by numpy's SVD, over the valid joints."""
    total = count = 0.0
    for m, row in enumerate(rows):
        for i in range(len(batch["weights"])):
            if not (batch["present"][row, i] and batch["present"][2, i]):
                continue
            valid = batch["joints_3d"][i, :, 3].numpy() > 0
            x = outputs.pred_joints_3d[m, i].double().numpy()[valid]
            y = batch["joints_3d"][i, :, :3].double().numpy()[valid]
            x, y = x - x.mean(0), y - y.mean(0)
            u, s, vt = np.linalg.svd(x.T @ y)
            signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
            aligned = x @ (u * signs) @ vt * (s * signs).sum() / (x**2).sum()
            total += batch["weights"][i].item() * np.linalg.norm(aligned - y, axis=1).mean() / 1000
            count += batch["weights"][i].item()
    return total / count


@pytest.mark.parametrize("modalities", [("image", "pose2d", "pose3d"), ("pose3d", "image"), ("image",)], ids="+".join)
@pytest.mark.parametrize("mixed", [False, True])
def test_every_term_against_numpy(modalities: tuple[str, ...], mixed: bool) -> None:
    rows = [("image", "pose2d", "pose3d").index(m) for m in modalities]
    batch = make_batch(7, present=MIXED if mixed else None)
    outputs = outputs_for(7, len(modalities))
    batch["target_2d"][3, 4, 0] = 1.25  # beside the crop
    weights = {"joints_3d": 2.0, "joints_2d": 3.0, "heatmaps": 0.5, "pa_mpjpe": 5.0}
    expected = {
        "joints_3d": naive_joints_3d(outputs, batch, rows),
        "joints_2d": naive_joints_2d(outputs, batch),
        "heatmaps": naive_heatmaps(outputs, batch),
        "pa_mpjpe": naive_pa_mpjpe(outputs, batch, rows),
    }
    if len(modalities) > 1:
        weights |= {"singular_value": 0.5, "pairwise": 0.25}
        z, present = [x.double() for x in outputs.embeddings], batch["present"][rows]
        expected["singular_value"] = singular_value_contrastive_loss(
            z, temperature=0.07, weights=batch["weights"].double(), present=present
        ).item()
        expected["pairwise"] = naive_pairwise(z, present, batch["weights"], 0.07)
        # in turn, since samples lack the modality that GRAM and TRIANGLE look up; their label smoothing
        published = {"temperature": 0.07, "direction": "both", "label_smoothing": 0.1, "backend": "torch"}
        weights["volume"] = 0.75
        expected["volume"] = tuple_contrastive_loss(
            z, score="volume", weights=batch["weights"].double(), present=present, **published
        ).item()
    if len(modalities) == 3:
        weights["area"] = 1.25
        complete = present.all(0)
        expected["area"] = tuple_contrastive_loss(
            [x[complete] for x in z], score="area", weights=batch["weights"].double()[complete], **published
        ).item()
    total, terms = Criterion(replace(NONE, **weights), modalities)(outputs, batch)
    assert set(terms) == set(expected)
    for name, value in terms.items():
        assert value.shape == ()
        assert not value.requires_grad
        assert value.item() == pytest.approx(expected[name], rel=2e-5), name
    assert total.item() == pytest.approx(sum(weights[n] * v for n, v in expected.items()), rel=2e-5)


@pytest.mark.parametrize("term", TERMS)
def test_a_weight_of_zero_switches_a_term_off(term: str) -> None:
    batch, outputs = make_batch(4), outputs_for(4, 3)
    criterion = Criterion(replace(NONE, **{term: 2.0}), ("image", "pose2d", "pose3d"))
    total, terms = criterion(outputs, batch)
    assert set(terms) == {term}
    assert total.item() == pytest.approx(2 * terms[term].item())
    # nor are parameters of the others trained
    assert len(list(criterion.parameters())) == (term in CONTRASTIVE)
    needed = {"singular_value": {"target_2d", "joints_3d"}, "joints_2d": {"joints_3d"}, "joints_3d": {"target_2d"}}
    needed["heatmaps"] = needed["joints_2d"]
    less = {name: x for name, x in batch.items() if name not in needed.get(term, set())}
    torch.testing.assert_close(criterion(outputs, less)[0], total)


@pytest.mark.parametrize("term", TERMS)
def test_the_terms_whose_shapes_depend_on_the_data_are_not_compiled(term: str) -> None:
    assert Criterion(replace(NONE, **{term: 1.0}), ("image", "pose2d", "pose3d")).can_be_compiled == (term != "area")


def test_all_weights_zero() -> None:
    total, terms = Criterion(NONE, ("pose2d", "pose3d"))(outputs_for(3, 2), make_batch(3))
    assert total == 0
    assert terms == {}


@pytest.mark.parametrize("absent", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_term_that_nothing_can_train_is_zero_with_zero_gradient(absent: tuple[int, ...]) -> None:
    present = torch.ones(3, 4, dtype=torch.bool)
    present[list(absent)] = False
    outputs = Outputs(*(x.requires_grad_() for x in outputs_for(4, 3)))
    config = LossConfig(pa_mpjpe=1.0, heatmaps=1.0, volume=1.0, area=1.0)
    total, terms = Criterion(config, ("image", "pose2d", "pose3d"))(outputs, make_batch(4, present=present))
    total.backward()
    assert all(x.grad.isfinite().all() for x in outputs)
    assert (terms["area"] == 0) == bool(absent)
    assert (terms["joints_2d"] == 0) == (0 in absent or 1 in absent) == (terms["heatmaps"] == 0)
    assert (terms["joints_3d"] == 0) == (2 in absent) == (terms["pa_mpjpe"] == 0)
    assert (outputs.pred_joints_3d.grad.abs().max() > 0) == (2 not in absent)
    for row in range(3):
        trained = outputs.pred_joints_3d.grad[row].abs().max() > 0
        assert trained == (row not in absent and 2 not in absent)


def test_joints_without_a_label_train_nothing() -> None:
    batch = make_batch(4)
    outputs = Outputs(*(x.requires_grad_() for x in outputs_for(4, 3)))
    config = replace(NONE, joints_3d=1, joints_2d=1, heatmaps=1, pa_mpjpe=1)
    total, _ = Criterion(config, ("image", "pose2d", "pose3d"))(outputs, batch)
    total.backward()
    unlabelled = batch["joints_3d"][..., 3] == 0
    assert unlabelled.any()
    assert outputs.pred_joints_3d.grad[:, unlabelled].eq(0).all()
    assert outputs.pred_keypoints_2d.grad[batch["target_2d"][..., 2] == 0].eq(0).all()
    assert outputs.log_heatmaps.grad[batch["target_2d"][..., 2] == 0].eq(0).all()


def test_a_perfect_answer_has_no_loss_and_no_gradient() -> None:
    batch = make_batch(3)
    outputs = Outputs(
        torch.randn(2, 3, 8),
        batch["joints_3d"][..., :3].expand(2, -1, -1, -1).clone().requires_grad_(),
        batch["target_2d"][..., :2].clone().requires_grad_(),
    )
    config = replace(NONE, joints_3d=1, joints_2d=1, pa_mpjpe=1)
    total, _ = Criterion(config, ("image", "pose3d"))(outputs, batch)
    total.backward()
    # PA-MPJPE aligns first: a rounding of a metre
    assert total < 1e-6
    assert all(x.grad.isfinite().all() for x in outputs[1:3])


def test_losses_stay_in_full_precision_under_autocast() -> None:
    batch, outputs = make_batch(6), outputs_for(6, 3)
    criterion = Criterion(LossConfig(pa_mpjpe=1.0, heatmaps=1.0), ("image", "pose2d", "pose3d"))
    total, terms = criterion(outputs, batch)
    with torch.autocast("cpu", torch.bfloat16):
        inside, inside_terms = criterion(outputs, batch)
    assert torch.equal(total, inside)
    assert all(torch.equal(terms[name], inside_terms[name]) for name in terms)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="loss weights must not be negative"):
        Criterion(LossConfig(joints_3d=-1), ("pose2d", "pose3d"))


# parameter groups


def test_only_weights_of_linear_layers_and_convolutions_decay() -> None:
    model = UniHPE(tiny_config(source_tokens=True), image_size=SIZE)
    criterion = Criterion(LossConfig(), model.modalities)
    decayed, free = parameter_groups(model, criterion, 0.05)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    names = {id(p): n for module in (model, criterion) for n, p in module.named_parameters()}
    given = [id(p) for group in (decayed, free) for p in group["params"]]
    assert sorted(given) == sorted(names)
    decayed_names = {names[id(p)] for p in decayed["params"]}
    for name in names.values():
        matrix = name.endswith("weight") and not any(word in name for word in ("norm", "bn"))
        layer_norm = any(f".blocks.{block}.0." in name for block in range(3)) and "backbone" not in name
        downsample_norm = "downsample.2" in name
        stem_norm = "conv1.1." in name or "conv1.4." in name
        assert (name in decayed_names) == (matrix and not layer_norm and not downsample_norm and not stem_norm), name
    assert not {"source_tokens", "pose2d_encoder.trunk.missing", "pairwise.temperature.log_temperature"} & decayed_names


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    model[0].weight.requires_grad_(False)
    criterion = Criterion(LossConfig(learnable_temperature=False), ("pose2d", "pose3d"))
    decayed, free = parameter_groups(model, criterion, 0.1)
    assert [id(p) for p in decayed["params"]] == [id(model[1].weight)]
    assert [id(p) for p in free["params"]] == [id(model[0].bias)]


# the package


def test_the_loss_needs_torch_alone() -> None:
    """In a process where everything that the extra `train` installs is missing."""
    script = """
import sys
for name in ("numpy", "timm", "h5py", "cv2", "yaml", "cattrs", "scipy", "safetensors", "matplotlib", "tyro", "rich"):
    sys.modules[name] = None
import torch
from unihpe_fast import SingularValueContrastiveLoss
from unihpe_fast.losses import PairwiseInfoNCE
z = [torch.eye(3, 4, requires_grad=True) for _ in range(3)]
loss = SingularValueContrastiveLoss()(*z) + PairwiseInfoNCE()(*z)
loss.backward()
print(loss.item())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 0.1


def test_lazy_names() -> None:
    import unihpe_fast

    assert unihpe_fast.UniHPE is UniHPE
    assert unihpe_fast.SingularValueContrastiveLoss is SingularValueContrastiveLoss
    with pytest.raises(AttributeError, match="'unihpe_fast' has no attribute 'nothing'"):
        unihpe_fast.nothing  # noqa: B018


# what real inputs broke


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [PairwiseInfoNCE, SingularValueContrastiveLoss])
def test_losses_give_the_same_bits_under_autocast(make: type[nn.Module], low: torch.dtype) -> None:
    """The pairwise loss came to 0.0 for 0.0713 at a temperature of 0.01, its gradient off by half."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(64, 32, generator=generator)
    z = [(common + 0.9 * torch.randn(64, 32, generator=generator)).requires_grad_() for _ in range(3)]
    loss = make(0.01)

    def gradients(value: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value, [*z, *loss.parameters()])

    wanted = loss(*z)
    with torch.autocast("cpu", dtype=low):
        got = loss(*z)
        inside = gradients(loss(*z))
    assert torch.equal(got, wanted)
    for found in (inside, gradients(got)):
        assert all(torch.equal(one, other) for one, other in zip(found, gradients(loss(*z)), strict=True))


@pytest.mark.parametrize("make", [PairwiseInfoNCE, SingularValueContrastiveLoss])
def test_float32_and_float64_are_promoted(make: type[nn.Module]) -> None:
    z = [x.detach() for x in embeddings(7)]
    value = make()(z[0].float(), *z[1:])
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(make()(*z).item(), rel=1e-6)


def test_the_size_of_a_row_does_not_matter_to_the_pairwise_loss() -> None:
    z = [x.detach().float() for x in embeddings(7)]
    loss = PairwiseInfoNCE()
    for size in (2.0**67, 2.0**-30):  # a row shorter than 1e-12 has no direction, as for the other losses
        large = (z[0] * size).requires_grad_()
        value = loss(large, *z[1:])
        assert value.item() == pytest.approx(loss(*z).item(), rel=1e-6)
        (gradient,) = torch.autograd.grad(value, large)
        assert (gradient * size).abs().max() > 1e-4


@pytest.mark.parametrize("make", [PairwiseInfoNCE, SingularValueContrastiveLoss])
def test_a_copy_shares_the_group_and_a_pickle_has_none(make: type[nn.Module], tmp_path) -> None:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        loss = make(0.2, group=torch.distributed.group.WORLD)
        copied = copy.deepcopy(loss)
        assert copied.group is loss.group
        assert copied.temperature.log_temperature is not loss.temperature.log_temperature
        assert loss.group is not None
        read = pickle.loads(pickle.dumps(loss))
        assert read.group is None
        assert read.temperature().item() == pytest.approx(0.2)
        z = embeddings(5)
        assert torch.equal(copied(*z), loss(*z))
        assert torch.equal(read(*z), loss(*z))
    finally:
        torch.distributed.destroy_process_group()


def test_an_unknown_backend_is_refused_when_the_loss_is_made() -> None:
    with pytest.raises(ValueError, match=r"backend must be \"auto\", .* got 'cpp'"):
        SingularValueContrastiveLoss(backend="cpp")


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
@pytest.mark.parametrize("make", [PairwiseInfoNCE, SingularValueContrastiveLoss])
def test_negative_and_nan_weights_are_refused(make: type[nn.Module], bad: float) -> None:
    weights = torch.ones(7)
    weights[3] = bad
    with pytest.raises(ValueError, match="weights must not be negative or NaN"):
        make()(*embeddings(7), weights=weights)
