"""The training losses. `SingularValueContrastiveLoss` and `PairwiseInfoNCE` need torch alone."""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unihpe_fast.collectives import Group, Rows, global_means
from unihpe_fast.units import MM_PER_METRE
from unihpe_kernels import pa_mpjpe, singular_value_contrastive_loss
from unihpe_kernels.autocast import exact_product, without_autocast
from unihpe_kernels.checks import Backend, check_backend_name, check_weights
from unihpe_kernels.scaling import inverse_power

if TYPE_CHECKING:
    from unihpe_fast.config import LossConfig
    from unihpe_fast.models.unihpe import Outputs

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1.0
# finite, so that a row without any candidate gives a gradient of 0 and not NaN
MASKED_LOGIT = -1e9
TERMS = ("singular_value", "pairwise", "joints_3d", "joints_2d", "pa_mpjpe")
# a weighted sum and the sum of its weights
_Sums = tuple[Tensor, Tensor]


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
        clamped = self.log_temperature.clamp(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
        return (self.log_temperature + (clamped - self.log_temperature).detach()).exp()


class _SharesGroup:
    """A module with a process group, which cannot be copied: copies share it, and a pickle does not keep it."""

    group: Group | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo[id(self)] = type(self).__new__(type(self))
        memo[id(self.group)] = self.group
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "group": None}


