"""Every keypoint format: recognised by its content, read to the numbers that were written, refused in plain words."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.keypoints import files
from tests.data.keypoints.files import SIZE, person
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.keypoints import FORMATS, Keypoints, ReadOptions, read_keypoints, recognise
from unihpe_fast.data.joint_sets import COCO17, KEYPOINT_NAMES, to_h36m17

SIZED = ReadOptions(size=SIZE)


def expect(found: Keypoints, want: list[np.ndarray], atol: float = 1e-4) -> None:
    np.testing.assert_allclose(found.keypoints_2d, np.stack(want), rtol=1e-6, atol=atol)


def read(path: Path, name: str, options: ReadOptions = SIZED) -> Keypoints:
    assert recognise(path) == name
    return read_keypoints(path, options)


def test_numbers_that_two_of_a_picture_share_are_none(tmp_path: Path) -> None:
    """AlphaPose without its tracker says 0 of everyone."""
    a, b = person(26), person(26, seed=1)
    found = read(files.alphapose(tmp_path / "a.json", [("0.jpg", a), ("0.jpg", b), ("1.jpg", b)]), "alphapose")
    assert found.person.tolist() == [-1, -1, -1]
    alone = read(files.alphapose(tmp_path / "b.json", [("0.jpg", a), ("1.jpg", b)]), "alphapose")
    assert alone.person.tolist() == [0, 0]


def test_world_landmarks_are_no_keypoints_of_a_picture(tmp_path: Path) -> None:
    joints = [person(33, seed=seed) for seed in range(3)]
    for one in joints:
        one[:, :2] -= np.array(SIZE) / 2
    with pytest.raises(SourceError, match="as world landmarks, in m from the hips, have them"):
        read(files.mediapipe_wide(tmp_path / "world.csv", joints, header="x{i},y{i},z{i},v{i}"), "mediapipe")


@pytest.mark.parametrize(("count", "layout"), [(25, "body25"), (18, "openpose18")])
def test_openpose(tmp_path: Path, count: int, layout: str) -> None:
    a, b, c = (person(count, seed=seed) for seed in range(3))
    a[3] = 0
    found = read(files.openpose(tmp_path / "out", [[a, b], [], [c]]), "openpose")
    expect(found, [a, b, c])
    assert found.layout == layout
    assert found.frame.tolist() == [0, 0, 2]
    assert (found.frames, found.sequence, found.person.tolist()) == (3, True, [-1, -1, -1])
    # an absent keypoint is no joint at (0, 0)
    assert (found.h36m17()[0, 15] == 0).all()


def test_openpose_mpi_and_old_files(tmp_path: Path) -> None:
    p = person(15)
    found = read(files.openpose(tmp_path, [[p]], body="2d"), "openpose")
    assert found.h36m17()[0, 10] == pytest.approx(p[0])
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace("pose_keypoints_2d", "pose_keypoints"))
    expect(read_keypoints(file), [p])


@pytest.mark.parametrize("signed", [False, True])
def test_openpose_normalised(tmp_path: Path, signed: bool) -> None:
    p = person(25)
    # its source divides by one less than the width
    scaled = p / [SIZE[0] - 1, SIZE[1] - 1, 1]
    if signed:
        scaled[:, :2] = 2 * scaled[:, :2] - 1
    folder = files.openpose(tmp_path, [[scaled]])
    expect(read(folder, "openpose"), [p], atol=1e-3)
    with pytest.raises(SourceError, match=r"size of the pictures must be given \(--size W,H\): coordinates are norm"):
        read_keypoints(folder)


def test_openpose_tracks_and_bodies_that_were_not_found(tmp_path: Path) -> None:
    p = person(25)
    folder = files.openpose(tmp_path, [[p, np.zeros((25, 3)), p]])
    (file,) = folder.iterdir()
    content = json.loads(file.read_text())
    content["people"][0]["person_id"] = [7]
    content["people"][2]["pose_keypoints_2d"] = []
    file.write_text(json.dumps(content))
    found = read_keypoints(folder)
    assert found.person.tolist() == [7]
    assert found.skipped == {"people without a body": 1, "people without a keypoint": 1}


@pytest.mark.parametrize(("count", "layout"), [(17, "coco17"), (26, "halpe26"), (136, "halpe26")])
def test_alphapose(tmp_path: Path, count: int, layout: str) -> None:
    people = [person(count, seed=seed) for seed in range(3)]
    path = files.alphapose(
        tmp_path / "alphapose-results.json", [(f"{n}.jpg", p) for n, p in zip((0, 2, 10), people, strict=True)]
    )
    found = read(path, "alphapose")
    expect(found, [p[: len(found.names)] for p in people])
    assert (found.layout, found.frame.tolist(), found.sequence) == (layout, [0, 2, 10], True)
    assert found.picture == ["0.jpg", "2.jpg", "10.jpg"]


def test_alphapose_tracks_and_photographs(tmp_path: Path) -> None:
    p = person(17)
    path = files.alphapose(tmp_path / "x.json", [("beach.jpg", p), ("my dog ü.jpg", p), ("beach.jpg", p)], tracked=True)
    found = read(path, "alphapose")
    assert (found.frame.tolist(), found.person.tolist(), found.sequence) == ([0, 1, 0], [1, 2, 3], False)


@pytest.mark.parametrize("form", ["cmu", "open"])
def test_alphapose_forms(tmp_path: Path, form: str) -> None:
    a, b = person(18), person(18, seed=1)
    path = files.alphapose_form(tmp_path / "r.json", {"0.jpg": [a], "1.jpg": [], "2.jpg": [b]}, form)
    found = read(path, "alphapose")
    expect(found, [a, b])
    assert (found.layout, found.frame.tolist(), found.frames) == ("openpose18", [0, 2], 3)


def test_mmpose(tmp_path: Path) -> None:
    a, b = person(17), person(17, seed=1)
    picture = read(files.mmpose_picture(tmp_path / "a.json", [a, b]), "mmpose")
    expect(picture, [a, b])
    assert (picture.frame.tolist(), picture.sequence) == ([0, 0], False)
    video = read(files.mmpose_video(tmp_path / "b.json", [[a], [], [b, a]]), "mmpose")
    expect(video, [a, b, a])
    assert (video.frame.tolist(), video.frames, video.sequence) == ([0, 2, 2], 3, True)


def test_mmpose_demo_names_its_keypoints(tmp_path: Path) -> None:
    names = tuple(KEYPOINT_NAMES["halpe26"])
    a = person(26)
    found = read(files.mmpose_demo(tmp_path / "d.json", [[a], [a]], names), "mmpose")
    assert (found.names, found.frame.tolist()) == (names, [0, 1])
    # the wholebody model's 133 come in the same files
    whole = read(files.mmpose_video(tmp_path / "w.json", [[person(133)]]), "mmpose")
    np.testing.assert_array_equal(whole.h36m17(), to_h36m17(person(133).astype(np.float32)[None, :17], COCO17))


@pytest.mark.parametrize(
    ("meta", "frame", "word"),
    [({"fps": "25"}, {}, "fps must be"), ({}, {"image_size": [640]}, "image_size must be"),
     ({}, {"image_size": [640, -1]}, "image_size must be"), ({}, {"image_size": [0, 480]}, "image_size must be"),
     ({}, {"image_name": None}, "image_name must be")],
)  # fmt: skip
def test_sizes_and_rates_that_are_none_are_named(
    tmp_path: Path, meta: dict[str, object], frame: dict[str, object], word: str
) -> None:
    path = files.mmpose_demo(tmp_path / "d.json", [[person(17)]], tuple(KEYPOINT_NAMES["coco17"]))
    content = json.loads(path.read_text())
    content["meta_info"] |= meta
    content["instance_info"][0] |= frame
    path.write_text(json.dumps(content))
    with pytest.raises(SourceError, match=word):
        read(path, "mmpose")


def test_mmpose_folder_of_photographs(tmp_path: Path) -> None:
    a, b = person(17), person(17, seed=1)
    files.mmpose_picture(tmp_path / "one.json", [a])
    files.mmpose_picture(tmp_path / "two.json", [b])
    found = read(tmp_path, "mmpose")
    assert (found.frame.tolist(), found.picture, found.sequence) == ([0, 1], ["one", "two"], False)


@pytest.mark.parametrize(("member", "key"), [("images", "id"), ("annotations", "image_id")])
def test_a_coco_id_that_is_no_name_is_named(tmp_path: Path, member: str, key: str) -> None:
    path = files.coco_annotations(tmp_path / "x.json", [(1, person(17)), (2, person(17))])
    content = json.loads(path.read_text())
    content[member][0][key] = [1]
    path.write_text(json.dumps(content))
    with pytest.raises(SourceError, match=rf"x\.json: {member}\[0\]: {key} must be a number or a name, got \[1\]"):
        read_keypoints(path, ReadOptions(size=SIZE), "coco")


def test_coco_results_and_annotations(tmp_path: Path) -> None:
    a, b = person(17), person(17, seed=1)
    results = read(files.coco_results(tmp_path / "r.json", [(785, a), (139, b), (785, b)]), "coco", ReadOptions())
    expect(results, [a, b, b])
    assert (results.frame.tolist(), results.picture[1], results.sequence) == ([0, 1, 0], "139", False)
    a[:, 2], a[4] = 2, 0
    found = read(files.coco_annotations(tmp_path / "a.json", [(139, a)]), "coco", ReadOptions())
    a[:, 2] = a[:, 2].clip(max=1)
    expect(found, [a])
    assert (found.picture, found.size.tolist()) == (["000000000139.jpg"], [list(SIZE)])


@pytest.mark.parametrize("nesting", ["frames", "people", "objects", "one", "by number"])
def test_mediapipe_json(tmp_path: Path, nesting: str) -> None:
    a, b = person(33), person(33, seed=1)
    first, second = files.landmarks(a), files.landmarks(b)
    content = {
        "frames": [first, second],
        "people": [[first], [second]],
        "objects": {"fps": 30, "frames": [
            {"frame": 4, "pose_landmarks": first, "pose_world_landmarks": second}, {"frame": 5, "pose_landmarks": None},
            {"frame": 6, "pose_landmarks": [second]},
        ]},
        "one": {"landmarks": first},
        "by number": {"4": first, "5": second},
    }[nesting]  # fmt: skip
    path = tmp_path / "m.json"
    path.write_text(json.dumps(content))
    found = read(path, "mediapipe")
    expect(found, [a] if nesting == "one" else [a, b], atol=1e-3)
    assert found.layout == "named"
    assert found.frame.tolist() == {"objects": [4, 6], "one": [0]}.get(nesting, [0, 1])
    assert found.names[11] == "left_shoulder"
    with pytest.raises(SourceError, match="--size W,H"):
        read_keypoints(path)


@pytest.mark.parametrize("kind", ["long", "long named", "wide 1", "wide 0", "wide named"])
def test_mediapipe_csv(tmp_path: Path, kind: str) -> None:
    a, b = person(33), person(33, seed=1)
    path = tmp_path / "m.csv"
    if kind.startswith("long"):
        files.mediapipe_long(path, [a, b], named="named" in kind)
    else:
        header = "{n}_x,{n}_y,{n}_z,{n}_visibility" if "named" in kind else "x{i},y{i},z{i},v{i}"
        files.mediapipe_wide(path, [a, b], header=header)
        if kind == "wide 0":
            text = path.read_text()
            for i in range(1, 34):
                text = text.replace(f"x{i},y{i},z{i},v{i}", f"x{i - 1},y{i - 1},z{i - 1},v{i - 1}", 1)
            path.write_text(text)
    found = read(path, "mediapipe")
    expect(found, [a, b], atol=1e-3)
    assert found.frame.tolist() == [0, 1]


@pytest.mark.parametrize(("seen", "after", "track"), [
    (True, "", -1), (True, " 0.91", -1), (True, " 3", 3), (True, " 0.91 3", 3), (False, "", -1), (False, " 0.91 3", 3),
])  # fmt: skip
def test_yolo(tmp_path: Path, seen: bool, after: str, track: int) -> None:
    a, b = person(17), person(17, seed=1)
    a[3] = 0
    folder = files.yolo(tmp_path, [[a], [b], [b]], seen=seen, after=after)
    found = read(folder, "yolo")
    if not seen:
        a[a[:, 2] > 0, 2] = b[:, 2] = 1
    expect(found, [a, b, b], atol=2e-3)
    assert (found.frame.tolist(), found.person.tolist(), found.sequence) == ([1, 2, 3], [track] * 3, True)
    with pytest.raises(SourceError, match="--size W,H"):
        read_keypoints(folder)


NAMED = ["nose", "LHip", "RHip", "LKnee", "RKnee", "LAnkle", "RAnkle", "tail"]


def test_deeplabcut_csv(tmp_path: Path) -> None:
    frames = np.stack([person(8), person(8, seed=1)])[:, None]
    frames[1, 0, 3] = np.nan
    found = read(files.deeplabcut_csv(tmp_path / "a.csv", NAMED, frames), "deeplabcut")
    frames[1, 0, 3] = 0
    expect(found, list(frames[:, 0, :7]))
    assert found.names == tuple(NAMED[:7])
    assert found.person.tolist() == [0, 0]
    pelvis = found.h36m17()[0, 0]
    np.testing.assert_allclose(pelvis[:2], frames[0, 0, 1:3, :2].mean(0), rtol=1e-6)


def test_deeplabcut_csv_of_several(tmp_path: Path) -> None:
    frames = np.stack([person(8), person(8, seed=1), person(8, seed=2), person(8, seed=3)]).reshape(2, 2, 8, 3)
    frames[0, 1] = np.nan
    found = read(files.deeplabcut_csv(tmp_path / "a.csv", NAMED, frames, ("ann", "bob")), "deeplabcut")
    expect(found, [frames[0, 0, :7], frames[1, 0, :7], frames[1, 1, :7]])
    assert (found.person.tolist(), found.frame.tolist()) == ([0, 0, 1], [0, 1, 1])


def test_deeplabcut_h5_as_pandas_wrote_it(tmp_path: Path) -> None:
    """dlc.h5.gz: three frames, by pandas 3 and PyTables 3, 24 columns; cell (f, c) is 1.5 (24 f + c) + 10."""
    path = tmp_path / "dlc.h5"
    path.write_bytes(gzip.decompress((Path(__file__).parent / "dlc.h5.gz").read_bytes()))
    found = read(path, "deeplabcut")
    want = (np.arange(72).reshape(3, 8, 3) * 1.5 + 10)[:, :7]
    want[..., 2] = 0.75
    want[1, 1] = 0
    expect(found, list(want))
    assert found.names[1] == "left_hip"


def test_deeplabcut_h5_runs_nothing(tmp_path: Path) -> None:
    columns = [("s", name, axis) for name in NAMED for axis in ("x", "y", "likelihood")]
    path = files.deeplabcut_h5(tmp_path / "a.h5", columns, person(8)[None].reshape(1, 24))
    expect(read(path, "deeplabcut"), [person(8)[:7]])
    import h5py

    with h5py.File(path, "a") as file:
        file["df_with_missing/table"].attrs["values_block_0_kind"] = np.bytes_(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(SourceError, match="system"):
        read_keypoints(path)


def test_the_users_names_can_be_mapped(tmp_path: Path) -> None:
    frames = np.stack([person(8)])[:, None]
    path = files.deeplabcut_csv(tmp_path / "a.csv", ["snout", *NAMED[1:]], frames)
    assert (read_keypoints(path).h36m17()[0, 9] == 0).all()
    found = read_keypoints(path, ReadOptions(joints={"snout": "nose"}))
    np.testing.assert_allclose(found.h36m17()[0, 9], frames[0, 0, 0], rtol=1e-6)
    with pytest.raises(SourceError, match=r"--joints must name keypoints of the file \(snout, LHip.*\), got 'paw'"):
        read_keypoints(path, ReadOptions(joints={"paw": "nose"}))
    with pytest.raises(SourceError, match="--joints snout=beak must name a joint of a person"):
        read_keypoints(path, ReadOptions(joints={"snout": "beak"}))
    mouse = files.deeplabcut_csv(tmp_path / "m.csv", [f"part{n}" for n in range(8)], frames)
    with pytest.raises(SourceError, match=r"at least 6 joints of a person, got 0 from part0, .*; --joints"):
        read_keypoints(mouse)


@pytest.mark.parametrize("transposed", [False, True])
def test_sleap(tmp_path: Path, transposed: bool) -> None:
    tracks = np.stack([person(8, seed=seed) for seed in range(6)]).reshape(2, 3, 8, 3)
    tracks[0, 1], tracks[1, 2, 5] = np.nan, np.nan
    path = files.sleap(tmp_path / "a.analysis.h5", NAMED, tracks)
    if transposed:
        import h5py

        with h5py.File(path, "a") as file:
            for key in ("tracks", "point_scores"):
                stored = file[key][()].T
                del file[key]
                file[key] = stored
    found = read(path, "sleap")
    tracks[1, 2, 5] = 0
    expect(found, [tracks[0, 0, :7], tracks[0, 2, :7], *tracks[1, :, :7]])
    assert (found.person.tolist(), found.frame.tolist(), found.frames) == ([0, 0, 1, 1, 1], [0, 2, 0, 1, 2], 3)


def test_videopose3d(tmp_path: Path) -> None:
    video = np.stack([person(17, seed=seed)[:, :2] for seed in range(3)])
    video[1, 4] = 0
    found = read(
        files.videopose3d(tmp_path / "data_2d_custom_mine.npz", {"a.mp4": video}), "videopose3d", ReadOptions()
    )
    want = np.concatenate([video, np.ones((3, 17, 1))], axis=-1)
    want[1, 4] = 0
    expect(found, list(want))
    assert (found.layout, found.size[0].tolist(), found.sequence) == ("named", list(SIZE), True)
    both = read_keypoints(files.videopose3d(tmp_path / "two.npz", {"a.mp4": video, "b.mp4": video}))
    assert (both.person.tolist(), both.sequence) == ([0] * 3 + [1] * 3, False)


def test_trc(tmp_path: Path) -> None:
    names = ["Hip", "RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "Neck", "Head", "Nose", "RBigToe"]
    frames = np.stack([person(11, seed=seed)[:, :2] for seed in range(3)])
    frames[1, 3] = np.nan
    frames[2, 10] = np.nan
    found = read(files.trc(tmp_path / "demo_px_person00.trc", names, frames, rate="59.94"), "trc")
    want = np.concatenate([frames, np.ones((3, 11, 1))], axis=-1)
    want[1, 3] = want[2, 10] = 0
    expect(found, list(want))
    assert (found.fps, found.frame.tolist(), found.person.tolist()) == (59.94, [0, 1, 2], [0, 0, 0])
    with pytest.raises(SourceError, match="Units must be px, got 'm': these are positions in space already"):
        read_keypoints(files.trc(tmp_path / "m.trc", names, frames, units="m"))


def test_lsp(tmp_path: Path) -> None:
    people = np.stack([person(14, seed=seed) for seed in range(4)])
    people[..., 2] = [[1] * 7 + [0] * 7] * 4
    found = read(files.lsp(tmp_path / "joints.mat", people.transpose(2, 1, 0)), "lsp")
    # the third row marks hidden joints, which are as well placed as the others
    expect(found, [np.concatenate([p[:, :2], np.ones((14, 1))], axis=1) for p in people])
    assert (found.picture[0], found.sequence) == ("im0001.jpg", False)
    extended = read(files.lsp(tmp_path / "e.mat", people.transpose(1, 2, 0)), "lsp")
    people[people[..., 2] == 0] = 0
    expect(extended, list(people))
    with pytest.raises(SourceError, match=r"joints: want \[14, 3, N\] or \[3, 14, N\], got \[2, 14, 4\]"):
        read_keypoints(files.lsp(tmp_path / "wrong.mat", people.transpose(2, 1, 0)[:2]))


def test_what_is_no_keypoint_file(tmp_path: Path) -> None:
    readme = tmp_path / "readme.txt"
    readme.write_text("hello\n")
    assert recognise(readme) is None
    with pytest.raises(
        SourceError, match=r"readme\.txt: must be keypoints in one of the formats openpose, .*, got none"
    ):
        read_keypoints(readme)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="got an empty folder"):
        read_keypoints(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        read_keypoints(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"format must be one of openpose, .*, got 'dlc'"):
        read_keypoints(readme, format="dlc")


@pytest.mark.parametrize("content", ["", "{", "[", "[1, 2]", '{"people": 3}', "null", "[[]]", "\x00\x01", '{"a": [}'])
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_that_is_insisted_on_is_refused_in_words(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / f"x{'.txt' if name == 'yolo' else '.json'}"
    path.write_text(content)
    with pytest.raises((SourceError, OSError), match=r"x\.(txt|json)"):
        read_keypoints(path, SIZED, format=name)


def test_wrong_layouts(tmp_path: Path) -> None:
    path = files.alphapose(tmp_path / "a.json", [("0.jpg", person(21))])
    with pytest.raises(SourceError, match=r"a\.json: keypoints must be 16 \(mpii16\), 17 \(coco17\), .* got 21"):
        read_keypoints(path)
    path = files.alphapose(tmp_path / "b.json", [("0.jpg", person(14))])
    assert read_keypoints(path, ReadOptions(layout="lsp14")).layout == "lsp14"
    with pytest.raises(SourceError, match="layout coco17 must have 17 keypoints, got 14"):
        read_keypoints(path, ReadOptions(layout="coco17"))
    with pytest.raises(ValueError, match=r"layout must be one of coco17, .* got 'coco18'"):
        read_keypoints(path, ReadOptions(layout="coco18"))
    mixed = files.alphapose(tmp_path / "c.json", [("0.jpg", person(17)), ("1.jpg", person(26))])
    with pytest.raises(SourceError, match=r"\[1\]: keypoints: keypoints must be 17, as of the people before, got 26"):
        read_keypoints(mixed)


def test_nan_and_absurd_coordinates_are_absent_and_counted(tmp_path: Path) -> None:
    people = person(17), person(17, seed=1)
    records = [{"image_id": f"{n}.jpg", "category_id": 1, "keypoints": files.flat(p)} for n, p in enumerate(people)]
    records[0]["keypoints"][0] = None
    records[1]["keypoints"][3] = 1e30
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records))
    found = read_keypoints(path)
    assert (found.keypoints_2d[0, 0] == 0).all()
    assert (found.keypoints_2d[1, 1] == 0).all()
    assert found.skipped["keypoints that are no numbers"] == 2
    # JSON has no NaN, but Python writes it
    path.write_text(path.read_text().replace("null", "NaN").replace("1e+30", "Infinity"))
    np.testing.assert_array_equal(read_keypoints(path).keypoints_2d, found.keypoints_2d)


def test_ten_thousand_frames(tmp_path: Path) -> None:
    p = person(25)
    content = json.dumps({"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": files.flat(p)}]})
    for number in range(10_000):
        (tmp_path / f"v_{number:012d}_keypoints.json").write_text(content)
    found = read_keypoints(tmp_path)
    assert (len(found), found.frames) == (10_000, 10_000)
    np.testing.assert_array_equal(found.frame, np.arange(10_000))
