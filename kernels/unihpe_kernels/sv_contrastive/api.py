"""The public loss: arguments checked, then one operator call."""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unihpe_kernels.checks import Backend, check_backend, check_tensor
from unihpe_kernels.sv_contrastive.op import sv_contrastive

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MAX_MODALITIES = 8
MIN_TEMPERATURE = 1e-3


def singular_value_contrastive_loss(
    embeddings: Sequence[Tensor],
    *,
    temperature: float | Tensor = 0.07,
    negatives: str = "paired",
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = True,
    group: "ProcessGroup | None" = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Contrast tuples of M embeddings by the largest singular value of their stack.

    With z_m[i] the L2-normalised embedding of sample i in modality m, the score of a tuple (i_1 .. i_M) is sigma_1 of
    the M x D matrix of its rows: sqrt(M) when all are parallel, 1 when all are orthogonal. Anchor (m, i) is to score
    its own tuple (i, .., i) above the tuples N(m, i) that it is set against:

        L[m, i] = -log( exp(score(i, .., i)/tau) / sum over t in N(m, i) of exp(score(t)/tau) )

    and the loss is the mean of L over all anchors, sample i weighted with weights[i]. The idea is that of UniHPE (Jiang
    et al., arXiv 2311.16477).

    sigma_1 is blind to the sign of a whole modality: x and -x score the same. Train a cosine term beside it where the
    sign matters.

    Missing modalities: S_i, the modalities present in sample i, decides its loss. Sample i has an anchor for each m in
    S_i if |S_i| >= 2, and none otherwise. Its tuples run over the modalities S_i alone, and are formed from the samples
    that have all of them, {j: S_i is a subset of S_j}. So the loss is that of dense batches: for each set S that
    occurs, the samples with at least S, of which those with exactly S are counted. The mean is over all anchors
    together. What stands in an absent embedding is of no effect. With no anchor at all, or no weight, the loss and its
    gradient are 0.

    Args:
        embeddings: M tensors [B, D], any strides; float32, float64, bfloat16 or float16, unlike ones are promoted.
        temperature: tau, a float of at least 0.001, or a tensor [] that receives a gradient and whose range is not
            checked. "all" of three modalities sums in float32 where that cannot underflow (tau >= 0.0062 at B = 4096).
            Below, the torch backend sums in float64. The Triton backend cannot: "auto" leaves a float that small to
            torch, and a tensor that small gives NaN, not a wrong number.
        negatives: "paired": i_m = i and the other M - 1 members all from one sample j; B tuples, 2 <= M <= 8, O(B D)
            memory. "all": every tuple with i_m = i; B^(M-1) tuples, M = 2 or 3, O(B^2) memory.
        weights: [B], floating point, not negative; receives a gradient. A sample of weight 0 is still a negative.
        present: bool [M, B], which modality each sample has; None: all. With four modalities or more the Triton backend
            synchronises once a pass to learn which sets occur, and so cannot be captured in a CUDA graph.
        normalize: False takes the rows to be unit vectors already. With True, a row shorter than 1e-12 counts as
            orthogonal to everything and gets no gradient.
        group: a torch.distributed process group; only groups of one rank are supported.
        backend: "auto", "torch" or "triton".

    Returns:
        The loss, a tensor []: float64 for float64 embeddings, else float32; also under autocast. Inner products follow
        torch.set_float32_matmul_precision. It has no second derivative.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    embeddings = _check_embeddings(embeddings, negatives)
    first = embeddings[0]
    batch = first.shape[0]
    if weights is not None:
        check_tensor("weights", weights, (batch,), like=first)
    if present is not None:
        check_tensor("present", present, (len(embeddings), batch), dtypes=(torch.bool,), like=first)
    if group is not None and torch.distributed.get_world_size(group) > 1:
        raise ValueError(
            f"group must be None or hold one rank, got {torch.distributed.get_world_size(group)} ranks: "
            "negatives are not gathered across ranks"
        )
    tau = _check_temperature(temperature, first)
    resolved = check_backend(backend, first, "singular_value_contrastive_loss")
    if resolved == "triton" and negatives == "all" and len(embeddings) == 3 and not isinstance(temperature, Tensor):
        least = _least_float32_temperature(batch)
        if temperature < least:
            if backend == "triton":
                raise ValueError(
                    f'temperature must be at least {least:.2g} for backend="triton", negatives="all" and {batch} '
                    f"samples, got {temperature}"
                )
            resolved = "torch"
    return sv_contrastive(embeddings, tau, weights, present, negatives, bool(normalize), resolved)[0]


def _check_embeddings(embeddings: Sequence[Tensor], negatives: str) -> list[Tensor]:
    if isinstance(embeddings, Tensor) or not isinstance(embeddings, Sequence):
        raise TypeError(f"embeddings must be a sequence of tensors [B, D], got {type(embeddings).__name__}")
    limits = {"paired": MAX_MODALITIES, "all": 3}
    if negatives not in limits:
        raise ValueError(f'negatives must be "paired" or "all", got {negatives!r}')
    if not 2 <= len(embeddings) <= limits[negatives]:
        raise ValueError(
            f'embeddings must hold 2 to {limits[negatives]} tensors for negatives="{negatives}", got {len(embeddings)}'
        )
    check_tensor("embeddings[0]", embeddings[0], ("B", "D"))
    for m, embedding in enumerate(embeddings[1:], start=1):
        check_tensor(f"embeddings[{m}]", embedding, tuple(embeddings[0].shape), like=embeddings[0])
    dtype = functools.reduce(torch.promote_types, [embedding.dtype for embedding in embeddings])
    return [embedding.to(dtype) for embedding in embeddings]


def _check_temperature(temperature: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(temperature, Tensor):
        check_tensor("temperature", temperature, (), like=like)
        return temperature
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a float or a tensor [], got {type(temperature).__name__}")
    if not MIN_TEMPERATURE <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and at least {MIN_TEMPERATURE}, got {temperature}")
    return torch.full((), temperature, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _least_float32_temperature(batch: int) -> float:
    """Above it exp2 of logits about the middle of [1, sqrt(3)], and their sums over batch^2, stay float32 numbers."""
    return (math.sqrt(3) - 1) / 2 * math.log2(math.e) / (110 - 2 * math.log2(max(batch, 1)))
