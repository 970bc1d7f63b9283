import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.motion_files import CHANNELS, motionbuilder_text, standing, write_clip
from unihpe_fast.data import bvh_people
from unihpe_fast.data.bbox import square_bbox
from unihpe_fast.data.camera import Camera, pinhole, project
from unihpe_fast.data.formats.motion_manifest import ClipFile, action_name
from unihpe_fast.data.rig import camera_rig
from unihpe_fast.data.skeleton import BONES, LEFT, RIGHT
from unihpe_fast.data.sources import Request, Tally, cmu, motion
from unihpe_fast.data.sources.cmu import Options
from unihpe_fast.data.sources.motion import Clip, ClipReader, find_clips, glitched, resample

REPOSITORY = Path(__file__).parents[2]
CMU = Path(os.environ.get("UNIHPE_CMU", REPOSITORY.parent / "shared" / "data" / "cmu"))
real = pytest.mark.skipif(not CMU.is_dir(), reason=f"no CMU motion at {CMU}; UNIHPE_CMU may name its folder")
MANIFEST = "file,subject,trial,description,fps_true\n"


def read_clip(file: ClipFile) -> Clip:
    return ClipReader(slow=cmu.SLOW_SUBJECTS).read(file)


def real_clip(name: str) -> Clip:
    (file,) = find_clips([CMU / name])
    return read_clip(file)


def sources(tmp_path: Path, frames: int = 40) -> Path:
    """A folder with a manifest and two subjects' clips."""
    (tmp_path / "sub").mkdir()
    write_clip(tmp_path / "sub" / "walk.bvh.gz", standing(frames))
    write_clip(tmp_path / "sub" / "03_02.bvh", standing(frames))
    (tmp_path / "manifest.csv").write_text(
        MANIFEST + 'sub/walk.bvh.gz,94 (inferred),7,"dance - small jetes, pirouette",60\n'
    )
    return tmp_path


def draw(folder: Path, seed: int = 0, **options):
    reading = cmu.read([folder], Options(**options), Request(seed=seed))
    return reading, list(reading.samples)


@real
@pytest.mark.parametrize(("clip", "residual"), [("02_01", 0.6), ("05_13", 2.5)])
def test_conversion_and_original_agree(clip, residual, monkeypatch):
    original = real_clip(f"cmu_asfamc/{clip}.amc.gz")
    converted = real_clip(f"cmu_bvh/{clip}.bvh.gz")
    assert original.joints.shape == converted.joints.shape
    assert (original.first, original.fps) == (1, 120)
    assert (converted.first, converted.fps) == (1, pytest.approx(120, rel=1e-5))
    # 4 mm is the promise; the residual is the conversion's own rounding of the skeleton
    assert np.linalg.norm(original.joints - converted.joints, axis=-1).max() < residual < 4
    monkeypatch.setattr(bvh_people, "_restore_thorax", lambda bvh: bvh.offsets)
    unrepaired = real_clip(f"cmu_bvh/{clip}.bvh.gz")
    assert np.linalg.norm(original.joints - unrepaired.joints, axis=-1).max() > 100


@real
@pytest.mark.parametrize(
    "name", ["cmu_bvh/02_01.bvh.gz", "cmu_bvh/35_17.bvh.gz", "cmu_asfamc/11_01.amc.gz", "cmu_daz_bvh/salsa_05.bvh.gz"]
)
def test_people_are_upright_human_and_left_is_left(name):
    joints = real_clip(name).joints
    ankles, head = joints[:, [3, 6], 2], joints[:, 10, 2]
    assert (head - ankles.min(1) > 1200).all()
    assert -50 < np.quantile(ankles, 0.02) < 200  # the floor is at 0
    # hips and shoulders say the same about where left is
    across = joints[:, 4] - joints[:, 1]
    assert ((across * (joints[:, 11] - joints[:, 14])).sum(-1) > 0).mean() > 0.95
    # the knees bend toward the front that left, right and up give
    front = np.cross(across, [0, 0, 1.0])
    bend = joints[:, [2, 5]] - (joints[:, [1, 4]] + joints[:, [3, 6]]) / 2
    assert ((bend * front[:, None]).sum(-1) > 0).mean() > 0.9


