"""``load_corpus``: a corpus by name, as one memory-mapped dataset, kept as an Arrow file between runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path

import datasets

from fedrad.cache import fedrad_cache_dir, sources
from fedrad.data import ct_rate, mimic_cxr, openi, table
from fedrad.data.labels import CHEXPERT, CT_RATE, chexpert_values
from fedrad.data.report import FEATURES, NothingLeft, Row, Warn, warn, write_reports
from fedrad.data.table import TableColumns
from fedrad.errors import ConfigError, DataError
from fedrad.files import write_whole
from fedrad.settings import SOURCES, spelt

NAMES = SOURCES


def load_corpus(
    name: str,
    path: str | Path | None = None,
    *,
    uncertain: str = "negative",
    cache_dir: str | Path | None = None,
    columns: TableColumns | None = None,
    reports: int = 3000,
    seed: int = 0,
    bank: str = "chest-xray",
) -> datasets.Dataset:
    """A corpus of reports with the columns of ``fedrad.data.report``, memory-mapped.

    The first call streams the corpus into an Arrow file below ``cache_dir`` (folder 0700, file 0600: it holds
    the texts); later calls map that file, until the source files, the options or this package's reading code change.

        >>> from fedrad import load_corpus
        >>> ds = load_corpus("mimic-cxr", "/data/mimic-cxr")
        >>> ds[0]["patient"], ds[0]["split"], ds[0]["labels"]["Edema"]
        ('p10000032', 'train', 0)

    Args:
        name: one of ``NAMES``, with dashes or underscores; docs/data-formats.md has the files that each expects.
        path: the corpus's folder or file; not used by "synthetic".
        uncertain: "mimic-cxr" only: what the label -1.0 becomes: "negative", "positive" or "ignore" (masked).
        cache_dir: default ``fedrad_cache_dir()``.
        columns: "table" only, and needed there.
        reports: "synthetic" only: how many.
        seed: "synthetic" only.
        bank: "synthetic" only: the phrase bank, as "chest-xray", with the 14 labels of MIMIC-CXR, or "chest-ct", with
            the 18 of CT-RATE; one of ``fedrad.data.synthetic.BANKS``.
    Raises:
        ConfigError: an unknown name or policy.
        DataError: the corpus can't be read as it should; nothing is left behind in the cache then.
    Warns:
        DataWarning: reports were left out, or look odd; again at every later call.
    """
    name = spelt(name, NAMES)
    if name not in NAMES:
        close = get_close_matches(name, NAMES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"data.name is {name!r}{hint}: must be one of {', '.join(NAMES)}")
    chexpert_values(uncertain)
    if name == "table" and columns is None:
        raise ConfigError("data.name = table needs data.text-column and data.label-columns")
    files = _inputs(name, path)
    by_name: dict[str, list[object]] = {
        "mimic-cxr": [uncertain],
        "table": [repr(columns)],
        "synthetic": [reports, seed, bank],
    }
    options = by_name.get(name, [])
    folder = _private_folder(Path(cache_dir) if cache_dir else fedrad_cache_dir())
    target = folder / f"{name}-{_fingerprint(name, files, options)}.arrow"
    notes_file = target.with_suffix(".notes.json")
    if target.is_file() and notes_file.is_file():
        notes: list[str] = json.loads(notes_file.read_text("utf-8"))
        ds = datasets.Dataset.from_file(str(target))
    else:
        notes = []
        features, rows = _stream(name, path, uncertain, columns, (reports, seed, bank), notes.append)
        try:
            ds = write_reports(rows, features, target)
        except NothingLeft as error:
            raise (_nothing_left(Path(path).expanduser(), notes, columns) if path else error) from None
        write_whole(notes_file, json.dumps(notes).encode(), durable=False, shared=True)
    for note in notes:
        warn(note)
    return ds


def _nothing_left(source: Path, notes: list[str], columns: TableColumns | None) -> DataError:
    """Why ``source``, a file or folder, has no report that can be used: nothing else shows the notes then."""
    reasons = [
        note.removeprefix(f"{source}: ").removeprefix(f"{source}/").removesuffix(".")
        for note in notes
        if "left out" in note
    ]
    if not reasons:
        problem = "has no rows." if source.is_file() else "its files of reports have no rows."
        return DataError(problem, file=source, remedy="Check data.path, or write the file again.")
    remedy = "Use the files of one release, as they are published."
    if columns is not None:
        remedy = f"Is {columns.text!r} the right one for data.text-column?"
    return DataError(f"{'; '.join(reasons)}; none is left to use.", file=source, remedy=remedy)


def _inputs(name: str, path: str | Path | None) -> list[Path]:
    match name:
        case "mimic-cxr":
            return mimic_cxr.inputs(path)
        case "ct-rate":
            return ct_rate.inputs(path)
        case "openi":
            return openi.inputs(path)
        case "table":
            return table.inputs(path)
    return []


def _stream(
    name: str,
    path: str | Path | None,
    uncertain: str,
    columns: TableColumns | None,
    synthetic: tuple[int, int, str],
    warn: Warn,
) -> tuple[datasets.Features, Iterator[Row]]:
    match name:
        case "mimic-cxr":
            return FEATURES(CHEXPERT), mimic_cxr.reports(path, uncertain, warn)
        case "ct-rate":
            return FEATURES(CT_RATE), ct_rate.reports(path, warn)
        case "openi":
            return FEATURES(CHEXPERT), openi.reports(path, warn)
        case "table" if columns is not None:
            features = table.features(path, columns)
            return features, table.reports(path, columns, features, warn)
    from fedrad.data.synthetic import generate
    from fedrad.data.synthetic.read_bank import labels_of

    reports, seed, bank = synthetic
    return FEATURES(labels_of(bank)), generate(reports, seed, bank=bank)


def _private_folder(cache_dir: Path) -> Path:
    """``cache_dir``/corpora, readable by its owner only; ``cache_dir`` itself too unless it was there already."""
    folder = cache_dir.expanduser() / "corpora"
    try:
        cache_dir.expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        problem = f"the cache can't be made ({error.strerror})."
        raise DataError(problem, file=folder, remedy="Set FEDRAD_CACHE to a folder of your own.") from None
    return folder


def _fingerprint(name: str, files: list[Path], options: list[object]) -> str:
    """Of the code that reads and the phrases that it generates from, the options, and name, size and time of change of
    every file that is read."""
    digest = blake2b(repr([name, *options]).encode(), digest_size=12)
    for source in sources(Path(__file__).parent):
        digest.update(source.read_bytes())
    for file in files:
        for entry in _walk(file):
            stat = entry.stat()
            digest.update(
                f"\0{entry.resolve() if entry == file else entry}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()
            )
    return digest.hexdigest()


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, names, files in os.walk(path):
        names.sort()
        for file in sorted(files):
            yield Path(folder, file)
