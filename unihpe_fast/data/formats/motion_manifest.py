"""`manifest.csv` beside motion files: whose motion each file is, what it shows and at which rate it was captured."""

import re
from dataclasses import dataclass
from pathlib import Path

from unihpe_fast.data.bounds import LARGEST_RATE, LEAST_RATE
from unihpe_fast.data.formats.untrusted import csv_rows, read_bytes

COLUMNS = ("file", "subject", "trial", "description", "fps_true")
SEPARATORS = ",;\t"
_LARGEST_FILE = 64 << 20  # bytes; CMU's 2,600 clips take 200 thousand


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
    data = read_bytes(path, _LARGEST_FILE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    lines = text.splitlines()
    header = lines[0] if lines else ""
    separator = max(SEPARATORS, key=header.count)
    rows = csv_rows(lines, separator, path)
    names = [name.strip().lower() for name in next(rows, (0, []))[1]]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        notes.append(f"{path} is not used: it has no column {', '.join(missing)}, got {', '.join(names) or 'nothing'}")
        return {}
    entries = {}
    for number, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        row = dict(zip(names, cells, strict=False))
        where = f"{path}, line {number}"
        # "94 (inferred)" is subject 94
        subject, trial = (re.match(r"\s*([0-9]{1,9})(?![0-9])", row.get(key, "")) for key in ("subject", "trial"))
        fps = _rate(row.get("fps_true", ""))
        if not (subject and trial and fps):
            wanted = f"numbers for subject, trial and fps_true, the last from {LEAST_RATE:g} to {LARGEST_RATE:g}"
            raise ValueError(f"{where}: want {wanted}, got {row!s:.300}")
        if lacking := [name for name in ("file", "description") if name in names and name not in row]:
            raise ValueError(f"{where}: want {len(names)} columns, got {len(cells)} without {', '.join(lacking)}")
        if "\0" in row["file"]:
            raise ValueError(f"{where}: want the name of a file, got {row['file']!r:.300}")
        clip = (path.parent / row["file"].strip().replace("\\", "/")).resolve()
        entries[clip] = clip_file(clip, int(subject[1]), int(trial[1]), action_name(row["description"]), fps)
    return entries


def _rate(text: str) -> float:
    """Frames a second of "120", "119.88", "119,88", "120000/1001" or "60 (inferred)"; 0 where it is no such number, or
    one that no camera has.
    """
    match = re.match(r"\s*(\d+(?:[.,]\d+)?)(?:\s*/\s*(\d{1,9}))?", text)
    if not match or (match[2] and not int(match[2])):
        return 0.0
    rate = float(match[1].replace(",", ".")) / int(match[2] or 1)
    return rate if LEAST_RATE <= rate <= LARGEST_RATE else 0.0


def action_name(description: str) -> str:
    """The leading words of a CMU description: "dance - small jetes, pirouette" is "dance"."""
    return re.split(r",| - | \(", description.strip())[0].strip().lower()
