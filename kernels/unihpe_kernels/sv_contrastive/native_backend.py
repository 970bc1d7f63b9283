"""The loss on a CPU with its inner loops in C++, in float32: "paired" of complete samples, and "all" of three
modalities.

Temperatures so small that float32 cannot hold the exponentials are left to plain torch, in float64; triples of samples
that may lack modalities to `torch_backend`, too.
"""

import torch
from torch import Tensor

from unihpe_kernels.contrastive import loss as engine
from unihpe_kernels.native import single
from unihpe_kernels.sv_contrastive import native_pairs, native_triples, torch_backend
from unihpe_kernels.sv_contrastive.arguments import Arguments, Outputs
from unihpe_kernels.sv_contrastive.native_pairs import NativePairs
from unihpe_kernels.sv_contrastive.torch_backend import LOG2_E

# The ways that the forward pass takes, by the temperature's value among others, and the backward pass after it.
PAIRS, TRIPLES, MASKED_TRIPLES, EXACT = range(4)


def forward(given: Arguments, learns_temperature: bool = True) -> Outputs:
    """As `torch_backend.forward`, but for the logsumexp where nothing is missing: the sums of exponentials themselves,
    about a constant logit shift, as `backward` takes them. Their logarithms are of the size of a score over the
    temperature, and float32 would round them to that."""
    scale = _scale(given.tau)
    route = _find_route(given, scale)
    if route == MASKED_TRIPLES:
        outputs = torch_backend.forward(given, learns_temperature)
    elif route == EXACT:
        loss, sample_loss = (output.float() for output in _exact(given))
        sums = sample_loss.new_zeros(given.num_modalities, len(sample_loss))
        outputs = Outputs(loss, sums, sample_loss, loss.new_zeros(saved_size(given)), loss)
    else:
        if route == TRIPLES:
            sums, sample_loss, saved = native_triples.forward(given.embeddings, scale, given.normalize)
        else:
            rows = [single(embedding) for embedding in given.embeddings]
            saved = rows[0].new_empty(saved_size(given))
            kept, shares = native_pairs.split_saved(saved, len(rows), len(rows[0]))
            others, own_powers = NativePairs(rows, scale, given.normalize, kept).forward()
            losses, others_shares = native_pairs.losses_and_shares(others, own_powers)
            shares.copy_(others_shares)
            sums, sample_loss = others + own_powers, losses.sum(0).float()
        loss = engine.mean(sample_loss, given.weights, None, given.num_modalities)
        outputs = Outputs(loss, sums, sample_loss, saved, loss)
    return outputs._replace(route=torch.tensor([route], device="cpu"))


def saved_size(given: Arguments) -> int:
    """As `torch_backend.saved_size`."""
    batch, width = given.embeddings[0].shape
    if not given.has_triples:
        return native_pairs.saved_size(given.num_modalities, batch, width)
    return torch_backend.saved_size(given) if given.present is not None else native_triples.saved_size(batch, width)


def backward(grad: Tensor, given: Arguments, outputs: Outputs) -> list[Tensor]:
    """As `torch_backend.backward`."""
    route, scale = int(outputs.route), _scale(given.tau)
    if route == EXACT:
        return _exact_gradients(grad, given)
    outputs = outputs._replace(saved=_as_left(outputs.saved), logsumexp=_as_left(outputs.logsumexp))
    if route == MASKED_TRIPLES:
        return torch_backend.backward(grad, given, outputs)
    loss, sums, sample_loss, saved, _ = outputs
    d_loss, d_weights = engine.mean_gradients(grad, loss, sample_loss, given.weights, None, given.num_modalities)
    d_score = d_loss / given.tau.to(d_loss.dtype)
    if route == TRIPLES:
        d_rows, d_scores = native_triples.backward(given.embeddings, saved, sums, d_score, scale, given.normalize)
    else:
        rows = [single(embedding) for embedding in given.embeddings]
        kept, shares = native_pairs.split_saved(saved, len(rows), len(rows[0]))
        d_rows, d_scores = NativePairs(rows, scale, given.normalize, kept).backward(sums, shares, d_score)
    d_embeddings = [d_row.to(embedding.dtype) for d_row, embedding in zip(d_rows, given.embeddings, strict=True)]
    return [*d_embeddings, (d_scores / -given.tau.double()).to(given.tau.dtype), d_weights]


def _find_route(given: Arguments, scale: float) -> int:
    batch = len(given.embeddings[0])
    if given.has_triples and given.present is not None:
        return MASKED_TRIPLES
    if given.has_triples:
        return TRIPLES if batch and torch_backend.float32_holds(scale, batch) else EXACT
    return PAIRS if batch and native_pairs.fits(given.num_modalities, batch, scale) else EXACT


def _as_left(saved: Tensor) -> Tensor:
    """At an address for vectors: a hook on saved tensors may hand out another one than the forward pass left."""
    saved = saved.contiguous()
    return saved.clone() if saved.data_ptr() % 64 else saved


def _scale(temperature: Tensor) -> float:
    return (LOG2_E / temperature.double()).item()


def _exact(given: Arguments) -> tuple[Tensor, Tensor]:
    """The loss and those of the samples, in float64."""
    exact = _doubled(given)
    if given.has_triples:
        outputs = torch_backend.forward(exact)
        return outputs.loss, outputs.sample_loss
    found = engine.forward(exact.embeddings, exact.tau, None, exact.weights, None, exact.spec)
    return found.loss, found.samples[0]


def _exact_gradients(grad: Tensor, given: Arguments) -> list[Tensor]:
    exact = _doubled(given)
    if given.has_triples:
        *gradients, d_weights = torch_backend.backward(grad, exact, torch_backend.forward(exact))
    else:
        tensors = exact.embeddings, exact.tau, None, exact.weights, None
        found = engine.forward(*tensors, exact.spec)
        *gradients, _, d_weights = engine.backward(grad, *tensors, found, exact.spec)
    like = [*given.embeddings, given.tau]
    outs = [gradient.to(other.dtype) for gradient, other in zip(gradients, like, strict=True)]
    return [*outs, d_weights.float() if given.weights is None else d_weights]


def _doubled(given: Arguments) -> Arguments:
    return given._replace(embeddings=[embedding.double() for embedding in given.embeddings], backend="torch")
