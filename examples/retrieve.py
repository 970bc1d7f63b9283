"""Find 3D poses by a picture or by a 2D pose: the nearest neighbours in the shared embedding space.

python examples/retrieve.py [RUN]

RUN: a run folder, or what else `load_model` takes; the lifter that comes with the package where it is not given. A
model with an image encoder is asked by pictures, others by 2D poses. The people are synthetic.
"""

import dataclasses
import sys

import torch
import torch.nn.functional as F

from unihpe_fast import load_model
from unihpe_fast.data.loader import val_batches
from unihpe_fast.retrieval import retrieve
from unihpe_kernels import mpjpe


def main(run: str = "lifting", people: int = 64) -> dict[str, float | None]:
    model, config = load_model(run)
    data = dataclasses.replace(config.data, val=("synthetic",), val_batch_size=people, workers=0)
    batch = next(iter(val_batches(data, limit=people)))
    by = "image" if "image" in model.modalities else "pose2d"
    with torch.inference_mode():
        query = (
            model.encode_image(batch.image, batch.box)
            if by == "image"
            else model.encode_pose2d(batch.keypoints_2d, batch.box)
        )
        gallery = model.encode_pose3d(batch.joints_3d)
    poses, valid = batch.joints_3d[..., :3], batch.joints_3d[..., 3] > 0

    nearest = (F.normalize(query, dim=-1) @ F.normalize(gallery, dim=-1).T).topk(3).indices  # [N, 3]
    for person in range(3):
        errors = mpjpe(poses[nearest[person]], poses[person].expand(3, -1, -1), weights=valid[nearest[person]]).tolist()
        found = ", ".join(
            f"{row} ({error:.0f} mm)" for row, error in zip(nearest[person].tolist(), errors, strict=True)
        )
        print(f"the {by} of person {person}: nearest 3D poses {found}")
    scores = retrieve(query, gallery, poses, valid)
    print(f"{by} -> 3D pose among {people}: recall@1 {scores['r1']:.2f}, recall@5 {scores['r5']:.2f}")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
