"""The singular-value contrastive loss by Triton kernels: the same functions as `torch_backend`.

Where samples lack modalities, masks inside the kernels make an anchor's tuples those of its own set. No pass
synchronises.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.launching import Launch, Parts, planned, residues
from unihpe_kernels.sv_contrastive import kernels_rows, triton_all
from unihpe_kernels.sv_contrastive.arguments import Arguments, modality_codes
from unihpe_kernels.sv_contrastive.triton_paired import Case, Codes, surroundings

_BLOCK = 1024  # samples of a program where there is nothing to do but add
_HEADER = 32  # float32 numbers before all else that is saved, which so stays aligned; the first is 1/(total weight)


def forward(given: Arguments, learns_temperature: bool = True) -> tuple[Tensor, Tensor]:
    """The loss, and what is saved, flat. The backward pass computes the temperature's gradient."""
    first = given.embeddings[0]
    n, dim = first.shape
    batch = _Batch(given)
    plan, pairs = batch.plan, batch.pairs
    loss, saved = first.new_empty((), dtype=torch.float32), first.new_empty(plan.saved_size, dtype=torch.float32)
    if n == 0 or n % 32:
        saved.zero_()  # between the parts, too: an output must be the same every time
    if n == 0:
        loss.zero_()
        return loss, saved
    logsumexp, sample_loss = plan.of_anchors.of(saved, None if given.has_triples else plan.mean)
    with on_device(loss):
        if pairs is not None:
            tables = pairs.prepare(batch.embeddings, saved, batch.used)
            pairs.forward(saved, tables, batch.temperature, batch.codes, logsumexp, sample_loss)
        if given.has_triples:
            triples = triton_all.view_saved(saved[plan.of_anchors.end :], n, dim)
            triton_all.forward(
                batch.embeddings, batch.temperature, batch.weights, batch.complete, given.normalize, triples, logsumexp,
                sample_loss,
            )  # fmt: skip
        plan.mean(sample_loss, batch.weights, batch.present, loss, saved, n)
    return loss, saved


def backward(grad: Tensor, given: Arguments, outputs: Sequence[Tensor]) -> list[Tensor]:
    """As `torch_backend.backward`."""
    loss, saved = outputs
    n, dtype = len(given.embeddings[0]), given.embeddings[0].dtype
    grad = grad.float()
    batch = _Batch(given, grad, loss, saved)
    plan = batch.plan
    # gradients of two parts are added up, in float32
    both = batch.pairs is not None and given.has_triples
    outs = [torch.empty_like(rows, dtype=torch.float32 if both else dtype) for rows in batch.embeddings]
    d_weights, d_temperature = loss.new_empty(n), torch.empty_like(loss)
    if n:
        last = None if given.has_triples or batch.pairs is None else plan.last(0, batch.pairs.num_scales)
        logsumexp, sample_loss = plan.of_anchors.of(saved, last)
        with on_device(grad):
            d_scale, num_open = _embedding_gradients(grad, given, batch, saved, logsumexp, outs)
            plan.last(num_open, len(d_scale))(
                grad, loss, saved, sample_loss, batch.present, batch.temperature, d_scale, num_open, d_weights,
                d_temperature, n, len(d_scale),
            )  # fmt: skip
    else:
        d_temperature.zero_()
    if given.weights is not None:
        d_weights = d_weights.to(given.weights.dtype)
    if both:
        outs = [out.to(dtype) for out in outs]
    return [*outs, d_temperature.to(given.tau.dtype), d_weights]


def saved_shapes(given: Arguments) -> list[tuple[tuple[int, ...], torch.dtype | None]]:
    """As `torch_backend.saved_shapes`."""
    return [((_saved_size(_case(_kind(given)), given.has_triples),), None)]


