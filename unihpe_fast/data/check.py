"""Looking a prepared file over: that every picture decodes, that its parts agree with each other, and what is in it."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from unihpe_fast.data.camera import project
from unihpe_fast.data.images import LARGEST_SIDE, decode_photo, photo_size
from unihpe_fast.data.plausible import odd_people, person_faults, posture_of
from unihpe_fast.data.records import MODALITIES
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.data.store import DAMAGED, Columns, Store, StoreError

# rows that are read and decoded at once
BLOCK = 512
# rows of one kind of problem that are named
NAMED = 5
# of the box side: annotated and projected joints of a detector differ by a few percent, of another camera by more
LARGEST_MISS = 0.1
# mm, between which lies the median thigh of people of all sizes: metres and centimetres do not
THIGH = (150.0, 700.0)
THIGHS = ((1, 2), (4, 5))


@dataclass
class Report:
    """facts: lines about the file. problems: what is wrong with it, each with the rows; empty: nothing."""

    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _Problems:
    """Rows by what is wrong with them."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}
        self._details: dict[str, str] = {}

    def add(self, what: str, index: np.ndarray, wrong: np.ndarray, detail: str = "") -> None:
        """index, wrong: [B]; detail: of the first one, shown with it."""
        if wrong.any():
            self._rows.setdefault(what, []).extend(index[wrong].tolist())
            self._details.setdefault(what, detail)

    def lines(self) -> Iterator[str]:
        for what, rows in self._rows.items():
            named = ", ".join(map(str, rows[:NAMED])) + (", .." if len(rows) > NAMED else "")
            detail = f" ({self._details[what]})" if self._details[what] else ""
            yield f"{what}: {len(rows)} rows: {named}{detail}"


def check_store(path: Path, advance: Callable[[int], None] = lambda count: None) -> Report:
    """All of a prepared file, read once with flat memory and decoded on all cores.

    advance: is told how many rows more were looked at. Raises FileNotFoundError where there is no file; whatever is
    wrong inside is in the report.
    """
    store = Store(path)
    try:
        count = len(store)
    except StoreError as error:
        return Report(problems=[str(error)])
    problems, misses, postures = _Problems(), _Misses(), _Postures()
    inside, thighs = np.zeros(2, np.int64), []
    sizes: set[tuple[int, int]] = set()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, count, BLOCK):
            try:
                columns = store.read(np.arange(start, min(start + BLOCK, count)))
            except StoreError as error:
                return Report(problems=[*problems.lines(), str(error)])
            sizes |= _check_images(columns, pool, problems)
            _check_absence(columns, problems)
            misses.add(columns, problems)
            inside += _inside_box(columns)
            thighs.append(_thighs(columns.joints_3d))
            _check_people(columns, problems)
            postures.add(columns)
            advance(len(columns.info))
    report = Report(_facts(store, sizes), list(problems.lines()))
    misses.report(report)
    if inside[1]:
        share = inside[0] / inside[1]
        report.facts.append(f"2D joints inside their box: {share:.1%}")
        if share < 0.5:
            report.problems.append(f"bbox: only {share:.1%} of the 2D joints lie inside their box")
    report.problems.extend(postures.problems())
    lengths = np.concatenate(thighs)
    if len(lengths):
        median = float(np.median(lengths))
        report.facts.append(f"median thigh: {median:.0f} mm")
        if not THIGH[0] <= median <= THIGH[1]:
            report.problems.append(f"joints_3d: the median thigh is {median:.3g} mm long: another unit?")
    return report


def _facts(store: Store, sizes: set[tuple[int, int]]) -> list[str]:
    attributes = store.attributes
    present = dict(zip(MODALITIES, store.present.sum(1).tolist(), strict=True))
    facts = [
        f"{store.path}: {len(store)} samples of {attributes.get('dataset')} {attributes.get('split')}",
        "with " + ", ".join(f"{name}: {count}" for name, count in present.items()),
        f"{_named(store.subjects)} subjects, {_named(store.actions)} actions",
        f"terms of use: {attributes.get('licence') or 'not said'}",
    ]
    if sizes:
        low, high = min(sizes), max(sizes)
        facts.append(f"pictures of {low[0]} x {low[1]} px" + ("" if low == high else f" to {high[0]} x {high[1]} px"))
    return facts + ([f"caveat: {store.caveat}"] if store.caveat else [])


