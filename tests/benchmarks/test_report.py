import json
from pathlib import Path

from benchmarks import report
from benchmarks.record import provenance

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
        "caveats": ["approximated"],
    }


def test_readme_and_docs_hold_what_the_result_files_give(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["report", "--check"])
    assert report.main() == 0
    drawn = [plot for name in ("roofline", "cpu", "gpu") for plot in report.plots(name, report.RESULTS)]
    assert sorted(path.name for path in report.PLOTS.glob("*.png")) == sorted(drawn)


def _entry(median: float | None, ratio: float = 1.0, same: bool = True) -> dict:
    if median is None:
        return {"same": same, "not_run": "absent: it is not installed"}
    numbers = {"median_s": median, "iqr_s": median / 10, "least_s": median, "rounds": 5}
    return {"same": same, "ratio": ratio, "peak_bytes": 3 << 20, "launches": 11, **numbers}


def _speeds() -> dict:
    records = [
        {
            "group": "train_step, tiny", "variable": "B", "size": size, "parameters": {"D": 8},
            "expected": {"": [3, 2]}, "floor_s": 1e-3, "share_of_floor": 0.5,
            "competitors": {
                "ours": _entry(2e-3 * size**3), "peer": _entry(8e-3, 4.0), "other": _entry(1e-3, 0.5, same=False),
                "gone": _entry(None),
            },
        }
        for size in (1, 2, 4, 8)
    ]  # fmt: skip
    parts = [{"name": "tests-0", "status": "failed, status 1", "seconds": 3.0, "last_line": "1 failed"}]
    longest = [{"name": "sv_all_forward<a | b>", "ms": 1.5, "calls": 1.0}]
    profile = {
        "longest": longest, "total_ms": 4.0, "loss_and_alignment_ms": 1.5, "variant": "compiled", "backbone": "r",
        "image_px": 64, "batch": 4,
    }  # fmt: skip
    return {**ORIGIN, "records": records, "parts": parts, "profile": profile}


def test_speed_tables_and_plots_come_from_the_files(tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps(_speeds()))
    (tmp_path / "gpu-x.json").write_text(json.dumps(_speeds()))
    text = "".join(f"<!-- {name} -->stale<!-- end -->" for name in ("results:cpu", "results:cpu-full", "plots:cpu"))
    got = report.render(text, tmp_path)
    # the largest size with a peer; only peers that compute the same are in the summary
    assert "| train_step, tiny, B = 8 | 1,024 | 3 | 50% | peer 4× |" in got
    assert "2 ± 0.1 ms, 1.00×, 3 MiB, 11 launches" in got
    assert "absent: it is not installed" in got
    assert "3.00 (3)" in got
    assert "![cpu-train-step-tiny](plots/cpu-train-step-tiny.png)" in got
    of_gpu = report.render("<!-- results:gpu -->stale<!-- end -->", tmp_path)
    for part in (
        "| tests-0 | failed, status 1 | 3 | 1 failed |",
        "| 8 | 8 |",
        "| `sv_all_forward<a \\| b>` | 1.500 | 1.0 |",
    ):
        assert part in of_gpu, part
    assert "Not measured yet" in report.render("<!-- results:gpu -->stale<!-- end -->", tmp_path / "none")
    for name in ("cpu", "gpu"):
        for file, draw in report.plots(name, tmp_path).items():
            draw(tmp_path / file)
            assert (tmp_path / file).read_bytes()[:4] == b"\x89PNG"


def test_every_result_file_says_where_it_comes_from() -> None:
    for path in report.RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert set(ORIGIN) <= set(record), path
        # a "+" would mean that the tree was not the commit's
        assert record["commit"].isalnum(), path


