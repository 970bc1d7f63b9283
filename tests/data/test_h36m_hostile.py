"""Broken and hostile Human3.6M files: an error that names file and key, and nothing run or read that should not be."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.h36m_files import CAMERAS, walk, write_h5, write_metadata, write_npz_2d, write_npz_3d, write_tree
from tests.support.fuzz import fuzz
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.sources import Request
from unihpe_fast.data.sources.h36m.source import Options, read

LEFT, RIGHT = (4, 5, 6, 11, 12, 13), (1, 2, 3, 14, 15, 16)
GIVEN = {("S9", "Walking 1"): walk(3)}
PIXELS = np.random.default_rng(0).uniform(0, 1000, (3, 17, 2))


def draw(*inputs: Path, **options: str) -> int:
    return sum(1 for _ in read(inputs, Options(**{"subjects": "S9", **options}), Request()).samples)


def save(path: Path, **members: object) -> Path:
    """An npz whose members are pickled where they are no plain arrays."""
    np.savez(
        path,
        **{
            key: value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
            for key, value in members.items()
        },
    )
    return path


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("key", ["positions_3d", "positions_2d", "metadata"])
def test_a_payload_does_not_run(tmp_path, key):
    proof = tmp_path / "proof"
    path = save(tmp_path / "given.npz", **{"positions_2d": {}, key: Payload(f"touch {proof}")})
    with pytest.raises(SourceError, match=rf"given\.npz: {key}: .*system"):
        draw(path, write_npz_3d(tmp_path / "3d.npz", GIVEN))
    assert not proof.exists()
    # it is a payload
    pickle.loads(pickle.dumps(Payload(f"touch {proof}")))
    assert proof.exists()


ARRAY = (walk(3) / 1000).astype(np.float32)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (3, "positions_3d: want a dict of subjects, got int"),
        ({"S9": [ARRAY]}, "positions_3d: want a dict of actions for each of S1 to S11, got 'S9': list"),
        ({"S12": {"Walking": ARRAY}}, "got 'S12': dict"),
        ({9: {"Walking": ARRAY}}, "got 9: dict"),
        ({"S9": {"": ARRAY}}, "S9 : want an action and its take, such as Walking or Walking 1, got ''"),
        ({"S9": {5: ARRAY}}, "S9 5: want an action and its take"),
        ({"S9": {"../../Walking": ARRAY}}, "want an action and its take"),
        ({"S9": {"Walking\0": ARRAY}}, "want an action and its take"),
        ({"S9": {"\ud800": ARRAY}}, "want an action and its take"),
        ({"S9": {"Photo": ARRAY, "TakingPhoto": ARRAY}}, "S9 TakingPhoto: Photo is there twice"),
        ({"S9": {"Walking": "joints"}}, "S9 Walking: want an array, got str"),
        ({"S9": {"Walking": ARRAY[:, :17]}}, r"S9 Walking: want \[F, 32, 3\] of float, got \[3, 17, 3\] float32"),
        ({"S9": {"Walking": ARRAY[0]}}, r"S9 Walking: want \[F, 32, 3\]"),
        ({"S9": {"Walking": ARRAY.astype(int)}}, r"S9 Walking: want \[F, 32, 3\] of float, got .* int64"),
        ({"S9": {"Walking": ARRAY.astype(object)}}, "S9 Walking: want .* of float, got .* object"),
        ({"S9": {"Walking": ARRAY * np.nan}}, "S9 Walking: 288 numbers of the joints are not finite"),
        ({"S9": {"Walking": ARRAY.astype(float) * 1e306}}, "S9 Walking: .* numbers of the joints are not finite"),
        ({"S9": {"Walking": ARRAY * 1000}}, "S9 Walking: the farthest coordinate is .* mm; is the unit another"),
        ({"S9": {"Walking": ARRAY / 1000}}, "S9 Walking: the farthest coordinate is 7 mm; is the unit another"),
    ],
)
def test_malformed_joints_of_an_npz(tmp_path, positions, message):
    path = save(tmp_path / "3d.npz", positions_3d=positions)
    with pytest.raises(SourceError, match=message) as raised:
        draw(path)
    assert str(raised.value).startswith(f"{path}: positions_3d")


SYMMETRY = {"keypoints_symmetry": [list(LEFT), list(RIGHT)]}
FOUR = [PIXELS.astype(np.float32)] * 4


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"positions_2d": {"S9": {}}}, "positions_2d: no S9 Walking 1, which the 3D joints have"),
        ({"positions_2d": {"S9": {"Walking 1": FOUR[:3]}}}, "want a list of 4 arrays, one a camera, got 3"),
        ({"positions_2d": {"S9": {"Walking 1": 7}}}, "want a list of 4 arrays, one a camera, got int"),
        ({"positions_2d": {"S9": {"Walking 1": np.float64(7)}}}, "want a list of 4 arrays, one a camera, got float"),
        ({"positions_2d": {"S9": {"Walking 1": np.array(7.0)}}}, "want a list of 4 arrays, one a camera, got ndarray"),
        (
            {"positions_2d": {"S9": {"Walking 1": [1, 2, 3, 4]}}},
            "S9 Walking 1, camera 54138969: want an array, got int",
        ),
        ({"positions_2d": {"S9": {"Walking 1": [PIXELS[:2]] * 4}}}, "2 frames, want at least the 3 of the 3D joints"),
        ({"positions_2d": {"S9": {"Walking 1": [PIXELS[:, :15]] * 4}}}, "15 joints, want one of"),
        ({"positions_2d": {"S9": {"Walking 1": [PIXELS[..., :1]] * 4}}}, r"want \[F, J, 2\] of float"),
        ({"positions_2d": {"S9": {"Walking 1": [PIXELS * np.nan] * 4}}}, "camera 54138969: no joint is finite"),
        ({"positions_2d": {"S9": {"Walking 1": [PIXELS * 1e30] * 4}}}, "camera 54138969: a joint at .* px"),
        (
            {"positions_2d": {"S9": {"Walking 1": [np.full((3, 17, 3), 2.0)] * 4}}},
            r"want confidences in \[0, 1\], found 2 to 2",
        ),
        (
            {"positions_2d": {"S9": {"Walking 1": [PIXELS[:, :16]] * 4}}, "metadata": SYMMETRY},
            r"want \[F, 17, 2\] of float, got \[3, 16, 2\]",
        ),
        ({"positions_2d": {}, "metadata": {"keypoints_symmetry": 3}}, "metadata: keypoints_symmetry: want left and"),
        ({"positions_2d": {}, "metadata": {"keypoints_symmetry": [[1], [2]]}}, r"\(1,\) \(2,\) is no joint set"),
    ],
)
def test_malformed_points_of_an_npz(tmp_path, members, message):
    path = save(tmp_path / "2d.npz", **members)
    with pytest.raises(SourceError, match=message) as raised:
        draw(write_npz_3d(tmp_path / "3d.npz", GIVEN), path)
    assert str(raised.value).startswith(f"{path}: ")


def test_truncated_and_empty_files(tmp_path):
    npz = write_npz_3d(tmp_path / "3d.npz", GIVEN)
    data = npz.read_bytes()
    h5 = write_tree(tmp_path / "h36m", GIVEN) / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5"
    for path, content in ((npz, data[: len(data) // 2]), (npz, b""), (h5, h5.read_bytes()[:1500]), (h5, b"")):
        path.write_bytes(content)
        with pytest.raises(SourceError) as raised:
            draw(path if path is npz else tmp_path / "h36m")
        assert str(raised.value).startswith(str(path))


def gigantic(folder: Path) -> Path:
    """A 3D file that claims more frames than anybody filmed, and holds none."""
    path = folder / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("3D_positions", (96, 1 << 40), "f8", chunks=(96, 64), compression="gzip")
    return path


def linked(folder: Path) -> Path:
    """A 3D file whose data are in another file."""
    write_tree(folder / "elsewhere", GIVEN)
    path = folder / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        target = folder / "elsewhere" / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5"
        file["3D_positions"] = h5py.ExternalLink(str(target), "3D_positions")
    return path


def external(folder: Path) -> Path:
    """A 3D file whose data are the bytes of any other file."""
    secret = folder / "secret"
    secret.write_bytes(walk(3).tobytes())
    path = folder / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("3D_positions", (96, 3), "f8", external=[(str(secret), 0, 96 * 3 * 8)])
    return path


def virtual(folder: Path) -> Path:
    """A 3D file that is a view of another one."""
    write_tree(folder / "elsewhere", GIVEN)
    path = folder / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5"
    path.parent.mkdir(parents=True)
    layout = h5py.VirtualLayout((96, 3), "f8")
    target = folder / "elsewhere" / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5"
    layout[:] = h5py.VirtualSource(str(target), "3D_positions", (96, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("3D_positions", layout)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (gigantic, "0 bytes claim to unpack to"),
        (linked, "no such dataset in the file"),
        (external, "want a dataset whose data is in the file"),
        (virtual, "want a dataset whose data is in the file"),
    ],
)
def test_hdf5_that_reaches_out_or_claims_too_much(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(SourceError, match=message) as raised:
        draw(tmp_path)
    assert str(raised.value).startswith(f"{path}: 3D_positions")


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("poses", np.zeros((96, 3)), "no such dataset in the file, only poses"),
        ("3D_positions", np.zeros((95, 3)), r"want \[96, F\] of kind f, got \[95, 3\] float64"),
        ("3D_positions", np.zeros(96), r"want \[96, F\] of kind f, got \[96\] float64"),
        ("3D_positions", np.zeros((96, 3), int), "want .* of kind f, got .* int64"),
        ("3D_positions", np.full((96, 3), np.nan), "288 numbers of the joints are not finite"),
        ("3D_positions", np.ones((96, 3)), "the farthest coordinate is 1 mm"),
    ],
)
def test_malformed_joints_of_a_tree(tmp_path, key, array, message):
    path = write_h5(tmp_path / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5", key, array)
    with pytest.raises(SourceError, match=message) as raised:
        draw(tmp_path)
    assert str(raised.value).startswith(f"{path}: 3D_positions")


def test_a_group_in_the_place_of_joints(tmp_path):
    path = write_h5(tmp_path / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5", "3D_positions/x", np.zeros(3))
    with pytest.raises(SourceError, match="want a dataset whose data is in the file") as raised:
        draw(tmp_path)
    assert str(raised.value).startswith(f"{path}: 3D_positions")


def test_malformed_detections_of_a_tree(tmp_path):
    tree = write_tree(tmp_path / "h36m", GIVEN)
    folder = tree / "S9" / "StackedHourglass"
    for camera_id in CAMERAS[:3]:
        write_h5(folder / f"Walking_1.{camera_id}.h5", "poses", np.ones((3, 16, 2)))
    with pytest.raises(SourceError, match=r"Walking 1\.h5: no 2D points of camera 60457274 in S9/StackedHourglass"):
        draw(tree, detections="StackedHourglass")
    last = write_h5(folder / f"Walking_1.{CAMERAS[3]}.h5", "poses", np.ones((3, 17, 2)))
    with pytest.raises(SourceError, match=r"want \[F, 16, 2\] of kind f") as raised:
        draw(tree, detections="StackedHourglass")
    assert str(raised.value).startswith(f"{last}: poses")
    odd = write_h5(folder / "Walking.h5", "poses", np.ones((3, 16, 2)))
    with pytest.raises(SourceError, match=r"want a name such as Walking 1\.54138969\.h5") as raised:
        draw(tree, detections="StackedHourglass")
    assert str(raised.value).startswith(str(odd))


def test_memory_stays_that_of_a_take(tmp_path):
    """Forty takes of a tree take no more memory than four."""
    given = {("S9", f"Walking {number}"): walk(100) for number in range(1, 4)}
    tree = write_tree(tmp_path / "h36m", given)
    first = (tree / "S9" / "MyPoses" / "3D_positions" / "Walking 1.h5").read_bytes()
    for number in range(4, 41):
        (tree / "S9" / "MyPoses" / "3D_positions" / f"Walking {number}.h5").write_bytes(first)
    script = f"""
