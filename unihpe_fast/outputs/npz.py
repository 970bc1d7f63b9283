"""NumPy's .npz: every array of a Prediction by its name, and how to read it back."""

import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy as np

from unihpe_fast.config import Axes
from unihpe_fast.fileio import atomic_path
from unihpe_fast.outputs import OutputError
from unihpe_fast.prediction import Prediction


def write(prediction: Prediction, path: Path) -> list[Path]:
    """One file: the arrays, `joint_names`, `layout`, `axes`, `unit` of joints_3d and root, `fps` (NaN if unknown)."""
    arrays = dict(prediction.arrays)
    arrays["source"] = prediction.source.astype(np.str_)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            joint_names=np.array(prediction.joint_names),
            layout=np.array(prediction.layout),
            unit=np.array("mm"),
            axes=np.array(prediction.axes),
            fps=np.array(np.nan if prediction.fps is None else prediction.fps),
            **arrays,  # type: ignore[arg-type]
        )
    return [path]


def read(path: Path) -> Prediction:
    """The prediction that `write` wrote. Raises OutputError naming the file where it is none, OSError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Any] = {name: file[name] for name in file.files}
        fps = float(found.pop("fps"))
        found.pop("unit")
        found["joint_names"] = tuple(found["joint_names"].tolist())
        found["layout"] = str(found["layout"])
        # files of earlier versions do not say it
        found["axes"] = str(found.get("axes", "camera"))
        if found["axes"] not in get_args(Axes):
            raise ValueError(f"axes {found['axes']!r:.80}")
        found["source"] = found["source"].astype(object)
        return Prediction(**found, fps=None if np.isnan(fps) else fps)
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise OutputError(f"{path}: must be a prediction in .npz, got {error}") from error
