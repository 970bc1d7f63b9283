"""Pictures that MoveNet's graphs were run on, made again bit for bit: no resizing, only slices of the astronaut.

`python -m tests.detector.graph_inputs FOLDER` writes them for run_graphs.js.
"""

import json
import sys
from pathlib import Path

import numpy as np


def inputs() -> dict[str, dict[str, np.ndarray]]:
    """Graph -> name -> uint8 [1, H, W, 3]. The astronaut of scikit-image is uint8 [512, 512, 3]."""
    from skimage.data import astronaut

    one = astronaut()
    two = np.concatenate([one, one[:, ::-1]], axis=1)[::2, ::2]  # [256, 512, 3]
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    small, near = one[:384:2, 64:448:2], one[40:232, 120:312]
    pictures = {
        "movenet-multipose": {"astronaut": one, "two": two, "tall": one[:, 96:416], "noise": noise[:256, :320]},
        "movenet-thunder": {"astronaut": one[::2, ::2], "near": one[40:296, 90:346], "noise": noise[:256, :256]},
        "movenet-lightning": {"astronaut": small, "near": near, "noise": noise[:192, :192]},
    }
    return {
        graph: {name: np.ascontiguousarray(picture[None]) for name, picture in of_graph.items()}
        for graph, of_graph in pictures.items()
    }


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for graph, of_graph in inputs().items():
        for name, picture in of_graph.items():
            (folder / f"{graph}-{name}.raw").write_bytes(picture.tobytes())
            cases.append({"graph": graph, "name": name, "shape": picture.shape})
    (folder / "cases.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
