"""Recordings for the Rerun viewer by rerun-sdk (an extra): people in 3D on a timeline of frames and of seconds."""

from pathlib import Path

import numpy as np

from unihpe_fast.data.skeleton import BONES
from unihpe_fast.fileio import atomic_path
from unihpe_fast.outputs import OutputError
from unihpe_fast.prediction import Prediction


def write(prediction: Prediction, path: Path) -> list[Path]:
    """One file. People stand where their root is, in its axes and m; without a root, in the origin."""
    try:
        import rerun as rr
    except ImportError as error:
        raise OutputError(
            f"{path}: .rrd must have rerun-sdk to be written: pip install 'unihpe-fast[rerun]'"
        ) from error
    with atomic_path(path) as temporary:
        stream = rr.RecordingStream("unihpe_fast")
        stream.save(str(temporary))
        stream.log("/", rr.ViewCoordinates.RDF, static=True)
        for row in np.lexsort((prediction.person, prediction.frame)).tolist():
            joints = (prediction.joints_3d[row] + np.nan_to_num(prediction.root[row])) / 1000
            if not np.isfinite(joints).all():
                continue
            stream.set_time("frame", sequence=int(prediction.frame[row]))
            if np.isfinite(prediction.time[row]):
                stream.set_time("time", duration=float(prediction.time[row]))
            entity = f"person{int(prediction.person[row])}"
            stream.log(f"{entity}/joints", rr.Points3D(joints, labels=list(prediction.joint_names), show_labels=False))
            stream.log(f"{entity}/bones", rr.LineStrips3D([joints[list(bone)] for bone in BONES]))
        stream.flush()
        stream.disconnect()
    return [path]
