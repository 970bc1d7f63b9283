"""The named presets of `python -m unihpe_fast.train`."""

from dataclasses import replace

from unihpe_fast.config import (
    AugmentConfig,
    Config,
    DataConfig,
    DecoderConfig,
    ImageEncoderConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PoseEncoderConfig,
    RunConfig,
)

_SMALL_IMAGE = ImageEncoderConfig(
    backbone="resnet10t", backbone_args={"channels": "[32, 64, 128, 256]", "stem_width": "16"}
)
# a detector's eyes, trained on photographs
_MOVENET_IMAGE = ImageEncoderConfig("movenet_lightning", pretrained=True, frozen=True, fuse_width=64, fuse_depth=1)


def _hrnet(backbone: str) -> ModelConfig:
    """A model of the paper's size."""
    return ModelConfig(width=512, image=ImageEncoderConfig(backbone, {"feature_location": "''"}, fuse_width=256))


def _paper(backbone: str) -> Config:
    """One of the paper's backbones, for a GPU. Beyond it the paper's text was not at hand: the rest is ours."""
    return Config(
        data=DataConfig(image_size=256, workers=8, augment=replace(_PHOTOS, scale=0.2)),
        model=_hrnet(backbone),
        optim=OptimConfig(steps=20000, lr=5e-4, warmup=1000),
    )


# rotation and scale are HRNet's for MPII (Sun et al. 2019)
_PHOTOS = AugmentConfig(rotate=30, scale=0.25, shift=0.05, color=0.2, noise=0.005, missing=0.02)
_SMALL_PICTURES = AugmentConfig(rotate=15, scale=0.1, shift=0.03, color=0.1, noise=0.005)
# 2D and 3D poses without pictures; the people of CMU's motion capture
_CMU_POSES = DataConfig(
    train=("cmu-train.h5",), val=("cmu-val.h5",), image_size=0, batch_size=256, val_batch_size=1024, val_samples=0
)
# Human3.6M's people in pictures for HRNet
_H36M_PICTURES = DataConfig(
    train=("h36m-train.h5",), val=("h36m-val.h5",), image_size=256, val_samples=8192, workers=8, augment=_PHOTOS
)
_LONG_RUN = RunConfig(eval_every=10_000, checkpoint_every=1000)

