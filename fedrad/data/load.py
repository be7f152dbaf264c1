"""``load_corpus``: a corpus by name, as a memory-mapped dataset that is cached between runs.

Each entry of ``fedrad.corpora`` names a module of this package as its reader. The reader's function ``source(path)``,
with the entry's ``options`` as further arguments, finds the files and returns a ``report.Source``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from importlib import import_module
from pathlib import Path

import datasets

from fedrad.cache import fedrad_cache_dir, sources
from fedrad.corpora import corpus_named
from fedrad.data.report import NothingLeft, Source, warn, write_reports
from fedrad.data.table import TableColumns
from fedrad.errors import DataError
from fedrad.files import write_whole


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

    The first call streams the corpus into an Arrow file below ``cache_dir`` (folder 0700, file 0600, since it holds the
    texts). Later calls map that file, until the source files, the options or fedrad's reading code change.

    Args:
        name: one of ``fedrad.corpora.CORPORA``, with dashes or underscores; docs/data-formats.md has the files that
            each expects.
        path: the corpus's folder or file; not used by "synthetic".
        uncertain: "mimic-cxr", "table" and "synthetic" only: how a label counts that is -1, or that the text only
            suspects: "negative", "positive" or "ignore" (masked).
        cache_dir: default ``fedrad_cache_dir()``.
        columns: "table" only, where it is required.
        reports: "synthetic" and "protocol" only: how many.
        seed: likewise.
        bank: "synthetic" only: the phrase bank, as "chest-xray", with the 14 labels of MIMIC-CXR, or "chest-ct", with
            the 18 of CT-RATE; one of ``fedrad.corpora.BANKS``.
    Raises:
        ConfigError: an unknown name or policy.
        DataError: the corpus can't be read; the cache then holds nothing of it.
    Warns:
        DataWarning: reports were left out, or look odd. Later calls repeat the warning.
    """
    name, corpus = corpus_named(name)
    given = {"uncertain": uncertain, "columns": columns, "reports": reports, "seed": seed, "bank": bank}
    options = {option: given[option] for option in corpus.options}
    source: Source = import_module(f"fedrad.data.{corpus.reader}").source(path, **options)
    folder = _private_folder(Path(cache_dir) if cache_dir else fedrad_cache_dir())
    target = folder / f"{name}-{_fingerprint([name, *options.values()], source.files)}.arrow"
    notes_file = target.with_suffix(".notes.json")
    if target.is_file() and notes_file.is_file():
        notes: list[str] = json.loads(notes_file.read_text("utf-8"))
        ds = datasets.Dataset.from_file(str(target))
    else:
        notes = []
        features, rows = source.read(notes.append)
        try:
            ds = write_reports(rows, features, target)
        except NothingLeft as error:
            raise (_nothing_left(Path(path).expanduser(), notes, source.remedy) if path else error) from None
        write_whole(notes_file, json.dumps(notes).encode(), durable=False, shared=True)
    for note in notes:
        warn(note)
    return ds


def _nothing_left(path: Path, notes: list[str], remedy: str) -> DataError:
    """The error for a file or folder without a usable report. It quotes the notes, which are not shown otherwise."""
    reasons = [
        note.removeprefix(f"{path}: ").removeprefix(f"{path}/").removesuffix(".")
        for note in notes
        if "left out" in note
    ]
    if reasons:
        return DataError(f"{'; '.join(reasons)}; none is left to use.", file=path, remedy=remedy)
    problem = "has no rows." if path.is_file() else "its files of reports have no rows."
    return DataError(problem, file=path, remedy="Check data.path, or write the file again.")


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


def _fingerprint(options: list[object], files: Sequence[Path]) -> str:
    """A hash of the options, of this package's code and phrases, and of path, size and time of every source file."""
    digest = blake2b(repr(options).encode(), digest_size=12)
    package = Path(__file__).parent
    for source in [*sources(package), *sources(package.with_name("corpora.py"))]:
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
