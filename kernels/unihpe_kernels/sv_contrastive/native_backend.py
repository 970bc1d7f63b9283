"""The loss on a CPU with its inner loops in C++, in float32: the same functions as `torch_backend`.

That backend does what has no C++, and "all" of temperatures so small that float32 cannot hold the exponentials.
"""

import torch
from torch import Tensor

from unihpe_kernels.sv_contrastive import native_triples, torch_backend
from unihpe_kernels.sv_contrastive.torch_backend import LOG2_E


def forward(
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    negatives: str,
    normalize: bool,
    learns_temperature: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `torch_backend.forward`."""
    if not _has_triples(embeddings, present, negatives):
        return torch_backend.forward(
            embeddings, temperature, weights, present, negatives, normalize, learns_temperature
        )
    scale = LOG2_E / temperature.item()
    if not _fits(scale, len(embeddings[0])):
        loss, log_sums, sample_loss, _ = _exact_forward(embeddings, temperature, weights, normalize)
        saved = log_sums.new_zeros(saved_size(embeddings, present, negatives), dtype=torch.float32)
        return loss.float(), log_sums.float(), sample_loss.float(), saved
    log_sums, sample_loss, saved = native_triples.forward(embeddings, scale, normalize)
    weighted = sample_loss if weights is None else weights.float() * sample_loss
    return weighted.sum() * torch_backend.inverse_total(weights, None, 3, sample_loss), log_sums, sample_loss, saved


def saved_size(embeddings: list[Tensor], present: Tensor | None, negatives: str) -> int:
    """As `torch_backend.saved_size`."""
    if _has_triples(embeddings, present, negatives):
        return native_triples.saved_size(*embeddings[0].shape)
    return torch_backend.saved_size(embeddings, present, negatives)


def backward(
    grad: Tensor,
    embeddings: list[Tensor],
    temperature: Tensor,
    weights: Tensor | None,
    present: Tensor | None,
    loss: Tensor,
    normalisers: Tensor,
    sample_loss: Tensor,
    saved: Tensor,
    negatives: str,
    normalize: bool,
) -> list[Tensor]:
    """As `torch_backend.backward`."""
    if not _has_triples(embeddings, present, negatives):
        return torch_backend.backward(
            grad, embeddings, temperature, weights, present, loss, normalisers, sample_loss, saved, negatives, normalize
        )
    scale = LOG2_E / temperature.item()
    if not _fits(scale, len(embeddings[0])):
        return _exact_backward(grad, embeddings, temperature, weights, normalize)
    grad = grad * torch_backend.inverse_total(weights, None, 3, sample_loss)
    d_weights = (sample_loss - 3 * loss) * grad
    d_logits = grad.expand(len(sample_loss)) if weights is None else weights.float() * grad
    d_score = d_logits * (scale / LOG2_E)
    gradients, d_scores = native_triples.backward(embeddings, saved, normalisers, d_score, scale, normalize)
    d_temperature = d_scores * (-scale / LOG2_E)
    d_weights_dtype = sample_loss.dtype if weights is None else weights.dtype
    return [*gradients, d_temperature.to(temperature.dtype), d_weights.to(d_weights_dtype)]


def _has_triples(embeddings: list[Tensor], present: Tensor | None, negatives: str) -> bool:
    return negatives == "all" and len(embeddings) == 3 and present is None and embeddings[0].shape[0] > 0


def _fits(scale: float, batch: int) -> bool:
    return torch_backend.float32_holds(scale, batch)


def _exact_forward(
    embeddings: list[Tensor], temperature: Tensor, weights: Tensor | None, normalize: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    doubles = [embedding.double() for embedding in embeddings]
    return torch_backend.forward(doubles, temperature, weights, None, "all", normalize)


def _exact_backward(
    grad: Tensor, embeddings: list[Tensor], temperature: Tensor, weights: Tensor | None, normalize: bool
) -> list[Tensor]:
    outputs = _exact_forward(embeddings, temperature, weights, normalize)
    doubles = [embedding.double() for embedding in embeddings]
    *gradients, d_temperature, d_weights = torch_backend.backward(
        grad, doubles, temperature, weights, None, *outputs, "all", normalize
    )
    like = [*embeddings, temperature]
    outs = [gradient.to(other.dtype) for gradient, other in zip([*gradients, d_temperature], like, strict=True)]
    return [*outs, d_weights.float() if weights is None else d_weights]
