"""A run small enough to be trained many times in a test: poses only, a few thousand parameters."""

import dataclasses

from unihpe_fast.config import (
    AugmentConfig,
    Config,
    DataConfig,
    DecoderConfig,
    ModelConfig,
    OptimConfig,
    PoseEncoderConfig,
    RunConfig,
)

_ENCODER = PoseEncoderConfig(kind="mlp", width=16, depth=1, dropout=0.1)

TINY = Config(
    data=DataConfig(
        image_size=0,
        batch_size=8,
        val_batch_size=16,
        val_samples=24,
        augment=AugmentConfig(rotate=5, scale=0.05, yaw=True, bone_scale=0.1, noise=0.01, missing=0.05),
    ),
    model=ModelConfig(
        modalities=("pose2d", "pose3d"),
        width=16,
        pose2d=_ENCODER,
        pose3d=_ENCODER,
        decoder=DecoderConfig(width=16, depth=1),
    ),
    optim=OptimConfig(steps=12, warmup=2),
    run=RunConfig(device="cpu", compile="off", log_every=3, checkpoint_every=4, plots=False),
)


def tiny(**sections: dict) -> Config:
    """TINY with some options replaced: tiny(optim={"steps": 3})."""
    return dataclasses.replace(
        TINY, **{name: dataclasses.replace(getattr(TINY, name), **values) for name, values in sections.items()}
    )
