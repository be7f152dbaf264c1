"""What lies at a path that a user names: which corpus, by the files in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fedrad.errors import DataError

# ``data.name`` -> the files by which a folder of this corpus is known.
_MARKS: Final = {
    "openi": ("indiana_reports.csv", "indiana_reports.csv.gz"),
    "mimic-cxr": ("mimic-cxr-reports.zip", "files/p1[0-9]", "p1[0-9]", "mimic-cxr-2.*-chexpert.csv*"),
    "ct-rate": ("*train_reports.csv*", "*validation_reports.csv*", "**/*train_reports.csv*"),
}


def source_settings(path: Path, name: str = "") -> dict[str, object]:
    """``data.name`` and ``data.path`` of the corpus at a path; a file is a table, unless it is Open-i's.

    Args:
        name: ``data.name`` if the user gave one, which then counts.

    Raises:
        DataError: nothing is there, or the folder holds no corpus that is known.
    """
    place = path.expanduser()
    if not place.exists():
        raise DataError("is not there.", file=place, remedy="Name a corpus folder or a table.")
    found = name or _name_of(place)
    if not found:
        remedy = "Name the file itself if it is a table; otherwise say what it is, e.g. --set data.name=mimic-cxr."
        raise DataError("holds no corpus that is known by its files.", file=place, remedy=remedy)
    return {"data.name": found, "data.path": str(place.absolute())}


def _name_of(place: Path) -> str:
    if place.is_file():
        return "openi" if place.name in _MARKS["openi"] else "table"
    return next((name for name, marks in _MARKS.items() if any(next(place.glob(m), None) for m in marks)), "")
