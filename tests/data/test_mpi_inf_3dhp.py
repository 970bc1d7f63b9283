import cv2
import h5py
import numpy as np
import pytest
from scipy.io import savemat

from tests.support.fuzz import fuzz
from tests.support.people import standing_person
from unihpe_fast import prepare
from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.sources import Request
from unihpe_fast.data.sources.mpi_inf_3dhp import files as mpi_inf_3dhp_files
from unihpe_fast.data.sources.mpi_inf_3dhp import source as mpi_inf_3dhp
from unihpe_fast.data.sources.mpi_inf_3dhp.source import Options


def _words(text: str) -> list[str]:
    return text.split()


# the joints of each file in its order, by the dataset's names; then those of H36M-17
NAMES_28 = _words(
    "spine3 spine4 spine2 spine pelvis neck head head_top left_clavicle left_shoulder left_elbow left_wrist left_hand "
    "right_clavicle right_shoulder right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot left_toe "
    "right_hip right_knee right_ankle right_foot right_toe"
)
NAMES_17 = _words(
    "head_top neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee "
    "right_ankle left_hip left_knee left_ankle pelvis spine head"
)
H36M = _words(
    "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine neck head head_top left_shoulder "
    "left_elbow left_wrist right_shoulder right_elbow right_wrist"
)
ORDER_28, ORDER_17 = ([names.index(name) for name in H36M] for names in (NAMES_28, NAMES_17))
FOCAL, CENTER = np.array([1500.0, 1501.0]), np.array([1020.0, 1040.0])
ROTATION = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]])
USUAL = [0, 1, 2, 4, 5, 6, 7, 8]


def people(frames: int, joints: int, seed: int) -> np.ndarray:
    """[F, J, 3] mm, some 4 m ahead of the camera."""
    found = np.random.default_rng(seed).uniform((-250, -400, 3800), (250, 400, 4300), (frames, joints, 3))
    # what becomes of them is a person
    found[:, ORDER_28 if joints == 28 else ORDER_17] = standing_person() + found[:, :1]
    return found


def project(joints: np.ndarray) -> np.ndarray:
    return joints[..., :2] / joints[..., 2:] * FOCAL + CENTER


def cell_array(arrays) -> np.ndarray:
    result = np.empty((len(arrays), 1), object)
    for row, array in enumerate(arrays):
        result[row, 0] = array.reshape(len(array), -1)
    return result


def calibration(size="2048 2048", cameras=14, radial="0", focal="1500") -> str:
    text = "Skeletool Camera Calibration File V1.0\n"
    for number in range(cameras):
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = ROTATION
        extrinsic[:3, 3] = (100 + number, -200, 3000.5)
        numbers = " ".join(f"{value:g}" for value in extrinsic.ravel())
        text += (
            f"name          {number}\n  sensor      10 10\n  size        {size}\n  animated    0\n"
            f"  intrinsic   {focal} 0 1020 0 0 1501 1040 0 0 0 1 0 0 0 0 1 \n  extrinsic   {numbers} \n"
            f"  radial      {radial}\n"
        )
    return text


def write_train(folder, frames=25, change=None, calibrated=None, packed=True, **keys):
    """S1/Seq2 as it unpacks; returns annot2, annot3 and univ_annot3 [14, F, 28, C]."""
    joints = np.stack([people(frames, 28, camera) for camera in range(14)])
    pixels, universal = project(joints), joints * 0.9
    if change:
        change(pixels, joints)
    sequence = folder / "S1" / "Seq2"
    sequence.mkdir(parents=True)
    content = {
        "annot2": cell_array(pixels),
        "annot3": cell_array(joints),
        "univ_annot3": cell_array(universal),
        "cameras": np.arange(14.0)[:, None],
        "frames": np.arange(float(frames))[:, None],
    }
    content = {key: value for key, value in (content | keys).items() if value is not None}
    savemat(sequence / "annot.mat", content, do_compression=packed)
    (sequence / "camera.calibration").write_text(calibration() if calibrated is None else calibrated)
    return pixels, joints, universal


