"""The table of the arms, with intervals over people and seeds."""

from typing import Any

import numpy as np

from benchmarks.report.speed_tables import origin, table

BOOTSTRAPS = 2000
REFERENCE = "none"
Interval = tuple[float, float, float]


def _errors(runs: dict[int, dict[str, Any]], seeds: list[int], key: str) -> tuple[np.ndarray, np.ndarray]:
    """[S, P] mm by seed and person, and [P] samples of each person."""
    people = sorted(runs[seeds[0]]["people"])
    errors = [[runs[seed]["people"][who][key] for who in people] for seed in seeds]
    return np.array(errors), np.array([runs[seeds[0]]["people"][who]["samples"] for who in people], np.float64)


def _interval(errors: np.ndarray, samples: np.ndarray) -> Interval:
    """Mean over samples and seeds of errors [S, P], and the 95 % interval when seeds and people are drawn anew.

    To draw samples would take those of one person for independent.
    """
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, errors.shape[0], (BOOTSTRAPS, errors.shape[0]))
    people = rng.integers(0, errors.shape[1], (BOOTSTRAPS, errors.shape[1]))
    by_person = errors[seeds].mean(1)  # [draws, P]
    weights = samples[people]
    drawn = (np.take_along_axis(by_person, people, 1) * weights).sum(1) / weights.sum(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(errors.mean(0) @ samples / samples.sum()), float(low), float(high)


def _range(values: list[float], digits: int) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def alignment_table(record: dict[str, Any]) -> str:
    """A row an arm. Differences are paired by person and seed, which gives first weights and the order of samples."""
    by_arm: dict[str, dict[int, dict[str, Any]]] = {}
    for run in record["runs"]:
        by_arm.setdefault(run["arm"], {})[run["seed"]] = run
    rows, apart = [], []
    clips = record["samples"].get("clips")
    for arm, runs in by_arm.items():
        seeds = sorted(runs)
        cells = ["{:.1f} ({:.0f} to {:.0f})".format(*_interval(*_errors(runs, seeds, key))) for key in ("mpjpe", "pa")]
        common = sorted(set(seeds) & set(by_arm.get(REFERENCE, {})))
        for key, name in (("mpjpe", "MPJPE"), ("pa", "PA-MPJPE")):
            if arm == REFERENCE or not common:
                cells.append("-")
                continue
            errors, samples = _errors(runs, common, key)
            found = _interval(errors - _errors(by_arm[REFERENCE], common, key)[0], samples)
            cells.append("{:+.1f} ({:+.1f} to {:+.1f})".format(*found))
            if found[1] > 0 or found[2] < 0:
                apart.append(f"{arm}, {'worse' if found[0] > 0 else 'better'} in {name}")
        cells.append(_range([runs[seed]["retrieval"]["r1"] for seed in seeds], 3))
        cells.append(_range([runs[seed]["retrieval"]["mpjpe"] for seed in seeds], 0))
        cells.append(_range([runs[seed]["pose2d"]["mpjpe"] for seed in seeds], 1))
        if clips:
            cells.append(_range([runs[seed]["clips"]["image"]["pa_mpjpe"] for seed in seeds], 1))
        rows.append([arm, str(len(seeds)), *cells])
    head = ["contrastive terms", "seeds", "image MPJPE, mm", "image PA-MPJPE, mm", f"MPJPE less that of {REFERENCE}"]
    head += [
        f"PA-MPJPE less that of {REFERENCE}",
        "image->pose3d R@1",
        "MPJPE of the first found, mm",
        "lifting MPJPE, mm",
        *(["real clips, image PA-MPJPE, mm"] if clips else []),
    ]
    first, batch, samples = record["runs"][0], record["batch"], record["samples"]
    notes = [
        "Errors with 95 % over people and seeds, the rest with least and most of the seeds",
        f"their differences from {REFERENCE} exclude 0: {'; '.join(apart) or 'of no arm'}",
        f"{record['steps']} steps of {batch['motion']} poses, {batch['rendered']} rendered pictures of "
        f"{samples['rendered']:,} and {batch['photos']} photographs of {samples['photos']:,}",
        f"{samples['val']:,} pictures of {len(first['people'])} unseen people, whom the mean pose misses by "
        f"{first['mean_pose']['mpjpe']:.1f} / {first['mean_pose']['pa_mpjpe']:.1f} mm",
    ]
    if clips:
        missed = first["clips"]["mean_pose"]
        notes.append(
            f"{clips:,} pictures of the real clips, whose people the mean pose misses by {missed['mpjpe']:.1f} / "
            f"{missed['pa_mpjpe']:.1f} mm"
        )
    return f"{table(head, rows)}\n\n{'; '.join(notes)}. {origin(record)}"
