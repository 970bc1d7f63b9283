"""`manifest.csv` beside motion files: whose motion each file is, what it shows and at which rate it was captured."""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("file", "subject", "trial", "description", "fps_true")
SEPARATORS = ",;\t"


@dataclass(frozen=True)
class ClipFile:
    """A motion file that was found: subject "02", name "02_01". fps: true frame rate where the manifest gives it."""

    path: Path
    subject: str
    name: str
    action: str
    fps: float | None


def clip_file(path: Path, subject: int, trial: int, action: str, fps: float | None) -> ClipFile:
    """A clip with CMU's numbering."""
    return ClipFile(path, f"{subject:02d}", f"{subject:02d}_{trial:02d}", action, fps)


def read_manifest(path: Path, notes: list[str]) -> dict[Path, ClipFile]:
    """Entries by resolved path; empty where there is no manifest, or one of another kind, which `notes` then says.

    As spreadsheets write it: with or without a byte order mark, in UTF-8 or Latin-1, separated by commas, semicolons or
    tabs, its columns in any order and case, folders by / or \\. ValueError naming file and line where a row is wrong.
    """
    if not path.is_file():
        return {}
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    lines = text.splitlines()
    header = lines[0] if lines else ""
    separator = max(SEPARATORS, key=header.count)
    rows = csv.reader(lines, delimiter=separator)
    names = [name.strip().lower() for name in next(rows, [])]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        notes.append(f"{path} is not used: it has no column {', '.join(missing)}, got {', '.join(names) or 'nothing'}")
        return {}
    entries = {}
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        row = dict(zip(names, cells, strict=False))
        where = f"{path}, line {rows.line_num}"
        # "94 (inferred)" is subject 94
        subject, trial = (re.match(r"\s*(\d+)", row.get(key, "")) for key in ("subject", "trial"))
        fps = _rate(row.get("fps_true", ""))
        if not (subject and trial and fps):
            raise ValueError(f"{where}: want numbers for subject, trial and fps_true, got {row}")
        if lacking := [name for name in ("file", "description") if name in names and name not in row]:
            raise ValueError(f"{where}: want {len(names)} columns, got {len(cells)} without {', '.join(lacking)}")
        clip = (path.parent / row["file"].strip().replace("\\", "/")).resolve()
        entries[clip] = clip_file(clip, int(subject[1]), int(trial[1]), action_name(row["description"]), fps)
    return entries


def _rate(text: str) -> float:
    """Frames a second of "120", "119.88", "119,88", "120000/1001" or "60 (inferred)"; 0 where it is no such number."""
    match = re.match(r"\s*(\d+(?:[.,]\d+)?)(?:\s*/\s*(\d+))?", text)
    if not match or (match[2] and not int(match[2])):
        return 0.0
    rate = float(match[1].replace(",", ".")) / int(match[2] or 1)
    return rate if math.isfinite(rate) else 0.0


def action_name(description: str) -> str:
    """The leading words of a CMU description: "dance - small jetes, pirouette" is "dance"."""
    return re.split(r",| - | \(", description.strip())[0].strip().lower()
