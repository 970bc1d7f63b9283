"""Files of 2D keypoints, byte for byte as the programs that they are named after write them."""

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from unihpe_fast.data.joint_sets import KEYPOINT_NAMES

SIZE = (640, 480)


def person(count: int, *, seed: int = 0) -> np.ndarray:
    """[count, 3] px within SIZE and confidences, each rounded so that three decimals are exact."""
    rng = np.random.default_rng(seed)
    joints = np.stack([rng.uniform(10, 600, count), rng.uniform(10, 470, count), rng.uniform(0.3, 1, count)], axis=1)
    return np.round(joints, 3)


def flat(joints: np.ndarray) -> list[float]:
    return joints.ravel().tolist()


def openpose(folder: Path, frames: list[list[np.ndarray]], *, video: str = "video", body: str = "2d") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    hands = [f"{part}_keypoints_{kind}" for kind in ("2d", "3d") for part in ("face", "hand_left", "hand_right")]
    for number, people in enumerate(frames):
        listed = [
            {"person_id": [-1], f"pose_keypoints_{body}": flat(p), **{k: [] for k in hands}, "pose_keypoints_3d": []}
            for p in people
        ]
        content = json.dumps({"version": 1.3, "people": listed}, separators=(",", ":"))
        (folder / f"{video}_{number:012d}_keypoints.json").write_text(content)
    return folder


def alphapose(path: Path, people: list[tuple[str, np.ndarray]], *, tracked: bool = False) -> Path:
    records = [
        {"image_id": name, "category_id": 1, "keypoints": flat(p), "score": 2.9, "box": [1.0, 2.0, 3.0, 4.0]}
        | ({"idx": index + 1} if tracked else {"idx": [0.0]})
        for index, (name, p) in enumerate(people)
    ]
    path.write_text(json.dumps(records))
    return path


def alphapose_form(path: Path, pictures: dict[str, list[np.ndarray]], form: str) -> Path:
    kind, key = {"cmu": ("bodies", "joints"), "open": ("people", "pose_keypoints_2d")}[form]
    content = {
        name: {"version": "AlphaPose v0.3", kind: [{key: flat(p)} for p in people]} for name, people in pictures.items()
    }
    path.write_text(json.dumps(content))
    return path


def mmpose_instance(joints: np.ndarray) -> dict:
    return {
        "keypoints": joints[:, :2].tolist(),
        "keypoint_scores": joints[:, 2].tolist(),
        "bbox": [[1.0, 2.0, 3.0, 4.0]],
        "bbox_score": 0.9,
    }


def mmpose_picture(path: Path, people: list[np.ndarray]) -> Path:
    path.write_text(json.dumps([mmpose_instance(p) for p in people]))
    return path


def mmpose_video(path: Path, frames: list[list[np.ndarray]], *, first: int = 0) -> Path:
    listed = [{"frame_id": n, "instances": [mmpose_instance(p) for p in f]} for n, f in enumerate(frames, first)]
    path.write_text(json.dumps(listed))
    return path


def mmpose_demo(path: Path, frames: list[list[np.ndarray]], names: tuple[str, ...]) -> Path:
    """What topdown_demo_with_mmdet.py --save-predictions writes of a video; it counts from 1."""
    meta = {"dataset_name": "x", "num_keypoints": len(names), "keypoint_id2name": dict(enumerate(names))}
    info = [{"frame_id": n, "instances": [mmpose_instance(p) for p in f]} for n, f in enumerate(frames, 1)]
    path.write_text(json.dumps({"meta_info": meta, "instance_info": info}, indent="\t"))
    return path


def coco_results(path: Path, people: list[tuple[int, np.ndarray]]) -> Path:
    records = [{"image_id": n, "category_id": 1, "keypoints": flat(p), "score": 0.87} for n, p in people]
    path.write_text(json.dumps(records))
    return path