from pathlib import Path
from unihpe_fast.data.sources import Request
from unihpe_fast.data.sources.h36m.source import Options, read
peaks = []
for number, sample in enumerate(read([Path({str(tree)!r})], Options(subjects="S9"), Request()).samples):
    if number in (1599, 15999):
        # not getrusage, whose peak is that of the process that started this one
        status = Path("/proc/self/status").read_text().split()
        peaks.append(int(status[status.index("VmHWM:") + 1]))
print(peaks[1] - peaks[0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # KiB; the 36 more takes are 36 * 100 * 96 * 8 bytes = 2.6 MiB of joints, and 14400 samples of 484 bytes 6.6 MiB
    assert int(done.stdout) < 2000


def tree_files(tmp_path: Path) -> dict[str, bytes]:
    tree = write_tree(tmp_path / "h36m", GIVEN)
    for camera_id in CAMERAS:
        write_h5(tree / "S9" / "StackedHourglass" / f"Walking_1.{camera_id}.h5", "poses", PIXELS[:, :16])
    path = tree / "S9" / "StackedHourglass" / f"Walking_1.{CAMERAS[0]}.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("poses", data=PIXELS[:, :16], chunks=(3, 16, 2), compression="gzip", shuffle=True)
    write_metadata(tree)
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


@pytest.mark.fuzz
def test_fuzz_tree(tmp_path):
    def read_tree(folder: Path) -> None:
        draw(folder, folder / "metadata.xml", detections="StackedHourglass")

    assert fuzz(read_tree, tree_files(tmp_path)) > 0


@pytest.mark.fuzz
def test_fuzz_npz(tmp_path):
    write_npz_3d(tmp_path / "3d.npz", GIVEN)
    write_npz_2d(tmp_path / "2d.npz", {("S9", "Walking 1"): [PIXELS] * 4}, LEFT, RIGHT)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def read_pair(folder: Path) -> None:
        draw(folder / "3d.npz", folder / "2d.npz")

    assert fuzz(read_pair, files) > 0
