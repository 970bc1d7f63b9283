"""DeepLabCut's tables, .csv or .h5: columns scorer / [individuals] / bodyparts / coords with x, y, likelihood."""

from typing import Any

import h5py
import numpy as np

from unihpe_fast.data.errors import SourceError
from unihpe_fast.data.formats.hdf5 import members, opened_file
from unihpe_fast.data.formats.keypoints.found import Found
from unihpe_fast.data.formats.keypoints.record import Keypoints, People, ReadOptions
from unihpe_fast.data.formats.safe_pickle import load_pickle
from unihpe_fast.data.formats.untrusted import csv_rows, read_bytes, whole_number

LARGEST_FILE = 1 << 30
_KEY = "df_with_missing"
_COORDS = ("x", "y", "likelihood")


def recognises(found: Found) -> bool:
    if found.suffix == ".csv":
        first = [line.split(",")[0] for line in found.head.splitlines()[:4]]
        return first[:1] == ["scorer"] and "bodyparts" in first and "coords" in first
    return found.suffix in (".h5", ".hdf5") and _KEY in members(found.first)


def read(found: Found, options: ReadOptions) -> Keypoints:
    """A file. Cells that are empty or NaN are keypoints that were not found."""
    columns, index, table = _csv(found) if found.suffix == ".csv" else _h5(found)
    who: dict[str, None] = {}
    parts: dict[str, None] = {}
    at: dict[tuple[str, str, str], int] = {}
    for number, column in enumerate(columns):
        individual, part, coordinate = (column[1] if len(column) > 3 else ""), column[-2], column[-1]
        who[individual], parts[part], at[individual, part, coordinate] = None, None, number
    people = People(found.path)
    for person, individual in enumerate(who):
        joints = np.full((len(table), len(parts), 3), np.nan)
        for keypoint, part in enumerate(parts):
            for axis, coordinate in enumerate(_COORDS):
                if (individual, part, coordinate) in at:
                    joints[:, keypoint, axis] = table[:, at[individual, part, coordinate]]
                elif coordinate == "likelihood":
                    # labels made by hand have none
                    joints[:, keypoint, axis] = 1
        joints[np.isnan(joints).any(-1)] = 0
        for row in np.flatnonzero((joints[..., 2] > 0).any(1)).tolist():
            people.add(joints[row], index[row], f"row {row}", person=person)
    return people.finished(options, frames=len(table), names=list(parts))


def _csv(found: Found) -> tuple[list[tuple[str, ...]], list[int], np.ndarray]:
    text = read_bytes(found.first, LARGEST_FILE).decode("utf-8-sig", errors="replace")
    rows = [row for _, row in csv_rows(text.splitlines(), ",", found.path) if row]
    header = next((number for number, row in enumerate(rows[:5]) if row[0] == "coords"), None)
    if header is None:
        raise SourceError(f"{found.path}: must have a row of coords among the first, got {text:.60}")
    columns = list(zip(*(row[1:] for row in rows[: header + 1]), strict=False))
    body = rows[header + 1 :]
    for number, row in enumerate(body, header + 2):
        if len(row) != len(columns) + 1:
            raise SourceError(f"{found.path}: line {number}: must have {len(columns) + 1} cells, got {len(row)}")
    try:
        cells = [[float(cell) if cell.strip() else np.nan for cell in row[1:]] for row in body]
    except ValueError as error:
        raise SourceError(f"{found.path}: cells must be numbers, got {error}") from error
    # tables of labelled pictures have file names there
    numbers = [whole_number(row[0]) for row in body]
    index = [order if number is None else number for order, number in enumerate(numbers)]
    return columns, index, np.array(cells, np.float64).reshape(len(body), len(columns))


def _h5(found: Found) -> tuple[list[tuple[str, ...]], list[int], np.ndarray]:
    """pandas's "table" form: rows with an index and blocks of values, whose columns are a pickle in an attribute."""
    path = found.first
    where = f"{path}: {_KEY}"
    with opened_file(path) as file:
        group = file[_KEY]
        table = group.get("table") if isinstance(group, h5py.Group) else None
        if not isinstance(table, h5py.Dataset):
            raise SourceError(f"{where}: must be a table (to_hdf(.., format='table')), got {', '.join(group)}")
        if table.dtype.names is None or "index" not in table.dtype.names or table.nbytes > LARGEST_FILE:
            raise SourceError(f"{where}: table must have an index and values, got {table.dtype}")
        rows = table[()]
        kinds = {name: table.attrs.get(f"{name}_kind") for name in rows.dtype.names if name.startswith("values_")}
    columns: list[tuple[str, ...]] = []
    blocks = []
    for name, pickled in kinds.items():
        listed = load_pickle(_bytes(pickled), f"{where}: {name}_kind")
        block = np.asarray(rows[name], np.float64).reshape(len(rows), -1)
        if not isinstance(listed, list) or len(listed) != block.shape[1]:
            raise SourceError(f"{where}: {name}: must have a name for each of its {block.shape[1]} columns")
        columns += [tuple(map(str, column)) for column in listed]
        blocks.append(block)
    if not blocks or any(len(column) < 3 for column in columns):
        raise SourceError(f"{where}: columns must be scorer, bodyparts, coords, got {columns[:1]}")
    stored = rows["index"]
    index = stored.tolist() if stored.dtype.kind in "iu" else list(range(len(rows)))
    return columns, index, np.concatenate(blocks, axis=1)


def _bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | np.bytes_) else str(value).encode("latin-1", errors="replace")
