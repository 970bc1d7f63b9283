"""The losses as modules, with the defaults of those who published them. They need torch alone.

Each takes embeddings [B, D], one a modality, and returns a scalar; its temperature, where it is learned, is a parameter
that an optimiser has to be given.
"""

import copy
import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from unihpe_kernels.checks import Backend, check_backend_name
from unihpe_kernels.contrastive.api import pairwise_contrastive_loss, tuple_contrastive_loss
from unihpe_kernels.scores.product import symile_loss
from unihpe_kernels.sv_contrastive.api import singular_value_contrastive_loss

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1.0


class Temperature(nn.Module):
    """A temperature in [0.01, 1], learned through its logarithm (Radford et al. 2021) or fixed.

    The gradient passes the clamp unchanged, so that a temperature pushed out of the range can come back.
    """

    def __init__(self, value: float, learnable: bool) -> None:
        super().__init__()
        if not MIN_TEMPERATURE <= value <= MAX_TEMPERATURE:
            raise ValueError(f"temperature must be in [{MIN_TEMPERATURE}, {MAX_TEMPERATURE}], got {value}")
        log = torch.tensor(math.log(value))
        self.log_temperature = nn.Parameter(log, requires_grad=learnable)

    def forward(self) -> Tensor:
        with torch.no_grad():
            clamped = self.log_temperature.clamp(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
            back_in_range = clamped - self.log_temperature
        return (self.log_temperature + back_in_range).exp()


class SharesGroup:
    """A module with a process group, which cannot be copied: copies share it, and a pickle does not keep it."""

    group: "ProcessGroup | None"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo[id(self)] = type(self).__new__(type(self))
        memo[id(self.group)] = self.group
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "group": None}


class _Loss(SharesGroup, nn.Module):
    """What the losses below have in common: a temperature, and options of the function behind them."""

    def __init__(
        self,
        temperature: float,
        learnable_temperature: bool,
        normalize: bool,
        backend: Backend,
        group: "ProcessGroup | None",
    ) -> None:
        super().__init__()
        check_backend_name(backend)
        self.temperature = Temperature(temperature, learnable_temperature)
        self.normalize, self.backend, self.group = normalize, backend, group

    def _options(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature(),
            "normalize": self.normalize,
            "backend": self.backend,
            "group": self.group,
        }


