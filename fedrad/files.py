"""Files and folders that are there whole or not at all, whenever the process is killed; on local file systems."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

PRIVATE, USUAL = 0o600, 0o666  # the latter less the umask


@contextmanager
def whole_file(path: Path, *, durable: bool, mode: int = PRIVATE, shared: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` once all is written.

    Args:
        durable: survive a power cut: wait until the file and its name are on the disk.
        mode: who may read it.
        shared: several may write ``path`` at once, each under a name of its own. Otherwise the caller is the only one,
            and what a kill leaves behind has the name `partial_of` until the next writing.
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
    """Writes a file so that a reader sees all of it or none of it. As `whole_file`."""
    with whole_file(path, durable=durable, mode=mode, shared=shared) as file:
        file.write(content)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes ``folder`` at the end, with its content, or is removed if that fails.

    Raises:
        OSError: it can't be written, or ``folder`` is there and not empty by then: nothing is overwritten.
    """
    place = folder.resolve()  # "." has no name to put a partial one beside
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
    """What a file or folder is called until it is whole."""
    return path.with_name(f".{path.name}.{token_hex(4)}.partial" if shared else f"{path.name}.partial")


def private_folder(folder: Path) -> None:
    """Makes the folder, for its owner only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def sync_folder(folder: Path) -> None:
    """Makes a creation or a renaming in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