def test_tables_carry_the_numbers_and_their_origin(tmp_path: Path) -> None:
    trained = {**ORIGIN, "scores": _scores(80.0), "seconds": 120.0, "command": ["unihpe_fast.train", "synthetic"]}
    (tmp_path / "synthetic.json").write_text(json.dumps(trained))
    resumed = {**trained, "command": ["unihpe_fast.train", "--resume", "runs/cmu-images"]}
    (tmp_path / "cmu-images.json").write_text(json.dumps(resumed))
    results = {"a": {"mpjpe": 30.0, "pa_mpjpe": 20.0, "step_seconds": 60.0}}
    (tmp_path / "lifting.json").write_text(json.dumps({**ORIGIN, "steps": 5, "batch_size": 2, "results": results}))
    rates = {"ours_per_s": 75.0, "bare_per_s": 100.0, "ratio": 0.75, "ratios": [0.7, 0.75, 0.9]}
    held = {"2": {"epochs": 2, "steps": 9, "megabytes": [500.2, 501.0]}}
    data = {"prepare": {"10x20": rates}, "loading": {"2": rates}, "memory": held, "cores": 2}
    (tmp_path / "data.json").write_text(json.dumps({**ORIGIN, **data}))
    soak = {"steps": 2000, "workers": 4, "slope": 0.0734, "files": [9, 9, 10], "readings": {"rss": [100.4, 101.6]}}
    (tmp_path / "soak.json").write_text(json.dumps({**ORIGIN, **soak}))
    forms = {
        name: {"least_s": seconds} for name, seconds in (("eager", 4e-3), ("pt2", 5e-3), ("onnx", 2e-3), ("aoti", 1e-3))
    }
    exported = {"batches": {"4096": forms}, "errors_mm": {"pt2": 0.0, "onnx": 6.5e-4, "aoti": 5e-4}}
    (tmp_path / "export.json").write_text(
        json.dumps({**ORIGIN, **exported, "load_before": 0.2, "rounds": 3, "model": "lifting"})
    )
    names = ("synthetic", "cmu-images", "lifting", "data", "soak", "export")
    text = "".join(f"<!-- results:{name} -->stale<!-- end -->\n" for name in names)
    got = report.render(text, tmp_path)
    assert "stale" not in got
    for part in (
        "80.0 / 40.0",
        "R@1 0.75",
        "2.0 minutes from start to scores",
        "2.0 minutes from going on to scores",
        "0123456789 on a CPU; torch 9",
        "| a | 30.0 / 20.0 | 1.0 |",
        "caveat: approximated. Measured",
        "| preparing photographs of 10 x 20 px | 75 | 100 | 0.75 | 0.70 to 0.90 | 0.7 |",
        "| loading, 2 workers | 75 | 100 | 0.75 | 0.70 to 0.90 | 0.8 |",
        "500, 501 MB with 2 workers. 2 cores.",
        "from 100 to 102 MiB, slope fitted to the last three quarters +0.073 MiB a 100 steps; open",
        "files at most 9, 9, 10 in the second",
        "| AOTInductor | 1.00 ms, 4.00× | 5.0e-04 |",
    ):
        assert part in got, part
    assert report.render(got, tmp_path) == got
    of_input = {"exact": {"mpjpe": 40.0, "pa": 31.0}, "detector": {"mpjpe": 60.0, "pa": 45.0}}
    timed = {"median_s": 0.5, "least_s": 0.25, "rounds": 3}
    lifter = [{"cores": 2, "dtype": "bfloat16", "one": timed, "batch": timed}]
    speed = {"batch_size": 2000, "model": "m", "load_before": 2.0, "lifting": lifter, "cores": 2}
    of_predict = report.predict_table({**ORIGIN, **speed, "pictures": {"movenet": timed}})
    for part in (
        "| lifting one person, ms, bfloat16, two cores | 500.00 | 250.00 |",
        "| lifting 2,000 at once, poses a second, bfloat16, two cores | 4,000 | 8,000 |",
        "| movenet and lifting, pictures of 1280 x 720 a second, 2 cores | 2.0 | 4.0 |",
        "Lifter: `m`. Load of the machine before: 2.0;",
    ):
        assert part in of_predict, part
    peaks = {"before": 800.0, "all poses": 801.0, "npz": 1802.4}
    held = {"frames": 1024, "size": [320, 240], "load_before": 0.0, "peak_mib": peaks}
    of_memory = report.memory_table({**ORIGIN, **held})
    assert "| npz | 1,802 |" in of_memory
    assert "1,024 frames of one person: 1,024 bytes a pose until all poses are there" in of_memory
    assert "a frame has 230,400 bytes" in of_memory
    by_input = {"b": {"mpjpe": 40.0, "pa_mpjpe": 31.0, "step_seconds": 120.0, "real_motion": of_input}}
    of_real_motion = report.lifting_table({**ORIGIN, "steps": 5, "batch_size": 2, "results": by_input})
    assert "| trained on the same batches | exact 2D | a detector's 2D | minutes in steps |" in of_real_motion
    assert "| b | 40.0 / 31.0 | 60.0 / 45.0 | 2.0 |" in of_real_motion
    assert report.MISSING in report.render(text, tmp_path / "empty")


def test_provenance_names_commit_versions_and_device() -> None:
    assert {*ORIGIN, "clocks"} == set(provenance())
