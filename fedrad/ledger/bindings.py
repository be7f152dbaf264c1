"""Which reports a hospital's ledgers are for, so that a second ledger on the same reports is no second budget.

Guarantee:
    An index in the witness folder binds each ledger to its reports: to their path, and to a sketch of all texts that it
    was ever bound to, so reports that a site has left behind are not free for another one. A ledger of another site on
    reports that are bound already is refused before it is charged: where the path is the same file or folder (through
    links too), or lies in the other, or where a fifth of the texts of the smaller set are in both. A person may allow
    it by naming the other site in the node configuration. That is recorded in the index, and in the new ledger's
    founding facts if nothing was charged to it before; the two budgets then add up for every report in both.

The sketch is made of the 1,024 smallest keyed hashes (HMAC-SHA256, 64 bits kept) of the texts without case,
punctuation and the placeholders of de-identification, so another export of the same reports has the same. The key is
drawn for this folder and never leaves it; whoever may read the folder could still test whether a guessed text is among
the reports: it is for the owner only (0600), like the reports.

What can't be noticed: texts that were reworded, translated or cut differently; an overlap below a fifth, or of fewer
than three texts unless they are all of the smaller set, or with a set more than a hundred times as large; another
witness folder, or one that was lost. Then every site is bound anew by its next round, the first come first served.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedrad.errors import LedgerError, LedgerTampered
from fedrad.files import private_folder, write_whole

# A share of the smaller set's distinct texts. Two random halves of Open-i have 0.08 in common: boilerplate.
LARGEST_OVERLAP = 0.2
_SKETCH, _FEWEST = 1024, 3
_NEITHER_WORD_NOR_NUMBER = re.compile(r"(?:[\W_]|\bx{2,}\b)+")


@dataclass(frozen=True)
class Binding:
    """One ledger's reports.

    Attributes:
        site: the ledger's site.
        directory: its state directory, for messages.
        path: the reports, absolute, links resolved.
        sketch: the smallest keyed hashes of their texts, ascending; of earlier ones, too, which were charged as well.
        shares_with: the sites whose ledgers may be on the same reports, by a person's consent.
    """

    site: str
    directory: str
    path: str
    sketch: tuple[int, ...]
    shares_with: tuple[str, ...]


@dataclass(frozen=True)
class _Index:
    salt: str
    bindings: tuple[Binding, ...] = field(default=())


def check_path(witness: Path, *, site: str, path: Path, shares_with: tuple[str, ...]) -> None:
    """Before a ledger is founded, and before a report is read.

    Raises:
        LedgerError: another site's ledger is on this path, and nobody consented.
        LedgerTampered: the index is damaged.
    """
    for other in _others(_read(witness), site, shares_with):
        if _same_place(path, Path(other.path)):
            raise _refusal(site, other, f"The reports in {path} are those")


def bind(
    witness: Path, *, site: str, directory: Path, path: Path, texts: Iterable[str], shares_with: tuple[str, ...]
) -> None:
    """Before a charge: notes that the site's ledger is for these reports, as they are now.

    Args:
        witness: the folder with the index; made, for its owner only, if it is not there.
        site: the ledger's site. Folders move, so its earlier path is forgotten; reports are added to and removed, but
            what was charged for the earlier ones stays charged, so the sketch becomes that of both.
        directory: the ledger's.
        path: of the reports.
        texts: all reports.
        shares_with: sites whose ledgers may be on the same reports.

    Raises:
        LedgerError: another site's ledger is on these reports, and nobody consented; or the index can't be written.
        LedgerTampered: the index is damaged.
    """
    with _locked(witness):
        index = _read(witness)
        sketch = _sketched(index.salt, texts)
        for other in _others(index, site, shares_with):
            if _same_place(path, Path(other.path)):
                raise _refusal(site, other, f"The reports in {path} are those")
            if _overlap(sketch, other.sketch) >= LARGEST_OVERLAP:
                raise _refusal(site, other, f"Many of the reports in {path} are among those")
        before = [binding for binding in index.bindings if binding.site == site]
        consents = sorted({*shares_with, *(name for binding in before for name in binding.shares_with)})
        ever = tuple(sorted({*sketch, *(digest for binding in before for digest in binding.sketch)})[:_SKETCH])
        now = Binding(site, str(directory), str(path.resolve()), ever, tuple(consents))
        if [now] != before:
            _write(witness, _Index(index.salt, (*(b for b in index.bindings if b.site != site), now)))


def _others(index: _Index, site: str, shares_with: tuple[str, ...]) -> list[Binding]:
    """The bindings of other sites that no consent covers, in whichever of the two ledgers it was recorded."""
    own = {name for binding in index.bindings if binding.site == site for name in binding.shares_with}
    allowed = own | set(shares_with)
    return [b for b in index.bindings if b.site != site and b.site not in allowed and site not in b.shares_with]


def _refusal(site: str, other: Binding, what: str) -> LedgerError:
    return LedgerError(
        f"{what} of site {other.site!r}, whose ledger is in {other.directory}; site {site!r} would spend on them"
        f" again, and a new name is no new budget. Go on as {other.site!r}, with its state-dir. Or, if both are to"
        f' spend on the same reports, state shares-reports-with="{other.site}" in the node configuration: then the two'
        " budgets add up for every report in both."
    )


def _same_place(path: Path, other: Path) -> bool:
    path, other = path.resolve(), other.resolve()
    if path.is_relative_to(other) or other.is_relative_to(path):
        return True
    try:
        return path.samefile(other)  # a hard link, or a folder that is mounted twice
    except OSError:
        return False


def _sketched(salt: str, texts: Iterable[str]) -> tuple[int, ...]:
    key = bytes.fromhex(salt)
    digests = {int.from_bytes(hmac.digest(key, _normal(text).encode(), "sha256")[:8]) for text in texts}
    return tuple(sorted(digests)[:_SKETCH])


def _normal(text: str) -> str:
    return _NEITHER_WORD_NOR_NUMBER.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _overlap(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """The share of the smaller set that is in both, estimated below the largest hash that both sketches reach."""
    reach = min((sketch[-1] for sketch in (one, other) if len(sketch) == _SKETCH), default=2**64)
    first, second = ({digest for digest in sketch if digest <= reach} for sketch in (one, other))
    smaller, both = min(len(first), len(second)), len(first & second)
    return both / smaller if both >= min(_FEWEST, max(smaller, 1)) else 0.0


def _file(witness: Path) -> Path:
    return witness / "reports.json"


def _read(witness: Path) -> _Index:
    """The index; a new one, with a new salt, where there is none."""
    path = _file(witness)
    try:
        found = json.loads(path.read_text())
        bytes.fromhex(found["salt"])
        entries = [
            Binding(**{**b, "sketch": tuple(b["sketch"]), "shares_with": tuple(b["shares_with"])})
            for b in found["bindings"]
        ]
        return _Index(found["salt"], tuple(entries))
    except FileNotFoundError:
        return _Index(secrets.token_hex(32))
    except OSError as error:
        raise LedgerError(f"The index of reports {path} can't be read ({error.strerror}).") from None
    except (ValueError, TypeError, KeyError):
        raise LedgerTampered(f"The index of reports {path} is damaged. Restore it from a backup.") from None


def _write(witness: Path, index: _Index) -> None:
    path = _file(witness)
    try:
        write_whole(path, json.dumps(asdict(index)).encode(), durable=True)
    except OSError as error:
        raise LedgerError(f"The index of reports {path} can't be written ({error.strerror}).") from None


@contextmanager
def _locked(witness: Path) -> Iterator[None]:
    """One hospital process at a time; the others wait for the moment that it takes."""
    try:
        private_folder(witness)
        descriptor = os.open(witness / "reports.lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise LedgerError(f"The witness folder {witness} can't be used ({error.strerror}).") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
