"""Every score in every form, direction and with every choice of anchors, by both backends of a CPU."""

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.sv_cases import random_embeddings, value_and_gradients
from tests.tolerances import TUPLE_LOSS
from unihpe_kernels import tuple_contrastive_loss
from unihpe_kernels.contrastive import reference
from unihpe_kernels.scores import SCORES

FORMS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "both ways": {"direction": "both"},
    "smoothed": {"label_smoothing": 0.2},
    "both ways, smoothed": {"direction": "both", "label_smoothing": 0.1},
    "sigmoid": {"form": "sigmoid", "bias": torch.tensor(-2.0, dtype=torch.float64)},
}
MODALITIES = {"singular_value": (2, 3, 5), "volume": (2, 3, 5), "area": (3,), "cosine": (2,), "product": (3, 4)}
CASES = [
    (score, count, form)
    for score, counts in MODALITIES.items()
    for count in counts
    for form in FORMS
    if (score, form) != ("product", "sigmoid")
]


def check(score: str, embeddings: list[Tensor], dtype: torch.dtype, **options: Any) -> None:
    tau = torch.tensor(0.2, dtype=torch.float64)
    embeddings = [z.detach().to(dtype) for z in embeddings]
    given = {name: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in options.items()}
    value, gradients = value_and_gradients(
        tuple_contrastive_loss, embeddings, score=score, temperature=tau.to(dtype), **given
    )
    if isinstance(options.get("anchors"), int):
        options["anchors"] = [options["anchors"]]
    wanted, others = value_and_gradients(
        reference.tuple_contrastive_loss, [z.double() for z in embeddings], score=score, temperature=tau, **options
    )
    for found, exact in ((value, wanted), *zip(gradients, others, strict=True)):
        scale = max(1.0, float(exact.abs().max()))
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=TUPLE_LOSS[dtype] * scale)


@pytest.mark.usefixtures("cpu_backend")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("score", "count", "form"), CASES)
def test_value_and_gradients(score: str, count: int, form: str, dtype: torch.dtype) -> None:
    """Those of embeddings, temperature, bias and weights; of anchors that are all, and some."""
    embeddings = random_embeddings(count, 11, 8, torch.float64)
    weights = torch.rand(11, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.2
    check(score, embeddings, dtype, weights=weights, **FORMS[form])
    check(score, embeddings, dtype, anchors=count - 1, **FORMS[form])
    if count > 2:
        check(score, embeddings, dtype, anchors=[0, 2], **FORMS[form])


@pytest.mark.usefixtures("cpu_backend")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("score", "count"), [("singular_value", 3), ("volume", 2), ("volume", 4), ("cosine", 2)])
def test_samples_that_lack_modalities(score: str, count: int, form: str) -> None:
    present = torch.rand(count, 13, generator=torch.Generator().manual_seed(2)) > 0.3
    embeddings = random_embeddings(count, 13, 8, torch.float64)
    spoilt = [torch.where(has[:, None], z.detach(), torch.nan) for z, has in zip(embeddings, present, strict=True)]
    check(score, embeddings, torch.float64, present=present, **FORMS[form])
    value, gradients = value_and_gradients(
        tuple_contrastive_loss, spoilt, score=score, temperature=0.2, present=present, **FORMS[form]
    )
    clean, others = value_and_gradients(
        tuple_contrastive_loss, embeddings, score=score, temperature=0.2, present=present, **FORMS[form]
    )
    assert torch.equal(value, clean)
    assert all(map(torch.equal, gradients, others))


# inputs at which published code gives NaN


def degenerate(kind: str, count: int, dtype: torch.dtype) -> list[Tensor]:
    """Six samples of `count` modalities."""
    z = [x.detach() for x in random_embeddings(count, 6, 8, dtype)]
    if kind == "aligned":  # every positive, to the last bit
        z = [z[0].clone() for _ in z]
    elif kind == "almost aligned":
        z = [z[0] + 1e-4 * x for x in z]
    elif kind == "collinear members":
        z = [z[0], *(z[1] * (-1) ** m for m in range(count - 1))]
    elif kind == "identical rows":  # all samples are one
        z = [x[:1].expand(6, -1).clone() for x in z]
    elif kind == "one row":
        z = [z[0][:1].expand(6, -1).clone() for _ in z]
    elif kind == "orthogonal":
        z = [torch.eye(count, 8, dtype=dtype)[m].expand(6, 8).clone() for m in range(count)]
    elif kind == "zero":
        z[0] = torch.zeros_like(z[0])
    return z


