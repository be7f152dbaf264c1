"""``fedrad report``: runs as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrad.cli.output import reporting_errors
from fedrad.errors import DataError


def report(
    runs: Annotated[list[Path], typer.Argument()],
    out: Annotated[Path, typer.Option(help="the HTML file to write; must not exist")],
) -> None:
    """One HTML page about finished runs: guarantee, scores, budgets, noise, audits, statistics, environment.

    RUNS are run directories, or folders that hold some, such as a sweep. The page needs no other file and no network.
    """
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


def export(
    run: Annotated[Path, typer.Argument()],
    folder: Annotated[Path, typer.Argument()],
    licence: Annotated[str, typer.Option("--license", help="of the adapter, as the hub names it")] = "other",
    base: Annotated[str, typer.Option(help="hub id of the base model, if the run names a local folder")] = "",
    certificate: Annotated[
        list[Path] | None, typer.Option(help="a hospital's certificate, as often as needed; those in RUN are taken")
    ] = None,
) -> None:
    """A finished run as a folder for the Hugging Face hub: adapter, tokenizer, model card, certificates.

    RUN is a run directory, FOLDER the new folder. A run whose certificate is refused is not exported.
    """
    with reporting_errors():
        from fedrad.model.folder import adapter_folder

        adapter_folder(run)
        from fedrad.report.hub import export_run

        export_run(run, folder, licence=licence, base_name=base, certificates=certificate or [])
        print(folder)