def _named(names: Sequence[str]) -> int:
    """How many there are, but for the empty name of a dataset that has none."""
    return len(set(names) - {""})


def _check_images(columns: Columns, pool: ThreadPoolExecutor, problems: _Problems) -> set[tuple[int, int]]:
    results = list(pool.map(_decoded, columns.images))
    has = columns.present[0]
    broken = np.array([bool(reason) for reason, _ in results], dtype=bool)
    first = next((reason for (reason, _), there in zip(results, has, strict=True) if reason and there), "")
    problems.add("image: does not decode", columns.info.index, has & broken, first)
    problems.add(f"image: {DAMAGED}", columns.info.index, columns.damaged & ~broken)
    stray = ~has & np.array([len(data) > 0 for data in columns.images], dtype=bool)
    problems.add("image: bytes where present says there is no image", columns.info.index, stray)
    middle = np.einsum("nij,nj->ni", columns.crop[:, :, :2], columns.bbox[:, :2]) + columns.crop[:, :, 2]
    size = np.array([size for _, size in results], np.float64).reshape(-1, 2)
    outside: np.ndarray = has & ~broken & ((middle < -0.5) | (middle > size - 0.5)).any(1)
    problems.add("crop: the middle of the box lies outside the picture", columns.info.index, outside)
    return {size for (reason, size), there in zip(results, has, strict=True) if there and not reason}


def _decoded(data: np.ndarray) -> tuple[str, tuple[int, int]]:
    """Why the JPEG cannot be used ("": it can) and its size."""
    if not len(data):
        return "found no bytes", (0, 0)
    raw = data.tobytes()
    try:
        size = photo_size(raw)
        if max(size) > LARGEST_SIDE:
            return f"found a picture of {size[0]} x {size[1]} px, wanted at most {LARGEST_SIDE} px a side", (0, 0)
        decode_photo(raw, 1)
    except (ValueError, cv2.error) as error:
        return str(error), (0, 0)
    return "", size


def _check_absence(columns: Columns, problems: _Problems) -> None:
    has = columns.present
    problems.add("present: has neither image nor 2D nor 3D", columns.info.index, np.logical_not(has.any(0)))
    for key, row in (("keypoints_2d", 1), ("joints_3d", 2)):
        values: np.ndarray = getattr(columns, key)
        problems.add(
            f"{key}: numbers where present says there are none", columns.info.index, ~has[row] & values.any((1, 2))
        )
        none = has[row] & ~(values[..., -1] > 0).any(1)
        problems.add(f"{key}: present, but no joint of it is known", columns.info.index, none)
    problems.add("frame: below 0", columns.info.index, columns.info.frame < 0)


class _Misses:
    """How far projected 3D joints lie from the 2D ones, where all is known."""

    def __init__(self) -> None:
        self._px: list[np.ndarray] = []
        self._share: list[np.ndarray] = []

    def add(self, columns: Columns, problems: _Problems) -> None:
        valid = (columns.joints_3d[..., 3] > 0) & columns.present[2][:, None]
        seen = ~np.isnan(columns.camera).any(1)
        behind = seen & (valid & (columns.joints_3d[..., 2] <= 0)).any(1)
        problems.add("joints_3d: a joint lies behind the camera", columns.info.index, behind)
        both = valid & (columns.keypoints_2d[..., 2] > 0) & columns.present[1][:, None]
        rows = np.flatnonzero(seen & ~behind & both.any(1))
        if not len(rows):
            return
        # what is not valid may be 0, and is not looked at
        joints = np.where(both[rows, :, None], columns.joints_3d[rows, :, :3], [0.0, 0.0, 1.0])
        pixels = project(torch.from_numpy(joints), torch.from_numpy(columns.camera[rows])).numpy()
        distance = np.linalg.norm(pixels - columns.keypoints_2d[rows, :, :2], axis=2)
        px = np.where(both[rows], distance, 0).sum(1) / both[rows].sum(1)
        self._px.append(px)
        self._share.append(px / columns.bbox[rows, 2])

    def report(self, report: Report) -> None:
        if not self._px:
            report.facts.append("projection: no sample has a camera, 2D and 3D")
            return
        px, share = np.concatenate(self._px), np.median(np.concatenate(self._share))
        low, high = np.median(px), np.percentile(px, 99)
        text = f"median {low:.3f} px, 99 % below {high:.3f} px"
        report.facts.append(f"projected 3D against 2D joints: {text} ({len(px)} samples)")
        if share > LARGEST_MISS:
            text = f"median {low:.1f} px, {share:.0%} of the box side, wanted at most {LARGEST_MISS:.0%}"
            report.problems.append(f"camera: projected 3D joints do not meet the 2D ones: {text}")