@real
def test_walkers_go_where_they_face():
    joints = real_clip("cmu_bvh/02_01.bvh.gz").joints
    front = np.cross(joints[:, 4] - joints[:, 1], [0, 0, 1.0])
    step = joints[12:, 0] - joints[:-12, 0]
    assert ((step * front[:-12]).sum(-1) > 0).all()
    assert 1.0 < np.linalg.norm(joints[-1, 0] - joints[0, 0]) / 1000 / (len(joints) / 120) < 2.0  # m/s


# mm over 14 subjects, as tabulated for the MotionBuilder conversion; head and spine are not rigid
LENGTHS = {
    1: (71, 112), 2: (336, 430), 3: (394, 472), 4: (71, 112), 5: (336, 430), 6: (394, 472), 7: (197, 233),
    8: (209, 248), 9: (83, 108), 10: (126, 162), 11: (169, 226), 12: (262, 319), 13: (138, 212), 14: (169, 226),
    15: (262, 319), 16: (138, 212),
}  # fmt: skip
FLEXIBLE = (7, 8, 10)


@real
@pytest.mark.parametrize("name", ["02_04", "05_01", "07_01", "12_01", "35_17", "49_04"])
def test_bones_have_the_known_lengths_and_keep_them(name):
    joints = real_clip(f"cmu_bvh/{name}.bvh.gz").joints
    for parent, child in BONES:
        lengths = np.linalg.norm(joints[:, child] - joints[:, parent], axis=-1)
        low, high = LENGTHS[child]
        assert low - 1 < lengths.mean() < high + 1, child
        if child not in FLEXIBLE:
            assert lengths.std() < 1e-6


@real
def test_manifest_gives_true_rates_and_inferred_subjects():
    clips = {file.path.name: file for file in find_clips([CMU])}
    salsa = read_clip(clips["salsa_20.bvh.gz"])
    assert (salsa.fps, salsa.first, salsa.file.name) == (60, 10, "61_05")
    assert (clips["indian_06.bvh.gz"].subject, clips["indian_06.bvh.gz"].action) == ("94", "indian dance")
    assert len(salsa.joints) == 1679 - 10


@real
def test_a_knee_that_snaps_backward_is_left_out():
    clip = real_clip("cmu_bvh/05_06.bvh.gz")
    good = ~glitched(clip.joints, clip.fps)
    across, spine = clip.joints[:, 4] - clip.joints[:, 1], clip.joints[:, 8] - clip.joints[:, 0]
    bend = ((clip.joints[:, 2] - (clip.joints[:, 1] + clip.joints[:, 3]) / 2) * np.cross(across, spine)).sum(-1)
    snapped = np.r_[128:146, 156:165, 175:192]
    assert (bend[snapped] < 0).all()
    assert not good[snapped].any()
    assert 0.85 < good.mean() < 0.95


