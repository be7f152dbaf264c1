"""What is privatised: a table (CSV, Parquet, Excel) or a text file with one text a line; and where it may go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedrad.data.columns import check_columns
from fedrad.data.content import lines, unpacked
from fedrad.data.table_options import USUAL, Form
from fedrad.data.tabular import cells_of, header_of
from fedrad.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedrad.data.parquet_file import Kind

TEXT: Final = ".txt"
_SUFFIXES: Final = (".csv", ".parquet", TEXT)

Row = list[str]


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read.

    Attributes:
        text: the column to privatise.
        keep: columns that go into the result as they are, behind the text.
        patient: whose texts they are, to add up what they give away; it is not written unless it is in ``keep``.
        form: how a CSV file is written.
    """

    text: str = "text"
    keep: tuple[str, ...] = ()
    patient: str = ""
    form: Form = USUAL

    def __post_init__(self) -> None:
        if self.text in self.keep or len(set(self.keep)) < len(self.keep):
            raise ConfigError("--keep names the text's column, or a column twice: name others, each once")


def manifest_of(out: Path) -> Path:
    """Where the manifest of a result stands."""
    return out.with_name(f"{out.name}.manifest.json")


def check_paths(source: Path, out: Path, columns: Columns) -> None:
    """Refuses what can't work, before anything heavy is loaded.

    Raises:
        ConfigError: the kind of ``out`` is unknown, or text files and columns are mixed.
        DataError: ``source`` is not there or lacks a column, ``out`` or its manifest is, or there is no folder for it.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"OUT must end in {', '.join(_SUFFIXES)}")
    plain = source.suffix.lower() == TEXT
    if plain != (out.suffix.lower() == TEXT) or (plain and (columns.keep or columns.patient)):
        raise ConfigError("a .txt file has one text a line and no columns: both IN and OUT end in .txt, or neither")
    if not source.is_file():
        raise DataError("there is no such file.", file=source)
    for path in (out, manifest_of(out)):
        if path.exists():
            raise DataError("exists already; nothing is overwritten.", file=path, remedy="Name another file.")
    if not out.absolute().parent.is_dir():
        raise DataError("there is no such folder.", file=out.absolute().parent, remedy="Make it, or name another.")
    if not plain:
        _kinds(source, columns)


def check_page(html: Path) -> None:
    """Refuses a place for a preview that is taken or not there.

    Raises:
        DataError: as ``check_paths``.
    """
    if html.exists():
        raise DataError("exists already; nothing is overwritten.", file=html, remedy="Name another file.")
    if not html.absolute().parent.is_dir():
        raise DataError("there is no such folder.", file=html.absolute().parent, remedy="Make it, or name another.")


def count(source: Path, columns: Columns) -> int:
    """How many rows it has.

    Raises:
        DataError: a row can't be read.
    """
    return sum(1 for _ in rows_of(source, columns))


def rows_of(source: Path, columns: Columns) -> Iterator[Row]:
    """Of each row the text, the columns to keep, and the patient if there is one."""
    if source.suffix.lower() == TEXT:
        with unpacked(source) as file:
            for line in lines(file, source, lambda: None):
                yield [line.strip()]
        return
    for _, cells in cells_of(source, _kinds(source, columns), columns.form):
        yield cells


def _kinds(source: Path, columns: Columns) -> list[tuple[int, Kind]]:
    names = [columns.text, *columns.keep, *([columns.patient] if columns.patient else [])]
    remedy = "Name the column with the text with --column."
    places = check_columns(source, header_of(source, columns.form), names, remedy=remedy)
    kinds: list[Kind] = ["text", *["any"] * len(columns.keep), "name"]  # type: ignore[list-item]
    return list(zip(places, kinds, strict=False))
