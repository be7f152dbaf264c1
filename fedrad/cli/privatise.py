"""``fedrad privatise``: texts made private token by token, before they leave the machine."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from fedrad.cli.output import reporting_errors
from fedrad.errors import ConfigError, DataError
from fedrad.settings import EMBEDDED

if TYPE_CHECKING:
    from fedrad.privatise.budgets import Choice
    from fedrad.privatise.files import Tally
    from fedrad.privatise.privatiser import Privatiser, Walk
    from fedrad.privatise.sources import Columns

_COLOURS = ("bold red", "red", "bold green", "blue")  # of groups 1 to 4


def privatise(
    source: Annotated[Path, typer.Argument(metavar="IN")],
    out: Annotated[Path | None, typer.Argument(metavar="OUT")] = None,
    task: Annotated[str, typer.Option(help="what the texts are for in a few public words: 'chest findings'")] = "",
    epsilon: Annotated[float, typer.Option(help="unit of the profile's budgets, in the mechanism's distance")] = 0.0,
    profile: Annotated[
        str,
        typer.Option(
            help="budgets of the groups in epsilons: drop 0:0:4:3, full 2:1:4:3, uniform 1:1:1:1, private-low"
            " keep:1:keep:keep, private-both 1:1:keep:keep"
        ),
    ] = "drop",
    mechanism: Annotated[
        str, typer.Option(help="polar, full-polar, laplace, coordinate-laplace, santext or tem")
    ] = "polar",
    kappa: Annotated[
        Literal["paper", "code"], typer.Option(help="of a polar mechanism: paper: epsilon; code: epsilon / pi")
    ] = "paper",
    column: Annotated[str, typer.Option(help="the column with the text")] = "text",
    keep: Annotated[
        list[str] | None, typer.Option(help="a column to copy as it is, as often as needed; others are left out")
    ] = None,
    patient: Annotated[str, typer.Option(help="column of the patient, to add up the figures of their texts")] = "",
    model: Annotated[str, typer.Option(help="whose table of embeddings: embedded, hub id or folder")] = EMBEDDED,
    threshold: Annotated[float, typer.Option(help="cosine to the task from which on a token is important")] = 0.5,
    ner: Annotated[str, typer.Option(help="also a spaCy model that finds identifiers, e.g. en_core_web_sm")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="for simulations only: it protects nobody")] = None,
    presidio: Annotated[
        str, typer.Option(help="also Microsoft Presidio, with this spaCy model, e.g. en_core_web_sm")
    ] = "",
    preview: Annotated[int, typer.Option(min=0, help="show so many texts, token by token, on this screen only")] = 0,
    html: Annotated[
        Path | None, typer.Option(help="with --preview: a page to write them to instead; it holds PRIVATE TEXT")
    ] = None,
    repair: Annotated[
        str, typer.Option(help="a decoder that chooses again among tokens near each answer: smollm2, hub id or folder")
    ] = "",
    hide: Annotated[bool, typer.Option("--hide", help="with --html: leave the original tokens out")] = False,
) -> None:
    """Replace the tokens of texts by random ones near them, before the texts leave this machine.

    IN and OUT are tables (CSV, Parquet; IN also Excel), or .txt files with one text a line. OUT.manifest.json says what
    was done and what it guarantees. OUT has the text and the columns named by --keep, no others.

    The guarantee is metric local differential privacy: weak for tokens that differ much. Docs: docs/privatise.md.
    """

    with reporting_errors():
        from fedrad.privatise.budgets import Choice
        from fedrad.privatise.sources import Columns, check_page, check_paths, count

        if not task.strip():
            raise ConfigError("--task is missing: say in a few public words what the texts are for")
        choice = Choice(epsilon, profile, mechanism, kappa, threshold)
        columns = Columns(column, tuple(keep or ()), patient)
        if (out is None) == (preview == 0):
            raise ConfigError("name OUT, or --preview N to see what would happen to the first texts, one of the two")
        if (html is not None and not preview) or (hide and html is None):
            raise ConfigError("--html goes with --preview N, the number of texts, and --hide with --html")
        if out is not None:
            check_paths(source, out, columns)
        if html is not None:
            check_page(html)
        total = count(source, columns)  # finds bad rows before anything heavy is loaded
        privatiser = _privatiser(model, choice, task, (ner, presidio), seed, repair)
        if html is not None:
            _write_page(privatiser, source, columns, preview, html, hide)
            return
        if out is None:
            _preview(privatiser, source, columns, preview)
            return
        from fedrad.privatise.files import privatise_file

        console = Console(stderr=True)
        _say(console, privatiser)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            job = bar.add_task("privatising", total=total)
            tally = privatise_file(privatiser, source, out, columns, lambda rows: bar.advance(job, rows))
        _told(console, tally, patient)


def _privatiser(
    model: str, choice: Choice, task: str, also: tuple[str, str], seed: int | None, repair: str
) -> Privatiser:
    from fedrad.privatise.embeddings import load_table
    from fedrad.privatise.identifiers import identifiers
    from fedrad.privatise.ner import Entities
    from fedrad.privatise.presidio import Presidio
    from fedrad.privatise.privatiser import Detector, Privatiser

    ner, presidio = also
    detectors: tuple[Detector, ...] = (identifiers,)
    if ner:
        detectors += (Entities(ner),)
    if presidio:
        detectors += (Presidio(presidio),)
    table, repaired = load_table(model), None
    if repair:
        from fedrad.model.base import load_base
        from fedrad.privatise.reader import reader_of
        from fedrad.privatise.repair import Repair

        repaired = Repair(reader_of(table, load_base(repair), f"{task}\n"))
    return Privatiser(table, choice, task, detectors, seed, repaired)


def _say(console: Console, privatiser: Privatiser) -> None:
    from fedrad.privatise.report import guarantee_lines, seed_source

    important = int(privatiser.important.sum())
    lines = [
        f"randomness: {seed_source(privatiser)}",
        f"important for this task: {important:,} of {len(privatiser.important):,} tokens of the vocabulary",
        *guarantee_lines(privatiser),
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _told(console: Console, tally: Tally, patient: str) -> None:
    largest = f"largest composed worst case: {tally.worst_text:,.0f} for one text"
    if patient:
        largest += f", {tally.worst_patient:,.0f} for one patient"
    lines = [
        f"{tally.texts:,} texts; tokens in groups 1 to 4: {', '.join(f'{n:,}' for n in tally.groups)}",
        f"dropped {tally.dropped:,}, unchanged {tally.same:,}, replaced {tally.other:,} tokens",
        largest,
        "These counts come from the private texts: they are for you, and not in the manifest.",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _preview(privatiser: Privatiser, source: Path, columns: Columns, texts: int) -> None:
    from fedrad.privatise.budgets import GROUPS
    from fedrad.privatise.sources import rows_of

    console = Console(width=None if sys.stdout.isatty() else 140)
    _say(console, privatiser)
    legend = [
        Text(f"{k} {group}", style=colour) for k, (group, colour) in enumerate(zip(GROUPS, _COLOURS, strict=True), 1)
    ]
    console.print(Text("groups: ") + Text("; ").join(legend))
    rows = [row[0] for row in islice(rows_of(source, columns), texts)]
    for walk in privatiser.walks(rows):
        console.print()
        console.print(_shown(privatiser, walk))
        console.print(Text("result: ") + Text(privatiser.spelt(walk)))


def _shown(privatiser: Privatiser, walk: Walk) -> Text:
    """The tokens in the colours of their groups, each with its group and what took its place."""
    from fedrad.privatise.preview import steps

    pieces = []
    for token, group, answer in steps(privatiser, walk):
        colour, name = _COLOURS[group - 1], f"{token}[{group}]"
        if answer is None:
            pieces.append(Text(f"{name} kept", style=colour))
        elif answer:
            pieces.append(Text(f"{name}→{answer}", style=colour))
        else:
            pieces.append(Text(f"{name}→nothing", style=f"{colour} strike"))
    return Text(" ").join(pieces)


def _write_page(privatiser: Privatiser, source: Path, columns: Columns, texts: int, html: Path, hide: bool) -> None:
    from fedrad.files import write_whole
    from fedrad.privatise.preview import page
    from fedrad.privatise.sources import rows_of

    rows = [row[0] for row in islice(rows_of(source, columns), texts)]
    content = page(privatiser, privatiser.walks(rows), hide=hide)
    try:
        write_whole(html, content.encode(), durable=True, shared=True)
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}.", file=html) from None
    holds = "no original text" if hide else "PRIVATE TEXT: keep it like the reports"
    Console(stderr=True).print(f"{html} holds {holds}", markup=False, highlight=False, soft_wrap=True)
