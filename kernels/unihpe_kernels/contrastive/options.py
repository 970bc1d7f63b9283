"""The arguments of the losses, checked."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.checks import Backend, check_backend, check_tensor, check_weights
from unihpe_kernels.contrastive.spec import Spec
from unihpe_kernels.scores import SCORES
from unihpe_kernels.sv_contrastive.arguments import (
    MAX_MODALITIES,
    MIN_TEMPERATURE,
    as_tensor,
    check_embeddings,
    check_unit_rows,
)


class Arguments(NamedTuple):
    """As for `tuple_contrastive_loss`, checked, the embeddings of one dtype. What is refused where its values may be
    looked at is NaN elsewhere."""

    embeddings: list[Tensor]
    temperature: float | Tensor
    bias: float | Tensor | None
    weights: Tensor | None
    present: Tensor | None
    spec: Spec  # its backend may be "auto"

    @property
    def tau(self) -> Tensor:
        """The temperature as a tensor []."""
        return as_tensor(self.temperature, self.embeddings[0])

    @property
    def bias_tensor(self) -> Tensor | None:
        return None if self.bias is None else as_tensor(self.bias, self.embeddings[0])

    def resolve_backend(self, batch: int) -> Literal["triton", "native", "torch"]:
        """The backend that will run, for tuples from `batch` samples.

        What C++ cannot do in float32 the torch backend does in float64 in its place, and so it is with "auto" and
        Triton's kernels where the temperature is a float.
        """
        count, spec = len(self.embeddings), self.spec
        resolved = check_backend(spec.backend, self.embeddings[0], SCORES[spec.score].loss)  # type: ignore[arg-type]
        if isinstance(self.temperature, Tensor) or spec.sigmoid:
            return resolved
        score, modalities = SCORES[spec.score], 2 if spec.pairwise else count
        least = score.least_temperature(modalities, batch, "float64")
        if self.temperature < least:
            raise ValueError(
                f'temperature must be at least {least:.2g} for score="{spec.score}" of {modalities} modalities, '
                f"got {self.temperature}"
            )
        least = score.least_temperature(modalities, batch)
        if resolved != "triton" or self.temperature >= least:
            return resolved
        if spec.backend == "triton":
            raise ValueError(
                f'temperature must be at least {least:.2g} for backend="triton", score="{spec.score}" '
                f"and {batch} samples, got {self.temperature}"
            )
        return "torch"


def check_arguments(
    embeddings: Sequence[Tensor],
    *,
    temperature: float | Tensor,
    score: str = "singular_value",
    negatives: str = "paired",
    anchors: int | Sequence[int] | None = None,
    direction: str = "anchor",
    label_smoothing: float = 0.0,
    form: str = "softmax",
    bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = True,
    backend: Backend = "auto",
    pairwise: bool = False,
    modalities: range | None = None,
    case: str | None = None,
    any_length: bool = False,
) -> Arguments:
    """modalities: how many are allowed in this case, if not those of the score. any_length: of rows that `normalize`
    leaves as they are."""
    if score not in SCORES:
        raise ValueError(f"score must be {_either([*SCORES, 'product'])}, got {score!r}")
    if negatives not in ("paired", "all"):
        raise ValueError(f'negatives must be "paired" or "all", got {negatives!r}')
    if pairwise:
        modalities, case = range(2, MAX_MODALITIES + 1), "pairwise_contrastive_loss"
    embeddings = check_embeddings(embeddings, modalities or SCORES[score].modalities, case or f'score="{score}"')
    first, count = embeddings[0], len(embeddings)
    batch = first.shape[0]
    if weights is not None:
        check_tensor("weights", weights, (batch,), like=first)
        weights = check_weights(weights)
    if present is not None:
        check_tensor("present", present, (count, batch), dtypes=(torch.bool,), like=first)
        if not pairwise and count > 2 and not SCORES[score].neutral:
            raise ValueError(f'present must be None for score="{score}", which takes all {count} modalities')
    _check_number("temperature", temperature, first)
    if not isinstance(temperature, Tensor) and not MIN_TEMPERATURE <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and at least {MIN_TEMPERATURE}, got {temperature}")
    for name, value, known in (
        ("direction", direction, ("anchor", "both")),
        ("form", form, ("softmax", "sigmoid")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be {_either(known)}, got {value!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    chosen = _check_anchors(anchors, count)
    if negatives == "all" and count > 2:
        raise ValueError(
            f'negatives must be "paired" for score="{score}" with these arguments, got "all", which is of two '
            "modalities, or of three with the defaults of all arguments that singular_value_contrastive_loss lacks"
        )
    if form == "sigmoid":
        if label_smoothing or direction == "both":
            raise ValueError('form must be "softmax" with direction="both" or label_smoothing, got "sigmoid"')
        bias = 0.0 if bias is None else bias
        _check_number("bias", bias, first)
    elif bias is not None:
        raise ValueError(f'bias must be None for form="softmax", in which it has no effect, got {bias}')
    spec = Spec(
        score, chosen, direction == "both", float(label_smoothing), form == "sigmoid", pairwise,
        bool(normalize), backend,
    )  # fmt: skip
    check_backend(backend, first, SCORES[score].loss)
    if not normalize and not any_length:
        embeddings = [
            check_unit_rows(f"embeddings[{m}]", rows, None if present is None else present[m])
            for m, rows in enumerate(embeddings)
        ]
    return Arguments(embeddings, temperature, bias, weights, present, spec)


def _check_anchors(anchors: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Ascending; none for all."""
    if anchors is None:
        return ()
    given = [anchors] if isinstance(anchors, int) else list(anchors)
    chosen = tuple(sorted(set(given)))
    if not given or len(chosen) < len(given) or not all(m in range(count) for m in chosen):
        raise ValueError(f"anchors must be modalities from 0 to {count - 1}, each once, got {anchors}")
    return () if len(chosen) == count else chosen


def _check_number(name: str, value: float | Tensor, like: Tensor) -> None:
    if isinstance(value, Tensor):
        check_tensor(name, value, (), like=like)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a float or a tensor [], got {type(value).__name__}")
    elif not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def _either(names: Iterable[str]) -> str:
    *most, last = (f'"{name}"' for name in names)
    return ", ".join(most) + f" or {last}"