def test_units_frames_and_axes_of_a_known_pose(tmp_path):
    path = write_clip(tmp_path / "07_03.bvh", standing(3))
    clip = read_clip(*find_clips([path]))
    inch = 25.4 / 0.45
    assert (len(clip.joints), clip.first, clip.fps) == (2, 1, pytest.approx(120, rel=1e-5))
    # frame 1 is turned by one degree about Y, so undo that about Z
    turn = np.deg2rad(-1)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    joints = clip.joints[0] @ rotation.T / inch

    def at(x: float, y: float, z: float) -> list[float]:
        """File coordinates from the hips, Y up and facing +Z, as Z up and facing -Y."""
        return [x, -z, y + 17.5]

    thorax = 4.1 + np.linalg.norm([0.03, 2.1, -0.03])
    np.testing.assert_allclose(joints[0], at(0.05, -1.8, 0.6), atol=1e-6)
    np.testing.assert_allclose(joints[4], at(1.7, -1.8, 0.6), atol=1e-6)
    np.testing.assert_allclose(joints[3], at(-6.7, -15.7, 0.6), atol=1e-6)
    np.testing.assert_allclose(joints[7], at(0.02, 2.0, -0.2), atol=1e-6)
    np.testing.assert_allclose(joints[8], at(0.05, thorax, -0.23), atol=1e-6)
    np.testing.assert_allclose(joints[9], at(0.0, thorax + 1.7, -0.03), atol=1e-6)
    np.testing.assert_allclose(joints[10], at(0.1, thorax + 4.4, -0.28), atol=1e-6)
    np.testing.assert_allclose(joints[13], at(12.15, thorax + 0.8, -0.43), atol=1e-6)
    assert (joints[list(LEFT), 0] > joints[list(RIGHT), 0]).all()


def test_a_thorax_that_is_there_is_left_alone(tmp_path):
    text = motionbuilder_text(standing(3))
    whole = text
    for name in ("Neck", "LeftShoulder", "RightShoulder"):
        head, tail = whole.split(f"JOINT {name}\n", 1)
        whole = f"{head}JOINT {name}\n{tail.replace('OFFSET 0 0 0', 'OFFSET 0 0.5 0', 1)}"
    (tmp_path / "07_03.bvh").write_text(text)
    (tmp_path / "07_04.bvh").write_text(whole)
    lost, kept = (read_clip(file).joints[0] for file in find_clips([tmp_path]))
    shift = (np.linalg.norm([0.03, 2.1, -0.03]) - 0.5) * 25.4 / 0.45
    np.testing.assert_allclose((lost - kept)[[8, 9, 10, 11, 16]], [[0, 0, shift]] * 5, atol=1e-6)


@pytest.mark.parametrize(
    ("native", "fps", "want"),
    [
        (120, 20, [0, 6, 12, 18]),
        (1 / 0.0083333, 20, [0, 6, 12, 18]),  # the header's rounded frame time
        (120, 50, [0, 2, 5, 7, 10, 12, 14, 17]),  # every 2.4 frames
        (60, 50, [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18]),
        (30, 120, list(range(19))),  # none is made up
        (120, 7.5, [0, 16]),
    ],
)
def test_resampling_takes_the_nearest_frames(native, fps, want):
    np.testing.assert_array_equal(resample(19, native, fps), want)


def test_resampling_does_not_drift():
    assert resample(120 * 3600, 120, 50)[-1] == round(2.4 * (50 * 3600 - 1))
    assert resample(1, 120, 50).tolist() == [0]


def test_glitches_are_the_frames_beside_a_jump_and_between_two():
    joints = np.zeros((200, 17, 3))
    joints[20, 5, 0] = 130  # 15.6 m/s at 120 fps: away and back
    joints[60:80, 3, 1] = 130
    joints[120:, 7, 2] = 130  # stays for good
    joints[160:, 2, 0] = 120  # 14.4 m/s
    assert np.flatnonzero(glitched(joints, 120)).tolist() == [19, 20, 21, *range(59, 81), 119, 120]
    assert not glitched(joints, 60).any()


@pytest.mark.parametrize(
    ("description", "action"),
    [
        ("walk", "walk"),
        ("run/jog", "run/jog"),
        ("dance - small jetes, pirouette", "dance"),
        ("bend over, scoop up, rise, lift arm", "bend over"),
        ("indian dance (folder name)", "indian dance"),
        ("Front Kick", "front kick"),
        ("", ""),
    ],
)
def test_action_is_the_leading_words(description, action):
    assert action_name(description) == action


