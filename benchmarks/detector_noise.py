"""How a 2D detector errs on photographs whose joints people have marked: what `AugmentConfig.detector` imitates.

    python -m benchmarks.detector_noise LSPET --json benchmarks/results/detector-noise.json

LSPET: folder of Leeds Sports Pose Extended, with joints.mat and images/im00001.jpg .. MoveNet's thunder looks at each
labelled person in a square around its labels. Errors are shares of the side of the box (data/bbox.py) around those;
only numbers about all photographs are kept, nothing of any one of them. Labels by crowd workers err themselves, some by
the whole person: people of whom less than half of the joints lie within a tenth of the box are left out, and counted.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.record import provenance
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.formats.lsp import read_joints
from unihpe_fast.data.joint_sets import COCO17, LSP14, to_h36m17
from unihpe_fast.data.skeleton import JOINT_NAMES
from unihpe_fast.detector.crops import around, square
from unihpe_fast.detector.movenet_fetch import load
from unihpe_fast.fileio import write_text

# of H36M-17: joints that LSP labels and MoveNet finds, the twelve of the limbs
LIMBS = (1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16)
SIDES = {1: 4, 2: 5, 3: 6, 14: 11, 15: 12, 16: 13}
# right leg and left leg, right arm and left arm
PAIRS = (((1, 2, 3), (4, 5, 6)), ((14, 15, 16), (11, 12, 13)))
# the margin of the square that thunder is given, and where an error is no scatter but another place altogether
MARGIN, FAR = 1.5, 0.1
LEVELS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.01)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def found_joints(folder: Path, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[n, 17, 3]: what thunder finds of the labelled people of these rows, H36M-17, px and confidence."""
    net: Any = load("movenet-thunder", None)
    found = []
    for row in rows:
        picture = cv2.imread(str(folder / "images" / f"im{row + 1:05d}.jpg"))
        if picture is None:
            raise SystemExit(f"{folder}: images/im{row + 1:05d}.jpg cannot be read")
        known = labels[row, labels[row, :, 2] > 0, :2]
        center, side = around(np.concatenate([known.min(0), known.max(0)])[None], MARGIN)
        part = square(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), center[0], float(side[0]), int(net.size))
        with torch.inference_mode():
            seen = net(torch.from_numpy(part.pixels[None]))[0].numpy()
        points = part.to_picture(seen[:, 1::-1] * int(net.size))
        found.append(to_h36m17(np.concatenate([points, seen[:, 2:]], axis=1).astype(np.float64), COCO17))
    return np.stack(found)


def statistics(found: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """found: [n, 17, 3]; labels: [n, 14, 3] of LSP. Distances are shares of the box side, mean over both axes."""
    truth = to_h36m17(labels.astype(np.float64), LSP14)
    side = square_bbox(labels)[:, 2].astype(np.float64)
    offset = (found[..., :2] - truth[..., :2]) / side[:, None, None]
    known = np.zeros(truth.shape[:2], bool)
    known[:, LIMBS] = truth[:, LIMBS, 2] > 0
    distance = np.where(known, np.linalg.norm(offset, axis=2), np.nan)
    sound = (np.nan_to_num(distance, nan=1.0) < FAR).sum(1) >= known.sum(1) / 2
    sound &= known.sum(1) >= 6
    swapped, chances = limbs_swapped(found, truth, known & sound[:, None], side)
    kept = known & sound[:, None] & ~swapped
    near = kept & (distance < FAR)
    # a Gaussian's median length is 1.1774 sigma: the median does not see the tail
    sigma = {j: float(np.median(distance[kept[:, j], j]) / 1.1774) for j in LIMBS}
    both = {name: float(np.mean([sigma[j] for j in joints])) for name, joints in _kinds().items()}
    own = np.nanmedian(np.where(kept, distance, np.nan)[sound], axis=1)
    scaled = np.concatenate([distance[kept[:, j], j] / sigma[j] for j in LIMBS])
    confidence, size = found[..., 2][kept], distance[kept]
    levels = []
    for low, high in pairwise(LEVELS):
        rows = (confidence >= low) & (confidence < high)
        levels.append({"from": low, "to": min(high, 1.0), "joints": int(rows.sum())})
        if rows.any():
            levels[-1] |= {"median": float(np.median(size[rows])), "far": float((size[rows] >= FAR).mean())}
    return {
        "people": len(found),
        "people_left_out": int((~sound).sum()),
        "sigma": both,
        "sigma_mean": float(np.mean(list(sigma.values()))),
        "log_sigma_of_people": float(np.log(np.maximum(own, 1e-4)).std()),
        "errors_in_sigma": {str(q): float(np.quantile(scaled, q)) for q in QUANTILES},
        "rayleigh": {str(q): float(np.sqrt(-2 * np.log(1 - q))) for q in QUANTILES},
        "far": float(1 - near.sum() / kept.sum()),
        "limbs_swapped": swapped_rate(swapped, chances),
        "confidence": levels,
    }


def limbs_swapped(
    found: np.ndarray, truth: np.ndarray, known: np.ndarray, side: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """[n, 17] bool: joints of limbs taken for the other side's, and for each pair how many of how many people that was.

    A pair of limbs is swapped where its labelled joints lie nearer to the other side's by half the sum of distances,
    and those limbs are a tenth of the box apart.
    """
    swapped = np.zeros(known.shape, bool)
    counts = []
    for right, left in PAIRS:
        joints, others = [*right, *left], [*left, *right]
        both = known[:, joints].all(1)
        own = np.linalg.norm(found[:, joints, :2] - truth[:, joints, :2], axis=2).sum(1)
        other = np.linalg.norm(found[:, joints, :2] - truth[:, others, :2], axis=2).sum(1)
        apart = np.linalg.norm(truth[:, list(right), :2] - truth[:, list(left), :2], axis=2).mean(1) > FAR * side
        chosen = both & apart & (other < own / 2)
        swapped[np.ix_(chosen, joints)] = True
        counts.append((int(chosen.sum()), int((both & apart).sum())))
    return swapped, counts


def swapped_rate(swapped: np.ndarray, counts: list[tuple[int, int]]) -> dict[str, float]:
    return {name: n / max(of, 1) for name, (n, of) in zip(("legs", "arms"), counts, strict=True)}


def _kinds() -> dict[str, tuple[int, int]]:
    """Left and right are one kind."""
    return {JOINT_NAMES[right].removeprefix("right_"): (right, left) for right, left in SIDES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=1500, help="labelled people looked at, spread evenly")
    parser.add_argument("--of", type=int, default=2000, help="the first so many are the training part")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    labels = read_joints(arguments.folder / "joints.mat")[: arguments.of]
    whole = np.flatnonzero((labels[..., 2] > 0).sum(1) >= 8)
    rows = whole[np.linspace(0, len(whole) - 1, min(arguments.people, len(whole))).astype(int)]
    result = {
        **provenance(),
        "detector": "movenet-thunder",
        "data": "lspet",
        **statistics(found_joints(arguments.folder, labels, rows), labels[rows]),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
