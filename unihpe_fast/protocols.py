"""Published evaluation protocols by name: which samples, which joints, centred on what, averaged over what.

A name means one thing here. Other literature uses "protocol 1" and "protocol 2" of Human3.6M for other subjects, other
frames, or the second metric; numbers of another protocol are not comparable, whatever it is called.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unihpe_fast.data.joint_sets import MPI_INF_3DHP17
from unihpe_fast.data.records import MODALITIES
from unihpe_fast.data.skeleton import H36M14, NUM_JOINTS, ROOT
from unihpe_fast.data.store import Store
from unihpe_fast.engine.evaluation import Predictions
from unihpe_fast.metrics import (
    action_name,
    average,
    average_by_group,
    mean_over_actions,
    pose_metrics,
)

Joints = tuple[int, ...]
ALL_17: Joints = tuple(range(NUM_JOINTS))
# the LSP joints of SPIN's and HMR's evaluation, of which the head is Human3.6M's; the pelvis only centres
LSP_14: Joints = tuple(H36M14.tolist())
# joints 0 to 13 of the 3DHP-17 order, which the official script counts: all but pelvis, spine and head
MPI_INF_3DHP_14: Joints = tuple(joint for joint, (source,) in enumerate(MPI_INF_3DHP17) if source < 14)
H36M_CAMERAS = ("54138969", "55011271", "58860488", "60457274")
H36M_ACTIONS = (
    "Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases", "Sitting",
    "SittingDown", "Smoking", "Waiting", "WalkDog", "Walking", "WalkTogether",
)  # fmt: skip
# 3D annotations of these are about 200 mm off (act 5 subact 2, act 10 subact 2, act 13 subact 1)
BAD_S9 = {("S9", "Greeting"), ("S9", "SittingDown 1"), ("S9", "Waiting 1")}


class ProtocolError(ValueError):
    """A file that lacks what a protocol needs; the message names both, what was found and what was wanted."""


@dataclass(frozen=True)
class Protocol:
    """One published way to score 3D poses. All are centred on the pelvis (joint 0), prediction and truth alike.

    source: whose evaluation it is. metrics: those of metrics.pose_metrics, each with the joints it is averaged over;
    Procrustes alignments see those joints only. datasets: of which the file must be one, by the name of its source.
    subjects, cameras, actions: of which all must be there; empty: any, all of them taken. every: frames whose number is
    a multiple. gapless: no frame of a sequence may be missing. groups: by what the second table is split. mean: of the
    samples, or the unweighted mean of the groups. published: samples in all and by group, as far as they were
    published.
    """

    name: str
    source: str
    metrics: Mapping[str, Joints]
    datasets: tuple[str, ...]
    subjects: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    every: int = 1
    gapless: bool = False
    groups: Literal["action", "subject"] = "action"
    mean: Literal["samples", "groups"] = "samples"
    published: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What is averaged over what, in words."""
        chosen = [f"subjects {', '.join(self.subjects)}" if self.subjects else "all subjects"]
        if self.cameras:
            chosen.append(f"camera{'s' if len(self.cameras) > 1 else ''} {', '.join(self.cameras)}")
        chosen.append("every frame" if self.every == 1 else f"frames 0, {self.every}, {2 * self.every}, ..")
        over: dict[Joints, list[str]] = {}
        for metric, joints in self.metrics.items():
            over.setdefault(joints, []).append(metric)
        errors = "; ".join(f"{', '.join(names)} over {len(which)} joints" for which, names in over.items())
        with_root = ", ".join(str(len(which)) for which in over if ROOT in which)
        counted = f"which is one of the {with_root}" if with_root else "which is not scored"
        if self.mean == "groups":
            mean = f"mean over the frames of each {self.groups} (takes, subjects and cameras pooled), then unweighted"
            mean += f" mean of the {self.groups}s"
        else:
            mean = "mean over all samples"
        return [
            f"protocol {self.name}: {self.source}",
            f"samples: {'; '.join(chosen)}",
            f"errors: {errors}; prediction and truth centred on their own pelvis, {counted}",
            f"averaged: {mean}",
        ]


