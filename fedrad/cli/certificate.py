"""``fedrad certificate``: what a run or a hospital has signed about its privacy, checked and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrad.cli.output import reporting_errors, wide
from fedrad.errors import CertificateError

certificate_app = typer.Typer(
    no_args_is_help=True,
    help="Privacy certificates of runs and hospitals: check one, read one, write those of a run again.",
    suggest_commands=False,  # click does
)
_STYLES = {"ok": "green", "FAILED": "bold red", "not checked": "yellow"}


@certificate_app.command()
def verify(
    file: Annotated[Path, typer.Argument()],
    run: Annotated[
        Path | None,
        typer.Option(help="run directory or hospital's state directory to check against; default: where FILE lies"),
    ] = None,
    key: Annotated[str, typer.Option(help="the signer's public key (64 hex digits), or a file with it")] = "",
) -> None:
    """Compute epsilon again from the charges, and check the signature and every digest in reach.

    Exits with 0 only if no check failed. What could not be checked is listed.
    """
    from rich.table import Table
    from rich.text import Text

    from fedrad.certificate.verify import verify as findings_of

    with reporting_errors():
        findings = findings_of(file, run=run, key=key)
        table = Table(box=None, show_header=False)
        for finding in findings:
            table.add_row(finding.what, Text(finding.verdict, style=_STYLES[finding.verdict]), Text(finding.words))
        wide().print(table)
        failed = [f"{finding.what}: {finding.words}" for finding in findings if finding.verdict == "FAILED"]
        if failed:
            raise CertificateError(f"{file} is refused: " + "; ".join(failed))


@certificate_app.command()
def show(file: Annotated[Path, typer.Argument()]) -> None:
    """What a certificate says, in words. Nothing of it is checked; `fedrad certificate verify` does that."""
    from fedrad.certificate.verify import read
    from fedrad.certificate.words import in_words

    with reporting_errors():
        envelope, content = read(file)
        wide().print(in_words(content, envelope.key), markup=False, highlight=False, soft_wrap=True)


@certificate_app.command()
def renew(run: Annotated[Path, typer.Argument()]) -> None:
    """Write the certificates of a finished run again, with a new key: after an audit of it, which they then name."""
    from fedrad.certificate.issue import renew as renewed

    with reporting_errors():
        for path in renewed(run):
            print(path)
