import json
from pathlib import Path

from benchmarks import report
from benchmarks.provenance import provenance

ORIGIN = {"commit": "0123456789abcdef", "date": "2026-01-01", "versions": {"torch": "9"}, "device": "a CPU"}


def _scores(image: float) -> dict:
    errors = {"mpjpe": image, "pa_mpjpe": image / 2, "n_mpjpe": image - 1, "pck150": 90.0, "auc": 50.0}
    return {
        "n": 7,
        "mean_pose": {"mpjpe": 200.0, "pa_mpjpe": 100.0},
        "image": errors,
        "pose2d": errors,
        "pose3d": None,
        "keypoints2d": {"px": 3.25, "pck": 50.0},
        "retrieval": {"pose2d->pose3d": {"r1": 0.75, "r5": 1.0, "mpjpe": 3.0}, "image->pose3d": {"r1": 0.5}},
    }


def test_the_readme_holds_what_the_result_files_give() -> None:
    text = (report.ROOT / "README.md").read_text(encoding="utf-8")
    assert report.render(text, report.RESULTS) == text


def test_every_result_file_says_where_it_comes_from() -> None:
    for path in report.RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert set(ORIGIN) <= set(record), path
        # a "+" would mean that the tree was not the commit's
        assert record["commit"].isalnum(), path


def test_tables_carry_the_numbers_and_their_origin(tmp_path: Path) -> None:
    (tmp_path / "synthetic.json").write_text(json.dumps({**ORIGIN, "scores": _scores(80.0), "seconds": 120.0}))
    runs = [
        {"variant": variant, "seed": seed, "scores": _scores(value)}
        for variant, seed, value in (("both", 0, 60.0), ("none", 0, 90.0), ("none", 1, 92.0))
    ]
    (tmp_path / "ablation.json").write_text(json.dumps({**ORIGIN, "steps": 5, "runs": runs}))
    results = {"a": {"mpjpe": 30.0, "pa_mpjpe": 20.0, "step_seconds": 60.0}}
    (tmp_path / "lifting.json").write_text(json.dumps({**ORIGIN, "steps": 5, "batch_size": 2, "results": results}))
    names = ("synthetic", "ablation", "lifting")
    text = "".join(f"<!-- results:{name} -->stale<!-- end -->\n" for name in names)
    got = report.render(text, tmp_path)
    assert "stale" not in got
    for part in (
        "80.0 / 40.0",
        "R@1 0.75",
        "2.0 minutes",
        "0123456789 on a CPU; torch 9",
        "91.0 ± 1.4",
        "| a | 30.0 |",
    ):
        assert part in got, part
    assert got.index("| none | 2 |") < got.index("| both | 1 | 60.0 |")
    assert report.render(got, tmp_path) == got
    assert report.MISSING in report.render(text, tmp_path / "empty")


def test_provenance_names_commit_versions_and_device() -> None:
    assert set(ORIGIN) == set(provenance())