def test_clips_are_found_with_and_without_a_manifest(tmp_path):
    folder = sources(tmp_path)
    three, ninety_four = find_clips([folder, folder / "sub" / "03_02.bvh"])
    assert (three.name, three.action, three.fps) == ("03_02", "", None)
    assert (ninety_four.name, ninety_four.action, ninety_four.fps) == ("94_07", "dance", 60)
    (folder / "manifest.csv").write_text("name,colour\nwalk,red\n")
    notes: list[str] = []
    _, walk = find_clips([folder], notes)
    assert (walk.name, walk.subject, walk.action) == ("walk", "sub", "walk")
    assert f"{folder / 'manifest.csv'} is not used: it has no column file, subject, trial, description" in notes[0]
    assert "1 clips of sub: no manifest.csv lists them" in notes[1]


def test_files_of_other_makers_name_their_people(tmp_path):
    for name in ("walk1_subject5.bvh", "aiming2_subject10.bvh.gz", "Capoeira.bvh", "02_01.bvh"):
        write_clip(tmp_path / name, standing(3))
    clips = [(clip.subject, clip.name, clip.action) for clip in find_clips([tmp_path])]
    folder = tmp_path.name
    assert clips[0] == ("02", "02_01", "")
    assert sorted(clips[1:]) == sorted(
        [
            ("subject5", "walk1_subject5", "walk"),
            ("subject10", "aiming2_subject10", "aiming"),
            (folder, "Capoeira", "capoeira"),
        ]
    )
    with pytest.raises(ValueError, match="no clip of subject7 in the input; there are 02, "):
        draw(tmp_path, subjects="02,subject7")


@pytest.mark.parametrize(
    "data",
    [
        "\ufefffile,subject,trial,description,fps_true\nsub/walk.bvh,94,7,dance,119.88\n".encode(),
        b"File;Subject;Trial;Description;FPS_true\r\nsub\\walk.bvh;94;7;dance;119,88\r\n",
        b"fps_true\tdescription\ttrial\tsubject\tfile\n119.88 (index)\tdance\t7\t94 (inferred)\tsub\\walk.bvh\n\n",
        b"file,subject,trial,description,fps_true,who\nsub/walk.bvh,94,7,dance,119.88,M\xfcller\n",
        b" FILE , SUBJECT,TRIAL,DESCRIPTION,FPS_TRUE\nsub/walk.bvh,94,7,dance,11988/100\n",
    ],
)
def test_manifests_as_spreadsheets_write_them(tmp_path, data):
    (tmp_path / "sub").mkdir()
    write_clip(tmp_path / "sub" / "walk.bvh", standing(3))
    (tmp_path / "manifest.csv").write_bytes(data)
    notes: list[str] = []
    (clip,) = find_clips([tmp_path], notes)
    assert (clip.name, clip.action, clip.fps) == ("94_07", "dance", pytest.approx(119.88))
    assert notes == []


@pytest.mark.parametrize("subject", [33, 34, 42, 60, 61, 62, 74, 75, 77, 79, 80, 87, 88, 89])
def test_subjects_captured_slower_than_their_headers_say_are_known_without_a_manifest(tmp_path, subject):
    assert read_clip(*find_clips([write_clip(tmp_path / f"{subject}_01.bvh", standing(3))])).fps == 60
    # of another maker's files the number means nothing
    assert ClipReader().read(*find_clips([tmp_path])).fps == pytest.approx(120, rel=1e-5)