class SingularValueContrastiveLoss(_SharesGroup, nn.Module):
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
        group: Group | None = None,
    ) -> None:
        super().__init__()
        if negatives not in ("paired", "all"):
            raise ValueError(f'negatives must be "paired" or "all", got {negatives!r}')
        check_backend_name(backend)
        self.temperature = Temperature(temperature, learnable_temperature)
        self.negatives, self.normalize, self.backend, self.group = negatives, normalize, backend, group

    def forward(self, *embeddings: Tensor, weights: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """Two or more embeddings [B, D], usually image, pose2d, pose3d. weights: [B]; present: bool [M, B], which
        modality each sample has (all when None). Returns a scalar."""
        return singular_value_contrastive_loss(
            embeddings,
            temperature=self.temperature(),
            negatives=self.negatives,
            weights=weights,
            present=present,
            normalize=self.normalize,
            group=self.group,
            backend=self.backend,
        )


class PairwiseInfoNCE(_SharesGroup, nn.Module):
    """Symmetric cosine InfoNCE (Radford et al. 2021) over every two modalities; memory O(B^2).

    temperature: start value, in [0.01, 1]. group: a torch.distributed process group, whose ranks each hold a part of
    the batch: anchors are the rank's own, candidates those of all ranks, memory O(B_rank B); a copy of the module
    shares it, a pickle does not keep it. See collectives.py for how its value and gradient relate to those of one
    process.
    """

    def __init__(
        self, temperature: float = 0.07, learnable_temperature: bool = True, group: Group | None = None
    ) -> None:
        super().__init__()
        self.temperature = Temperature(temperature, learnable_temperature)
        self.group = group

    def forward(self, *embeddings: Tensor, weights: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """Two or more embeddings [B, D]; weights: [B]; present: bool [M, B].

        A sample is an anchor of a pair where it has both modalities, and a candidate where it has the one looked for.
        Returns the weighted mean over anchors and directions; 0 where there are none.
        """
        return global_means([self.sums(*embeddings, weights=weights, present=present)], self.group)[0]

    @without_autocast
    def sums(
        self, *embeddings: Tensor, weights: Tensor | None = None, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum over this rank's anchors and the sum of their weights, of which `forward` is the mean.

        In float64 if an embedding is, else float32, also under autocast; embeddings may be of any size that their dtype
        holds. Negative and NaN weights raise on a CPU, and make the loss NaN elsewhere."""
        if len(embeddings) < 2:
            raise ValueError(f"embeddings must be two or more tensors [B, D], got {len(embeddings)}")
        shapes = {tuple(x.shape) for x in embeddings}
        if len(shapes) > 1 or embeddings[0].dim() != 2:
            raise ValueError(f"embeddings must share one shape [B, D], got {[list(x.shape) for x in embeddings]}")
        batch = embeddings[0].shape[0]
        if present is None:
            present = torch.ones(len(embeddings), batch, dtype=torch.bool, device=embeddings[0].device)
        elif present.shape != (len(embeddings), batch) or present.dtype != torch.bool:
            raise ValueError(
                f"present must be bool [{len(embeddings)}, {batch}], got {present.dtype} {list(present.shape)}"
            )
        if weights is None:
            weights = torch.ones(batch, device=embeddings[0].device)
        elif weights.shape != (batch,):
            raise ValueError(f"weights must have shape [{batch}], got {list(weights.shape)}")
        else:
            weights = check_weights(weights)
        # half precision cannot tell near neighbours apart; what an absent modality left may not even be finite
        dtype = functools.reduce(torch.promote_types, [x.dtype for x in embeddings], torch.float32)
        wide = [torch.where(has[:, None], x.to(dtype), 0) for has, x in zip(present, embeddings, strict=True)]
        unit = [F.normalize(x * inverse_power(x, -1), dim=-1) for x in wide]
        everyone, seen, start = unit, present, 0
        if self.group is not None:
            shared = Rows(batch, self.group)
            start = shared.begin
            everyone = list(shared.gather(torch.stack(unit, 1)).unbind(1))  # [all B, D] each
            seen = shared.gather(present.T.to(torch.uint8)).T.bool()
        inverse_temperature = 1 / self.temperature()
        total, count = unit[0].new_zeros(()), unit[0].new_zeros(())
        for a, b in combinations(range(len(unit)), 2):
            logits = exact_product(unit[a], everyone[b].T) * inverse_temperature
            turned = logits.T
            if self.group is not None:
                turned = exact_product(unit[b], everyone[a].T) * inverse_temperature
            anchors = weights * (present[a] & present[b])
            for rows, candidates in ((logits, seen[b]), (turned, seen[a])):
                positives = rows.diagonal(start)[:batch]
                spread = rows.masked_fill(~candidates, MASKED_LOGIT).logsumexp(1)
                # where, not the product: a masked row's loss is huge
                total = total + (anchors * torch.where(anchors > 0, spread - positives, 0)).sum()
                count = count + anchors.sum()
        return total, count


class Criterion(_SharesGroup, nn.Module):
    """Every term of `LossConfig` with a weight above 0, and their weighted sum.

    modalities: those of the model, in its order. backend: of the contrastive kernel. group: a torch.distributed process
    group, whose ranks each hold a part of the batch; every term then is that of the whole batch, with gradients to be
    averaged over ranks (see collectives.py). The contrastive terms want two modalities or more and the 2D term an image
    encoder: a model without them trains without those terms.
    """

    def __init__(
        self,
        config: "LossConfig",
        modalities: Sequence[str],
        *,
        backend: Backend = "auto",
        group: Group | None = None,
    ) -> None:
        super().__init__()
        self.group = group
        # here, because the losses above work without numpy, which the records need
        from unihpe_fast.data.records import MODALITIES

        self.rows = [MODALITIES.index(modality) for modality in modalities]
        self.image_row, self.pose2d_row, self.pose3d_row = (MODALITIES.index(m) for m in ("image", "pose2d", "pose3d"))
        self.weights = {f.name: getattr(config, f.name) for f in fields(config) if f.name in TERMS}
        if min(self.weights.values()) < 0:
            raise ValueError(f"loss weights must not be negative, got {self.weights}")
        if len(self.rows) < 2:
            self.weights.update(singular_value=0, pairwise=0)
        if self.image_row not in self.rows:
            self.weights.update(joints_2d=0)
        if self.weights["singular_value"]:
            self.singular_value = SingularValueContrastiveLoss(
                config.temperature, config.learnable_temperature, config.negatives, backend=backend, group=group
            )
        if self.weights["pairwise"]:
            self.pairwise = PairwiseInfoNCE(config.temperature, config.learnable_temperature, group)

    def is_dense(self, present: Tensor, weights: Tensor) -> bool:
        """Whether a batch on the host, present bool [3, B] and weights [B], has every modality of the model and weights
        of 1 alone. False over ranks, which would have to agree on it first."""
        return self.group is None and bool(present[self.rows].all()) and bool((weights == 1).all())

    def forward(
        self, outputs: "Outputs", target: dict[str, Tensor], dense: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """outputs: of the model; target: `Batch.tensors()`. Returns the total and its terms, unweighted and detached.

        A sample trains with what it has: a term counts it only where its modalities are present and its joints valid,
        and what stands elsewhere (even NaN) changes nothing. A term that no sample can train is 0. Computed in fp32,
        also under autocast; shapes do not depend on the data. dense: `is_dense` of the batch is known to be true; the
        singular-value term is the same then, by kernels without masks, which are faster.
        """
        with torch.autocast(outputs.embeddings.device.type, enabled=False):
            terms: dict[str, Tensor] = {}
            if self.weights["singular_value"]:
                terms["singular_value"] = self._singular_value(outputs, target, dense)
            means = {name: term(self, outputs, target) for name, term in _MEANS.items() if self.weights[name]}
            terms |= zip(means, global_means(list(means.values()), self.group), strict=True)
            total = outputs.embeddings.new_zeros((), dtype=torch.float32)
            for name, value in terms.items():
                total = total + self.weights[name] * value
        return total, {name: value.detach() for name, value in terms.items()}

    def _singular_value(self, outputs: "Outputs", target: dict[str, Tensor], dense: bool) -> Tensor:
        masks = {} if dense else {"weights": target["weights"], "present": self._present(target)}
        return self.singular_value(*outputs.embeddings.float(), **masks)

    def _pairwise(self, outputs: "Outputs", target: dict[str, Tensor]) -> _Sums:
        return self.pairwise.sums(*outputs.embeddings.float(), weights=target["weights"], present=self._present(target))

    def _joints_3d(self, outputs: "Outputs", target: dict[str, Tensor]) -> _Sums:
        weights = self._joint_weights(target)
        return _distances(outputs.pred_joints_3d / MM_PER_METRE, target["joints_3d"][..., :3] / MM_PER_METRE, weights)

    def _pa_mpjpe(self, outputs: "Outputs", target: dict[str, Tensor]) -> _Sums:
        weights = self._joint_weights(target)  # [M, B, 17]
        poses = weights.amax(-1)
        truth = torch.where(weights[..., None] > 0, target["joints_3d"][..., :3] / MM_PER_METRE, 0)
        return _weighted(pa_mpjpe(outputs.pred_joints_3d / MM_PER_METRE, truth, weights=weights), poses)

    def _present(self, target: dict[str, Tensor]) -> Tensor:
        """[M, B]: the rows of the model's modalities. Stacked: an index list would be copied to the GPU each step."""
        return torch.stack([target["present"][row] for row in self.rows])

    def _joint_weights(self, target: dict[str, Tensor]) -> Tensor:
        """[M, B, 17]: the sample's weight at valid joints of samples that have the modality and a 3D pose, else 0."""
        samples = self._present(target) & target["present"][self.pose3d_row]  # [M, B]
        seen = samples[..., None] & (target["joints_3d"][..., 3] > 0)
        return torch.where(seen, target["weights"][:, None], 0)

    def _joints_2d(self, outputs: "Outputs", target: dict[str, Tensor]) -> _Sums:
        present, truth = target["present"], target["target_2d"]
        samples = present[self.image_row] & present[self.pose2d_row]
        seen = samples[:, None] & (truth[..., 2] > 0)
        weights = torch.where(seen, truth[..., 2] * target["weights"][:, None], 0)
        assert outputs.pred_keypoints_2d is not None
        return _distances(outputs.pred_keypoints_2d, truth[..., :2], weights)


# of which the terms are means
_MEANS: dict[str, Callable[[Any, Any, dict[str, Tensor]], _Sums]] = {
    "pairwise": Criterion._pairwise,
    "joints_3d": Criterion._joints_3d,
    "joints_2d": Criterion._joints_2d,
    "pa_mpjpe": Criterion._pa_mpjpe,
}


def _distances(pred: Tensor, target: Tensor, weights: Tensor) -> _Sums:
    """Weighted Euclidean distances of [..., C]; coordinates of weight 0 are not read. weights: [...]."""
    offset = torch.where(weights[..., None] > 0, pred - target, 0)
    return _weighted(torch.linalg.vector_norm(offset, dim=-1), weights)


def _weighted(values: Tensor, weights: Tensor) -> _Sums:
    return (values * weights).sum(), weights.sum()