PRESETS: dict[str, Config] = {
    # minutes on two CPU cores, no file needed
    "synthetic": Config(
        data=DataConfig(batch_size=32, workers=1, augment=replace(_SMALL_PICTURES, rotate=10)),
        model=ModelConfig(
            image=replace(
                _SMALL_IMAGE,
                # blocks that begin as nothing are slow to begin, and there are few steps; a stem of 16 channels
                # throughout is faster than a narrower one
                backbone_args=_SMALL_IMAGE.backbone_args | {"stem_type": "deep", "zero_init_last": "false"},
                fuse_width=64,
                modulate=True,
                # 96 px with cells of 8 px cost an encoder's step about what 64 px with cells of 4 px did, and tell more
                heatmap_stride=8,
                head_width=256,
            ),
            pose2d=PoseEncoderConfig(width=384, depth=2),
            decoder=DecoderConfig(width=384, depth=2),
        ),
        loss=LossConfig(singular_value=0.02, pairwise=0.02, heatmaps=0.3),
        optim=OptimConfig(steps=1100, lr=1.5e-3, conv_lr=9.0, warmup=150),
    ),
    "cmu-lifting": Config(
        data=replace(
            _CMU_POSES,
            # proportions far from the few training subjects': without, unseen ones cost up to 20 mm; but the size of a
            # person cannot be seen, so varying it as much only blurs the answer
            augment=AugmentConfig(rotate=5, yaw=True, bone_scale=0.2, body_scale=0.02, noise=0.005),
        ),
        model=ModelConfig(modalities=("pose2d", "pose3d")),
        optim=OptimConfig(steps=9000),
    ),
    # lifting that lives with 2D detectors, other labs' cameras and other people's proportions. Widths: a 2D encoder and
    # decoder of 1.2 M multiply-adds a pose, so that one core lifts tens of thousands a second
    "lifting": Config(
        data=replace(
            _CMU_POSES,
            batch_size=1024,
            augment=AugmentConfig(
                rotate=5,
                yaw=True,
                bone_scale=0.12,
                body_scale=0.05,
                refilm=0.4,
                tumble=0.2,
                detector=0.015,
                swap=0.03,
                missing=0.07,
                halves=0.06,
                coco=0.3,
                sure=0.25,
                unknown_focal=0.2,
            ),
        ),
        model=ModelConfig(
            modalities=("pose2d", "pose3d"),
            pose2d=PoseEncoderConfig(width=448, depth=2),
            decoder=DecoderConfig(width=256, depth=1),
            rays=True,
        ),
        # 0.1 each, as elsewhere, holds the poses back by millimetres and is not needed for retrieval
        loss=LossConfig(singular_value=0.02, pairwise=0.02),
        optim=OptimConfig(steps=18_000, lr=2e-3, warmup=500, ema=0.999, muon=True),
    ),
    "cmu-images": Config(
        data=DataConfig(
            train=("cmu-train.h5",),
            val=("cmu-val.h5",),
            image_size=64,
            val_samples=2048,
            augment=_SMALL_PICTURES,
        ),
        model=ModelConfig(image=_SMALL_IMAGE),
        optim=OptimConfig(steps=1800),
    ),
    # rendered people of real-motion v2 (`make real-motion-images`) seen by MoveNet's backbone, tuned since they are no
    # photographs. float32: on a CPU the convolutions of single channels learn in two thirds of bfloat16's time
    "real-motion-images": Config(
        data=DataConfig(
            train=("cmu-images-train.h5",),
            val=("cmu-images-val.h5",),
            image_size=128,
            batch_size=32,
            val_samples=0,
            augment=_SMALL_PICTURES,
        ),
        model=ModelConfig(image=replace(_MOVENET_IMAGE, frozen=False)),
        loss=LossConfig(heatmaps=0.1),
        optim=OptimConfig(steps=560, lr=5e-4),
        run=RunConfig(dtype="float32"),
    ),
    # photographs with 2D alone, rendered people with all three modalities and motion without pictures: image to 3D is
    # learned through the space that they share. Fewer rendered ones than photographs, so that these are not forgotten
    "photographs": Config(
        data=DataConfig(
            train=("lsp-train.h5", "cmu-images-train.h5", "cmu-train.h5"),
            train_weights=(0.5, 0.35, 0.15),
            val=("lsp-val.h5", "cmu-images-val.h5"),
            image_size=192,
            val_samples=0,
            augment=_PHOTOS,
            augment_for={"cmu-images-train.h5": "{rotate: 15, scale: 0.1}"},
        ),
        model=ModelConfig(image=replace(_MOVENET_IMAGE, backbone="movenet_thunder")),
        loss=LossConfig(heatmaps=0.1),
        optim=OptimConfig(steps=600),
    ),
    # the 2D detections of VideoPose3D's files, or their ground truth, to 3D. Batch size, learning rate and mirroring as
    # the only augmentation: VideoPose3D (Pavllo et al. 2019); 1024 channels: SimpleBaseline (Martinez et al. 2017);
    # AdamW, its schedule, 40 epochs of 1.56 M frames and the decoder: ours
    "h36m-lifting": Config(
        data=DataConfig(
            train=("h36m-train.h5",),
            val=("h36m-val.h5",),
            image_size=0,
            batch_size=1024,
            val_batch_size=4096,
            val_samples=20_000,
            workers=4,
        ),
        model=ModelConfig(
            modalities=("pose2d", "pose3d"),
            width=512,
            pose2d=PoseEncoderConfig(width=1024, depth=3, dropout=0.1),
            pose3d=PoseEncoderConfig(width=512, depth=2),
            decoder=DecoderConfig(width=1024),
        ),
        optim=OptimConfig(steps=60_000, warmup=1000),
    ),
    "hrnet-w32": _paper("hrnet_w32"),
    "hrnet-w48": _paper("hrnet_w48"),
    # HRNet-w48: the paper (UniHPE-w48). Input of 256 px and rotation and scale: HRNet's for MPII (Sun et al. 2019); the
    # rest, 12 epochs of every fifth frame among it: ours. Better begun from weights: `--model.image.pretrained`
    "h36m-w48": Config(
        data=_H36M_PICTURES,
        model=_hrnet("hrnet_w48"),
        optim=OptimConfig(steps=60_000, lr=5e-4, warmup=1000, ema=0.999),
        run=_LONG_RUN,
    ),
    # h36m-w48 with other people and places. Shares of the files: SPIN's (Kolotouros et al. 2019), 30 % Human3.6M, 10 %
    # MPI-INF-3DHP, 60 % in the wild; rotation and scale for COCO: HRNet's; the rest: ours
    "mixed-w48": Config(
        data=replace(
            _H36M_PICTURES,
            train=("h36m-train.h5", "mpi-inf-3dhp-train.h5", "coco-train.h5", "mpii-train.h5"),
            train_weights=(0.3, 0.1, 0.4, 0.2),
            augment_for={"coco-train.h5": "{rotate: 45, scale: 0.35}"},
        ),
        model=_hrnet("hrnet_w48"),
        optim=OptimConfig(steps=100_000, lr=5e-4, warmup=1000, ema=0.999),
        run=_LONG_RUN,
    ),
}