def _h36m(name: str, source: str, metrics: Mapping[str, Joints], **options: Any) -> Protocol:
    people = {"subjects": ("S9", "S11"), "cameras": H36M_CAMERAS}
    return Protocol(name, source, metrics, ("h36m", "spin-npz"), **people | options)


_SMPL_METRICS = {"mpjpe": LSP_14, "pa_mpjpe": LSP_14}
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        _h36m(
            "h36m-lifting",
            "Human3.6M as VideoPose3D scores it (Pavllo et al. 2019); train on S1, S5, S6, S7, S8",
            {"mpjpe": ALL_17, "pa_mpjpe": ALL_17, "n_mpjpe": ALL_17},
            actions=H36M_ACTIONS,
            gapless=True,
            mean="groups",
            # VideoPose3D's files, in which S11 has one take of Directions
            published={"": 543_344},
        ),
        _h36m("h36m-p1", "Human3.6M protocol 1 of HMR and SPIN (Kolotouros et al. 2019)", _SMPL_METRICS, every=5),
        _h36m(
            "h36m-p2",
            "Human3.6M protocol 2 of HMR and SPIN (Kolotouros et al. 2019), the frontal camera",
            _SMPL_METRICS,
            cameras=H36M_CAMERAS[3:],
            every=5,
        ),
        Protocol(
            "3dpw",
            "test split of 3DPW (von Marcard et al. 2018) as SPIN scores it, no training on 3DPW",
            _SMPL_METRICS,
            ("3dpw", "spin-npz"),
            groups="subject",
            published={"": 35_515},
        ),
        Protocol(
            "3dhp",
            "MPI-INF-3DHP test set (Mehta et al. 2017), universal skeleton, valid frames; PCK below 150 mm and AUC as "
            "the official script, without pelvis, spine and head",
            {"mpjpe": ALL_17, "pa_mpjpe": ALL_17, "pck150": MPI_INF_3DHP_14, "auc": MPI_INF_3DHP_14},
            ("mpi-inf-3dhp", "spin-npz"),
            subjects=tuple(f"TS{n}" for n in range(1, 7)),
            groups="subject",
            published={"": 2929, "TS1": 603, "TS2": 540, "TS3": 505, "TS4": 553, "TS5": 276, "TS6": 452},
        ),
    )
}


@dataclass(frozen=True)
class Selection:
    """The rows [n] of a file that a protocol scores, and how many of its samples lack a joint that it needs."""

    rows: np.ndarray
    lacking: int


def select(protocol: Protocol, store: Store, *, drop_bad_s9: bool = False) -> Selection:
    """The samples of a prepared file that the protocol scores. Raises ProtocolError where the file lacks something.

    drop_bad_s9: leave out three sequences of Human3.6M's S9 whose 3D annotations are wrong.
    """
    if (dataset := store.attributes["dataset"]) not in protocol.datasets:
        of_these = " or ".join(protocol.datasets)
        raise ProtocolError(
            f"{store.path}: protocol {protocol.name}: found a file of {dataset}, wanted one of {of_these}"
        )
    columns = store.read(np.arange(len(store)), images=False)
    keep = np.ones(len(store), dtype=bool)
    for what, wanted, listed in (
        ("subject", protocol.subjects, columns.info.subject),
        ("camera", protocol.cameras, columns.info.camera_id),
    ):
        if wanted:
            _demand(protocol, store, what, wanted, set(listed))
            keep &= np.isin(listed, wanted)
    keep &= columns.info.frame % protocol.every == 0
    if drop_bad_s9:
        pairs = zip(columns.info.subject, columns.info.action, strict=True)
        keep &= np.array([pair not in BAD_S9 for pair in pairs], dtype=bool)
    chosen = np.flatnonzero(keep)
    _demand(protocol, store, "action", protocol.actions, {action_name(columns.info.action[row]) for row in chosen})
    needed = sorted({ROOT}.union(*protocol.metrics.values()))
    whole = columns.present[2][chosen] & (columns.joints_3d[chosen][:, needed, 3] > 0).all(1)
    if not whole.any():
        found = f"{len(chosen)} samples of the subjects, cameras and frames wanted, none of them"
        raise ProtocolError(f"{store.path}: protocol {protocol.name}: found {found} with joints {needed} in 3D")
    if protocol.gapless:
        _demand_every_frame(protocol, store, columns, chosen)
    return Selection(chosen[whole], int((~whole).sum()))


