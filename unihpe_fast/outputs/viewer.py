"""One HTML file that shows a prediction to anyone with a browser: no server, no network, no other file."""

import base64
import html
import json
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from unihpe_fast.data.skeleton import BONES, LEFT, NUM_JOINTS
from unihpe_fast.fileio import write_text
from unihpe_fast.outputs import Pictures
from unihpe_fast.outputs.pictures import frame_size
from unihpe_fast.prediction import Prediction

# an hour of video would be a page that no browser opens: beyond these every n-th frame and picture is kept, as it says
MAX_FRAMES, MAX_PICTURES = 20_000, 400
# px of a picture's longer side, and its JPEG quality
PICTURE_SIDE, PICTURE_QUALITY = 640, 75

Key = tuple[str, int]
"""The source and the frame in it."""


def write(prediction: Prediction, path: Path, pictures: Pictures | None = None) -> list[Path]:
    """Write `path`, whole or not at all: the people of each frame in 3D, to be played and orbited, beside the picture.

    pictures: those of the inputs; None: the 2D keypoints stand in an empty frame. Joints that are not known (NaN, or
    confidence 0 in 2D) are not drawn. People stand where their `root` is, or side by side where it is not known.
    """
    prediction = prediction.flat()
    rows_of = prediction.frames()
    every = -(-len(rows_of) // MAX_FRAMES) or 1
    kept = list(rows_of)[::every]
    number_of = {key: number for number, key in enumerate(kept)}
    jpegs = {} if pictures is None else _jpegs(pictures, number_of)
    order = [row for key in kept for row in rows_of[key]]
    about = f"{len(prediction)} poses in {len(rows_of)} frames"
    if every > 1:
        about += f"; every {ordinal(every)} frame is shown"
    data = {
        "about": about,
        "bones": BONES,
        "left": [joint in LEFT for joint in range(NUM_JOINTS)],
        "people": list(dict.fromkeys(prediction.person.tolist())),
        "person": prediction.person[order].tolist(),
        "frames": _frames(prediction, {key: rows_of[key] for key in kept}, jpegs),
        "pictures": list(jpegs.values()),
        "joints_3d": _base64(prediction.joints_3d[order]),
        "root": _base64(prediction.root[order]),
        "keypoints_2d": _base64(
            np.concatenate([prediction.joints_2d[order], prediction.confidence[order][..., None]], axis=-1)
        ),
    }
    # "<" would end the script element that the data stands in
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    names = list(dict.fromkeys(Path(str(source)).name for source in prediction.source))
    title = html.escape(names[0] if len(names) == 1 else f"{len(names)} files")
    page = files(__package__).joinpath("viewer.html").read_text(encoding="utf-8")
    write_text(path, page.replace("__TITLE__", title).replace("__DATA__", text))
    return [path]


def ordinal(number: int) -> str:
    """2nd, 3rd, 11th: as it is written in English."""
    last = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{last}"


def _frames(prediction: Prediction, rows_of: dict[Key, list[int]], jpegs: dict[int, str]) -> list[dict[str, object]]:
    """What the page needs of each frame; `picture` is the newest one of its source, `rows` count in this order."""
    picture_of = {number: place for place, number in enumerate(jpegs)}
    newest: dict[str, int] = {}
    frames: list[dict[str, object]] = []
    first = 0
    for number, ((source, frame), rows) in enumerate(rows_of.items()):
        time = float(prediction.time[rows[0]])
        if number in picture_of:
            newest[source] = picture_of[number]
        frames.append(
            {
                "frame": frame,
                "time": time if np.isfinite(time) else None,
                "size": frame_size(prediction, rows),
                "rows": list(range(first, first + len(rows))),
                "picture": newest.get(source),
            }
        )
        first += len(rows)
    return frames


def _jpegs(pictures: Pictures, number_of: dict[Key, int]) -> dict[int, str]:
    """Number of the frame -> base64 of a small JPEG, of at most MAX_PICTURES frames, in order."""
    every = -(-len(number_of) // MAX_PICTURES) or 1
    found = {}
    for frame, source, image in pictures:
        number = number_of.get((str(source), frame))
        if number is None or number % every:
            continue
        height, width = image.shape[:2]
        scale = min(1.0, PICTURE_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
        found[number] = base64.b64encode(jpeg.tobytes()).decode("ascii")
    return dict(sorted(found.items()))


def _base64(array: NDArray[np.floating]) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode("ascii")
