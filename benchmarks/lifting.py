"""UniHPE's lifting against the SimpleBaseline MLP, trained on the same batches in one run, scored on the same samples.

    python -m benchmarks.lifting --train cmu-train.h5 --val cmu-val.h5 --json benchmarks/results/lifting.json
    python -m benchmarks.lifting --preset lifting --train cmu-train.h5 --val cmu-val.h5 accad-val.h5 --real-motion ..

With --real-motion both are scored by that protocol (unihpe_fast/real_motion.py) instead of on all of the exact samples.
The peer is the network of Martinez et al. 2017, "A simple yet effective baseline for 3d human pose estimation": two
residual blocks of two 1024-wide linear layers with batch norm, ReLU and a dropout of 0.5, as published. Both networks
get the same input, learning rate, schedule and step count; the peer's optimiser is AdamW, UniHPE's the preset's. Times
are CPU time of this process in the training steps alone.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import provenance
from unihpe_fast.config import Config
from unihpe_fast.data.loader import mean_pose, train_batches, val_batches
from unihpe_fast.data.records import Batch
from unihpe_fast.engine.runtime import choose_runtime
from unihpe_fast.engine.trainer import Trainer, learning_rate
from unihpe_fast.fileio import write_text
from unihpe_fast.presets import PRESETS
from unihpe_fast.real_motion import INPUTS, Lifter, lines, scores
from unihpe_fast.real_motion import errors as real_motion_errors
from unihpe_kernels import mpjpe, pa_mpjpe


class SimpleBaseline(nn.Module):
    """keypoints_2d [B, 17, 3], box [B, 3] -> root-relative joints_3d [B, 17, 3] mm."""

    def __init__(self, mean: Tensor, *, width: int = 1024, dropout: float = 0.5) -> None:
        super().__init__()

        def layer(inputs: int) -> list[nn.Module]:
            return [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)]

        self.register_buffer("mean", mean)
        self.first = nn.Sequential(*layer(17 * 3 + 3))
        self.blocks = nn.ModuleList(nn.Sequential(*layer(width), *layer(width)) for _ in range(2))
        self.last = nn.Linear(width, 17 * 3)

    def forward(self, keypoints_2d: Tensor, box: Tensor) -> Tensor:
        x = self.first(torch.cat([keypoints_2d.flatten(1), box], dim=1))
        for block in self.blocks:
            x = x + block(x)
        joints = self.last(x).unflatten(1, (17, 3)) * 1000 + self.mean
        return joints - joints[:, :1]


class Peer:
    """One network with the pipeline's optimiser and schedule."""

    def __init__(self, config: Config, mean: Tensor, dropout: float) -> None:
        torch.manual_seed(config.run.seed)
        self.config, self.step = config.optim, 0
        self.net = SimpleBaseline(mean, dropout=dropout)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay, fused=True
        )

    def advance(self, batch: Batch) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        target, valid = batch.joints_3d[..., :3], batch.joints_3d[..., 3]
        distance = (self.net(batch.keypoints_2d, batch.box) - target).norm(dim=-1) / 1000
        ((distance * valid).sum() / valid.sum()).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    # what of a UniHPE real_motion.py looks at

    @property
    def mean_pose(self) -> Tensor:
        return self.net.mean

    def lift(self, keypoints_2d: Tensor, box: Tensor) -> Tensor:
        return self.net(keypoints_2d, box)


def _scores(model: Lifter, config: Config, step: int) -> dict[str, Any]:
    """step: of real-motion, whose scores are given then; 0: of all validation samples."""
    if step:
        files = [Path(name) for name in config.data.val]
        found = {
            name: scores(real_motion_errors(model, files, of, step, level=config.data.level))
            for name, of in INPUTS.items()
        }
        return {"mpjpe": found["exact"]["mpjpe"], "pa_mpjpe": found["exact"]["pa"], "real_motion": found}
    errors, aligned = [], []
    with torch.inference_mode():
        for batch in val_batches(config.data, limit=0):
            target, weights = batch.joints_3d[..., :3], batch.joints_3d[..., 3]
            prediction = model.lift(batch.keypoints_2d, batch.box)
            errors.append(mpjpe(prediction, target, weights=weights))
            aligned.append(pa_mpjpe(prediction, target, weights=weights))
    return {"mpjpe": torch.cat(errors).mean().item(), "pa_mpjpe": torch.cat(aligned).mean().item()}


def run(config: Config, step: int = 0) -> dict[str, Any]:
    trainer = Trainer(config, choose_runtime(config.run))
    mean = mean_pose(config.data, seed=config.run.seed)
    trainer.model.set_mean_pose(mean)
    peers = {f"SimpleBaseline, dropout {p}": Peer(config, mean.float(), p) for p in (0.5,)}
    seconds = dict.fromkeys(["UniHPE", *peers], 0.0)
    trainer.model.train()
    batches = train_batches(config.data, seed=config.run.seed, start_step=0, steps=config.optim.steps)
    for number, batch in enumerate(batches, 1):
        start = time.process_time()
        terms, _ = trainer.advance(iter([batch]))
        seconds["UniHPE"] += time.process_time() - start
        for name, peer in peers.items():
            start = time.process_time()
            peer.advance(batch)
            seconds[name] += time.process_time() - start
        if number % 200 == 0:
            print(f"step {number}/{config.optim.steps} loss {terms['loss'].item():.4f}", flush=True)

    results = {"UniHPE": _scores(trainer.scored_model().eval(), config, step)}
    for name, peer in peers.items():
        peer.net.eval()
        results[name] = _scores(peer, config, step)
    return {name: {**values, "step_seconds": seconds[name]} for name, values in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default="cmu-train.h5")
    parser.add_argument("--val", nargs="+", default=["cmu-val.h5"])
    parser.add_argument("--preset", default="cmu-lifting")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real-motion", action="store_true", help="score by real-motion, every fifth sample")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = PRESETS[options.preset]
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train=(options.train,), val=tuple(options.val)),
        # without averages of weights, which the other network has none of
        optim=dataclasses.replace(config.optim, steps=options.steps or config.optim.steps, ema=0.0),
        run=dataclasses.replace(config.run, seed=options.seed, dtype="float32", device="cpu"),
    )
    # of what was imported, before hours in which the files may change
    origin = provenance()
    results = run(config, 5 if options.real_motion else 0)
    for name, row in results.items():
        error = f"MPJPE {row['mpjpe']:6.2f} mm  PA-MPJPE {row['pa_mpjpe']:6.2f} mm"
        print(f"{name:28s} exact 2D: {error}  {row['step_seconds']:.0f} s")
        for kind, found in row.get("real_motion", {}).items():
            print("\n".join(lines(kind, found)))
    if options.json:
        record = {
            **origin,
            "preset": options.preset,
            "steps": config.optim.steps,
            "batch_size": config.data.batch_size,
            "clock": "process_time",
            "results": results,
        }
        write_text(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