def _check_people(columns: Columns, problems: _Problems) -> None:
    """Clips, or where no subject is named single people, whose 3D joints no person has."""
    what = "joints_3d: no person has"
    has = np.flatnonzero(columns.present[2])
    nameless = [row for row in has if not columns.info.subject[row]]
    if nameless:
        odd = np.zeros(len(columns.info), dtype=bool)
        odd[nameless] = odd_people(columns.joints_3d[nameless])
        first = np.flatnonzero(odd)[:1]
        problems.add(
            what, columns.info.index, odd, "; ".join(person_faults(columns.joints_3d[first])) if odd.any() else ""
        )
    for (subject, action, camera), rows in _groups(columns, has).items():
        if subject and (faults := person_faults(columns.joints_3d[rows], _up(columns, rows))):
            clip = " ".join(word for word in (subject, action, camera) if word)
            problems.add(what, columns.info.index[rows], np.ones(len(rows), dtype=bool), f"{clip}: {'; '.join(faults)}")


def _groups(columns: Columns, rows: np.ndarray) -> dict[tuple[str, str, str], list[int]]:
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row in rows.tolist():
        key = (columns.info.subject[row], columns.info.action[row], columns.info.camera_id[row])
        groups.setdefault(key, []).append(row)
    return groups


def _up(columns: Columns, rows: list[int]) -> np.ndarray | None:
    """[B, 3] to the sky in camera space, the world's Z; None where a camera has no place in the world."""
    up = columns.rotation[rows][:, :, 2]
    return None if np.isnan(up).any() else up


class _Postures:
    """Which of the named subjects stand, where the cameras tell what is up."""

    def __init__(self) -> None:
        self._stands: dict[str, bool] = {}

    def add(self, columns: Columns) -> None:
        for (subject, _, _), rows in _groups(columns, np.flatnonzero(columns.present[2])).items():
            up = _up(columns, rows)
            if subject and up is not None and (posture := posture_of(columns.joints_3d[rows], up)):
                self._stands[subject] = self._stands.get(subject, False) or posture.stands

    def problems(self) -> Iterator[str]:
        lying = [subject for subject, stands in self._stands.items() if not stands]
        if lying:
            names = ", ".join(lying[:NAMED]) + (", .." if len(lying) > NAMED else "")
            yield f"joints_3d: subject {names}: never upright in the whole file: another up axis?"


def _inside_box(columns: Columns) -> np.ndarray:
    """[2]: 2D joints in their box, and all of them."""
    known = (columns.keypoints_2d[..., 2] > 0) & columns.present[1][:, None]
    away = np.abs(columns.keypoints_2d[..., :2] - columns.bbox[:, None, :2]).max(-1)
    return np.array([(known & (away <= columns.bbox[:, None, 2] / 2)).sum(), known.sum()])


def _thighs(joints_3d: np.ndarray) -> np.ndarray:
    assert joints_3d.shape[1:] == (NUM_JOINTS, 4)
    found = []
    for hip, knee in THIGHS:
        known = (joints_3d[:, [hip, knee], 3] > 0).all(1)
        found.append(np.linalg.norm(joints_3d[known, hip, :3] - joints_3d[known, knee, :3], axis=1))
    return np.concatenate(found)
