"""``fedrad report``: runs as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrad.errors import DataError


def report(
    runs: Annotated[list[Path], typer.Argument()],
    out: Annotated[Path, typer.Option(help="the HTML file to write; must not exist")],
) -> None:
    """One HTML page about finished runs: guarantee, scores, budgets, noise, audits, statistics, environment.

    RUNS are run directories, or folders that hold some, such as a sweep. The page needs no other file and no network.
    """
    from fedrad.cli.app import reporting_errors

    with reporting_errors():
        if out.exists():
            raise DataError("exists already; nothing is overwritten.", file=out, remedy="Name another file.")
        from fedrad.files import USUAL, write_whole
        from fedrad.report.page.page import report as page

        text = page(runs)
        try:
            write_whole(out, text.encode(), durable=False, mode=USUAL)
        except OSError as error:
            raise DataError(f"can't be written: {error.strerror}.", file=out) from None
        print(out)
