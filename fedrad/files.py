"""Atomic writing: files and folders are complete or absent, even if the process is killed. Local file systems only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

PRIVATE, USUAL = 0o600, 0o666  # the umask applies to the latter


@contextmanager
def whole_file(path: Path, *, durable: bool, mode: int = PRIVATE, shared: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which replaces ``path`` once it is complete.

    Args:
        durable: survive a power cut: wait until the file and its name are on the disk.
        mode: permissions of the file.
        shared: several processes may write ``path`` at once, each under a temporary name of its own. Otherwise the
            caller is the only writer; after a kill the incomplete file stays under `partial_of` until the next write.
    """
    partial = partial_of(path, shared=shared)
    partial.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        if shared:
            partial.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_whole(path: Path, content: bytes, *, durable: bool, mode: int = PRIVATE, shared: bool = False) -> None:
    """Writes a file so that a reader sees all of it or none of it. Arguments as for `whole_file`."""
    with whole_file(path, durable=durable, mode=mode, shared=shared) as file:
        file.write(content)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes ``folder`` at the end, or is removed if something fails.

    Raises:
        OSError: it can't be written, or ``folder`` exists by then and is not empty. Nothing is overwritten.
    """
    place = folder.resolve()  # "." has no name from which to make a temporary one
    partial = partial_of(place, shared=True)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if place.exists():
            place.rmdir()
        partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_of(path: Path, *, shared: bool = False) -> Path:
    """The temporary name of a file or folder until it is complete."""
    return path.with_name(f".{path.name}.{token_hex(4)}.partial" if shared else f"{path.name}.partial")


def private_folder(folder: Path) -> None:
    """Makes the folder, for its owner only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def sync_folder(folder: Path) -> None:
    """Makes a creation or renaming in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