def write_test(folder, name="TS1", frames=6, **changes):
    """annot_data.mat, which h5py sees with MATLAB's axes reversed; returns what was written."""
    joints = people(frames, 17, 50)
    content = {
        "annot2": project(joints)[:, None],
        "annot3": joints[:, None],
        "univ_annot3": 0.95 * joints[:, None],
        "valid_frame": np.array([[1.0], [0], [1], [1], [1], [0]])[:frames],
        "activity_annotation": np.array([[1.0], [1], [2], [4], [7], [7]])[:frames],
    } | changes
    sequence = folder / name
    sequence.mkdir(parents=True, exist_ok=True)
    with h5py.File(sequence / "annot_data.mat", "w", userblock_size=512) as file:
        for key, value in content.items():
            if value is not None:
                file[key] = value
    with open(sequence / "annot_data.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return content


def draw(*inputs, images=None, **options):
    reading = mpi_inf_3dhp.read(inputs, Options(**options), Request(images))
    return reading, list(reading.samples)


def close(found: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(found[:, :-1], want, rtol=1e-6)
    assert (found[:, -1] == 1).all()


def test_training_poses_of_the_usual_cameras_every_tenth_frame(tmp_path):
    pixels, joints, _ = write_train(tmp_path)
    reading, samples = draw(tmp_path, images=tmp_path)
    assert reading.dataset == "mpi-inf-3dhp"
    assert reading.caveat == ""
    sequence = tmp_path / "S1" / "Seq2"
    assert reading.files == [sequence / "annot.mat", sequence / "camera.calibration"]
    assert [(sample.camera_id, sample.frame) for sample in samples] == [(str(c), f) for c in USUAL for f in (0, 10, 20)]
    for sample in samples:
        camera = int(sample.camera_id)
        close(sample.keypoints_2d, pixels[camera, sample.frame][ORDER_28])
        close(sample.joints_3d, joints[camera, sample.frame][ORDER_28])
        folder = sequence / "imageFrames" / f"video_{camera}"
        assert sample.photo == folder / f"frame_{sample.frame + 1:06d}.jpg"
        assert (sample.subject, sample.action) == ("S1", "Seq2")
        low, high = (function(pixels[camera, sample.frame][ORDER_28], axis=0) for function in (np.min, np.max))
        np.testing.assert_allclose(sample.bbox, [*(low + high) / 2, 1.25 * (high - low).max()], rtol=1e-6)
    camera = samples[-1].camera
    assert (camera.width, camera.height) == (2048, 2048)
    np.testing.assert_array_equal(camera.vector, [1500, 1501, 1020, 1040, 0, 0, 0, 0, 0])
    # the file's world has Y down, ours has Z up
    np.testing.assert_allclose(camera.rotation @ [3, 5, -4], ROTATION @ [3, 4, 5])
    np.testing.assert_array_equal(camera.translation, [108, -200, 3000.5])


def test_options_choose_joints_cameras_and_frames(tmp_path):
    _, _, universal = write_train(tmp_path)
    _, samples = draw(tmp_path / "S1", joints="univ_annot3", cameras="13, 3", step=12)
    assert [(sample.camera_id, sample.frame) for sample in samples] == [
        (c, f) for c in ("3", "13") for f in (0, 12, 24)
    ]
    close(samples[4].joints_3d, universal[13, 12][ORDER_28])
    assert samples[0].photo is None


def test_poses_that_no_image_shows_are_counted(tmp_path):
    def change(pixels, joints):
        hand, ankle = NAMES_28.index("left_hand"), NAMES_28.index("left_ankle")
        pixels[0, 0, hand] = -500  # none of the 17
        pixels[0, 10, ankle, 0] = 2047.6
        joints[1, 0, ankle, 2] = -1
        joints[1, 10, ankle, 0] = np.nan
        pixels[1, 20, ankle, 0] = 1e30
        pixels[2, 0] = 5

    write_train(tmp_path, change=change)
    reading, samples = draw(tmp_path, cameras="0,1,2")
    assert [(sample.camera_id, sample.frame) for sample in samples] == [("0", 0), ("0", 20), ("2", 10), ("2", 20)]
    assert reading.tally.skipped == {
        ("S1", "Seq2", "joint outside the image"): 1,
        ("S1", "Seq2", "joint behind the camera"): 1,
        ("S1", "Seq2", "joints not finite"): 2,
        ("S1", "Seq2", "2D joints all in one place"): 1,
    }


def test_valid_frames_of_the_test_set_with_the_universal_skeleton(tmp_path):
    folder = tmp_path / "mpi_inf_3dhp_test_set"
    content = write_test(folder, "TS1")
    write_test(folder, "TS6")
    for given, images in ((folder, tmp_path), (tmp_path, tmp_path), (folder, folder)):
        reading, samples = draw(given, images=images)
        assert reading.total == len(samples) == 8
        assert [sample.subject for sample in samples] == ["TS1"] * 4 + ["TS6"] * 4
        assert samples[2].photo == folder / "TS1" / "imageSequence" / "img_000004.jpg"
    assert reading.caveat == ""
    assert [sample.frame for sample in samples[:4]] == [0, 2, 3, 4]
    assert [sample.action for sample in samples[:4]] == [
        "Standing/Walking", "Exercising", "Reaching/Crouching", "Miscellaneous",
    ]  # fmt: skip
    close(samples[1].joints_3d, content["univ_annot3"][2, 0][ORDER_17])
    close(samples[1].keypoints_2d, content["annot2"][2, 0][ORDER_17])
    assert reading.tally.skipped == {(name, "", "not a valid frame"): 2 for name in ("TS1", "TS6")}
    assert [(s.camera.width, s.camera.height) for s in (samples[0], samples[-1])] == [(2048, 2048), (1920, 1080)]
    # the camera that takes annot3 to annot2, both of which are float32 by then
    np.testing.assert_allclose(samples[0].camera.vector, [*FOCAL, *CENTER, 0, 0, 0, 0, 0], rtol=1e-6)


def test_test_frames_stay_though_a_joint_is_outside_the_image(tmp_path):
    joints = people(6, 17, 50)
    joints[2, 3, 0] = -4000
    write_test(tmp_path, annot2=project(joints)[:, None], annot3=joints[:, None])
    assert [sample.frame for sample in draw(tmp_path / "TS1")[1]] == [0, 2, 3, 4]


def test_the_true_size_is_not_the_test_sets_protocol(tmp_path):
    content = write_test(tmp_path)
    reading, samples = draw(tmp_path, joints="annot3")
    close(samples[0].joints_3d, content["annot3"][0, 0][ORDER_17])
    assert "published protocol of MPI-INF-3DHP scores by univ_annot3" in reading.caveat


def test_a_test_camera_that_does_not_fit_is_unknown(tmp_path):
    noise = np.random.default_rng(0).normal(0, 5, (6, 1, 17, 2))
    write_test(tmp_path, annot2=project(people(6, 17, 50))[:, None] + noise)
    reading, samples = draw(tmp_path)
    assert np.isnan(samples[0].camera.vector).all()
    assert samples[0].camera.width == 2048
    assert "TS1/annot_data.mat: no camera takes its annot3 to its annot2" in reading.tally.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annot3": None}, "annot.mat: annot3: found nothing, only annot2, univ_annot3, cameras, frames"),
        ({"annot2": np.zeros((14, 1))}, r"annot2: found \[14, 1\] numbers, wanted \[14, 1\] cells"),
        ({"annot2": cell_array([np.zeros((25, 56))] * 13)}, r"annot2: found \[13, 1\] cells"),
        ({"annot2": cell_array([np.zeros((25, 57))] * 14)}, r"annot2: cell 0: found \[25, 57\], wanted \[F, 56\]"),
        ({"annot2": cell_array([np.ones((5, 56))] * 14)}, "camera 0: annot2, annot3: found 1 and 3 poses"),
        ({"annot3": np.array([["a"]] * 14, object)}, "annot3: cell 0: found array class 4"),
        ({"calibrated": ""}, "camera.calibration: line 1: found 'nothing'"),
        ({"calibrated": calibration(cameras=3)}, "camera.calibration: no camera 4, 5, 6, 7, 8"),
        ({"calibrated": calibration(radial="0.1")}, r"camera 0: animated, radial: found \[0.0, 0.1\], wanted"),
        ({"calibrated": calibration(size="2048")}, "line 4: size: found 1 values, wanted 2"),
        ({"calibrated": calibration(size="2048 0")}, "camera 0: size: found 2048.0 x 0.0"),
        ({"calibrated": calibration(size="2048 x")}, "line 4: want a number, got 'x'"),
        ({"calibrated": calibration(focal="-1")}, "camera 0: intrinsic: found focal lengths"),
        ({"calibrated": calibration().replace("0.6", "0.9")}, "camera 0: extrinsic: found .*wanted a rotation"),
        ({"calibrated": calibration().replace("radial", "lens")}, "camera 0: no radial; cut short"),
        ({"calibrated": calibration().replace("name          5", "name          4")}, "line 37: found 'name"),
    ],
)  # fmt: skip
def test_malformed_training_files_are_named(tmp_path, changes, message):
    write_train(tmp_path, **changes)
    with pytest.raises(SourceError, match=message) as caught:
        draw(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid_frame": None}, "annot_data.mat: valid_frame: no such dataset"),
        ({"annot3": people(6, 17, 0)}, r"annot3: want \[F, 1, 17, 3\]"),
        ({"annot2": np.zeros((6, 1, 17, 2), complex)}, "annot2: want"),
        ({"univ_annot3": people(5, 17, 0)[:, None]}, "univ_annot3: found .*wanted as many as annot2's 6"),
        ({"valid_frame": np.ones((1, 7))}, r"valid_frame: found \[1, 7\], wanted as many"),
        ({"valid_frame": np.full((6, 1), np.nan)}, "valid_frame: found .nan.*wanted integers from 0 to 1"),
        ({"activity_annotation": np.full((6, 1), 8)}, r"activity_annotation: found \[8\], wanted integers from 0 to 7"),
        ({"annot2": h5py.SoftLink("/annot3")}, "annot2: no such dataset"),
        ({"annot2": h5py.ExternalLink("other.mat", "annot2")}, "annot2: no such dataset"),
    ],
)  # fmt: skip
def test_malformed_test_files_are_named(tmp_path, changes, message):
    write_test(tmp_path, **changes)
    with pytest.raises(SourceError, match=message) as caught:
        draw(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_nothing_finite_is_nothing_written(tmp_path):
    write_test(tmp_path, annot2=np.full((6, 1, 17, 2), np.nan))
    reading, samples = draw(tmp_path)
    assert not samples
    assert sum(count for (_, _, reason), count in reading.tally.skipped.items() if reason == "joints not finite") == 4


def test_the_commands_write_and_check_both_sets(tmp_path, capsys):
    write_train(tmp_path, frames=11)
    write_test(tmp_path / "mpi_inf_3dhp_test_set")
    photo = cv2.imencode(".jpg", np.full((2048, 2048, 3), 128, np.uint8))[1].tobytes()
    sequence = tmp_path / "S1" / "Seq2" / "imageFrames" / "video_4"
    test_photos = tmp_path / "mpi_inf_3dhp_test_set" / "TS1" / "imageSequence"
    for folder, stem, numbers in ((sequence, "frame", (1, 11)), (test_photos, "img", (1, 3, 4, 5))):
        folder.mkdir(parents=True)
        for number in numbers:
            (folder / f"{stem}_{number:06d}.jpg").write_bytes(photo)
    for given, count, options in ((tmp_path, 2, ["--cameras", "4"]), (tmp_path / "mpi_inf_3dhp_test_set", 4, [])):
        out = tmp_path / f"{count}.h5"
        arguments = ["mpi-inf-3dhp", given, out, "--images", tmp_path, "--image-size", 64, *options]
        assert prepare.main([str(argument) for argument in arguments]) == 0
        with h5py.File(out) as file:
            assert file["present"][:].tolist() == [[True, True, True]] * count
        # projected 3D joints meet the 2D ones: the camera is that of the annotations
        assert prepare.main(["check", str(out)]) == 0
        assert "nothing is wrong with it" in capsys.readouterr().out


def test_inputs_are_found_or_named(tmp_path):
    with pytest.raises(ValueError, match="no input"):
        draw()
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        draw(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"found neither S1/Seq1/annot.mat nor TS1/annot_data.mat"):
        draw(tmp_path)
    write_train(tmp_path / "all")
    write_test(tmp_path / "all" / "mpi_inf_3dhp_test_set")
    assert draw(tmp_path / "all")[1][0].subject == "S1"
    (tmp_path / "all" / "S1").rename(tmp_path / "moved")
    with pytest.raises(SourceError, match="found in moved/Seq2, wanted a folder such as S1/Seq1"):
        draw(tmp_path / "moved")
    (tmp_path / "all" / "S1").symlink_to(tmp_path / "moved")
    assert draw(tmp_path / "all" / "S1")[1][0].subject == "S1"
    with pytest.raises(SourceError, match="found beside the training set, wanted either"):
        draw(tmp_path / "all", tmp_path / "all" / "mpi_inf_3dhp_test_set")
    write_test(tmp_path / "other", "TS7")
    with pytest.raises(SourceError, match=r"found in TS7, wanted a folder TS1 .. TS6"):
        draw(tmp_path / "other")
    (tmp_path / "all" / "S1" / "Seq2" / "camera.calibration").unlink()
    with pytest.raises(OSError, match=r"camera.calibration"):
        draw(tmp_path / "all")
    for options in ({"cameras": "14"}, {"cameras": ""}, {"cameras": "one"}, {"step": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: want"):
            draw(tmp_path / "all", **options)


def test_a_matlab_file_of_the_other_version_is_named(tmp_path):
    write_train(tmp_path)
    write_test(tmp_path / "test")
    packed = (tmp_path / "S1" / "Seq2" / "annot.mat").read_bytes()
    (tmp_path / "S1" / "Seq2" / "annot.mat").write_bytes((tmp_path / "test" / "TS1" / "annot_data.mat").read_bytes())
    with pytest.raises(SourceError, match=r"annot.mat: found MATLAB v7.3 \(HDF5\), wanted a MATLAB v5 file"):
        draw(tmp_path)
    (tmp_path / "test" / "TS1" / "annot_data.mat").write_bytes(packed)
    with pytest.raises(SourceError, match=r"annot_data.mat: annot2: cannot be read"):
        draw(tmp_path / "test")


def test_only_wanted_poses_are_held(tmp_path):
    write_train(tmp_path, frames=40)
    path = tmp_path / "S1" / "Seq2" / "annot.mat"
    poses = mpi_inf_3dhp_files.read_train(path, "annot3", [2, 8], 10)
    assert sorted(poses) == [2, 8]
    held = [array for found in poses.values() for array in (found.pixels, found.joints, found.frames)]
    # none keeps all of a cell alive
    assert all(len(array) == 4 and array.base is None for array in held)


@pytest.mark.fuzz
@pytest.mark.parametrize("packed", [False, True])
def test_only_documented_errors_escape_from_mutated_training_files(tmp_path, packed):
    write_train(tmp_path, frames=3, packed=packed)
    names = ("S1/Seq2/annot.mat", "S1/Seq2/camera.calibration")

    def read(folder):
        draw(folder, images=folder, step=2)

    assert fuzz(read, {name: (tmp_path / name).read_bytes() for name in names}) > 0


@pytest.mark.fuzz
def test_only_documented_errors_escape_from_mutated_test_files(tmp_path):
    write_test(tmp_path)

    def read(folder):
        draw(folder, images=folder)

    assert fuzz(read, {"TS1/annot_data.mat": (tmp_path / "TS1" / "annot_data.mat").read_bytes()}) > 0