class SingularValueContrastiveLoss(_Loss):
    """`unihpe_kernels.singular_value_contrastive_loss` with a temperature that is learned.

    temperature: start value, in [0.01, 1]. negatives: "paired", or "all" for two or three modalities. normalize:
    L2-normalise the embeddings. backend: "auto", "triton", "native" or "torch". group: a torch.distributed process
    group, whose ranks each hold a part of the batch; a copy of the module shares it, a pickle does not keep it.
    The loss is blind to the sign of a whole modality: train it together with a pairwise term (`PairwiseInfoNCE`), as
    UniHPR's two steps do.
    Source: UniHPE (arXiv 2311.16477), UniHPR (arXiv 2510.19078).
    """

    def __init__(
        self,
        temperature: float = 0.07,
        learnable_temperature: bool = True,
        negatives: Literal["paired", "all"] = "paired",
        normalize: bool = True,
        backend: Backend = "auto",
        group: "ProcessGroup | None" = None,
    ) -> None:
        super().__init__(temperature, learnable_temperature, normalize, backend, group)
        if negatives not in ("paired", "all"):
            raise ValueError(f'negatives must be "paired" or "all", got {negatives!r}')
        self.negatives = negatives

    def forward(self, *embeddings: Tensor, weights: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """Two or more embeddings [B, D], usually image, pose2d, pose3d. weights: [B]; present: bool [M, B], which
        modality each sample has (all when None). Returns a scalar."""
        return singular_value_contrastive_loss(
            embeddings, negatives=self.negatives, weights=weights, present=present, **self._options()
        )


class PairwiseInfoNCE(_Loss):
    """Symmetric cosine InfoNCE (Radford et al. 2021) over every two of two to eight modalities, in O(B D) memory.

    temperature: start value, in [0.01, 1]. group: a torch.distributed process group, whose ranks each hold a part of
    the batch; a copy of the module shares it, a pickle does not keep it. normalize, backend: as for
    `SingularValueContrastiveLoss`.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        learnable_temperature: bool = True,
        group: "ProcessGroup | None" = None,
        *,
        normalize: bool = True,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(temperature, learnable_temperature, normalize, backend, group)

    def forward(self, *embeddings: Tensor, weights: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """Two or more embeddings [B, D]; weights: [B]; present: bool [M, B].

        A sample is an anchor of a pair where it has both modalities, and a candidate where it has the one looked for.
        Returns the weighted mean over anchors and directions; 0 where there are none.
        """
        return pairwise_contrastive_loss(embeddings, weights=weights, present=present, **self._options())


class _TupleLoss(_Loss):
    """One modality against the tuples of the others, both ways, with label smoothing: what GRAM and TRIANGLE train."""

    score: str

    def __init__(
        self,
        temperature: float = 0.07,
        learnable_temperature: bool = True,
        label_smoothing: float = 0.1,
        anchors: int | Sequence[int] | None = 0,
        direction: Literal["anchor", "both"] = "both",
        normalize: bool = True,
        backend: Backend = "auto",
        group: "ProcessGroup | None" = None,
    ) -> None:
        super().__init__(temperature, learnable_temperature, normalize, backend, group)
        self.label_smoothing, self.anchors, self.direction = label_smoothing, anchors, direction

    def forward(self, *embeddings: Tensor, weights: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """The embeddings [B, D], the anchor's first; weights: [B]; present: bool [M, B]. Returns a scalar."""
        return tuple_contrastive_loss(
            embeddings,
            score=self.score,
            anchors=self.anchors,
            direction=self.direction,
            label_smoothing=self.label_smoothing,
            weights=weights,
            present=present,
            **self._options(),
        )


class GRAMLoss(_TupleLoss):
    """The volume that the embeddings of a tuple span, contrasted: GRAM (Cicchetti et al., ICLR 2025), in O(B D) memory.

    temperature: start value, in [0.01, 1]. label_smoothing, anchors (the modality that is looked up by the others
    together; None: all in turn) and direction are GRAM's by default. normalize: L2-normalise the embeddings. backend:
    "auto", "triton", "native" or "torch". group: a torch.distributed process group, whose ranks each hold a part of the
    batch. From two to eight modalities. The gradient is bounded where the volume is 0, where GRAM's own code gives NaN:
    docs/loss.md says how.
    """

    score = "volume"


class TriangleLoss(_TupleLoss):
    """The area of the triangle of three embeddings, contrasted: TRIANGLE (Grassucci et al., NeurIPS 2025).

    It takes O(B D) memory. The score is that of TRIANGLE's released code, which takes no root: twice the squared area.
    Arguments are those of `GRAMLoss`, defaults those of TRIANGLE.
    """

    score = "area"


class SymileLoss(SharesGroup, nn.Module):
    """The multilinear inner product of a tuple, contrasted: Symile (Saporta et al., NeurIPS 2024), in O(B D) memory.

    temperature: start value, in [0.01, 1]; Symile's own class takes a logit scale, its inverse, at each call.
    negative_sampling, Symile's word: "n" draws B - 1 negatives an anchor, whose members are of different samples, anew
    at each call and from torch's generator of the CPU; "n_squared" takes every tuple of three modalities, B^2 - 1
    negatives. normalize: L2-normalise the embeddings, as in Symile's experiments. group: a torch.distributed process
    group, whose ranks each hold a part of the batch; each draws the members of its negatives from its own samples. From
    three to eight modalities. Plain torch on any device.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        learnable_temperature: bool = True,
        negative_sampling: Literal["n", "n_squared"] = "n",
        normalize: bool = True,
        group: "ProcessGroup | None" = None,
    ) -> None:
        super().__init__()
        if negative_sampling not in ("n", "n_squared"):
            raise ValueError(f'SymileLoss: negative_sampling must be "n" or "n_squared", got {negative_sampling!r}')
        self.temperature = Temperature(temperature, learnable_temperature)
        self.negative_sampling, self.normalize, self.group = negative_sampling, normalize, group

    def forward(self, *embeddings: Tensor, weights: Tensor | None = None) -> Tensor:
        """Three or more embeddings [B, D]; weights: [B]. Returns a scalar."""
        return symile_loss(
            embeddings,
            temperature=self.temperature(),
            negative_sampling=self.negative_sampling,
            weights=weights,
            normalize=self.normalize,
            group=self.group,
        )


class SigLIPLoss(_Loss):
    """The sigmoid loss of two modalities (Zhai et al. 2023), or its mean over every two of more, in O(B D) memory.

    temperature and bias: start values, SigLIP's by default (its t' = log 10 is a temperature of 0.1). normalize,
    backend, group: as for `GRAMLoss`.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        learnable_temperature: bool = True,
        bias: float = -10.0,
        learnable_bias: bool = True,
        normalize: bool = True,
        backend: Backend = "auto",
        group: "ProcessGroup | None" = None,
    ) -> None:
        super().__init__(temperature, learnable_temperature, normalize, backend, group)
        self.bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=learnable_bias)

    def forward(self, *embeddings: Tensor, weights: Tensor | None = None) -> Tensor:
        """Two or more embeddings [B, D]; weights: [B]. Returns a scalar."""
        return pairwise_sigmoid_loss(embeddings, bias=self.bias, weights=weights, **self._options())