def test_samples_are_the_projections_of_the_clips(tmp_path):
    reading, samples = draw(sources(tmp_path), views=3, fps=20)
    # 39 frames of motion: every 6th at 120 fps, every 3rd at 60
    assert len(samples) + reading.tally.skipped.total() == 3 * (7 + 13)
    assert reading.tally.skipped.total() == 0
    assert (reading.dataset, reading.render) == ("cmu", True)
    assert sorted(path.name for path in reading.files) == ["03_02.bvh", "walk.bvh.gz"]
    clip = read_clip(next(file for file in find_clips([tmp_path]) if file.subject == "94"))
    mine = [sample for sample in samples if sample.subject == "94"]
    assert len(samples) - len(mine) == 21
    assert {sample.action for sample in mine} == {"dance"}
    assert {sample.camera_id for sample in mine} == {"94_07_c0", "94_07_c1", "94_07_c2"}
    for sample in mine:
        camera = sample.camera
        world = clip.joints[sample.frame - 1]
        expected = world @ camera.rotation.T + camera.translation
        np.testing.assert_allclose(sample.joints_3d[:, :3], expected, rtol=1e-6, atol=1e-3)
        pixels = project(torch.from_numpy(expected), torch.from_numpy(camera.vector)).numpy()
        np.testing.assert_allclose(sample.keypoints_2d[:, :2], pixels, atol=1e-4)
        np.testing.assert_allclose(sample.bbox, square_bbox(pixels), rtol=1e-5)
        assert (sample.joints_3d[:, 3] == 1).all()
        assert (sample.keypoints_2d[:, 2] == 1).all()
        # upright in the image
        assert pixels[10, 1] < pixels[[3, 6], 1].min()


def test_cameras_depend_on_seed_and_clip_alone(tmp_path):
    folder = sources(tmp_path)
    _, samples = draw(folder, views=2)
    _, alone = draw(folder, views=2, subjects="94")
    _, other = draw(folder, views=2, subjects="94", seed=1)
    mine = [sample for sample in samples if sample.subject == "94"]
    assert len(mine) == len(alone) == len(other)
    for one, two, three in zip(mine, alone, other, strict=True):
        np.testing.assert_array_equal(one.joints_3d, two.joints_3d)
        assert not np.array_equal(one.joints_3d, three.joints_3d)


def test_rig_stands_around_the_clip_like_human36m_cameras():
    rng = np.random.default_rng(0)
    person = np.random.default_rng(1).uniform([1700, -1300, 80], [2300, -700, 1700], (50, 17, 3))
    cameras = camera_rig(person, 8, rng, "x")
    eyes = np.array([-camera.rotation.T @ camera.translation for camera in cameras])
    away = eyes - [2000, -1000, 0]
    assert ((eyes[:, 2] >= 1200) & (eyes[:, 2] <= 2000)).all()
    distances = np.linalg.norm(away[:, :2], axis=1)
    assert ((distances > 3900) & (distances < 6100)).all()
    bearings = np.sort(np.arctan2(away[:, 1], away[:, 0]))
    # 45 degrees apart, each moved by up to a fifth of that
    assert np.diff(bearings).max() < np.deg2rad(45 * 1.4 + 2)
    assert {(camera.width, camera.height) for camera in cameras} == {(1000, 1002), (1000, 1000)}
    focal = np.array([camera.vector[:2] for camera in cameras])
    assert (np.abs(focal - 1146) < 8).all()
    assert len(np.unique(focal)) == 16
    assert [camera.name for camera in cameras] == [f"x_c{k}" for k in range(8)]


def test_rig_steps_back_for_a_wide_clip_but_not_without_end():
    person = np.random.default_rng(1).uniform([-300, -300, 80], [300, 300, 1700], (50, 17, 3))
    for half, low, high in ((2000, 5000, 7000), (20000, 7900, 8100)):
        walk = person + np.linspace(-half, half, 50)[:, None, None] * [1, 0, 0]
        for camera in camera_rig(walk, 4, np.random.default_rng(0), "x"):
            assert low < np.linalg.norm((camera.rotation.T @ camera.translation)[:2]) < high


def test_frames_that_a_camera_does_not_see_whole_are_counted(tmp_path):
    file = ClipFile(tmp_path / "x.bvh", "04", "04_01", "walk", None)
    person = np.random.default_rng(1).uniform([-300, -300, 80], [300, 300, 1700], (1, 17, 3))
    (camera, *_) = camera_rig(person, 4, np.random.default_rng(0), "x")
    eye = -camera.rotation.T @ camera.translation
    ahead = camera.rotation[2] * [1, 1, 0]
    # where they stand; beside the image; with the camera in their middle; far behind the camera
    places = [np.zeros(3), camera.rotation[0] * 2200, eye * [1, 1, 0], eye * [1, 1, 0] - 3000 * ahead]
    clip = Clip(file, np.concatenate([person + place for place in places]), 10, 120.0)
    tally = Tally()
    samples = list(motion.film(clip, np.arange(4), camera, tally))
    assert [sample.frame for sample in samples] == [10]
    assert tally.skipped == {
        ("04", "walk", "joint behind the camera"): 2,
        ("04", "walk", "joint outside the image"): 1,
    }


