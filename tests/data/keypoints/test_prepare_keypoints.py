"""`prepare keypoints`: other programs' keypoints in a prepared file, confidences kept."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.keypoints import files
from tests.data.keypoints.files import SIZE, person
from unihpe_fast.data.joint_sets import COCO17, to_h36m17
from unihpe_fast.data.store import Store
from unihpe_fast.prepare import main


def test_keypoints_become_a_prepared_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = [person(17, seed=seed) for seed in range(3)]
    people[1][5:, 2] = 0
    people[2][:, 2] = [0.9] + [0.05] * 16
    path = files.mmpose_video(tmp_path / "a.json", [[people[0]], [people[1], people[2]]])
    out = tmp_path / "out.h5"
    arguments = ["keypoints", str(path), str(out), "--size", *map(str, SIZE), "--min-confidence", "0.1"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "fewer than two joints" in said
    rows = Store(out)
    assert len(rows) == 2
    want = to_h36m17(np.stack(people[:2]).astype(np.float32), COCO17)
    np.testing.assert_allclose(rows.read(np.arange(2)).keypoints_2d, want, rtol=1e-6)
    assert rows.present.T.tolist() == [[False, True, False]] * 2


def test_what_cannot_be_read_stops_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert main(["keypoints", str(tmp_path / "a.json"), str(tmp_path / "out.h5")]) == 1
    assert "a.json: must be keypoints in one of the formats" in capsys.readouterr().err
    assert not (tmp_path / "out.h5").exists()
