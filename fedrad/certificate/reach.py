"""The digests of a certificate against what lies in a run directory or in a hospital's state directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedrad.certificate.audits import FILE, read_audits
from fedrad.certificate.content import charged
from fedrad.certificate.digests import answer_in, weights_of
from fedrad.certificate.finding import Finding, failed, passed, unchecked
from fedrad.config import Experiment
from fedrad.errors import CertificateError, ConfigError, DataError, LedgerError
from fedrad.ledger.chain import LedgerView
from fedrad.ledger.view import read_ledger
from fedrad.training.privatised import draws_in


def findings(content: Mapping[str, Any], folder: Path, *, named: bool) -> Iterator[Finding]:
    """What each digest comes to.

    Args:
        folder: a run directory or a state directory.
        named: the user named it; else it is where the certificate lies.
    """
    missing = f"there is none in {folder}" if named else "it does not lie beside the certificate; say --run DIR"
    yield from _ledger(content, folder, missing)
    yield _adapter(content, folder, missing)
    yield _configuration(content, folder, missing)
    if content["audits"] or (folder / FILE).is_file():
        yield _audits(content, folder, missing)


def _ledger(content: Mapping[str, Any], folder: Path, missing: str) -> Iterator[Finding]:
    site = content["site"]
    places = [folder] if Path(site).name != site else [folder, folder / "ledger" / site]
    found = next((place for place in places if (place / "ledger.sqlite").is_file()), None)
    if found is None:
        yield unchecked("ledger", missing)
        return
    try:
        view = read_ledger(found)
    except LedgerError as error:
        yield failed("ledger", str(error))
        return
    trouble = _ledger_trouble(content, view)
    yield failed("ledger", trouble) if trouble else passed("ledger", f"{len(view.rows)} charges, the same head")
    if not trouble:
        yield _answer(content, found)
        yield from _texts(content, found, view)


def _ledger_trouble(content: Mapping[str, Any], view: LedgerView) -> str:
    """Why the certificate is not that of this ledger; empty if it is."""
    stated, charges = content["ledger"], len(view.rows)
    count = stated["charges"]
    if view.site != content["site"]:
        return f"it is that of {view.site}, not of {content['site']}"
    if charges > count and view.hashes[count - 1] == stated["head"]:
        return f"the certificate is out of date: it covers {count} charges, and the ledger has {charges} by now"
    if charges < count:
        return f"it has {charges} charges, and {count} were certified: rows were removed, or it is an older copy"
    if view.head != stated["head"]:
        return "its head is another: it is not the ledger that was certified, or it was rewritten"
    says = charged(view)
    differing = [f"guarantee.{key}" for key, value in says["guarantee"].items() if content["guarantee"][key] != value]
    differing = [key for key in differing if not _nearly(key, content, says)]
    differing += [key for key in ("events", "plans", "ledger") if content[key] != says[key]]
    return f"the certificate claims other values than it holds: {', '.join(differing)}" if differing else ""


def _nearly(key: str, content: Mapping[str, Any], says: Mapping[str, Any]) -> bool:
    """Epsilons are computed again elsewhere: machines may differ in a last digit."""
    return key in ("guarantee.epsilon", "guarantee.curve") and content["events"] == says["events"]


def _answer(content: Mapping[str, Any], ledger: Path) -> Finding:
    stated = content["adapter"]
    if stated["sent"] is None:
        return unchecked("answer", "it names none: nothing is kept of an answer that left masked, or there was none")
    digest, _ = answer_in(ledger)
    if digest is None:
        return unchecked("answer", f"none is kept in {ledger}")
    if digest != stated["sent"]:
        return failed("answer", "what is kept as the last answer is not what was certified")
    return passed("answer", "the last answer is the one that was certified")


def _texts(content: Mapping[str, Any], ledger: Path, view: LedgerView) -> Iterator[Finding]:
    """Privatised texts, against the notes of what runs trained on; none if neither says anything of any."""
    stated = content.get("texts")
    try:
        here = draws_in(ledger, view.runs)
    except DataError as error:
        yield failed("texts", str(error))
        return
    if here is None and stated is not None:
        yield unchecked("texts", f"{ledger} has no notes of privatised texts")
    elif here != stated:
        yield failed("texts", f"what it says of privatised texts is not what the notes in {ledger} say")
    elif here is not None:
        yield passed("texts", f"of {_draws(len(here['draws']))}, as the notes of the runs say")


def _draws(count: int) -> str:
    return "1 draw" if count == 1 else f"{count} draws"


def _adapter(content: Mapping[str, Any], folder: Path, missing: str) -> Finding:
    stated = content["adapter"]["weights"]
    if stated is None:
        return unchecked("adapter", "it names no final adapter: its signer does not know which one came of the run")
    weights = next((found for place in (folder / "adapter", folder) if (found := weights_of(place))), None)
    if weights is None or not stated.keys() & weights.keys():
        return unchecked("adapter", missing)
    wrong = sorted(name for name, digest in stated.items() if weights.get(name) != digest)
    if wrong:
        return failed("adapter", f"not the bytes that were certified: {', '.join(wrong)}")
    return passed("adapter", f"the bytes that were certified: {', '.join(sorted(stated))}")


def _configuration(content: Mapping[str, Any], folder: Path, missing: str) -> Finding:
    path = folder / "experiment.toml"
    if not path.is_file():
        return unchecked("configuration", missing)
    try:
        digest = Experiment.load(path).digest()
    except ConfigError as error:
        return failed("configuration", f"{path} is none: {error.problems[0]}")
    if digest != content["configuration"]:
        return failed("configuration", f"{path} is not the configuration that was certified")
    return passed("configuration", "experiment.toml is the one that was certified")


def _audits(content: Mapping[str, Any], folder: Path, missing: str) -> Finding:
    if not (folder / FILE).is_file():
        return unchecked("audits", missing)
    try:
        here = read_audits(folder)
    except CertificateError as error:
        return failed("audits", str(error))
    if not content["audits"]:
        return unchecked("audits", f"{FILE} is newer: `fedrad certificate renew {folder}` takes it in")
    if here != content["audits"]:
        return failed("audits", f"{FILE} is not what was certified")
    return passed("audits", f"{FILE} is what was certified")
