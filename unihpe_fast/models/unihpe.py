"""The whole model: one encoder a modality, one shared embedding space, one 3D decoder."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unihpe_fast.config import ModelConfig
from unihpe_fast.data.records import MODALITIES
from unihpe_fast.data.skeleton import NUM_JOINTS, ROOT
from unihpe_fast.models.decoder import PoseDecoder
from unihpe_fast.models.hub import OnHub
from unihpe_fast.models.image_encoder import ImageEncoder, ImageFeatures
from unihpe_fast.models.pose_encoder import PoseEncoder
from unihpe_fast.models.rays import RayCorrection
from unihpe_fast.units import MM_PER_METRE


class Outputs(NamedTuple):
    """What the model says of B samples; rows of M follow the model's modalities.

    embeddings: [M, B, D], not normalised. pred_joints_3d: [M, B, 17, 3] root-relative mm in camera axes, or in
    levelled ones where it was trained so, the root
    exactly 0. pred_keypoints_2d: [B, 17, 2] of the image's 2D head in crop units (it spans [-1, 1]); None without
    such a head. log_heatmaps: [B, 17, H, W] of that head, logarithms of probabilities; None likewise.
    Entries of a modality that a sample lacks are finite and mean nothing.
    """

    embeddings: Tensor
    pred_joints_3d: Tensor
    pred_keypoints_2d: Tensor | None
    log_heatmaps: Tensor | None = None


class UniHPE(nn.Module, OnHub):
    """Image, 2D keypoints and 3D joints of a person in one embedding space, each decoded to 3D by one decoder.

    Modalities outside `config.modalities` are not built. image_size: side of the image input, px, a multiple of 32;
    not looked at without the image modality. Raises ValueError for options that do not fit together.
    `from_pretrained`, `save_pretrained` and `push_to_hub` are those of huggingface_hub: see hub.py.
    Source: UniHPE (arXiv 2311.16477); source tokens: UniHPR (arXiv 2510.19078).
    """

    mean_pose: Tensor

    def __init__(self, config: ModelConfig, *, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.modalities = tuple(config.modalities)
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities must be one or more, each once, got {self.modalities}")
        if unknown := set(self.modalities) - set(MODALITIES):
            raise ValueError(f"modalities must be among {MODALITIES}, got {sorted(unknown)}")
        width = config.width
        if "image" in self.modalities:
            self.image_encoder = ImageEncoder(config.image, image_size=image_size, width=width)
        if "pose2d" in self.modalities:
            self.pose2d_encoder = PoseEncoder(config.pose2d, coordinates=2, context=3, width=width)
        if "pose3d" in self.modalities:
            self.pose3d_encoder = PoseEncoder(config.pose3d, coordinates=3, context=0, width=width)
        self.source_tokens = nn.Parameter(torch.zeros(len(self.modalities), width)) if config.source_tokens else None
        self.decoder = PoseDecoder(config.decoder, width)
        self.rays = RayCorrection() if config.rays and "pose2d" in self.modalities else None
        self.register_buffer("mean_pose", torch.zeros(NUM_JOINTS, 3))

    def set_mean_pose(self, pose: Tensor) -> None:
        """pose: [17, 3] mm, root-relative: what the decoder's output is added to."""
        if pose.shape != (NUM_JOINTS, 3):
            raise ValueError(f"pose must have shape [{NUM_JOINTS}, 3], got {list(pose.shape)}")
        if not pose.isfinite().all():
            raise ValueError("pose must be finite")
        self.mean_pose.copy_(pose - pose[ROOT])

    def encode_image(self, image: Tensor, box: Tensor) -> Tensor:
        """image: [B, 3, S, S], normalised as in `Batch`; box: [B, 3]. Returns the embedding [B, D]."""
        return self._features(image, box).embedding

    def encode_pose2d(self, keypoints_2d: Tensor, box: Tensor) -> Tensor:
        """keypoints_2d: [B, 17, 3] crop units and confidence; box: [B, 3]. Returns the embedding [B, D]."""
        encoder = self._encoder("pose2d")
        batch = _check("keypoints_2d", keypoints_2d, NUM_JOINTS, 3)
        _check("box", box, 3, batch=batch)
        return encoder(keypoints_2d, box)

    def encode_pose3d(self, joints_3d: Tensor) -> Tensor:
        """joints_3d: [B, 17, 4] root-relative mm and validity. Returns the embedding [B, D]."""
        encoder = self._encoder("pose3d")
        _check("joints_3d", joints_3d, NUM_JOINTS, 4)
        return encoder(torch.cat([joints_3d[..., :3] / MM_PER_METRE, joints_3d[..., 3:]], dim=-1))

    def fuse(
        self, *, image: Tensor | None = None, pose2d: Tensor | None = None, pose3d: Tensor | None = None
    ) -> Tensor:
        """One embedding [.., D] of the same people read from several modalities, each embedding [.., D] or None.

        It points along the mean of the unit embeddings, and is as long as they are in the mean, since the decoder
        reads lengths too. A single embedding comes back as it is. Raises ValueError for none, and for shapes that
        differ. Source: the Aligner of PoseEmbroider (Delmas et al. 2024), without its learned part.
        """
        given = {"image": image, "pose2d": pose2d, "pose3d": pose3d}
        parts = {name: part for name, part in given.items() if part is not None}
        if not parts:
            raise ValueError("fuse: embeddings must be at least one of image, pose2d, pose3d, got none")
        first, *others = parts.values()
        if any(part.shape != first.shape for part in others):
            found = ", ".join(f"{name} {list(part.shape)}" for name, part in parts.items())
            raise ValueError(f"fuse: embeddings must have one shape, got {found}")
        if not others:
            return first
        stacked = torch.stack(list(parts.values()))
        mean = F.normalize(stacked, dim=-1).mean(0)
        return F.normalize(mean, dim=-1) * stacked.norm(dim=-1, keepdim=True).mean(0)

    def decode(self, embedding: Tensor, source: str | Sequence[str] | None = None) -> Tensor:
        """Embedding [..., D] -> [..., 17, 3] root-relative mm, root exactly 0.

        source: the modality the embedding was read from, or those that were fused; a model with source tokens needs
        it, others ignore it.
        """
        if self.source_tokens is not None:
            sources = [source] if source is None or isinstance(source, str) else list(source)
            if not sources or not set(sources) <= set(self.modalities):
                raise ValueError(
                    f"source must be one or more of {self.modalities} for a model with source tokens, got {source!r}"
                )
            rows = [self.modalities.index(str(name)) for name in sources]
            embedding = embedding + self.source_tokens[rows].mean(0)
        return self._pose(embedding)

    def lift(self, keypoints_2d: Tensor, box: Tensor) -> Tensor:
        """2D to 3D: keypoints_2d, box as `encode_pose2d` takes them -> [B, 17, 3] root-relative mm, root exactly 0."""
        pose = self.decode(self.encode_pose2d(keypoints_2d, box), "pose2d")
        return self.to_rays(pose, keypoints_2d, box)

    def to_rays(self, joints_3d: Tensor, keypoints_2d: Tensor, box: Tensor) -> Tensor:
        """Poses [B, 17, 3] mm that were read from keypoints_2d, alone or with others, moved towards the lines of sight
        of these, as a model with `config.rays` has learned to; of another they come back as they are."""
        return joints_3d if self.rays is None else self.rays(joints_3d, keypoints_2d, box)

    def forward(
        self,
        image: Tensor | None,
        keypoints_2d: Tensor | None,
        joints_3d: Tensor | None,
        box: Tensor,
        present: Tensor,
    ) -> Outputs:
        """Shapes, units and the meaning of `present` [3, B] as in `unihpe_fast.data.records.Batch`.

        Tensors of modalities that the model lacks are not looked at and may be None. What stands in the entries of an
        absent modality (even NaN) changes nothing for the samples that have it: poses are replaced by missing joints,
        and images in training by images of the same batch, so that BatchNorm sees real images only (in evaluation by
        blank ones). A batch without any image is the one exception: BatchNorm's running statistics then see blank
        images.
        """
        batch = _check("box", box, 3)
        if present.shape != (len(MODALITIES), batch) or present.dtype != torch.bool:
            raise ValueError(
                f"present must be bool [{len(MODALITIES)}, {batch}], got {present.dtype} {list(present.shape)}"
            )
        has = dict(zip(MODALITIES, present[..., None], strict=True))  # [B, 1] each
        embeddings: dict[str, Tensor] = {}
        keypoints: Tensor | None = None
        log_heatmaps: Tensor | None = None
        if "image" in self.modalities:
            given, shown = _given("image", image, batch), has["image"]
            # in evaluation BatchNorm's statistics stand, and a blank image will do
            blank = torch.where(shown[..., None, None], given, 0)
            lent = fill_missing_images(given, shown[:, 0]) if self.training else blank
            features = self._features(lent, torch.where(shown, box, 0))
            embeddings["image"], keypoints, log_heatmaps = features
        if "pose2d" in self.modalities:
            seen = torch.where(has["pose2d"][..., None], _given("keypoints_2d", keypoints_2d, batch), 0)
            embeddings["pose2d"] = self.encode_pose2d(seen, torch.where(has["pose2d"], box, 0))
        if "pose3d" in self.modalities:
            known = torch.where(has["pose3d"][..., None], _given("joints_3d", joints_3d, batch), 0)
            embeddings["pose3d"] = self.encode_pose3d(known)
        stacked = torch.stack([embeddings[modality] for modality in self.modalities])
        sourced = stacked if self.source_tokens is None else stacked + self.source_tokens[:, None]
        poses = self._pose(sourced)
        if self.rays is not None:
            row = self.modalities.index("pose2d")
            lifted = self.to_rays(poses[row], seen, torch.where(has["pose2d"], box, 0))
            poses = torch.cat([poses[:row], lifted[None], poses[row + 1 :]])
        return Outputs(stacked, poses, keypoints, log_heatmaps)

    def _features(self, image: Tensor, box: Tensor) -> ImageFeatures:
        encoder = self._encoder("image")
        batch = _check("image", image, 3, encoder.image_size, encoder.image_size)
        _check("box", box, 3, batch=batch)
        return encoder(image, box)

    def _pose(self, embedding: Tensor) -> Tensor:
        return self.decoder(embedding) * MM_PER_METRE + self.mean_pose

    def _encoder(self, modality: str) -> Any:
        if modality not in self.modalities:
            raise ValueError(f"this model has no {modality} encoder, only {', '.join(self.modalities)}")
        return getattr(self, f"{modality}_encoder")