@pytest.mark.usefixtures("cpu_backend")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "kind",
    ["aligned", "almost aligned", "collinear members", "identical rows", "one row", "orthogonal", "zero"],
)
@pytest.mark.parametrize("score", MODALITIES)
def test_gradients_are_finite_and_bounded_where_tuples_are_degenerate(
    score: str, kind: str, dtype: torch.dtype
) -> None:
    tau = 0.07
    for count, form in itertools.product(MODALITIES[score], ("softmax", "both ways, smoothed")):
        z = degenerate(kind, count, dtype)
        value, gradients = value_and_gradients(tuple_contrastive_loss, z, score=score, temperature=tau, **FORMS[form])
        assert value.isfinite()
        # A gradient of the rows as they come, some 2 long; d score / d product is below 4, but for the volume, whose
        # derivative is held to 1 / 1e-4.
        steepest = 1e4 if score == "volume" else 4.0
        for z_m, gradient in zip(z, gradients, strict=True):
            assert gradient.isfinite().all()
            lengths = z_m.norm(dim=1).clamp(min=0.1).min()
            assert gradient.abs().max() <= 2 * count * steepest / tau / lengths


@pytest.mark.usefixtures("cpu_backend")
@pytest.mark.parametrize("score", MODALITIES)
def test_perfect_alignment_is_a_minimum(score: str) -> None:
    """Positives have the best score, so that nothing pulls an embedding on; negatives push it."""
    if score == "product":
        pytest.skip("its best score is an axis, not any common direction")
    for count in MODALITIES[score]:
        z = degenerate("aligned", count, torch.float64)[:count]
        one = [x[:1] for x in z]
        value, gradients = value_and_gradients(tuple_contrastive_loss, one, score=score, temperature=0.07)
        assert value.abs() < 1e-12
        assert all(g.abs().max() < 1e-6 for g in gradients)


# what makes no sense


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (
            3,
            {"score": "sigma"},
            'score must be "singular_value", "volume", "area", "cosine" or "product", got \'sigma\'',
        ),
        (3, {"score": "cosine"}, 'embeddings must hold 2 tensors for score="cosine", got 3'),
        (2, {"score": "area"}, 'embeddings must hold 3 tensors for score="area", got 2'),
        (4, {"score": "area"}, 'embeddings must hold 3 tensors for score="area", got 4'),
        (2, {"score": "product"}, 'embeddings must hold 3 to 8 tensors for score="product"'),
        (4, {"score": "product", "negatives": "all"}, "embeddings must hold 3 tensors for"),
        (3, {"score": "volume", "negatives": "all"}, 'negatives must be "paired" for'),
        (3, {"direction": "both", "negatives": "all"}, 'negatives must be "paired" for'),
        (3, {"direction": "columns"}, 'direction must be "anchor" or "both", got \'columns\''),
        (3, {"form": "hinge"}, 'form must be "softmax" or "sigmoid", got \'hinge\''),
        (3, {"form": "sigmoid", "label_smoothing": 0.1}, 'form must be "softmax" with'),
        (3, {"form": "sigmoid", "direction": "both"}, 'form must be "softmax" with'),
        (3, {"bias": 1.0}, 'bias must be None for form="softmax"'),
        (3, {"label_smoothing": 1.0}, r"label_smoothing must be in [0, 1), got 1.0"),
        (3, {"anchors": 3}, "anchors must be modalities from 0 to 2, each once, got 3"),
        (3, {"anchors": [0, 0]}, "anchors must be modalities from 0 to 2, each once, got [0, 0]"),
        (3, {"anchors": []}, "anchors must be modalities from 0 to 2, each once, got []"),
        (3, {"score": "area", "present": True}, 'present must be None for score="area", which takes all 3'),
        (3, {"score": "product", "present": True}, 'present must be None for score="product", which takes all 3'),
        (3, {"score": "product", "form": "sigmoid"}, 'form must be "softmax" for score="product", got "sigmoid"'),
        (3, {"score": "product", "backend": "native"}, 'backend must be "auto" or "torch" for score="product"'),
        (3, {"score": "product", "negatives": "all", "anchors": 0}, 'negatives must be "paired" for'),
    ],
)
def test_combinations_that_make_no_sense_are_named(count: int, options: dict[str, Any], message: str) -> None:
    if "present" in options:
        options = {**options, "present": torch.ones(count, 4, dtype=torch.bool)}
    with pytest.raises(ValueError, match=re.escape(message)):
        tuple_contrastive_loss([torch.randn(4, 5) for _ in range(count)], **options)


def test_the_cases_are_those_of_the_registry() -> None:
    assert set(MODALITIES) == {*SCORES, "product"}
    for name, counts in MODALITIES.items():
        assert name == "product" or all(count in SCORES[name].modalities for count in counts)
