"""``fedrad plan`` and ``fedrad ledger``: what a budget will buy, and what it was spent on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrad.cli.output import Settings, exists, new_file, print_json, reporting_errors, wide
from fedrad.config import Experiment
from fedrad.keys import parse_overrides, read_flat
from fedrad.rules import documented_rules


def ledger(
    site_dir: Annotated[Path, typer.Argument()],
    cap: Annotated[float | None, typer.Option(help="the hospital's epsilon cap, to see what is left")] = None,
    csv_: Annotated[Path | None, typer.Option("--csv", help="also write the charges to this new file")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON instead")] = False,
) -> None:
    """What a hospital was charged, what that spent, and what is left. Reads only, also while the hospital trains.

    SITE_DIR is a hospital's state directory, or ledger/<site> of a run directory.
    """
    from fedrad.ledger.durable import ledger_file

    with reporting_errors():
        ledger_file(site_dir)
        if csv_ is not None and csv_.exists():
            raise exists(csv_)
        from fedrad.ledger.view import read_ledger
        from fedrad.report import budget

        view = read_ledger(site_dir)
        curve, left = view.curve(), None if cap is None else view.left(cap)
        if csv_ is not None:
            with new_file(csv_) as file:
                budget.write_ledger_csv(view, curve, file)
        if json_:
            print_json(budget.ledger_json(view, curve, left))
            return
        console = wide()
        if view.rows:
            console.print(budget.charges_table(view, curve))
        for text in (budget.curve_plot(curve), budget.ledger_lines(view, left)):
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def plan(
    config: Annotated[Path | None, typer.Argument()] = None,
    set_: Settings = None,
    reports: Annotated[
        int | None, typer.Option(help="size that each hospital declares (patients, if those are the unit)")
    ] = None,
    labels: Annotated[int | None, typer.Option(help="outputs of the head; default: those of data.name")] = None,
    hospitals: Annotated[
        int | None,
        typer.Option(help="how many there are (sites.count); 1 judges one place, as centralized training is"),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON instead")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="only print which settings exclude each other")] = False,
) -> None:
    """Before any training: what noise a configuration takes, how loud it is, and what to train instead.

    CONFIG is a TOML file; without one, the defaults.
    """
    from fedrad.planning.questions import check_told

    with reporting_errors():
        if rules:
            for rule in documented_rules(Experiment()):
                print(f"{rule.name}: {rule.documented}")
            return
        overrides = [*(set_ or []), *([] if hospitals is None else [f"sites.count={hospitals}"])]
        experiment = Experiment.load(config, overrides).resolve_paths(Path.cwd())
        check_told(experiment, reports, labels)
        from fedrad.planning.outlook import outlook_of
        from fedrad.report import budget

        said = {**({} if config is None else read_flat(config)), **parse_overrides(overrides)}
        outlook = outlook_of(experiment, declared=reports, labels=labels)
        if json_:
            print_json(budget.outlook_json(outlook))
            return
        console = wide()
        text = budget.outlook_lines(outlook, assumed="sites.count" not in said)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        if outlook.plan.private:
            console.print()
            console.print(budget.choices_table(outlook))
