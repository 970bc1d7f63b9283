import io
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pytest
from rich.console import Console

from tests.data.motion_files import standing, write_clip
from tests.support.forked import Forked
from unihpe_fast import prepare
from unihpe_fast.data import progress, sources
from unihpe_fast.data.crop_cache import CropCache
from unihpe_fast.data.sources import SOURCES, Reading, Tally, source_module
from unihpe_fast.data.sources.synthetic import samples as synthetic_samples
from unihpe_fast.data.summary import LONGEST, summary_tables

REPOSITORY = Path(__file__).parents[2]


def run(*arguments: object) -> int:
    return prepare.main([str(argument) for argument in arguments])


def names(file: h5py.File, key: str) -> list[str]:
    table = file[f"names/{key}"].asstr()[:]
    return [str(table[code]) for code in file[key][:]]


def clips(folder: Path) -> Path:
    folder.mkdir()
    motion = standing(60)
    motion[31, 0] = 10
    for name in ("02_01", "02_02", "05_01"):
        write_clip(folder / f"{name}.bvh.gz", motion)
    (folder / "manifest.csv").write_text(
        "file,subject,trial,description,fps_true\n02_01.bvh.gz,2,1,walk,120\n02_02.bvh.gz,2,2,run/jog,120\n"
        "05_01.bvh.gz,5,1,walk,120\n"
    )
    return folder


def test_cmu_command_writes_what_it_says(tmp_path, capsys):
    out = tmp_path / "cmu.h5"
    folder = clips(tmp_path / "in")
    assert run("cmu", folder, out, "--subjects", "02", "--views", 3, "--fps", 60, "--image-size", 0, "--seed", 4) == 0
    printed = capsys.readouterr().out
    # 59 frames at 120 fps are 30 at 60 fps, of which 31 (the jump) is dropped: one odd-numbered of 30, 31, 32
    with h5py.File(out) as file:
        assert file["joints_3d"].shape == (2 * 3 * 29, 17, 4)
        assert Counter(names(file, "action")) == {"walk": 3 * 29, "run/jog": 3 * 29}
        assert set(names(file, "subject")) == {"02"}
        assert 31 not in file["frame"][:]
        assert file["present"][:].all(0).tolist() == [False, True, True]
        assert file.attrs["dataset"] == "cmu"
        assert file.attrs["split"] == "train"
        assert "mocap.cs.cmu.edu" in file.attrs["licence"]
        assert file["cameras/vector"].shape == (6, 9)
    assert "174 samples in" in printed
    assert "3 joint faster than 15 m/s" in printed


def test_inputs_may_be_several_and_options_may_come_first(tmp_path):
    folder = clips(tmp_path / "in")
    out = tmp_path / "out.h5"
    arguments = (folder / "02_01.bvh.gz", folder / "05_01.bvh.gz", out)
    assert run("cmu", "--views", 1, "--image-size", 0, "--split", "val", *arguments) == 0
    with h5py.File(out) as file:
        assert set(names(file, "subject")) == {"02", "05"}
        assert set(names(file, "action")) == {"walk"}
        assert file.attrs["split"] == "val"


def test_synthetic_command_draws_crops_of_the_wanted_size(tmp_path):
    out = tmp_path / "synthetic.h5"
    assert run("synthetic", out, "--n", 6, "--image-size", 32, "--seed", 3) == 0
    with h5py.File(out) as file:
        assert file["present"][:].all()
        expected = np.stack([sample.joints_3d for sample in synthetic_samples(6, 3)])
        np.testing.assert_array_equal(file["joints_3d"][:], expected)
        for jpeg in file["image"][:]:
            image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
            assert image.shape == (32, 32, 3)
            assert image.std() > 0
        # the pelvis lands in the crop
        points = np.concatenate([file["keypoints_2d"][:, 0, :2], np.ones((6, 1))], axis=1)
        inside = np.einsum("nij,nj->ni", file["crop"][:], points)
        assert ((inside > 0) & (inside < 31)).all()


