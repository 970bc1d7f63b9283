"""The arguments of the loss, checked."""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unihpe_kernels.caller import warn
from unihpe_kernels.checks import FLOATING, Backend, check_backend, check_tensor, check_weights, is_readable
from unihpe_kernels.contrastive.spec import Spec
from unihpe_kernels.scores import SCORES

TITLE = "singular_value_contrastive_loss"
MAX_MODALITIES = 8
MIN_TEMPERATURE = 1e-3
# How far from 1 the length of a unit vector may be: rows are rounded to their own dtype.
UNIT_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
MIN_NORM = 1e-12  # a shorter row has no direction
# Samples whose sums float64 is to hold, with exponentials of the least temperature.
_MOST_SAMPLES = 2**31
# Triples a rank visits in a step, from which on "all" is warned of: "paired" has long been the better use of the time.
MANY_TRIPLES = 2**35


class Arguments(NamedTuple):
    """Those of `singular_value_contrastive_loss`, checked, the embeddings of one dtype; and, with a tensor for the
    temperature and the backend that runs, those of its operator and of every backend.

    What is refused where its values may be looked at is NaN elsewhere.
    """

    embeddings: list[Tensor]
    temperature: float | Tensor
    weights: Tensor | None
    present: Tensor | None
    negatives: str
    normalize: bool
    backend: Backend

    @property
    def tau(self) -> Tensor:
        """The temperature as a tensor []."""
        return as_tensor(self.temperature, self.embeddings[0])

    @property
    def num_modalities(self) -> int:
        return len(self.embeddings)

    @property
    def spec(self) -> Spec:
        """The loss in pairs, as the engine of unihpe_kernels.contrastive names it."""
        return Spec("singular_value", (), False, 0.0, False, False, self.normalize, self.backend)

    @property
    def has_triples(self) -> bool:
        return self.negatives == "all" and len(self.embeddings) == 3

    @property
    def is_fused(self) -> bool:
        """Whether a kernel of this loss alone runs, once the backend is resolved: for triples, for Triton, and for
        complete samples in C++, where it is faster than the blocks of the engine (benchmarks/NOTES.md)."""
        return self.has_triples or self.backend == "triton" or (self.backend == "native" and self.present is None)

    def resolve_backend(self, batch: int) -> Literal["triton", "native", "torch"]:
        """The backend that will run, for tuples from `batch` samples."""
        resolved = check_backend(self.backend, self.embeddings[0], TITLE)
        if resolved != "triton" or not self.has_triples or isinstance(self.temperature, Tensor):
            return resolved  # the others have float64 for what float32 cannot hold
        least = _least_float32_temperature(batch)
        if self.temperature >= least:
            return resolved
        if self.backend == "triton":
            raise ValueError(
                f'temperature must be at least {least:.2g} for backend="triton", negatives="all" and {batch} '
                f"samples, got {self.temperature}"
            )
        return "torch"


class Outputs(NamedTuple):
    """Those of the operator, which its backward pass reads. float64 for float64 embeddings, else float32.

    logsumexp [M, B]: of every anchor's logits, to base 2, or what else the backend's backward pass takes in its place.
    saved: what the backend leaves, flat. route: int64 [1], which way the forward pass took where the temperature's
    value decides; [0] where nothing does.
    """

    loss: Tensor  # []
    logsumexp: Tensor
    sample_loss: Tensor  # [B], summed over a sample's anchors
    saved: Tensor
    route: Tensor


