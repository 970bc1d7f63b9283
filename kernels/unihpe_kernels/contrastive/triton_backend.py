"""The singular-value contrastive loss by Triton kernels: the same functions as `torch_backend`.

Where samples lack modalities, masks inside the kernels make an anchor's tuples those of its own set. No pass
synchronises.
"""

import functools
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.contrastive import kernels_rows, triton_all, triton_paired
from unihpe_kernels.contrastive.triton_paired import Codes, Tables

_BLOCK = 1024  # samples of a program where there is nothing to do but add
_HEADER = 32  # float32 numbers before the tables, which so stay aligned; the first is 1/(total weight)


@dataclass(frozen=True)
class _Masks:
    """Which of n samples have what."""

    present: Tensor  # uint8 [M, n]
    complete: Tensor  # uint8 [n]
    codes: Tensor  # int32 [n], bit m: has modality m


@dataclass(frozen=True)
class _Paired:
    """A "paired" loss of all samples."""

    tables: Tables
    codes: Codes | None
    used: Tensor | None  # uint8 [M, n]: rows that some anchor needs; None: all


def forward(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    negatives: str,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `torch_backend.forward`."""
    count, n = len(embeddings), len(embeddings[0])
    new = functools.partial(embeddings[0].new_empty, dtype=torch.float32)
    loss, log_sums, sample_loss = new(()), new((count, n)), new((n,))
    saved = new((saved_size(embeddings, present, negatives),))
    if n == 0 or n % 32:
        saved.zero_()  # between the tables, too: an output must be the same every time
    if n == 0:
        return loss.zero_(), log_sums, sample_loss, saved
    with on_device(loss):
        embeddings = [embedding.contiguous() for embedding in embeddings]
        weights = None if weights is None else weights.contiguous()
        tau = temperature.float()
        masks = _masks(present)
        paired = _paired(saved, embeddings, masks, negatives)
        if paired:
            triton_paired.prepare(embeddings, normalize, paired.tables, paired.used)
            triton_paired.normalisers(paired.tables, tau, paired.codes, log_sums, sample_loss)
        if _has_triples(count, negatives):
            triples = triton_all.view_saved(saved[_HEADER:], n, embeddings[0].shape[1])
            complete = masks.complete if masks else None
            triton_all.normalisers(embeddings, tau, weights, complete, normalize, triples, log_sums, sample_loss)
        kernels_rows.mean_over_anchors[(1,)](
            sample_loss, weights, masks.present if masks else None, loss, saved, n,
            COUNT=count, MASKED=masks is not None, WEIGHTED=weights is not None, BLOCK=_BLOCK, enable_fp_fusion=True,
        )  # fmt: skip
    return loss, log_sums, sample_loss, saved


def backward(
    grad: Tensor,
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    loss: Tensor,
    log_sums: Tensor,
    sample_loss: Tensor,
    saved: Tensor,
    negatives: str,
    normalize: bool,
) -> list[Tensor]:
    """As `torch_backend.backward`."""
    count, n = len(embeddings), len(embeddings[0])
    dtype = embeddings[0].dtype
    # gradients of two parts are added up, in float32
    both = present is not None and _has_triples(count, negatives)
    outs_dtype = torch.float32 if both else dtype
    outs = [torch.empty(embedding.shape, dtype=outs_dtype, device=grad.device) for embedding in embeddings]
    d_weights = torch.empty_like(sample_loss)
    d_temperature = torch.empty_like(loss)
    if n == 0:
        return [*(out.to(dtype) for out in outs), torch.zeros_like(temperature), _like(d_weights, weights)]
    with on_device(grad):
        embeddings = [embedding.contiguous() for embedding in embeddings]
        weights = None if weights is None else weights.contiguous()
        grad, tau = grad.float(), temperature.float()
        masks = _masks(present)
        pieces = []
        open_pieces = 0  # how many of their numbers lack the mean over anchors
        paired = _paired(saved, embeddings, masks, negatives)
        if paired:
            pieces.append(
                triton_paired.gradients(
                    grad, tau, weights, paired.codes, normalize, saved, log_sums, paired.tables, outs
                )
            )
        if _has_triples(count, negatives):
            triples = triton_all.view_saved(saved[_HEADER:], n, embeddings[0].shape[1])
            complete = masks.complete if masks else None
            into = [torch.empty_like(out) for out in outs] if pieces else outs
            pieces.insert(0, triton_all.gradients(grad, tau, complete, normalize, saved, triples, into))
            open_pieces = len(pieces[0])
            if into is not outs:
                for out, own in zip(outs, into, strict=True):
                    out += own
        d_scale = pieces[0] if len(pieces) == 1 else torch.cat([*pieces, grad.new_zeros(1)])
        kernels_rows.weights_and_temperature_gradient[(triton.cdiv(n, _BLOCK),)](
            grad, loss, saved, sample_loss, masks.present if masks else None, tau, d_scale, open_pieces, d_weights,
            d_temperature, n, len(d_scale), COUNT=count, MASKED=masks is not None, BLOCK=_BLOCK, enable_fp_fusion=True,
        )  # fmt: skip
    return [*(out.to(dtype) for out in outs), d_temperature.to(temperature.dtype), _like(d_weights, weights)]


def saved_size(embeddings: list[Tensor], present: Tensor | None, negatives: str) -> int:
    """Elements that `forward` hands to `backward`: a header, then triples' and pairs' tables."""
    first = embeddings[0]
    n, width = first.shape
    size = _HEADER
    if _has_triples(len(embeddings), negatives):
        size += triton_all.saved_size(n, width)
    if _has_pairs(len(embeddings), present, negatives):
        size += _tables_size(embeddings, masked=present is not None)
    return size


def _tables_size(embeddings: list[Tensor], masked: bool) -> int:
    first = embeddings[0]
    n, width = first.shape
    return triton_paired.saved_size(len(embeddings), n, width, first.dtype, first.device, masked)


def _has_triples(count: int, negatives: str) -> bool:
    return negatives == "all" and count == 3


def _has_pairs(count: int, present: object, negatives: str) -> bool:
    """Whether there is a "paired" loss; beside triples, it is that of incomplete samples."""
    return present is not None or not _has_triples(count, negatives)


def _paired(saved: Tensor, embeddings: list[Tensor], masks: _Masks | None, negatives: str) -> _Paired | None:
    count = len(embeddings)
    if not _has_pairs(count, masks, negatives):
        return None
    n, width = embeddings[0].shape
    size = _tables_size(embeddings, masked=masks is not None)
    own = saved[len(saved) - size :]
    tables = triton_paired.view_saved(own, count, n, width, embeddings[0].dtype, masks is not None)
    if masks is None:
        return _Paired(tables, None, None)
    in_use = masks.present.sum(0) >= 2
    anchors = in_use & (masks.complete == 0) if _has_triples(count, negatives) else in_use
    codes = Codes(torch.where(anchors, masks.codes, 0), masks.codes)
    return _Paired(tables, codes, masks.present * in_use)


def _masks(present: Tensor | None) -> _Masks | None:
    if present is None:
        return None
    present = present.contiguous()
    bits = 1 << torch.arange(len(present), dtype=torch.int32, device=present.device)
    codes = (present * bits[:, None]).sum(0, dtype=torch.int32)
    return _Masks(present.view(torch.uint8), present.all(0).view(torch.uint8), codes)


def _like(d_weights: Tensor, weights: Tensor | None) -> Tensor:
    return d_weights if weights is None else d_weights.to(weights.dtype)