class _Batch:
    """The arguments as the kernels take them, with masks, and the plan of the loss."""

    def __init__(self, given: Arguments, *others: Tensor) -> None:
        """others: what the kernels read beside."""
        self.embeddings = [embedding.contiguous() for embedding in given.embeddings]
        self.weights = None if given.weights is None else given.weights.contiguous()
        self.temperature = given.tau.float()
        self.present = self.complete = self.used = None  # uint8 [M, n], [n] and [M, n]: rows that some anchor needs
        self.codes = Codes()
        if given.present is not None:
            present = given.present.contiguous()
            complete, anchors = present.all(0), present.sum(0) >= 2
            codes = modality_codes(present, torch.int32)
            self.used = (present & anchors).view(torch.uint8)
            if given.has_triples:
                anchors &= ~complete
            self.codes = Codes(torch.where(anchors, codes, 0), codes)
            self.present, self.complete = present.view(torch.uint8), complete.view(torch.uint8)
        tensors = residues(*self.embeddings, self.weights, self.present, self.temperature, *others)
        first = self.embeddings[0]
        self.plan = _plan(_kind(given), tensors, surroundings(first.dtype, first.device))
        self.pairs = self.plan.pairs


class _Plan:
    """What is saved of a loss, a header, the anchors' logsumexp [M, n] and losses [n], triples' tables, and pairs'
    tables; and its launches over samples."""

    def __init__(self, case: Case, has_triples: bool) -> None:
        self.pairs = case.plan() if _has_pairs(case, has_triples) else None
        self.saved_size = _saved_size(case, has_triples)
        self.of_anchors = Parts(_anchor_sizes(case.num_modalities, case.n), _HEADER)
        of_samples = {"M": case.num_modalities, "MASKED": case.masked, "BLOCK": _BLOCK}
        self.mean = Launch(kernels_rows.mean_over_anchors, (1,), **of_samples, WEIGHTED=case.weights is not None)
        # the kernel's variant depends on the numbers of partial sums
        self.last = functools.cache(
            lambda num_open, parts: Launch(
                kernels_rows.weights_and_temperature_gradient, (triton.cdiv(case.n, _BLOCK),), **of_samples
            )
        )


@planned
def _plan(kind: tuple[Any, ...], tensors: tuple[int, ...], around: tuple[Any, ...]) -> _Plan:
    """kind: `_kind`; tensors: residues; around: `surroundings`, which pairs' plan finds by itself."""
    return _Plan(_case(kind, tensors), has_triples=kind[-1])


def _kind(given: Arguments) -> tuple[Any, ...]:
    """All of the arguments that a plan depends on but residues."""
    first, weights = given.embeddings[0], given.weights
    return (
        given.num_modalities, first.shape, first.dtype, first.device, given.normalize, given.present is not None,
        None if weights is None else weights.dtype, given.has_triples,
    )  # fmt: skip


def _embedding_gradients(
    grad: Tensor, given: Arguments, batch: _Batch, saved: Tensor, logsumexp: Any, outs: list[Tensor]
) -> tuple[Tensor, int]:
    """Write the gradients of the embeddings; returns partial sums of scores times their gradient, and how many of
    these, which come first, lack the mean over anchors."""
    of_pairs = None
    if batch.pairs is not None:
        of_pairs = batch.pairs.backward(
            saved, batch.temperature, batch.codes, logsumexp, grad, batch.weights, saved, outs
        )
        if not given.has_triples:
            return of_pairs, 0
    triples = triton_all.view_saved(saved[batch.plan.of_anchors.end :], *batch.embeddings[0].shape)
    into = outs if of_pairs is None else [torch.empty_like(out) for out in outs]
    of_triples = triton_all.backward(grad, batch.temperature, batch.complete, given.normalize, saved, triples, into)
    if of_pairs is None:
        return of_triples, len(of_triples)
    for out, part in zip(outs, into, strict=True):
        out += part
    return torch.cat([of_triples, of_pairs]), len(of_triples)


def _case(kind: tuple[Any, ...], tensors: tuple[int, ...] = ()) -> Case:
    count, (n, dim), dtype, device, normalize, masked, weights, has_triples = kind
    before = _HEADER + sum(_anchor_sizes(count, n)) + (triton_all.saved_size(n, dim) if has_triples else 0)
    return Case(count, n, dim, dtype, device, normalize, masked, weights, before, tensors)


def _anchor_sizes(num_modalities: int, n: int) -> list[int]:
    return [triton_all.aligned(num_modalities * n), triton_all.aligned(n)]


def _has_pairs(case: Case, has_triples: bool) -> bool:
    """Beside triples, those of incomplete samples."""
    return case.n > 0 and (case.masked or not has_triples)


def _saved_size(case: Case, has_triples: bool) -> int:
    return case.offset + (sum(case.table_sizes()) if _has_pairs(case, has_triples) else 0)
