"""Binds each ledger to its reports, so that a second ledger on the same reports does not give a second budget.

Guarantee:
    An index in the witness folder binds each ledger to its reports: to their path, and to a sketch of all texts that it
    was ever bound to, so that reports which a site no longer uses are not free for another site. A ledger of another
    site on reports that are already bound is refused before it is charged. That applies if one path is the same file or
    folder as the other (also through links) or lies inside it, or if a fifth of the texts of the smaller set are in
    both. A person may allow it by naming the other site in the node configuration. The consent is recorded in the
    index, and also in the new ledger's founding facts if nothing was charged to it before; the two budgets then add up
    for every report in both.

The sketch (a bottom-k MinHash) consists of the 1,024 smallest keyed hashes (HMAC-SHA256, 64 bits kept) of the texts.
Case, punctuation and de-identification placeholders are removed first, so that another export of the same reports has
the same sketch. The key is drawn for this folder and never leaves it. Anyone who can read the folder could still test
whether a guessed text is among the reports, so it is readable by the owner only (0600), like the reports.

Not detected: texts that were reworded, translated or cut differently; an overlap below a fifth; an overlap of fewer
than three texts, unless these are the whole smaller set; an overlap with a set more than a hundred times as large;
another witness folder, or a lost one. After a loss every site is bound again by its next round, in order of arrival.
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

from fedrad.errors import LedgerError
from fedrad.files import private_folder, write_whole
from fedrad.ledger.durable import record_errors

# As a fraction of the smaller set's distinct texts. Two random halves of Open-i have 0.08 in common: boilerplate.
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
        sketch: the smallest keyed hashes of all texts that it was ever bound to, ascending.
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
    """Checks the path, before a ledger is created and before a report is read.

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
    """Binds the site's ledger to these reports, before a charge.

    Args:
        witness: the folder with the index; made, for its owner only, if it is not there.
        site: the ledger's site. Its earlier path is forgotten, because folders move. Its sketch becomes that of the
            earlier and the present texts together, because charges for the earlier ones stay.
        directory: the ledger's state directory.
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
    """The bindings of other sites that no consent covers; it may be recorded for either of the two sites."""
    own = {name for binding in index.bindings if binding.site == site for name in binding.shares_with}
    allowed = own | set(shares_with)
    return [b for b in index.bindings if b.site != site and b.site not in allowed and site not in b.shares_with]


def _refusal(site: str, other: Binding, what: str) -> LedgerError:
    return LedgerError(
        f"{what} of site {other.site!r}, whose ledger is in {other.directory}. A new site name does not give a new"
        f" budget. Continue as {other.site!r}, with its state-dir. Or, if both sites should spend on the same reports,"
        f' set shares-reports-with="{other.site}" in the node configuration: then the two budgets add up for every'
        " report in both."
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
    """The fraction of the smaller set that is in both, estimated from the hash range that both sketches cover."""
    reach = min((sketch[-1] for sketch in (one, other) if len(sketch) == _SKETCH), default=2**64)
    first, second = ({digest for digest in sketch if digest <= reach} for sketch in (one, other))
    smaller, both = min(len(first), len(second)), len(first & second)
    return both / smaller if both >= min(_FEWEST, max(smaller, 1)) else 0.0


def _file(witness: Path) -> Path:
    return witness / "reports.json"


def _read(witness: Path) -> _Index:
    """The index; a new one, with a new salt, if there is none."""
    path = _file(witness)
    with record_errors("The index of reports", path):
        if not path.exists():
            return _Index(secrets.token_hex(32))
        found = json.loads(path.read_text())
        bytes.fromhex(found["salt"])
        entries = [
            Binding(**{**b, "sketch": tuple(b["sketch"]), "shares_with": tuple(b["shares_with"])})
            for b in found["bindings"]
        ]
        return _Index(found["salt"], tuple(entries))


def _write(witness: Path, index: _Index) -> None:
    path = _file(witness)
    with record_errors("The index of reports", path):
        write_whole(path, json.dumps(asdict(index)).encode(), durable=True)


@contextmanager
def _locked(witness: Path) -> Iterator[None]:
    """Lets in one hospital process at a time; the others wait."""
    with record_errors("The witness folder", witness):
        private_folder(witness)
        descriptor = os.open(witness / "reports.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