class OpenClipLoss(nn.Module):
    """What open_clip's `ClipLoss`, or with `sigmoid` its `SigLipLoss`, computes, called as those are, in O(B D) memory.

    It takes a third modality, too: every two of three are contrasted then, or with another `score` than "cosine" the
    three together (`tuple_contrastive_loss`, all modalities as anchors, both ways). The features are normalised here,
    which changes nothing of those of open_clip's models. With world_size above 1 the samples of all ranks of the
    default process group are negatives, and every rank gets the loss of the whole batch, with gradients that are right
    when they are averaged over ranks, as DDP does: what open_clip's local_loss together with gather_with_grad gives.

    local_loss, gather_with_grad, cache_labels, dist_impl: open_clip's, which here change nothing. use_horovod: must be
    False.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        dist_impl: str | None = None,
        *,
        sigmoid: bool = False,
        score: str = "cosine",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        check_backend_name(backend)
        if use_horovod:
            raise ValueError("OpenClipLoss: use_horovod must be False, got True: ranks are those of torch.distributed")
        if sigmoid and score != "cosine":
            raise ValueError(f'OpenClipLoss: score must be "cosine" with sigmoid=True, got {score!r}')
        self.rank, self.world_size = rank, world_size
        self.sigmoid, self.score, self.backend = sigmoid, score, backend

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
        *,
        third_features: Tensor | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Features [B, D]; logit_scale (1 / temperature) and logit_bias: floats or tensors of one number. Returns a
        scalar, or {"contrastive_loss": it}."""
        features = [image_features, text_features, *([] if third_features is None else [third_features])]
        temperature = 1 / _scalar(logit_scale)
        group = self._group()
        if self.sigmoid:
            bias = 0.0 if logit_bias is None else _scalar(logit_bias)
            loss = pairwise_sigmoid_loss(features, temperature, bias, backend=self.backend, group=group)
        elif self.score == "cosine":
            loss = pairwise_contrastive_loss(features, temperature=temperature, backend=self.backend, group=group)
        else:
            loss = tuple_contrastive_loss(
                features,
                score=self.score,
                temperature=temperature,
                direction="both",
                backend=self.backend,
                group=group,
            )
        if not self.sigmoid and isinstance(logit_bias, Tensor):
            # no bias changes a softmax; but DDP wants a gradient, here of 0, for all that the model returned
            loss = loss + 0 * _scalar(logit_bias)
        return {"contrastive_loss": loss} if output_dict else loss

    def _group(self) -> "ProcessGroup | None":
        if self.world_size == 1:
            return None
        group = torch.distributed.group.WORLD if torch.distributed.is_initialized() else None
        found = None if group is None else (torch.distributed.get_rank(), torch.distributed.get_world_size())
        if found != (self.rank, self.world_size):
            given = "no process group" if found is None else f"rank {found[0]} of {found[1]}"
            raise ValueError(
                f"OpenClipLoss: rank and world_size must be those of the default process group, got {self.rank} and "
                f"{self.world_size} with {given}"
            )
        return group


def pairwise_sigmoid_loss(
    embeddings: Sequence[Tensor],
    temperature: float | Tensor,
    bias: float | Tensor,
    *,
    weights: Tensor | None = None,
    normalize: bool = True,
    backend: Backend = "auto",
    group: "ProcessGroup | None" = None,
) -> Tensor:
    """SigLIP's loss, the mean over every two of the embeddings."""
    if len(embeddings) < 2:
        raise ValueError(f"embeddings must be two or more tensors [B, D], got {len(embeddings)}")
    losses = [
        tuple_contrastive_loss(
            pair,
            score="cosine",
            form="sigmoid",
            temperature=temperature,
            bias=bias,
            anchors=0,  # a pair of samples has one logit, whichever modality is the anchor
            weights=weights,
            normalize=normalize,
            backend=backend,
            group=group,
        )
        for pair in combinations(embeddings, 2)
    ]
    return torch.stack(losses).mean()


def _scalar(value: float | Tensor) -> float | Tensor:
    return value.reshape(()) if isinstance(value, Tensor) else value
