"""The public losses: arguments checked, then one operator call."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unihpe_kernels.autocast import without_autocast
from unihpe_kernels.checks import Backend
from unihpe_kernels.contrastive.op import call_contrastive
from unihpe_kernels.contrastive.options import Arguments, check_arguments
from unihpe_kernels.scores import product
from unihpe_kernels.sv_contrastive.api import singular_value_contrastive_loss

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@without_autocast
def tuple_contrastive_loss(
    embeddings: Sequence[Tensor],
    *,
    score: str = "singular_value",
    temperature: float | Tensor = 0.07,
    negatives: str = "paired",
    anchors: int | Sequence[int] | None = None,
    direction: str = "anchor",
    label_smoothing: float = 0.0,
    form: str = "softmax",
    bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = True,
    group: "ProcessGroup | None" = None,
    backend: Backend = "auto",
) -> Tensor:
    """Contrast tuples of M embeddings by a score.

    Arguments that are not named here are those of `singular_value_contrastive_loss`, which is what this is with the
    defaults of all others.

    Args:
        score: "singular_value"; "volume", GRAM's -sqrt(det G) of the Gram matrix G of a tuple's unit rows, M = 2 to 8;
            "area", TRIANGLE's, M = 3; "cosine", CLIP's, M = 2; "product", Symile's, the sum over d of the product
            of all z_m[d], M = 3 to 8, which is plain torch on any device. docs/loss.md compares them.
        anchors: the modalities whose samples are anchors, or one of them; None: each in turn. GRAM and TRIANGLE: 0.
        direction: "anchor": the cross entropy of every anchor's tuples. "both": the mean of that and of the cross
            entropy of every tuple j over all anchors, as CLIP, GRAM and TRIANGLE train.
        label_smoothing: as that of torch.nn.functional.cross_entropy.
        form: "softmax"; "sigmoid": SigLIP's, -log sigmoid(+-(score/temperature + bias)) summed over an anchor's tuples.
        bias: of the sigmoid form, a float or a tensor [] that receives a gradient; None: 0.
        present: for scores that a modality can be taken from, "singular_value" and "volume", and for M = 2.

    Returns, Raises:
        As `singular_value_contrastive_loss`.
    """
    if score == "product":
        return product.product_contrastive_loss(
            embeddings, temperature=temperature, negatives=negatives, anchors=anchors, direction=direction,
            label_smoothing=label_smoothing, form=form, bias=bias, weights=weights, present=present,
            normalize=normalize, group=group, backend=backend,
        )  # fmt: skip
    plain = direction == "anchor" and form == "softmax" and bias is None and anchors is None
    if score == "singular_value" and plain and label_smoothing == 0:
        return singular_value_contrastive_loss(
            embeddings, temperature=temperature, negatives=negatives, weights=weights, present=present,
            normalize=normalize, group=group, backend=backend,
        )  # fmt: skip
    return _loss(
        group,
        functools.partial(
            check_arguments, embeddings, score=score, temperature=temperature, negatives=negatives, anchors=anchors,
            direction=direction, label_smoothing=label_smoothing, form=form, bias=bias, weights=weights,
            present=present, normalize=normalize, backend=backend,
        ),
    )  # fmt: skip


@without_autocast
def pairwise_contrastive_loss(
    embeddings: Sequence[Tensor],
    *,
    temperature: float | Tensor = 0.07,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    normalize: bool = True,
    group: "ProcessGroup | None" = None,
    backend: Backend = "auto",
) -> Tensor:
    """The cosine InfoNCE loss of every two of M modalities (2 <= M <= 8), both ways, in O(B D) memory.

    A sample is an anchor of two modalities where it has both, and a candidate where it has the one that is looked for.
    The result is the mean over anchors, modalities looked for and samples, sample i weighted with weights[i]; 0 where
    there is none. Arguments are those of `singular_value_contrastive_loss`. Source: CLIP (Radford et al. 2021).
    """
    return _loss(
        group,
        functools.partial(
            check_arguments, embeddings, score="cosine", temperature=temperature, weights=weights, present=present,
            normalize=normalize, backend=backend, pairwise=True,
        ),
    )  # fmt: skip


def _loss(group: "ProcessGroup | None", check: Callable[[], Arguments]) -> Tensor:
    if group is not None and torch.distributed.get_world_size(group) != 1:
        from unihpe_kernels.contrastive.group.loss import loss_over_group  # it brings torch's compiler: a second

        return loss_over_group(group, check)
    given = check()
    batch = given.embeddings[0].shape[0]
    spec = given.spec._replace(backend=given.resolve_backend(batch))
    return call_contrastive(given.embeddings, given.tau, given.bias_tensor, given.weights, given.present, spec.text)
