"""The singular-value contrastive loss by Triton kernels: the same functions as `torch_backend`.

Where samples lack modalities, masks inside the kernels make an anchor's tuples those of its own set. No pass
synchronises.
"""

import functools

import torch
import triton
from torch import Tensor

from unihpe_kernels.checks import on_device
from unihpe_kernels.launching import Launch, planned, residues
from unihpe_kernels.sv_contrastive import kernels_rows, triton_all
from unihpe_kernels.sv_contrastive.arguments import Arguments, Outputs, modality_codes
from unihpe_kernels.sv_contrastive.triton_paired import Case, Codes

_BLOCK = 1024  # samples of a program where there is nothing to do but add
_HEADER = 32  # float32 numbers before the tables, which so stay aligned; the first is 1/(total weight)


def forward(given: Arguments, learns_temperature: bool = True) -> Outputs:
    """As `torch_backend.forward`; the backward pass computes the temperature's gradient."""
    first, m = given.embeddings[0], given.num_modalities
    n, dim = first.shape
    batch = _Batch(given)
    loss, logsumexp, sample_loss, saved = (
        first.new_empty(shape, dtype=torch.float32) for shape in ((), (m, n), (n,), (batch.plan.saved_size,))
    )
    outputs = Outputs(loss, logsumexp, sample_loss, saved, first.new_empty(0, dtype=torch.int64))
    if n == 0 or n % 32:
        saved.zero_()  # between the tables, too: an output must be the same every time
    if n == 0:
        loss.zero_()
        return outputs
    with on_device(loss):
        if batch.pairs is not None:
            batch.pairs.prepare(batch.embeddings, saved, batch.used)
            batch.pairs.forward(saved, batch.temperature, batch.codes, logsumexp, sample_loss)
        if given.has_triples:
            triples = triton_all.view_saved(saved[_HEADER:], n, dim)
            triton_all.forward(
                batch.embeddings, batch.temperature, batch.weights, batch.complete, given.normalize, triples, logsumexp,
                sample_loss,
            )  # fmt: skip
        batch.plan.mean(sample_loss, batch.weights, batch.present, loss, saved, n)
    return outputs


def backward(grad: Tensor, given: Arguments, outputs: Outputs) -> list[Tensor]:
    """As `torch_backend.backward`."""
    loss, logsumexp, sample_loss, saved, _ = outputs
    n, dtype = len(sample_loss), given.embeddings[0].dtype
    grad = grad.float()
    batch = _Batch(given, grad, loss, logsumexp, sample_loss, saved)
    # gradients of two parts are added up, in float32
    both = batch.pairs is not None and given.has_triples
    outs = [torch.empty_like(rows, dtype=torch.float32 if both else dtype) for rows in batch.embeddings]
    d_weights, d_temperature = torch.empty_like(sample_loss), torch.empty_like(loss)
    if n:
        with on_device(grad):
            d_scale, num_open = _embedding_gradients(grad, given, batch, saved, logsumexp, outs)
            batch.plan.last(num_open, len(d_scale))(
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


def saved_size(given: Arguments) -> int:
    """Elements that `forward` hands to `backward`."""
    return _saved_size(_case(given), given.has_triples)


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
        case = _case(given, residues(*self.embeddings, self.weights, self.present, self.temperature, *others))
        self.plan = _plan(case, given.has_triples)
        self.pairs = case.plan() if _has_pairs(case, given.has_triples) else None


class _Plan:
    """What is saved of a loss, a header, triples' tables, and pairs' tables, and its launches over samples."""

    def __init__(self, case: Case, has_triples: bool) -> None:
        self.saved_size = _saved_size(case, has_triples)
        of_samples = {"M": case.num_modalities, "MASKED": case.masked, "BLOCK": _BLOCK}
        self.mean = Launch(kernels_rows.mean_over_anchors, (1,), **of_samples, WEIGHTED=case.weights is not None)
        # the kernel's variant depends on the numbers of partial sums
        self.last = functools.cache(
            lambda num_open, parts: Launch(
                kernels_rows.weights_and_temperature_gradient, (triton.cdiv(case.n, _BLOCK),), **of_samples
            )
        )


_plan = planned(_Plan)


def _embedding_gradients(
    grad: Tensor, given: Arguments, batch: _Batch, saved: Tensor, logsumexp: Tensor, outs: list[Tensor]
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
    triples = triton_all.view_saved(saved[_HEADER:], *batch.embeddings[0].shape)
    into = outs if of_pairs is None else [torch.empty_like(out) for out in outs]
    of_triples = triton_all.backward(grad, batch.temperature, batch.complete, given.normalize, saved, triples, into)
    if of_pairs is None:
        return of_triples, len(of_triples)
    for out, part in zip(outs, into, strict=True):
        out += part
    return torch.cat([of_triples, of_pairs]), len(of_triples)


def _case(given: Arguments, tensors: tuple[int, ...] = ()) -> Case:
    """tensors: their residues."""
    first, weights = given.embeddings[0], given.weights
    n, dim = first.shape
    before = _HEADER + (triton_all.saved_size(n, dim) if given.has_triples else 0)
    return Case(
        len(given.embeddings), n, dim, first.dtype, first.device, given.normalize, given.present is not None,
        None if weights is None else weights.dtype, None, before, tensors,
    )  # fmt: skip


def _has_pairs(case: Case, has_triples: bool) -> bool:
    """Beside triples, those of incomplete samples."""
    return case.n > 0 and (case.masked or not has_triples)


def _saved_size(case: Case, has_triples: bool) -> int:
    return case.offset + (sum(case.table_sizes()) if _has_pairs(case, has_triples) else 0)
