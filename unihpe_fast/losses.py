"""The training losses."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unihpe_fast.units import MM_PER_METRE
from unihpe_kernels import GRAMLoss, PairwiseInfoNCE, SingularValueContrastiveLoss, TriangleLoss, pa_mpjpe
from unihpe_kernels.autocast import without_autocast
from unihpe_kernels.checks import Backend
from unihpe_kernels.collectives import global_means
from unihpe_kernels.modules import SharesGroup

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from unihpe_fast.config import LossConfig
    from unihpe_fast.models.unihpe import Outputs

CONTRASTIVE = ("singular_value", "pairwise", "volume", "area")
TERMS = (*CONTRASTIVE, "joints_3d", "joints_2d", "heatmaps", "pa_mpjpe")
# a weighted sum and the sum of its weights
_Sums = tuple[Tensor, Tensor]


class Criterion(SharesGroup, nn.Module):
    """Every term of `LossConfig` with a weight above 0, and their weighted sum.

    modalities: those of the model, in its order. backend: of the contrastive kernel. group: a torch.distributed process
    group, whose ranks each hold a part of the batch; every term then is that of the whole batch, with gradients to be
    averaged over ranks (see `global_means`). The contrastive terms want two modalities or more and the 2D term an image
    encoder: a model without them trains without those terms.
    """

    def __init__(
        self,
        config: "LossConfig",
        modalities: Sequence[str],
        *,
        backend: Backend = "auto",
        group: "ProcessGroup | None" = None,
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
            self.weights.update(dict.fromkeys(CONTRASTIVE, 0))
        if self.image_row not in self.rows:
            self.weights.update(joints_2d=0, heatmaps=0)
        if self.weights["singular_value"]:
            self.singular_value = SingularValueContrastiveLoss(
                config.temperature, config.learnable_temperature, config.negatives, backend=backend, group=group
            )
        if self.weights["pairwise"]:
            self.pairwise = PairwiseInfoNCE(config.temperature, config.learnable_temperature, group, backend=backend)
        # samples may lack the modality that the published losses look up, their first: each is looked up in turn
        for name, loss in (("volume", GRAMLoss), ("area", TriangleLoss)):
            if self.weights[name]:
                module = loss(
                    config.temperature, config.learnable_temperature, anchors=None, backend=backend, group=group
                )
                self.add_module(name, module)

    @property
    def can_be_compiled(self) -> bool:
        """Not with collectives, nor with the area's term, whose number of samples depends on the data."""
        return self.group is None and not self.weights["area"]

    def is_dense(self, present: Tensor, weights: Tensor) -> bool:
        """Whether a batch on the host, present bool [3, B] and weights [B], has every modality of the model and weights
        of 1 alone. False over ranks, which would have to agree on it first."""
        # by numpy, whose calls on a batch's few numbers take a quarter of torch's time
        return self.group is None and bool(present.numpy()[self.rows].all() and (weights.numpy() == 1).all())

    @without_autocast
    def forward(
        self, outputs: "Outputs", target: dict[str, Tensor], dense: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """outputs: of the model; target: `Batch.tensors()`. Returns the total and its terms, unweighted and detached.

        A sample trains with what it has: a term counts it only where its modalities are present and its joints valid,
        and what stands elsewhere (even NaN) changes nothing. A term that no sample can train is 0. Computed in fp32,
        also under autocast; in the area's term alone do shapes depend on the data. dense: `is_dense` of the batch is
        known to be true; the contrastive terms are the same then, by kernels without masks, which are faster.
        """
        terms: dict[str, Tensor] = {}
        contrasted = outputs.embeddings.float()
        masks = {} if dense else {"weights": target["weights"], "present": self._present(target)}
        for name in CONTRASTIVE:
            if self.weights[name]:
                given, masked = contrasted, masks
                if name == "area" and masks:
                    given, masked = _complete(contrasted, **masks)
                terms[name] = getattr(self, name)(*given, **masked)
        means = {name: term(self, outputs, target) for name, term in _MEANS.items() if self.weights[name]}
        terms |= zip(means, global_means(list(means.values()), self.group), strict=True)
        weighted = [value * self.weights[name] for name, value in terms.items()]
        zero = outputs.embeddings.new_zeros
        total = functools.reduce(torch.add, weighted) if weighted else zero((), dtype=torch.float32)
        return total, {name: value.detach() for name, value in terms.items()}

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

    def _heatmaps(self, outputs: "Outputs", target: dict[str, Tensor]) -> _Sums:
        present, truth = target["present"], target["target_2d"]
        samples = present[self.image_row] & present[self.pose2d_row]
        seen = samples[:, None] & (truth[..., 2] > 0) & (truth[..., :2].abs() < 1).all(-1)
        weights = torch.where(seen, truth[..., 2] * target["weights"][:, None], 0)
        assert outputs.log_heatmaps is not None
        place = torch.where(seen[..., None], truth[..., :2], 0)
        height, width = outputs.log_heatmaps.shape[-2:]
        rows, columns = _bell(place[..., 1], height), _bell(place[..., 0], width)
        # the Gaussian is a product of one over rows and one over columns
        entropy = -((outputs.log_heatmaps * columns[..., None, :]).sum(-1) * rows).sum(-1)
        return _weighted(torch.where(seen, entropy, 0), weights)


# of which the terms are means
_MEANS: dict[str, Callable[[Any, Any, dict[str, Tensor]], _Sums]] = {
    "joints_3d": Criterion._joints_3d,
    "joints_2d": Criterion._joints_2d,
    "heatmaps": Criterion._heatmaps,
    "pa_mpjpe": Criterion._pa_mpjpe,
}


def _complete(embeddings: Tensor, weights: Tensor, present: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The samples that have every modality, for a loss that none can be taken from: others are no negatives either."""
    keep = present.all(0)
    return embeddings[:, keep], {"weights": weights[keep]}


def _distances(pred: Tensor, target: Tensor, weights: Tensor) -> _Sums:
    """Weighted Euclidean distances of [..., C]; coordinates of weight 0 are not read. weights: [...]."""
    offset = torch.where(weights[..., None] > 0, pred - target, 0)
    return _weighted(torch.linalg.vector_norm(offset, dim=-1), weights)


def _bell(place: Tensor, cells: int) -> Tensor:
    """[..] in crop units -> [.., cells] that add up to 1: a Gaussian around it whose standard deviation is one cell."""
    middle = (torch.arange(cells, device=place.device, dtype=place.dtype) * 2 + 1) / cells - 1
    return (-((place[..., None] - middle) * cells / 2).square() / 2).softmax(-1)


def _weighted(values: Tensor, weights: Tensor) -> _Sums:
    return (values * weights).sum(), weights.sum()