def as_tensor(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor [] beside the embeddings."""
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def modality_codes(present: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """[B], bit m: has modality m."""
    bits = 1 << torch.arange(len(present), dtype=dtype, device=present.device)
    return (present * bits[:, None]).sum(0, dtype=dtype)


def check_arguments(
    embeddings: Sequence[Tensor],
    temperature: float | Tensor,
    negatives: str,
    weights: Tensor | None,
    present: Tensor | None,
    normalize: bool,
    backend: Backend,
) -> Arguments:
    embeddings = _check_embeddings(embeddings, negatives)
    first = embeddings[0]
    batch = first.shape[0]
    if weights is not None:
        check_tensor("weights", weights, (batch,), like=first)
        weights = check_weights(weights)
    if present is not None:
        check_tensor("present", present, (len(embeddings), batch), dtypes=(torch.bool,), like=first)
    _check_temperature(temperature, first, len(embeddings))
    check_backend(backend, first, TITLE)
    if not normalize:
        embeddings = [
            check_unit_rows(f"embeddings[{m}]", rows, None if present is None else present[m])
            for m, rows in enumerate(embeddings)
        ]
    return Arguments(embeddings, temperature, weights, present, negatives, bool(normalize), backend)


def warn_of_many_triples(anchors: int, batch: int) -> None:
    """anchors: the first samples of the triples that this process visits; batch: those of all processes."""
    if anchors * batch**2 > MANY_TRIPLES and not torch.compiler.is_compiling():
        warn(
            f'negatives="all" visits more than {MANY_TRIPLES:.2g} triples in this process in every step: work grows '
            'with the batch cubed; take negatives="paired" or smaller batches',
            UserWarning,
        )


def _check_embeddings(embeddings: Sequence[Tensor], negatives: str) -> list[Tensor]:
    limits = {"paired": MAX_MODALITIES, "all": 3}
    if negatives not in limits:
        raise ValueError(f'negatives must be "paired" or "all", got {negatives!r}')
    return check_embeddings(embeddings, range(2, limits[negatives] + 1), f'negatives="{negatives}"')


def check_embeddings(embeddings: Sequence[Tensor], modalities: range, case: str) -> list[Tensor]:
    """As many as `modalities` allows in this case, of one shape, which then have one dtype."""
    if isinstance(embeddings, Tensor) or not isinstance(embeddings, Sequence):
        raise TypeError(f"embeddings must be a sequence of tensors [B, D], got {type(embeddings).__name__}")
    if len(embeddings) not in modalities:
        wanted = str(modalities[0]) if len(modalities) == 1 else f"{modalities[0]} to {modalities[-1]}"
        raise ValueError(f"embeddings must hold {wanted} tensors for {case}, got {len(embeddings)}")
    first = embeddings[0]
    if all(
        isinstance(e, Tensor) and e.shape == first.shape and e.dtype == first.dtype and e.device == first.device
        for e in embeddings
    ) and (first.dim() == 2 and first.dtype in FLOATING):
        return list(embeddings)  # the usual case, at once
    check_tensor("embeddings[0]", first, ("B", "D"))
    for m, embedding in enumerate(embeddings[1:], start=1):
        check_tensor(f"embeddings[{m}]", embedding, tuple(first.shape), like=first)
    dtype = functools.reduce(torch.promote_types, (embedding.dtype for embedding in embeddings))
    return [embedding.to(dtype) for embedding in embeddings]


def check_unit_rows(name: str, rows: Tensor, present: Tensor | None) -> Tensor:
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


def _check_temperature(temperature: float | Tensor, like: Tensor, count: int) -> None:
    if isinstance(temperature, Tensor):
        check_tensor("temperature", temperature, (), like=like)
        return
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a float or a tensor [], got {type(temperature).__name__}")
    if not MIN_TEMPERATURE <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and at least {MIN_TEMPERATURE}, got {temperature}")
    least = SCORES["singular_value"].least_temperature(count, _MOST_SAMPLES, "float64")
    if temperature < least:
        raise ValueError(f"temperature must be at least {least:.2g} for {count} modalities, got {temperature}")


def _least_float32_temperature(batch: int) -> float:
    """Above it exp2 of logits about the middle of [1, sqrt(3)], and their sums over batch^2, stay float32 numbers."""
    return (math.sqrt(3) - 1) / 2 * math.log2(math.e) / (110 - 2 * math.log2(max(batch, 1)))
