"""SLEAP's analysis HDF5: `tracks` [tracks, 2, nodes, frames], stored transposed, `point_scores`, `node_names`."""

import h5py
import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.hdf5 import members, opened_file, read_dataset
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import Keypoints, People, ReadOptions


def recognises(found: Found) -> bool:
    return found.suffix in (".h5", ".hdf5", ".slp") and {"tracks", "node_names"} <= members(found.first)


def read(found: Found, options: ReadOptions) -> Keypoints:
    """A file. Each track is a person; nodes that are NaN were not found; without scores, found ones have 1."""
    path = found.first
    keys = members(path)
    if not {"tracks", "node_names"} <= keys:
        raise SourceError(f"{path}: must be HDF5 with tracks and node_names, got {', '.join(sorted(keys)) or 'none'}")
    with opened_file(path) as file:
        stored = file["node_names"]
        # text of any length is an object to HDF5, so only its own reader tells it from others
        texts = isinstance(stored, h5py.Dataset) and (
            h5py.check_string_dtype(stored.dtype) is not None or stored.dtype.kind == "S"
        )
        if not texts or stored.ndim != 1:
            raise SourceError(f"{path}: node_names must be texts [nodes], got {stored}")
        names = [name.decode(errors="replace") for name in stored[()].tolist()]
    tracks = read_dataset(path, "tracks", ("a", "b", "c", "d"), "fiu")
    nodes = len(names)
    if tracks.shape[1:3] != (2, nodes):
        # as MATLAB keeps it: [frames, nodes, 2, tracks]
        tracks = tracks.transpose(3, 2, 1, 0)
    if tracks.shape[1:3] != (2, nodes):
        raise SourceError(f"{path}: tracks must be [tracks, 2, {nodes}, frames], got {list(tracks.shape)}")
    scores = np.ones((len(tracks), nodes, tracks.shape[3]))
    if "point_scores" in keys:
        stored_scores = read_dataset(path, "point_scores", ("a", "b", "c"), "fiu")
        scores = stored_scores if stored_scores.shape == scores.shape else stored_scores.transpose(2, 1, 0)
        if scores.shape != (len(tracks), nodes, tracks.shape[3]):
            raise SourceError(f"{path}: point_scores must fit tracks, got {list(stored_scores.shape)}")
    # [tracks, frames, nodes, 3]
    joints = np.concatenate([tracks.transpose(0, 3, 2, 1), scores.transpose(0, 2, 1)[..., None]], axis=-1)
    joints[np.isnan(joints).any(-1)] = 0
    people = People(found.path)
    for track, row in enumerate(joints):
        for frame in np.flatnonzero((row[..., 2] > 0).any(1)).tolist():
            people.add(row[frame], frame, f"track {track}, frame {frame}", person=track)
    return people.finished(options, frames=joints.shape[1], names=names)