def test_a_command_repeats_itself_exactly(tmp_path):
    for out in ("a.h5", "b.h5"):
        assert run("synthetic", tmp_path / out, "--n", 5, "--image-size", 0) == 0
    with h5py.File(tmp_path / "a.h5") as one, h5py.File(tmp_path / "b.h5") as two:
        for key in ("joints_3d", "keypoints_2d", "bbox"):
            np.testing.assert_array_equal(one[key][:], two[key][:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope", "x", "out.h5"], f"unknown source 'nope': want one of {', '.join(sorted(SOURCES))}"),
        (["cmu"], "no paths: want IN.. OUT.h5"),
        (["cmu", "out.h5"], "no input"),
        (["cmu", "in/02_01.bvh.gz"], "in/02_01.bvh.gz: the last path is the file to write and should end in .h5"),
        (["cmu", "missing", "out.h5"], "missing: no such file or folder"),
        (["cmu", "in", "out.h5", "--subjects", "03"], "no clip of 03"),
        (["cmu", "in", "out.h5", "--image-size", "-1"], "--image-size -1: want 0 or more"),
        (["cmu", "in", "out.h5", "--seed", "-1"], "--seed -1: want 0 or more"),
        (["cmu", "in", "out.h5", "--images", "in"], "--images in: cmu has no photographs"),
        (["synthetic", "in", "out.h5"], "synthetic people come from no file, got in"),
    ],
)
def test_errors_are_one_clear_line_and_leave_the_old_file(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    clips(tmp_path / "in")
    (tmp_path / "out.h5").write_text("old")
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert "Traceback" not in captured.out + captured.err
    assert (tmp_path / "out.h5").read_text() == "old"
    assert (tmp_path / "in" / "02_01.bvh.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.h5"]


def test_a_bad_file_in_mid_stream_leaves_the_old_output(tmp_path, capsys):
    folder = clips(tmp_path / "in")
    bad = folder / "05_01.bvh.gz"
    bad.write_bytes(bad.read_bytes()[:-100])
    out = tmp_path / "out.h5"
    out.write_text("old")
    assert run("cmu", folder, out, "--image-size", 0) == 1
    assert capsys.readouterr().err.startswith(f"error: {bad}: broken gzip file")
    assert (out.read_text(), sorted(tmp_path.iterdir())) == ("old", [folder, out])


def test_ctrl_c_leaves_the_old_file(tmp_path, monkeypatch, capsys):
    def interrupted():
        yield from synthetic_samples(2, 0)
        raise KeyboardInterrupt

    monkeypatch.setattr("unihpe_fast.data.sources.synthetic.samples", lambda n, seed: interrupted())
    out = tmp_path / "out.h5"
    out.write_text("old")
    assert run("synthetic", out, "--image-size", 0) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert (out.read_text(), list(tmp_path.iterdir())) == ("old", [out])


def test_help_lists_sources_and_their_options(capsys):
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in SOURCES)
    assert run() == 2
    with pytest.raises(SystemExit) as stop:
        run("cmu", "--help")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--subjects", "--views", "--fps", "--image-size", "--seed", "--split"):
        assert option in printed


def test_a_mistyped_option_exits_with_two(capsys):
    with pytest.raises(SystemExit) as stop:
        run("cmu", "in", "out.h5", "--veiws", 3)
    assert stop.value.code == 2
    assert "--veiws" in capsys.readouterr().err


def test_a_further_source_needs_a_module_and_a_name(tmp_path, monkeypatch, capsys):
    @dataclass(frozen=True)
    class Options:
        every: int = 1

    def read(inputs, options, request):
        tally = Tally(notes=["half of it is [bold]missing[/bold]"])

        def kept():
            for i, sample in enumerate(synthetic_samples(6, request.seed)):
                if i % options.every:
                    tally.skip("S1", "odd", "not wanted")
                else:
                    yield sample

        return Reading("toy", "none", list(inputs), kept(), tally, total=6)

    monkeypatch.setitem(SOURCES, "toy-set", "toy")
    monkeypatch.setattr(sources, "import_module", lambda name: SimpleNamespace(Options=Options, read=read))
    source_file = tmp_path / "toy.txt"
    source_file.write_text("12345")
    assert run("toy-set", source_file, tmp_path / "toy.h5", "--every", 3, "--seed", 2) == 0
    printed = capsys.readouterr().out
    assert "note: half of it is [bold]missing[/bold]" in printed
    assert "4 not wanted" in printed
    with h5py.File(tmp_path / "toy.h5") as file:
        assert len(file["frame"]) == 2
        # no images are drawn unless the source asks for it
        assert file["present"][:].all(0).tolist() == [False, True, True]
        assert '"' in file.attrs["source_files"]
        assert "5" in file.attrs["source_files"]


@dataclass(frozen=True)
class NoOptions:
    pass


def photographed(monkeypatch: pytest.MonkeyPatch, count: int, actions: int = 2) -> None:
    """A source `toy` of people on photographs 0.jpg, 1.jpg, .. under --images."""

    def read(inputs, options, request):
        tally = Tally()

        def made():
            for n, person in enumerate(synthetic_samples(count, 0)):
                photo = None if request.images is None else request.images / f"{n}.jpg"
                bbox = np.array([40, 40, 50], np.float32)
                yield replace(person, bbox=bbox, photo=photo, camera=None, action=f"walk {n % actions}", frame=n)

        return Reading("toy", "none", [], made(), tally, total=count, caveat="synthetic people")

    monkeypatch.setitem(SOURCES, "toy", "toy")
    monkeypatch.setattr(sources, "import_module", lambda name: SimpleNamespace(Options=NoOptions, read=read))


def photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    for n in range(count):
        cv2.imwrite(str(folder / f"{n}.jpg"), np.full((90, 80, 3), 20 * n, np.uint8))
    return folder