def _check(name: str, tensor: Tensor, *sizes: int, batch: int | None = None) -> int:
    """The batch size of a tensor [B, *sizes]; ValueError where it has another shape.

    It is taken from the shape, since `len` makes a constant of it, and an exported model then takes that batch alone.
    """
    if tensor.dim() != len(sizes) + 1 or tensor.shape[1:] != sizes or (batch is not None and tensor.shape[0] != batch):
        wanted = ["B" if batch is None else batch, *sizes]
        raise ValueError(f"{name} must have shape [{', '.join(map(str, wanted))}], got {list(tensor.shape)}")
    return tensor.shape[0]


def _given(name: str, tensor: Tensor | None, batch: int) -> Tensor:
    if tensor is None or tensor.shape[0] != batch:
        found = "None" if tensor is None else f"{tensor.shape[0]}"
        raise ValueError(f"{name} must hold {batch} samples, as box does, for this model; got {found}")
    return tensor


def fill_missing_images(image: Tensor, present: Tensor) -> Tensor:
    """[B, 3, S, S] in which samples that lack an image (present [B] False) carry one of the batch's, in turn.

    Blank where no sample has one. Shapes do not depend on the data.
    """
    order = torch.argsort((~present).int(), stable=True)
    count = present.sum()
    rows = torch.arange(present.shape[0], device=present.device)
    source = torch.where(present, rows, order[rows % count.clamp(min=1)])
    return torch.where(count > 0, image[source], 0)