def coco_annotations(path: Path, people: list[tuple[int, np.ndarray]]) -> Path:
    images = [
        {"id": n, "file_name": f"{n:012d}.jpg", "width": SIZE[0], "height": SIZE[1]}
        for n in dict.fromkeys(n for n, _ in people)
    ]
    annotations = [
        {"id": i, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": [1, 2, 3, 4], "keypoints": flat(p)}
        for i, (n, p) in enumerate(people)
    ]
    category = {"id": 1, "name": "person", "keypoints": list(KEYPOINT_NAMES["coco17"]), "skeleton": [[16, 14]]}
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return path


def landmarks(joints: np.ndarray) -> list[dict[str, float]]:
    return [{"x": x / SIZE[0], "y": y / SIZE[1], "z": -0.1, "visibility": c} for x, y, c in joints.tolist()]


def mediapipe_long(path: Path, frames: list[np.ndarray], *, named: bool) -> Path:
    names = KEYPOINT_NAMES["mediapipe33"]
    lines = ["frame,landmark,x,y,z,visibility"]
    for frame, joints in enumerate(frames):
        for index, mark in enumerate(landmarks(joints)):
            name = names[index].upper() if named else index
            lines.append(f"{frame},{name},{mark['x']!r},{mark['y']!r},{mark['z']},{mark['visibility']}")
    path.write_text("\n".join(lines) + "\n")
    return path


def mediapipe_wide(path: Path, frames: list[np.ndarray], *, header: str) -> Path:
    """header: of the columns of landmark i called n, e.g. "x{i},y{i},z{i},v{i}" with i from 1."""
    names = KEYPOINT_NAMES["mediapipe33"]
    lines = [",".join(["class", *(header.format(i=i + 1, n=name) for i, name in enumerate(names))])]
    for joints in frames:
        cells = [f"{m['x']!r},{m['y']!r},{m['z']},{m['visibility']}" for m in landmarks(joints)]
        lines.append(",".join(["walk", *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


def yolo(folder: Path, frames: list[list[np.ndarray]], *, seen: bool = True, after: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, people in enumerate(frames, 1):
        lines = []
        for p in people:
            scaled = p / [*SIZE, 1]
            words = [f"{value:.6g}" for value in (scaled if seen else scaled[:, :2]).ravel()]
            lines.append(" ".join(["0 0.5 0.5 0.4 0.6", *words]) + after)
        (folder / f"clip_{number}.txt").write_text("\n".join(lines) + "\n")
    return folder


def deeplabcut_csv(path: Path, names: list[str], frames: np.ndarray, individuals: tuple[str, ...] = ()) -> Path:
    """frames: [F, individuals or 1, K, 3], NaN where not found."""
    columns = [(who, part, axis) for who in individuals or ("",) for part in names for axis in ("x", "y", "likelihood")]
    rows = [["scorer", *("DLC_resnet50_shuffle1_1000" for _ in columns)]]
    if individuals:
        rows.append(["individuals", *(who for who, _, _ in columns)])
    rows.append(["bodyparts", *(part for _, part, _ in columns)])
    rows.append(["coords", *(axis for _, _, axis in columns)])
    for number, frame in enumerate(frames):
        rows.append([str(number), *("" if np.isnan(v) else repr(float(v)) for v in frame.ravel())])
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    return path


def sleap(path: Path, names: list[str], tracks: np.ndarray) -> Path:
    """tracks: [tracks, frames, nodes, 3], NaN where not found. The datasets are transposed, as MATLAB reads them."""
    with h5py.File(path, "w") as file:
        file["tracks"] = tracks[..., :2].transpose(0, 3, 2, 1)
        file["point_scores"] = tracks[..., 2].transpose(0, 2, 1)
        file["track_occupancy"] = np.isfinite(tracks[..., 0]).any(2).T.astype(np.uint8)
        file["node_names"] = np.array([name.encode() for name in names])
        file["track_names"] = np.array([b"track_0"] * len(tracks))
    return path


def videopose3d(path: Path, videos: dict[str, np.ndarray]) -> Path:
    metadata = {
        "layout_name": "coco",
        "num_joints": 17,
        "keypoints_symmetry": [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]],
        "video_metadata": {name: {"w": SIZE[0], "h": SIZE[1]} for name in videos},
    }
    positions = {name: {"custom": [array.astype("float32")]} for name, array in videos.items()}
    np.savez_compressed(path, positions_2d=np.array(positions), metadata=np.array(metadata))
    return path


def trc(path: Path, names: list[str], frames: np.ndarray, *, units: str = "px", rate: str = "30") -> Path:
    """frames: [F, K, 2], NaN where not found."""
    header = [
        f"PathFileType\t4\t(X/Y/Z)\t{path.name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate}\t{rate}\t{len(frames)}\t{len(names)}\t{units}\t{rate}\t0\t{len(frames)}",
        "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t",
        "\t\t" + "\t".join(f"X{i}\tY{i}\tZ{i}" for i in range(1, len(names) + 1)),
    ]
    for number, frame in enumerate(frames):
        cells = [f"{x}\t{y}\t0.0" if np.isfinite(x) else "\t\t" for x, y in frame.tolist()]
        header.append("\t".join([str(number + 1), f"{number / 30:.6f}", *cells]))
    path.write_text("\n".join(header) + "\n")
    return path


def lsp(path: Path, joints: np.ndarray) -> Path:
    scipy.io.savemat(path, {"joints": joints})
    return path


def deeplabcut_h5(path: Path, columns: list[tuple[str, ...]], table: np.ndarray) -> Path:
    """As pandas's to_hdf(key="df_with_missing", format="table") lays it out."""
    rows = np.zeros(len(table), [("index", "<i8"), ("values_block_0", "<f8", (table.shape[1],))])
    rows["index"], rows["values_block_0"] = np.arange(len(table)), table
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("df_with_missing/table", data=rows)
        stored.attrs["values_block_0_kind"] = np.bytes_(pickle.dumps(columns, 0))
    return path
