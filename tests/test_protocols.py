"""The published protocols: which samples, which joints, which means; expected values by hand or in float64."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.support.fakes import people, truth
from tests.support.people import sample
from unihpe_fast.data.store import Store, write_store
from unihpe_fast.engine.evaluation import Predictions
from unihpe_fast.engine.report import print_protocol
from unihpe_fast.protocols import (
    H36M_ACTIONS,
    H36M_CAMERAS,
    MPI_INF_3DHP_14,
    PROTOCOLS,
    ProtocolError,
    protocol_scores,
    select,
)

LIFTING, P1, P2, PW3D, MPI = (PROTOCOLS[name] for name in ("h36m-lifting", "h36m-p1", "h36m-p2", "3dpw", "3dhp"))
Row = tuple[str, str, str, int]


def h36m_rows(frames: int) -> list[Row]:
    rows = [
        (subject, f"{action}{take}", camera, frame)
        for subject in ("S1", "S9", "S11")
        for action in H36M_ACTIONS
        for take in ("", " 1")
        for camera in H36M_CAMERAS
        for frame in range(frames)
    ]
    # S11 has one take of Directions
    return [row for row in rows if row[:2] != ("S11", "Directions")]


def prepared(path: Path, rows: list[Row], dataset: str = "h36m", **changes) -> Store:
    rng = np.random.default_rng(0)
    person = sample(rng, **changes)
    named = (
        dataclasses.replace(person, subject=subject, action=action, camera_id=camera, frame=frame)
        for subject, action, camera, frame in rows
    )
    write_store(path, named, dataset=dataset, split="test")
    return Store(path)


def chosen(store: Store, rows: np.ndarray) -> list[Row]:
    columns = store.read(rows, images=False)
    return list(
        zip(columns.info.subject, columns.info.action, columns.info.camera_id, columns.info.frame.tolist(), strict=True)
    )


def predictions(names: list[tuple[str, str]], error: torch.Tensor, *, absolute: bool = True) -> Predictions:
    """Truth of random people, 2D-pose predictions off by error [N, 17, 3] mm and by an offset of the whole person."""
    batch = people(len(names), image_size=0)
    p = truth(batch, ("pose2d",))
    joints = p.joints_3d["pose2d"] + error + (torch.tensor([300.0, -50.0, 70.0]) if absolute else 0)
    info = dataclasses.replace(
        p.info, **dict(zip(("subject", "action"), map(list, zip(*names, strict=True)), strict=True))
    )
    return dataclasses.replace(p, joints_3d={"pose2d": joints}, info=info)


def test_the_scored_joints_are_the_published_ones() -> None:
    # J24 0..12 and 18 of SPIN, taken to H36M-17 by hand: ankles, knees, hips, wrists, elbows, shoulders, neck, head
    lsp = {3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10}
    assert set(P1.metrics["mpjpe"]) == set(PW3D.metrics["pa_mpjpe"]) == lsp
    # of the official script: head top, neck, shoulders, elbows, wrists, hips, knees, ankles
    assert set(MPI_INF_3DHP_14) == {10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6}
    assert MPI.metrics["mpjpe"] == LIFTING.metrics["pa_mpjpe"] == tuple(range(17))
    assert MPI.published[""] == sum(MPI.published[f"TS{n}"] for n in range(1, 7))


def test_samples_are_those_of_the_protocol(tmp_path: Path) -> None:
    rows = h36m_rows(2) + [("S9", "Walking", H36M_CAMERAS[3], frame) for frame in range(2, 11)]
    store = prepared(tmp_path / "a.h5", rows)
    lifting = chosen(store, select(LIFTING, store).rows)
    assert sorted(lifting) == sorted(row for row in rows if row[0] != "S1")
    one = chosen(store, select(P1, store).rows)
    assert sorted(one) == sorted(row for row in rows if row[0] != "S1" and row[3] % 5 == 0)
    assert {row[3] for row in one} == {0, 5, 10}
    two = chosen(store, select(P2, store).rows)
    assert sorted(two) == sorted(row for row in one if row[2] == "60457274")
    dropped = chosen(store, select(P2, store, drop_bad_s9=True).rows)
    assert {row[:2] for row in set(two) - set(dropped)} == {
        ("S9", "Greeting"),
        ("S9", "SittingDown 1"),
        ("S9", "Waiting 1"),
    }


@pytest.mark.parametrize(
    ("protocol", "kept", "message"),
    [
        (LIFTING, lambda row: row[0] != "S11", "no subject S11: found S1, S9, wanted S9, S11"),
        (P1, lambda row: row[2] != "55011271", "no camera 55011271: found 54138969, 58860488, 60457274, wanted"),
        (P2, lambda row: row[2] != "60457274", "no camera 60457274"),
        (LIFTING, lambda row: row[0] == "S1" or not row[1].startswith("Sitting"), "no action Sitting, SittingDown: f"),
        (LIFTING, lambda row: row[3] != 0 or row[1] != "Eating 1", "S9 Eating 1 54138969: found 1 frames up to number"),
        (P1, lambda row: row[3] % 5 != 0, "found 0 samples of the subjects, cameras and frames wanted"),
        (PW3D, lambda row: True, "found a file of h36m, wanted one of 3dpw or spin-npz"),
        (MPI, lambda row: True, "found a file of h36m, wanted one of mpi-inf-3dhp or spin-npz"),
    ],
)
def test_a_file_that_lacks_what_the_protocol_needs_is_refused(tmp_path: Path, protocol, kept, message: str) -> None:
    store = prepared(tmp_path / "a.h5", [row for row in h36m_rows(2) if kept(row)])
    with pytest.raises(ProtocolError, match=rf"a\.h5: protocol {protocol.name}: .*{message}"):
        select(protocol, store)


def test_the_training_set_is_not_taken_for_the_test_set(tmp_path: Path) -> None:
    store = prepared(tmp_path / "a.h5", [("S1", "Seq1", "0", 0), ("S2", "Seq1", "0", 0)], "mpi-inf-3dhp")
    with pytest.raises(ProtocolError, match="protocol 3dhp: no subject TS1, TS2, TS3, TS4, TS5, TS6: found S1, S2"):
        select(MPI, store)


def test_samples_without_the_joints_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [("downtown", "walk", "", frame) for frame in range(6)]
    rng = np.random.default_rng(0)
    made = [sample(rng, subject=row[0], action=row[1], frame=row[3]) for row in rows]
    made[1].joints_3d[10, 3] = 0
    # 7 and 9 are not scored, the pelvis centres
    made[2].joints_3d[[7, 9], 3] = 0
    made[3].joints_3d[0, 3] = 0
    made[4] = dataclasses.replace(made[4], joints_3d=None)
    write_store(tmp_path / "a.h5", made, dataset="3dpw", split="test")
    selection = select(PW3D, Store(tmp_path / "a.h5"))
    assert selection.rows.tolist() == [0, 2, 5]
    assert selection.lacking == 3
    store = prepared(tmp_path / "b.h5", rows, "3dpw", joints_3d=None)
    with pytest.raises(ProtocolError, match=r"b\.h5: protocol 3dpw: found 6 samples .* none of them with joints \[0, "):
        select(PW3D, store)


def test_lifting_is_the_mean_of_the_means_of_the_actions() -> None:
    # Walking: two takes of 3 + 1 frames; Eating: one of 2. Frame errors are constant over all joints but the pelvis
    names = [("S9", "Walking")] * 3 + [("S11", "Walking 1")] + [("S9", "Eating")] * 2
    size = torch.tensor([17.0, 34, 51, 170, 340, 34])
    error = torch.zeros(6, 17, 3)
    error[:, 1:, 0] = size[:, None]
    section = protocol_scores(LIFTING, predictions(names, error))
    # 16 of the 17 joints are off
    walking, eating = 16 / 17 * (17 + 34 + 51 + 170) / 4, 16 / 17 * (340 + 34) / 2
    assert section["groups"]["Walking"]["pose2d"]["mpjpe"] == pytest.approx(walking, rel=1e-5)
    assert section["groups"]["Eating"]["pose2d"]["mpjpe"] == pytest.approx(eating, rel=1e-5)
    assert section["pose2d"]["mpjpe"] == pytest.approx((walking + eating) / 2, rel=1e-5)
    assert {name: row["n"] for name, row in section["groups"].items()} == {"Walking": 4, "Eating": 2}
    assert set(section["pose2d"]) == {"mpjpe", "pa_mpjpe", "n_mpjpe"}
    assert section["image"] is None
    assert section["why_not"]["image"] == "the model has no image encoder"
    assert json.loads(json.dumps(section, allow_nan=False)) == section


def reference(pred: np.ndarray, target: np.ndarray, joints: list[int]) -> tuple[float, float]:
    """MPJPE centred on joint 0, and PA-MPJPE as SPIN computes it, of one pose over some joints, in float64."""
    pred, target = pred - pred[0], target - target[0]
    pred, target = pred[joints], target[joints]
    a, b = pred - pred.mean(0), target - target.mean(0)
    u, _, vt = np.linalg.svd(a.T @ b)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    scale = np.trace(rotation.T @ a.T @ b) / (a**2).sum()
    aligned = scale * a @ rotation
    return float(np.linalg.norm(pred - target, axis=1).mean()), float(np.linalg.norm(aligned - b, axis=1).mean())


@pytest.mark.parametrize("protocol", [P1, PW3D])
def test_smpl_protocols_centre_on_the_pelvis_and_do_not_score_it(protocol) -> None:
    names = [(f"S{n % 2}", "Walking") for n in range(8)]
    error = 60 * torch.randn(8, 17, 3, generator=torch.Generator().manual_seed(3))
    p = predictions(names, error)
    # an error of the unscored joints counts only through the pelvis
    p.joints_3d["pose2d"][:, [7, 9]] += 1e4
    section = protocol_scores(protocol, p)
    joints = [1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16]
    found = p.joints_3d["pose2d"].double().numpy(), p.target_3d[..., :3].double().numpy()
    wanted = np.array([reference(pred, target, joints) for pred, target in zip(*found, strict=True)])
    assert section["pose2d"] == {
        "mpjpe": pytest.approx(wanted[:, 0].mean(), rel=1e-5),
        "pa_mpjpe": pytest.approx(wanted[:, 1].mean(), rel=1e-5),
    }
    if protocol is PW3D:
        assert section["groups"]["S1"]["pose2d"]["mpjpe"] == pytest.approx(wanted[1::2, 0].mean(), rel=1e-5)


def test_3dhp_counts_14_joints_for_pck_and_17_for_mpjpe() -> None:
    names = [("TS1", "1")] * 2 + [("TS2", "1")]
    error = torch.zeros(3, 17, 3)
    # pelvis, spine and head do not count for PCK: here only the spine and the head (9) are wrong
    error[0, [7, 9], 1] = 400
    # 149 passes, 150 does not; AUC counts the thresholds 5 .. 150 above 72
    error[1, 3, 2], error[1, 16, 2], error[1, 10, 2] = 149, 150.001, 72
    section = protocol_scores(MPI, predictions(names, error, absolute=False))
    assert section["groups"]["TS1"]["pose2d"]["pck150"] == pytest.approx(100 * (14 + 13) / 28)
    assert section["pose2d"]["pck150"] == pytest.approx(100 * (14 + 13 + 14) / 42)
    # of 31 thresholds 0, 5, .. 150: 30 passed by a perfect joint, 149 passes one, 72 passes 75 .. 150
    passed = 14 * 30 + (11 * 30 + 1 + 0 + 16) + 14 * 30
    assert section["pose2d"]["auc"] == pytest.approx(100 * passed / (42 * 31), rel=1e-5)
    assert section["pose2d"]["mpjpe"] == pytest.approx((2 * 400 + 149 + 150.001 + 72) / 17 / 3, rel=1e-5)
    assert section["groups"]["TS2"] | {"pose2d": None} == {
        "n": 1,
        "published_n": 540,
        "image": None,
        "pose2d": None,
        "pose3d": None,
    }


def test_people_without_a_name_are_a_group_like_any_other() -> None:
    section = protocol_scores(PW3D, predictions([("", "")] * 2, torch.zeros(2, 17, 3)))
    assert section["published_n"] == 35515
    assert (section["groups"][""]["n"], section["groups"][""]["published_n"]) == (2, None)


def test_a_modality_that_some_samples_lack_is_not_averaged_over_the_rest() -> None:
    p = predictions([("S9", "Walking")] * 4, torch.zeros(4, 17, 3))
    p.present[1, 2] = False
    section = protocol_scores(P2, p)
    assert section["pose2d"] is None
    assert section["why_not"]["pose2d"] == "1 of 4 samples have no pose2d"
    p.present[1, 2] = True
    p.joints_3d["pose2d"][1, 4, 0] = torch.nan
    assert protocol_scores(P2, p)["why_not"]["pose2d"] == "1 of 4 predictions are NaN or infinite"


def test_the_report_says_what_was_averaged(capsys: pytest.CaptureFixture[str]) -> None:
    p = predictions([("TS1", "1")] * 3, torch.zeros(3, 17, 3))
    section = protocol_scores(MPI, p, lacking=2, variant="half of it", flip_test=True)
    print_protocol(section, Console(width=120))
    printed = capsys.readouterr().out
    for words in (
        "protocol 3dhp: MPI-INF-3DHP test set",
        "samples: subjects TS1, TS2, TS3, TS4, TS5, TS6; every frame",
        "mpjpe, pa_mpjpe over 17 joints; pck150, auc over 14 joints",
        "averaged: mean over all samples",
        "NOT the published protocol: half of it",
        "flip test",
        "3 samples; 2 left out for lack of 3D joints",
        "3 (603)",
        "image: not scored, the model has no image encoder",
        "100.0",
    ):
        assert words in printed
    assert "published: 2929" not in printed
    print_protocol(protocol_scores(MPI, p), Console(width=120))
    assert "3 samples (published: 2929; this is NOT the published set)" in capsys.readouterr().out
    print_protocol(protocol_scores(MPI, p) | {"published_n": 3}, Console(width=120))
    assert "3 samples (published: 3; this is the published number)" in capsys.readouterr().out