def test_glitches_are_skipped_aloud(tmp_path):
    motion = standing(60)
    motion[31, 0] = 10  # half a metre in one frame
    write_clip(tmp_path / "03_02.bvh", motion)
    reading, samples = draw(tmp_path, views=2, fps=120)
    assert reading.tally.skipped == {("03", "", "joint faster than 15 m/s"): 2 * 3}
    assert {sample.frame for sample in samples} == set(range(1, 60)) - {30, 31, 32}
    motion[1::2, 0] = 10
    write_clip(tmp_path / "03_02.bvh", motion)
    reading, samples = draw(tmp_path, views=2, fps=120)
    assert (samples, reading.tally.skipped.total()) == ([], 2 * 59)


def asf_amc(folder: Path, name: str) -> None:
    """An Acclaim person with the needed bones, each 2 long and none of them moving."""
    bones = {bone for bones in motion.ACCLAIM for bone in bones}
    data = "".join(f"begin\nname {bone}\ndirection 0 1 0\nlength 2\naxis 0 0 0 XYZ\nend\n" for bone in sorted(bones))
    (folder / f"{name.split('_')[0]}.asf").write_text(
        ":units\nlength 0.45\nangle deg\n:root\norder TX TY TZ RX RY RZ\n:bonedata\n"
        f"{data}:hierarchy\nbegin\nroot {' '.join(sorted(bones))}\nend\n"
    )
    (folder / f"{name}.amc").write_text(":DEGREES\n1\nroot 0 20 0 0 0 0\n2\nroot 0 20 0 0 0 0\n")


def test_the_original_is_read_where_a_clip_is_there_twice(tmp_path):
    write_clip(tmp_path / "03_02.bvh", standing(10))
    asf_amc(tmp_path, "03_02")
    reading = cmu.read([tmp_path], Options(), Request())
    assert [path.name for path in reading.files] == ["03_02.amc", "03.asf"]
    assert len(reading.tally.notes) == 1
    assert "03_02.amc is read" in reading.tally.notes[0]
    assert "03_02.bvh is not" in reading.tally.notes[0]
    (clip,) = [read_clip(file) for file in find_clips([tmp_path]) if file.path.suffix == ".amc"]
    np.testing.assert_allclose(clip.joints[0, 0], [0, 0, 22 * 25.4 / 0.45])


def test_an_amc_without_its_skeleton_is_named(tmp_path):
    asf_amc(tmp_path, "03_02")
    (tmp_path / "03.asf").rename(tmp_path / "04.asf")
    with pytest.raises(FileNotFoundError, match=r"03_02\.amc: its skeleton 03\.asf is not beside it \(04\.asf is\)"):
        cmu.read([tmp_path], Options(), Request())


def test_the_skeleton_of_a_motion_with_another_name_is_found_or_given(tmp_path):
    asf_amc(tmp_path, "03_02")
    (tmp_path / "03_02.amc").rename(tmp_path / "walking.amc")
    (tmp_path / "03.asf").rename(tmp_path / "Person.ASF")
    reading = cmu.read([tmp_path], Options(), Request())
    assert [path.name for path in reading.files] == ["walking.amc", "Person.ASF"]
    (tmp_path / "walking.asf").write_bytes((tmp_path / "Person.ASF").read_bytes())
    reading = cmu.read([tmp_path], Options(), Request())
    assert [path.name for path in reading.files] == ["walking.amc", "walking.asf"]
    (tmp_path / "walking.asf").rename(tmp_path / "other.asf")
    with pytest.raises(
        FileNotFoundError, match=r"skeleton walking\.asf is not beside it \(Person\.ASF, other\.asf is\)"
    ):
        cmu.read([tmp_path], Options(), Request())
    reading = cmu.read([tmp_path], Options(skeleton=tmp_path / "other.asf"), Request())
    assert [path.name for path in reading.files] == ["walking.amc", "other.asf"]
    with pytest.raises(FileNotFoundError, match=r"--skeleton .*gone\.asf: no such file"):
        cmu.read([tmp_path], Options(skeleton=tmp_path / "gone.asf"), Request())