def _demand(protocol: Protocol, store: Store, what: str, wanted: tuple[str, ...], found: set[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        some = sorted(found)
        shown = ", ".join(some[:8]) + (f" and {len(some) - 8} more" if len(some) > 8 else "") or "none"
        raise ProtocolError(
            f"{store.path}: protocol {protocol.name}: no {what} {', '.join(missing)}: found {shown}, "
            f"wanted {', '.join(wanted)}"
        )


def _demand_every_frame(protocol: Protocol, store: Store, columns: Any, rows: np.ndarray) -> None:
    frames: dict[tuple[str, str, str], set[int]] = {}
    for row in rows.tolist():
        name = (columns.info.subject[row], columns.info.action[row], columns.info.camera_id[row])
        frames.setdefault(name, set()).add(int(columns.info.frame[row]))
    for name, seen in frames.items():
        if len(seen) != max(seen) + 1:
            raise ProtocolError(
                f"{store.path}: protocol {protocol.name}: {' '.join(name)}: found {len(seen)} frames up to number "
                f"{max(seen)}, wanted every one"
            )


def protocol_scores(
    protocol: Protocol,
    predictions: Predictions,
    *,
    lacking: int = 0,
    variant: str = "",
    flip_test: bool = False,
) -> dict[str, Any]:
    """The "protocol" section of a summary: plain finite numbers, None where there is nothing to score.

    predictions: of the rows of `select`, all of which count. lacking: samples that `select` left out. variant: how the
    run differs from the protocol, "" where it does not. flip_test: how the predictions were made. A modality that some
    of the samples lack, or that the model does not read, is None, with the reason under "why_not".
    """
    p = predictions
    names = [action_name(name) for name in p.info.action] if protocol.groups == "action" else list(p.info.subject)
    groups, rows = np.unique(np.array(names, np.str_), return_inverse=True)
    group_of = torch.from_numpy(rows.reshape(-1))
    counts = torch.bincount(group_of, minlength=len(groups)).tolist()
    result: dict[str, Any] = {
        "name": protocol.name,
        "variant": variant,
        "flip_test": flip_test,
        "averaged": protocol.lines(),
        "n": len(p),
        "published_n": None if variant else protocol.published.get(""),
        "left_out": lacking,
        "why_not": {},
    }
    by_group: dict[str, dict[str, Any]] = {
        name: {"n": count, "published_n": protocol.published.get(name) if name else None}
        for name, count in zip(groups.tolist(), counts, strict=True)
    }
    for m in MODALITIES:
        why_not = _why_not(p, m)
        if why_not:
            result[m], result["why_not"][m] = None, why_not
            for values in by_group.values():
                values[m] = None
            continue
        errors = _errors(protocol, p, m)
        means = average_by_group(errors, group_of, len(groups))
        for values, mean in zip(by_group.values(), means, strict=True):
            values[m] = mean
        result[m] = mean_over_actions(means) if protocol.mean == "groups" else average(errors)
    result["groups"] = by_group
    return result


def _why_not(p: Predictions, modality: str) -> str:
    if modality not in p.joints_3d:
        return f"the model has no {modality} encoder"
    without = int((~p.present[MODALITIES.index(modality)]).sum())
    if without:
        return f"{without} of {len(p)} samples have no {modality}"
    bad = int((~p.joints_3d[modality].flatten(1).isfinite().all(-1)).sum())
    return f"{bad} of {len(p)} predictions are NaN or infinite" if bad else ""


def _errors(protocol: Protocol, p: Predictions, modality: str) -> dict[str, Tensor]:
    found: dict[Joints, dict[str, Tensor]] = {}
    for joints in protocol.metrics.values():
        if joints not in found:
            scored = torch.zeros(p.target_3d.shape[:2], dtype=torch.bool)
            scored[:, list(joints)] = True
            found[joints] = pose_metrics(p.joints_3d[modality], p.target_3d[..., :3], scored)
    return {metric: found[joints][metric] for metric, joints in protocol.metrics.items()}
