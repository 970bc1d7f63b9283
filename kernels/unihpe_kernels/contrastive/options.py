"""The arguments of the loss, checked."""

import functools
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.checks import TRIPLES, Backend, check_backend, check_tensor, check_weights, is_readable
from unihpe_kernels.scores import SCORES

MAX_MODALITIES = 8
MIN_TEMPERATURE = 1e-3
# How far from 1 the length of a unit vector may be: rows are rounded to their own dtype.
UNIT_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
MIN_NORM = 1e-12  # a shorter row has no direction
# Triples a rank visits in a step, from which on "all" is warned of: "paired" has long been the better use of the time.
MANY_TRIPLES = 2**35


class Spec(NamedTuple):
    """What a loss is made of, but for its tensors: as for `tuple_contrastive_loss`, in the form of operators'
    arguments.

    anchors: the modalities that are anchors, ascending; none for all. both: directions. pairwise: the cosine loss of
    every two modalities.
    """

    score: str
    negatives: str
    anchors: tuple[int, ...]
    both: bool
    smoothing: float
    sigmoid: bool
    pairwise: bool
    normalize: bool
    backend: str

    @property
    def text(self) -> str:
        """One word, which operators take."""
        flags = (self.both, self.sigmoid, self.pairwise, self.normalize)
        words = (self.score, self.negatives, self.backend, f"{self.smoothing!r}")
        return " ".join([*words, "".join("01"[flag] for flag in flags), *(f"{m}" for m in self.anchors)])

    @classmethod
    @functools.lru_cache
    def of(cls, text: str) -> "Spec":
        score, negatives, backend, smoothing, flags, *anchors = text.split()
        both, sigmoid, pairwise, normalize = (flag == "1" for flag in flags)
        modalities = tuple(map(int, anchors))
        return cls(score, negatives, modalities, both, float(smoothing), sigmoid, pairwise, normalize, backend)

    def has_triples(self, count: int) -> bool:
        return self.negatives == "all" and count == 3

    def operation(self, count: int) -> str:
        """As checks.py knows it."""
        return TRIPLES if self.has_triples(count) else SCORES[self.score].loss

    def anchors_of(self, count: int) -> tuple[int, ...]:
        return self.anchors or tuple(range(count))

    def num_anchors(self, count: int) -> int:
        """Of a sample that has all `count` modalities."""
        return count * (count - 1) if self.pairwise else len(self.anchors_of(count))

    def used(self, present: Tensor | None) -> Tensor | None:
        """bool [M, B]: rows that some tuple reads; None: all."""
        return present if present is None or self.pairwise else present & (present.sum(0) >= 2)

    def anchor_counts(self, present: Tensor | None) -> Tensor | None:
        """[B]; None: every sample has all anchors."""
        if present is None:
            return None
        has = present.sum(0)
        if self.pairwise:
            return has * (has - 1)
        return (present[list(self.anchors)].sum(0) if self.anchors else has) * (has >= 2)