def test_a_skeleton_without_a_needed_bone_is_named(tmp_path):
    asf_amc(tmp_path, "03_02")
    asf = tmp_path / "03.asf"
    asf.write_text(asf.read_text().replace("thorax", "trunk"))
    with pytest.raises(ValueError, match=r"03\.asf: no bone thorax"):
        read_clip(*find_clips([tmp_path]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": "94,05"}, "no clip of 05 in the input; there are 03, 94"),
        ({"subjects": "all"}, "subjects: want numbers such as 02,05, got 'all'"),
        ({"views": 0}, "views: want at least 1, got 0"),
        ({"fps": 0.0}, "fps: want a positive number from 0.5 to 10000, got 0.0"),
        ({"fps": float("nan")}, "fps: want a positive number from 0.5 to 10000, got nan"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        cmu.read([sources(tmp_path)], Options(**options), Request())


def test_wrong_inputs_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no motion")
    for inputs, error, message in (
        ([], ValueError, "no input"),
        ([tmp_path / "absent"], FileNotFoundError, "absent: no such file or folder"),
        ([tmp_path / "empty"], ValueError, r"empty: want \.bvh or \.amc files"),
        ([tmp_path / "notes.txt"], ValueError, r"notes\.txt: want \.bvh or \.amc files"),
    ):
        with pytest.raises(error, match=message):
            find_clips(inputs)


@pytest.mark.parametrize("row", ["a.bvh,two,1,walk,120", "a.bvh,2,,walk,120", "a.bvh,2,1,walk,0", "a.bvh,2"])
def test_a_wrong_manifest_is_named_with_its_line(tmp_path, row):
    write_clip(tmp_path / "a.bvh", standing(3))
    (tmp_path / "manifest.csv").write_text(f"{MANIFEST}{row}\n")
    with pytest.raises(ValueError, match=r"manifest\.csv, line 2: want numbers"):
        find_clips([tmp_path])


def test_an_unknown_or_empty_skeleton_is_named(tmp_path):
    path = write_clip(tmp_path / "03_02.bvh", standing(1))
    with pytest.raises(ValueError, match=r"03_02\.bvh: 1 frames; the first 1 are no motion"):
        read_clip(*find_clips([path]))
    for old, new, message in (
        ("LeftUpLeg", "pin_7", "no joint 'LeftUpLeg'"),
        ("RightHand", "pin_7", "no joint 'RightHand'"),
        ("Neck1", "Nape", "skeleton must be CMU MotionBuilder or Daz or Acclaim or 3ds Max, got MotionBuilder"),
    ):
        path.write_text(motionbuilder_text(np.zeros((3, CHANNELS))).replace(old, new))
        with pytest.raises(ValueError, match=rf"03_02\.bvh: .*{message}"):
            ClipReader(bvh_people.Setup(unit="cmu"), kinds=cmu.KINDS).read(*find_clips([path]))


def test_a_camera_without_a_place_cannot_film(tmp_path):
    clip = Clip(ClipFile(tmp_path / "x.bvh", "04", "04_01", "walk", None), np.ones((1, 17, 3)), 1, 120.0)
    with pytest.raises(ValueError, match="camera 'lens' has no place in the world"):
        next(motion.film(clip, np.arange(1), Camera("lens", pinhole(1000, 100, 100), 100, 100), Tally()))