def test_photographs_are_cropped(tmp_path, monkeypatch, capsys):
    photographed(monkeypatch, 5)
    root = photographs(tmp_path / "images", 5)
    assert run("toy", tmp_path / "a.h5", "--images", root) == 0
    printed = capsys.readouterr().out
    assert "5 samples in" in printed
    assert "5 with image" in printed
    assert printed.count("caveat: synthetic people") == 2
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["caveat"] == "synthetic people"
        for n, data in enumerate(file["image"][:]):
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
            assert picture.shape == (320, 320, 3)
            assert abs(int(picture[160, 160, 0]) - 20 * n) < 4
        assert file["cameras/size"][:].tolist() == [[80, 90]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "images"]
    # without the folder, or with size 0, there is none
    for arguments in ((), ("--images", root, "--image-size", 0)):
        assert run("toy", tmp_path / "b.h5", *arguments) == 0
        with h5py.File(tmp_path / "b.h5") as file:
            assert not file["present"][:, 0].any()


def test_a_missing_photograph_stops_the_job_or_is_counted(tmp_path, monkeypatch, capsys):
    photographed(monkeypatch, 5)
    root = photographs(tmp_path / "images", 5)
    (root / "3.jpg").unlink()
    (root / "1.jpg").write_bytes(b"")
    out = tmp_path / "a.h5"
    out.write_text("old")
    assert run("toy", out, "--images", root) == 1
    assert capsys.readouterr().err.startswith(f"error: {root / '1.jpg'}: broken image: found 0 bytes")
    assert out.read_text() == "old"
    assert run("toy", out, "--images", root, "--skip-broken-images", "--image-size", 16) == 0
    printed = capsys.readouterr().out
    assert "1 missing image" in printed
    assert "1 broken image" in printed
    assert "3 samples in" in printed
    with h5py.File(out) as file:
        assert file["frame"][:].tolist() == [0, 2, 4]
    assert run("toy", out, "--images", tmp_path, "--skip-broken-images") == 1
    assert "all 5 samples were left out (missing image); nothing was written" in capsys.readouterr().err
    assert run("toy", out, "--images", tmp_path / "nowhere") == 1
    assert f"--images {tmp_path / 'nowhere'}: no such folder" in capsys.readouterr().err


def test_a_killed_job_goes_on(tmp_path, monkeypatch, capsys):
    photographed(monkeypatch, 8)
    root = photographs(tmp_path / "images", 8)
    whole, out = tmp_path / "whole.h5", tmp_path / "a.h5"
    assert run("toy", whole, "--images", root, "--image-size", 16) == 0
    out.write_text("old")
    add, left = CropCache.add, [5]

    def counted(self: CropCache, *arguments: object) -> None:
        left[0] -= 1
        add(self, *arguments)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(CropCache, "add", counted)
        killed = Forked(lambda: run("toy", out, "--images", root, "--image-size", 16), tmp_path / "said")
    assert killed.wait() == -signal.SIGKILL
    (tmp_path / "said").unlink()
    assert out.read_text() == "old"
    # made already, so that these photographs are not needed again
    kept = (tmp_path / "a.h5.crops").stat().st_size
    assert kept > 0
    capsys.readouterr()
    assert run("toy", out, "--images", root, "--image-size", 16) == 0
    assert "are there" in capsys.readouterr().out
    with h5py.File(whole) as one, h5py.File(out) as two:
        for key in ("frame", "crop", "bbox", "camera", "present"):
            np.testing.assert_array_equal(one[key][:], two[key][:])
        for a, b in zip(one["image"][:], two["image"][:], strict=True):
            np.testing.assert_array_equal(a, b)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "images", "whole.h5"]


def test_hundreds_of_actions_are_summed_up():
    written = Counter({(f"S{n % 5}", f"action {n % 150:03d} {n % 2}"): 1 + n % 150 for n in range(300)})
    tally = Tally()
    tally.skip("S1", "action 149 1", "too blurred", 7)
    tally.skip("S9", "nothing", "missing image", 2)
    console = Console(width=100, record=True, file=io.StringIO())
    tables = list(summary_tables("toy", written, tally))
    for table in tables:
        console.print(table)
    text = console.export_text()
    assert [table.title for table in tables] == ["toy: samples by subject", "toy: samples by action"]
    assert all(table.row_count <= LONGEST + 1 for table in tables)
    assert "111 others" in text
    assert text.count("7 too blurred") >= 2
    assert text.count(str(written.total())) == 2
    small = list(summary_tables("toy", Counter({("S1", "a"): 3}), Tally()))
    assert [table.row_count for table in small] == [1]


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(monkeypatch):
    console = Console(file=io.StringIO())
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Counting("toy", 9, console) as counting:
        assert list(counting.over(range(4))) == [0, 1, 2, 3]
    assert console.file.getvalue().splitlines() == ["toy: 2/9 samples, 0/s", "toy: 4/9 samples, 0/s"]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_named_source_has_the_interface(name):
    source = source_module(name)
    assert source.Options() == source.Options()
    assert callable(source.read)


def test_the_module_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "unihpe_fast.prepare", "cmu", "/nowhere/at/all", "out.h5"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'kernels'}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip() == "error: /nowhere/at/all: no such file or folder"