class Arguments(NamedTuple):
    """As for `tuple_contrastive_loss`, checked, the embeddings of one dtype. What is refused where its values may be
    looked at is NaN elsewhere."""

    embeddings: list[Tensor]
    temperature: float | Tensor
    bias: float | Tensor | None
    weights: Tensor | None
    present: Tensor | None
    spec: Spec  # its backend may be "auto"

    def tensor(self, value: float | Tensor) -> Tensor:
        """A number as a tensor []."""
        if isinstance(value, Tensor):
            return value
        first = self.embeddings[0]
        dtype = torch.promote_types(first.dtype, torch.float32)
        return torch.full((), value, dtype=dtype, device=first.device)

    def tau(self) -> Tensor:
        return self.tensor(self.temperature)

    def resolve_backend(self, batch: int) -> Literal["triton", "native", "torch"]:
        """The backend that will run, for tuples from `batch` samples.

        What C++ cannot do in float32 the torch backend does in float64 in its place, and so it is with "auto" and
        Triton's kernels where the temperature is a float.
        """
        count, spec = len(self.embeddings), self.spec
        resolved = check_backend(spec.backend, self.embeddings[0], spec.operation(count))  # type: ignore[arg-type]
        if isinstance(self.temperature, Tensor) or spec.sigmoid:
            return resolved
        tuples = batch**2 if spec.has_triples(count) else batch
        score, modalities = SCORES[spec.score], 2 if spec.pairwise else count
        least = score.least_temperature(modalities, tuples, "float64")
        if self.temperature < least:
            raise ValueError(
                f'temperature must be at least {least:.2g} for score="{spec.score}" of {modalities} modalities, '
                f"got {self.temperature}"
            )
        least = score.least_temperature(modalities, tuples)
        if resolved != "triton" or self.temperature >= least:
            return resolved
        if spec.backend == "triton":
            raise ValueError(
                f'temperature must be at least {least:.2g} for backend="triton", score="{spec.score}", '
                f'negatives="{spec.negatives}" and {batch} samples, got {self.temperature}'
            )
        return "torch"

    def has_triples(self) -> bool:
        return self.spec.has_triples(len(self.embeddings))


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
    bounded: bool = False,
) -> Arguments:
    """bounded: rows that `normalize` leaves as they are, are known to be no longer than 1."""
    if score not in SCORES:
        raise ValueError(f"score must be {_either([*SCORES, 'product'])}, got {score!r}")
    embeddings = _check_embeddings(embeddings, negatives, score, pairwise)
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
    plain = direction == "anchor" and not label_smoothing and form == "softmax" and score == "singular_value"
    if negatives == "all" and count == 3 and not (plain and not chosen):
        raise ValueError(
            'negatives must be "paired" for other scores, forms, directions, anchors and label smoothing of three '
            'modalities, got "all"'
        )
    if form == "sigmoid":
        if label_smoothing or direction == "both":
            raise ValueError('form must be "softmax" with direction="both" or label_smoothing, got "sigmoid"')
        bias = 0.0 if bias is None else bias
        _check_number("bias", bias, first)
    elif bias is not None:
        raise ValueError(f'bias must be None for form="softmax", in which it has no effect, got {bias}')
    spec = Spec(
        score, negatives, chosen, direction == "both", float(label_smoothing), form == "sigmoid", pairwise,
        bool(normalize), backend,
    )  # fmt: skip
    check_backend(backend, first, spec.operation(count))
    if not normalize and not bounded:
        embeddings = [
            _check_unit_rows(f"embeddings[{m}]", rows, None if present is None else present[m])
            for m, rows in enumerate(embeddings)
        ]
    return Arguments(embeddings, temperature, bias, weights, present, spec)


def warn_of_many_triples(anchors: int, batch: int) -> None:
    """anchors: the first samples of the triples that this process visits; batch: those of all processes."""
    if anchors * batch**2 > MANY_TRIPLES and not torch.compiler.is_compiling():
        warnings.warn(
            f'negatives="all" visits more than {MANY_TRIPLES:.2g} triples in this process in every step: work grows '
            'with the batch cubed; take negatives="paired" or smaller batches',
            stacklevel=3,
        )


def _check_embeddings(embeddings: Sequence[Tensor], negatives: str, score: str, pairwise: bool) -> list[Tensor]:
    if isinstance(embeddings, Tensor) or not isinstance(embeddings, Sequence):
        raise TypeError(f"embeddings must be a sequence of tensors [B, D], got {type(embeddings).__name__}")
    if negatives not in ("paired", "all"):
        raise ValueError(f'negatives must be "paired" or "all", got {negatives!r}')
    taken = SCORES[score].modalities
    least, most = (2, MAX_MODALITIES) if pairwise else (taken.start, taken.stop - 1)
    most = min(most, 3) if negatives == "all" else most
    if not least <= len(embeddings) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        where = f'negatives="{negatives}"' if score == "singular_value" else f'score="{score}"'
        raise ValueError(f"embeddings must hold {wanted} tensors for {where}, got {len(embeddings)}")
    check_tensor("embeddings[0]", embeddings[0], ("B", "D"))
    for m, embedding in enumerate(embeddings[1:], start=1):
        check_tensor(f"embeddings[{m}]", embedding, tuple(embeddings[0].shape), like=embeddings[0])
    dtype = functools.reduce(torch.promote_types, [embedding.dtype for embedding in embeddings])
    return [embedding.to(dtype) for embedding in embeddings]


def _check_unit_rows(name: str, rows: Tensor, present: Tensor | None) -> Tensor:
    """Refuse rows whose length is neither 1 nor 0, of samples that have the modality."""
    with torch.no_grad():
        wide = rows if rows.dtype == torch.float64 else rows.float()
        lengths = torch.linalg.vector_norm(wide, dim=1)
        wrong = ((lengths - 1).abs() > UNIT_TOLERANCE[rows.dtype]) & (lengths >= MIN_NORM)
        if present is not None:
            wrong &= present
    if not is_readable(rows):
        return rows * torch.where(wrong, torch.nan, 1.0).to(rows.dtype)[:, None]
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} must hold rows of length 1 or 0 for normalize=False, got length {lengths[row].item():.6g} "
            f"in row {row}"
        )
    return rows


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
