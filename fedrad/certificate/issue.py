"""Writing certificates: of a finished run, one for each ledger; and of a real hospital, beside its state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrad.certificate.audits import read_audits
from fedrad.certificate.content import Kind, content_of
from fedrad.certificate.digests import answer_in, code, weights_of
from fedrad.certificate.envelope import key_of, sealed
from fedrad.certificate.verify import read
from fedrad.config import Experiment
from fedrad.errors import CertificateError
from fedrad.files import USUAL, write_whole
from fedrad.ledger.view import read_ledger
from fedrad.secure.keys import new_identity_key
from fedrad.training.privatised import draws_in

SERVER = "server"  # whose ledger carries the guarantee where the hospital is the unit


def certify_run(directory: Path, kind: Kind, about: Mapping[str, object] | None = None) -> tuple[Path, ...]:
    """Writes the certificates of a run whose adapter is exported: ``certificate.json`` where there is one ledger, else
    a ``certificate-SITE.json`` for each site that was charged.

    They are signed with a key that is made here and forgotten: it shows that a certificate was not changed since, and
    that those of one run belong together; it speaks for no hospital.

    Args:
        directory: the run directory, with ``adapter/``.
        kind: "centralized" or "simulation".
        about: the code that trained, as ``digests.code`` tells; None: this one.

    Raises:
        CertificateError: a ledger has nothing to certify.
        LedgerError: a ledger can't be trusted.
    """
    experiment = Experiment.load(directory / "experiment.toml")
    ledgers = sorted(file.parent for file in (directory / "ledger").glob("*/ledger.sqlite"))
    if experiment.privacy.unit == "hospital":
        ledgers = [folder for folder in ledgers if folder.name == SERVER]
    private = new_identity_key()
    written = []
    for folder in ledgers:
        view = read_ledger(folder)
        if not view.rows:
            continue
        content = content_of(
            view,
            kind=kind,
            size_stated=kind == "centralized" and experiment.data.declared_size > 0,
            configuration=experiment.digest(),
            code=code() if about is None else about,
            weights=weights_of(directory / "adapter"),
            sent=answer_in(folder),
            audits=read_audits(directory),
            texts=draws_in(folder, view.runs),
        )
        name = "certificate.json" if len(ledgers) == 1 else f"certificate-{view.site}.json"
        written.append(_write(directory / name, content, private))
    return tuple(written)


def renew(directory: Path) -> tuple[Path, ...]:
    """Writes the certificates of a run again, with a new key: after an audit of it, whose bound is then in them.

    They go on naming the code that trained, as the former ones do.

    Raises:
        CertificateError: there is no finished run in the folder, or none of its certificates.
    """
    if not (directory / "result.json").is_file():
        raise CertificateError(f"{directory} is no finished run: it has no result.json")
    former = sorted(directory.glob("certificate*.json"))
    if not former:
        raise CertificateError(f"{directory} has no certificate that could be renewed")
    content = read(former[0])[1]
    return certify_run(directory, content["kind"], content["code"])


def certify_hospital(state_dir: Path, *, configuration: str, private: bytes | None) -> Path:
    """Writes a hospital's certificate into its state directory, in the place of the one before.

    Args:
        state_dir: with its ledger, and what it answered last.
        configuration: digest of the run's configuration, as the server proposed it.
        private: the hospital's identity key; None: one that lies in ``state_dir``, made the first time.

    Raises:
        CertificateError: nothing was charged, or there is no key.
        LedgerError: the ledger can't be trusted.
    """
    view = read_ledger(state_dir)
    content = content_of(
        view,
        kind="hospital",
        size_stated=True,
        configuration=configuration,
        code=code(),
        weights=None,
        sent=answer_in(state_dir),
        audits=(),
        texts=draws_in(state_dir, view.runs),
    )
    return _write(
        state_dir / f"certificate-{view.site}.json", content, key_of(state_dir) if private is None else private
    )


def _write(path: Path, content: Mapping[str, Any], private: bytes) -> Path:
    try:
        write_whole(path, sealed(dict(content), private), durable=True, mode=USUAL)
    except OSError as error:
        raise CertificateError(f"{path} can't be written: {error.strerror}") from None
    return path
