"""The singular-value contrastive loss by Triton kernels: the same functions as `torch_backend`.

Where samples lack modalities, masks inside the kernels make an anchor's tuples those of its own set, for up to three
modalities. For more, where the eigenvectors behind a tuple depend on the set, the samples of each set that occurs are
gathered; to know which occur costs one synchronisation a pass.
"""

import functools
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.sv_contrastive import kernels_rows, triton_all, triton_paired
from unihpe_kernels.sv_contrastive.triton_paired import Codes, Tables

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
    """A "paired" loss: of all samples, or of a pool of them and some of the modalities."""

    tables: Tables
    codes: Codes | None
    modalities: tuple[int, ...]
    pool: Tensor | None  # indices
    used: Tensor | None = None  # uint8 [M, n]: rows that some anchor needs; None: all

    def select(self, embeddings: list[Tensor]) -> list[Tensor]:
        if self.pool is None:
            return embeddings
        return [embeddings[m][self.pool] for m in self.modalities]


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
        if _grouped(embeddings, present):
            log_sums.zero_()
            sample_loss.zero_()
        for part in _paired_parts(saved, embeddings, masks, negatives):
            triton_paired.prepare(part.select(embeddings), normalize, part.tables, part.used)
            if part.pool is None:
                triton_paired.normalisers(part.tables, tau, part.codes, log_sums, sample_loss)
                continue
            own_sums = loss.new_empty(len(part.modalities), len(part.pool))
            own_loss = loss.new_empty(len(part.pool))
            triton_paired.normalisers(part.tables, tau, part.codes, own_sums, own_loss)
            for m, own in zip(part.modalities, own_sums, strict=True):
                log_sums[m, part.pool] += own
            sample_loss[part.pool] += own_loss
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
    # gradients of several parts are added up, in float32
    several = present is not None and (count > 3 or _has_triples(count, negatives))
    outs_dtype = torch.float32 if several else dtype
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
        if _grouped(embeddings, present):
            for out in outs:
                out.zero_()
        for part in _paired_parts(saved, embeddings, masks, negatives):
            if part.pool is None:
                pieces.append(
                    triton_paired.gradients(
                        grad, tau, weights, part.codes, normalize, saved, log_sums, part.tables, outs
                    )
                )
                continue
            chosen = part.select(embeddings)
            triton_paired.prepare(chosen, normalize, part.tables, part.used)
            own_weights = None if weights is None else weights[part.pool]
            own_sums = log_sums[list(part.modalities)][:, part.pool]
            own_outs = [torch.empty(x.shape, dtype=outs_dtype, device=x.device) for x in chosen]
            pieces.append(
                triton_paired.gradients(
                    grad, tau, own_weights, part.codes, normalize, saved, own_sums, part.tables, own_outs
                )
            )
            for m, own in zip(part.modalities, own_outs, strict=True):
                outs[m][part.pool] += own
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
    if _has_tables(len(embeddings), present, negatives):
        size += triton_paired.saved_size(len(embeddings), n, width, first.dtype, first.device)
    return size


def _has_triples(count: int, negatives: str) -> bool:
    return negatives == "all" and count == 3


def _has_tables(count: int, present: object, negatives: str) -> bool:
    """Whether there is a "paired" part of all samples; beside triples, it is that of incomplete samples."""
    return present is not None if _has_triples(count, negatives) else count <= 3 or present is None


def _grouped(embeddings: list[Tensor], present: Tensor | None) -> bool:
    return present is not None and len(embeddings) > 3


def _paired_parts(saved: Tensor, embeddings: list[Tensor], masks: _Masks | None, negatives: str) -> list[_Paired]:
    count = len(embeddings)
    n, width = embeddings[0].shape
    dtype = embeddings[0].dtype
    everything = tuple(range(count))
    if _has_tables(count, masks, negatives):
        size = triton_paired.saved_size(count, n, width, dtype, saved.device)
        tables = triton_paired.view_saved(saved[len(saved) - size :], count, n, width, dtype)
        codes = used = None
        if masks is not None:
            in_use = masks.present.sum(0) >= 2
            anchors = in_use
            if _has_triples(count, negatives):
                anchors = in_use & (masks.complete == 0)
            codes = Codes(torch.where(anchors, masks.codes, 0), masks.codes)
            used = masks.present * in_use
        return [_Paired(tables, codes, everything, None, used)]
    if masks is None or _has_triples(count, negatives):
        return []
    parts = []
    for code in masks.codes.unique().tolist():
        modalities = tuple(m for m in everything if code >> m & 1)
        if len(modalities) < 2:
            continue
        pool = ((masks.codes & code) == code).nonzero()[:, 0]
        size = triton_paired.saved_size(len(modalities), len(pool), width, dtype, saved.device)
        tables = triton_paired.view_saved(saved.new_empty(size), len(modalities), len(pool), width, dtype)
        full = torch.full_like(pool, 2 ** len(modalities) - 1, dtype=torch.int32)
        anchors = torch.where(masks.codes[pool] == code, full, 0)
        parts.append(_Paired(tables, Codes(anchors, full), modalities, pool))
    return parts


def _masks(present: Tensor | None) -> _Masks | None:
    if present is None:
        return None
    present = present.contiguous()
    bits = 1 << torch.arange(len(present), dtype=torch.int32, device=present.device)
    codes = (present * bits[:, None]).sum(0, dtype=torch.int32)
    return _Masks(present.view(torch.uint8), present.all(0).view(torch.uint8), codes)


def _like(d_weights: Tensor, weights: Tensor | None) -> Tensor:
    return d_weights if weights is None else d_weights.to(weights.dtype)
