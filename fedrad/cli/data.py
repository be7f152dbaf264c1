"""``fedrad data``: what a user's own data is like, before anything is trained on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedrad.cli.output import reporting_errors
from fedrad.errors import DataError
from fedrad.files import write_whole
from fedrad.keys import parse_overrides

data_app = typer.Typer(
    no_args_is_help=True,
    help="Your own reports, before any training.",
    suggest_commands=False,  # click does
)


@data_app.callback()
def _data() -> None:
    pass  # so that `check` stays a command of its own


@data_app.command()
def check(
    source: Annotated[Path | None, typer.Argument()] = None,
    config: Annotated[Path | None, typer.Option(help="a TOML file with the settings of the run")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, as often as needed")] = None,
    map_: Annotated[str, typer.Option("--map", help="what words in the label columns mean: yes=1,no=0")] = "",
    json_: Annotated[Path | None, typer.Option("--json", help="also write the counts to this new file")] = None,
) -> None:
    """What the reports are like, whether they can be learnt from, and every problem at once.

    SOURCE is a corpus folder, a table (CSV, Parquet, Excel), or a hospital's node configuration in a .toml file;
    without it, data.name and data.path say what to read. Ends with 0 only if a run could start.

    Nothing leaves this machine, and no text is shown. The counts are private: don't publish them.
    """
    with reporting_errors():
        overrides = parse_overrides([*(set_ or []), *([f"data.map={map_}"] if map_ else [])])
        if json_ is not None and json_.exists():
            raise DataError("exists already; nothing is overwritten.", file=json_, remedy="Name another file.")
        if source is not None and not source.exists():
            raise DataError("there is no such file or folder.", file=source)
        from fedrad.cli.data_check import as_json, check_data
        from fedrad.data.report import silent
        from fedrad.report import data_check as report

        with silent():  # what the readers warn of is listed with the rest
            found = check_data(source, config, overrides)
        console = Console(width=None if sys.stdout.isatty() else 140)
        lines = [report.PRIVATE, "", *([f"data: {found.what}"] if found.what else [])]
        lines += report.survey_lines(found.survey, found.max_length, found.limit)
        _say(console, lines)
        if found.survey.labels:
            console.print()
            console.print(report.survey_table(found.survey, found.known, found.offered))
        rest = [] if found.outlook is None else ["", report.outlook_line(found.outlook, found.expected is not None)]
        if notes := (*found.survey.notes, *found.notes):
            rest += ["", *(f"note: {note}" for note in notes)]
        if found.problems:
            rest += ["", f"{len(found.problems)} problem{'s' if len(found.problems) > 1 else ''}:"]
            rest += [f"- {line}" for line in report.problem_lines(found.problems)]
            rest += ["A run could NOT start with this data and configuration."]
        else:
            rest += ["", "No problems: a run could start with this data and configuration."]
        _say(console, rest)
        if json_ is not None:
            content = json.dumps(as_json(found), indent=2, allow_nan=False) + "\n"
            write_whole(json_, content.encode(), durable=True)
        sys.exit(found.exit_code)


def _say(console: Console, lines: list[str]) -> None:
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
