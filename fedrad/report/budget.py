"""The text, tables and JSON of ``fedrad ledger`` and ``fedrad plan``."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict
from decimal import ROUND_FLOOR, Context
from typing import TYPE_CHECKING, Any, TextIO

from rich.table import Table
from rich.text import Text

from fedrad.ledger.chain import LedgerView, Left
from fedrad.planning.noise_to_signal import BORDERLINE, RANKS, Choice, verdict
from fedrad.privacy.accounting import Event
from fedrad.report.terminal import show_epsilon
from fedrad.training.result import rounded_up

if TYPE_CHECKING:  # it needs torch, and a ledger does not
    from fedrad.planning.outlook import Outlook

_COLUMNS = ("row", "time", "run", "round", "steps", "sampling_rate", "noise_multiplier", "done", "epsilon")
_STYLES = {"fine": "green", "borderline": "yellow", "noise-dominated": "red"}


# A ledger


def charges_table(view: LedgerView, curve: Sequence[float]) -> Table:
    """Every charge, with the epsilon of all charges up to it."""
    table = Table(title=Text(f"ledger of {printable(view.site)}"), box=None, header_style="bold", title_justify="left")
    for name in ("row", "time (UTC)", "run", "round", "steps", "q", "sigma", "done", "epsilon so far"):
        table.add_column(name, justify="left" if name in ("time (UTC)", "run", "done") else "right")
    for row, spent in zip(view.rows, curve, strict=True):
        table.add_row(
            str(row.seq),
            Text(printable(row.time)[:19].replace("T", " ")),
            Text(printable(row.run)),
            str(row.round),
            str(row.steps),
            f"{row.event.sampling_rate:.4g}",
            f"{row.event.noise_multiplier:.5g}",
            "yes" if row.done else "no",
            show_epsilon(spent),
        )
    return table


def curve_plot(curve: Sequence[float], *, width: int = 50, lines: int = 15) -> str:
    """A bar chart of epsilon over the charges, with at most ``lines`` bars; empty if there is nothing to draw."""
    if not curve or math.isinf(curve[-1]) or curve[-1] == 0:
        return ""
    count = min(len(curve), lines)
    shown = [round((k + 1) * len(curve) / count) for k in range(count)]
    bars = [
        f"  {number:>5}  {'█' * max(1, round(width * curve[number - 1] / curve[-1]))} {show_epsilon(curve[number - 1])}"
        for number in shown
    ]
    return "\n".join(["epsilon after charge", *bars])


def ledger_lines(view: LedgerView, left: Left | None) -> str:
    """The summary of a ledger."""
    plans, account = len(view.plans), view.account
    spent = account.epsilon(view.delta)
    lines = [
        f"charged: {_many(len(view.rows), 'charge')}, {_many(view.steps, 'noisy step')}, all of them"
        " counted, done or not",
        f"spent: epsilon {show_epsilon(spent)} at delta {rounded_up(view.delta)}"
        + (f" (unit: {', '.join(printable(unit) for unit in view.units)})" if view.rows else ""),
        f"counted by: {account.words}",
        _left_line(view, left),
        f"trials: {_many(len(view.runs), 'run')} with {_many(plans, 'different plan')}."
        + (" They add up, whatever their names: trying settings out spends budget." if len(view.runs) > 1 else ""),
    ]
    if math.isinf(spent):
        lines.append("NOT PRIVATE: steps without noise were taken; no epsilon covers this site's reports.")
    if view.seeded:
        lines.append("SEEDED: some noise came from a seed, for simulation only. Whoever knows it can remove the noise.")
    if view.shared:
        lines.append(
            "SHARED NOISE: in some steps this site added only part of the noise. The figure holds against an observer"
            " who saw nothing but sums over a run's hospitals."
        )
    if len(view.units) > 1:
        lines.append(
            "MIXED UNITS: the plans protect different units, so one epsilon for all charges is no guarantee for any of"
            " them."
        )
    lines.append("checked: the chain of charges. Only a witness can show that no newer copy exists.")
    return "\n".join(lines)


def _left_line(view: LedgerView, left: Left | None) -> str:
    if left is None:
        return "left: unknown, because the cap is in the hospital's policy and not in the ledger; give --cap EPSILON"
    line = f"left: epsilon {_down(left.epsilon)} under a cap of {rounded_up(left.cap)}"
    if left.steps is None:
        return line + "; nothing has been charged yet"
    last = view.rows[-1].event
    return (
        line + f"; {_many(left.steps, 'more step')} as last charged"
        f" (q {last.sampling_rate:.4g}, sigma {last.noise_multiplier:.5g})"
    )


def ledger_json(view: LedgerView, curve: Sequence[float], left: Left | None) -> dict[str, Any]:
    """The summary and all charges as plain values. An epsilon of null means not private."""
    return {
        "site": view.site,
        "delta": view.delta,
        "epsilon": _finite(view.epsilon),
        "private": math.isfinite(view.epsilon),
        "accounting": view.account.words,
        "seeded": view.seeded,
        "units": list(view.units),
        "steps": view.steps,
        "runs": list(view.runs),
        "plans": list(view.plans),
        "left": None if left is None else asdict(left),
        "charges": ledger_rows(view, curve),
    }


def ledger_rows(view: LedgerView, curve: Sequence[float]) -> list[dict[str, Any]]:
    """A dictionary for each charge."""
    return [
        dict(zip(_COLUMNS, (r.seq, r.time, r.run, r.round, *_of(r.event), r.done, _finite(spent)), strict=True))
        for r, spent in zip(view.rows, curve, strict=True)
    ]


def write_ledger_csv(view: LedgerView, curve: Sequence[float], file: TextIO) -> None:
    """A line for each charge; epsilon is empty where it is infinite."""
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"run": printable(row["run"])} for row in ledger_rows(view, curve))


# A plan


def outlook_lines(outlook: Outlook, *, assumed: bool = False) -> str:
    """The summary of a planned run.

    Args:
        assumed: whether the number of hospitals is only the default.
    """
    plan, present = outlook.plan, outlook.present
    lines = [
        f"hospitals: {outlook.hospitals}"
        + (
            " ASSUMED, the default of sites.count; give --hospitals (1 for centralized training)"
            if assumed
            else " in each round"
        ),
        f"size: {plan.declared_size} declared {plan.unit}s in each of {_many(outlook.hospitals, 'hospital')}",
        f"steps: {plan.steps}, expected batch {plan.expected_batch}, sampling rate q = {plan.sampling_rate:.5g}",
        f"trained: {_named(present)}, {present.trainable:,} numbers",
    ]
    if not plan.private:
        lines.append("NOT PRIVATE: privacy.epsilon = 0, so there is no noise and no guarantee.")
        return "\n".join([*lines, *_notes(outlook)])
    lines += [
        f"noise: sigma = {plan.noise_multiplier:.6g}; in each coordinate of a step's average"
        f" sigma x clip / batch = {outlook.noise_per_step:.4g}",
        f"epsilon: {show_epsilon(outlook.epsilon)} by PLD, the figure of record, at delta {rounded_up(plan.delta)};"
        f" {show_epsilon(outlook.rdp)} by RDP, a looser bound that agrees",
        f"noise / signal: {present.rho:.3g} ({outlook.verdict}); by the planning formula, which large batches come to,"
        f" {outlook.formula:.3g}",
    ]
    if outlook.hospitals > 1:
        lines.append(f"                {outlook.alone:.3g} ({verdict(outlook.alone)}) for a single hospital alone")
        lines.append(
            f"                {outlook.formula_shared:.3g} if hospitals shared their noise under secure aggregation,"
            " which takes one noisy step a round"
        )
    if outlook.expected is not None:
        lines.append(f"expected: {outlook.expected}")
        return "\n".join([*lines, *_notes(outlook)])  # the advice below is about cold starts
    return "\n".join([*lines, *_notes(outlook), *_advice(outlook)])


def _notes(outlook: Outlook) -> list[str]:
    return [f"note: {note}" for note in outlook.notes]


def _advice(outlook: Outlook) -> list[str]:
    advised, present = outlook.advised, outlook.present
    if present.rho < BORDERLINE:
        return [f"advice: none needed; noise / signal is below {BORDERLINE}."]
    warning = (
        "WARNING: noise-dominated. The result will be mostly noise; compare it with the label-prior predictor."
        if outlook.verdict == "noise-dominated"
        else "warning: borderline. Noise will cost a good part of the score."
    )
    lines = [warning]
    if present.rho > 2 * outlook.formula:
        lines.append(f"advice: a larger train.batch, or more steps, would bring it to about {outlook.formula:.3g}.")
    if advised.rho < BORDERLINE:
        lines.append(
            f"advice: {_keys(advised)} trains {advised.trainable:,} numbers at noise / signal {advised.rho:.3g}: the"
            f" most that stays below {BORDERLINE}."
        )
    else:
        line = f"advice: nothing stays below {BORDERLINE}; {_keys(advised)} comes closest with {advised.rho:.3g}."
        now = outlook.plan.declared_size * math.sqrt(outlook.hospitals)
        if outlook.enough > now:  # otherwise there are enough reports, but too small batches or too few steps
            line += (
                f" The head alone would stay below it with about {outlook.enough:,} declared {outlook.plan.unit}s x"
                f" sqrt(hospitals) (now {now:,.0f}), or with a larger epsilon."
            )
        lines.append(line)
    lines.append(
        "        This is a worst-case heuristic: it compares noise in all directions with a gradient of full clip norm."
        " Low-rank gradients and a warm start do better."
    )
    return lines


def choices_table(outlook: Outlook) -> Table:
    """For each strategy and rank: how many numbers a step trains, and noise / signal."""
    table = Table(
        title=f"numbers trained, and noise / signal (fine below {BORDERLINE}; * as advised)",
        box=None,
        header_style="bold",
        title_justify="left",
    )
    table.add_column("strategy")
    ranks = [rank for rank in RANKS if any(choice.rank == rank for choice in outlook.offered)]
    for rank in ranks:
        table.add_column(f"rank {rank}", justify="right")
    for name in dict.fromkeys(choice.strategy for choice in outlook.offered):
        cells = {choice.rank: choice for choice in outlook.offered if choice.strategy == name}
        table.add_row(name, *(_cell(cells.get(rank, cells.get(0)), outlook.advised) for rank in ranks or [0]))
    return table


def _cell(choice: Choice | None, advised: Choice) -> Text:
    if choice is None:
        return Text("-")
    mark = " *" if choice == advised else "  "
    ratio = f"{choice.rho:.2f}" if choice.rho < 10 else f"{choice.rho:.0f}"
    return Text(f"{choice.trainable:,}  {ratio}{mark}", style=_STYLES[verdict(choice.rho)])


def outlook_json(outlook: Outlook) -> dict[str, Any]:
    """The planned run as plain values. An epsilon of null means not private."""
    plan = outlook.plan
    return {
        "plan": asdict(plan) | {"clip": _finite(plan.clip), "sampling_rate": plan.sampling_rate},
        "private": plan.private,
        "epsilon_pld": _finite(outlook.epsilon),
        "epsilon_rdp": _finite(outlook.rdp),
        "noise_per_step": outlook.noise_per_step,
        "hospitals": outlook.hospitals,
        "present": asdict(outlook.present),
        "rho_single_hospital": outlook.alone,
        "verdict": outlook.verdict,
        "rho_formula": outlook.formula,
        "rho_formula_shared_noise": outlook.formula_shared,
        "threshold": BORDERLINE,
        "advised": asdict(outlook.advised),
        "choices": [asdict(choice) for choice in outlook.offered],
        "notes": list(outlook.notes),
        "expected": None if outlook.expected is None else asdict(outlook.expected),
    }


def printable(text: str) -> str:
    """A name from elsewhere without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _of(event: Event) -> tuple[int, float, float]:
    return event.steps, event.sampling_rate, event.noise_multiplier


def _named(choice: Choice) -> str:
    return f"{choice.strategy}, rank {choice.rank}" if choice.rank else "the head alone"


def _keys(choice: Choice) -> str:
    return f"strategy.name={choice.strategy}" + (f" lora.rank={choice.rank}" if choice.rank else "")


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _down(value: float) -> str:
    """Four significant digits, never rounded up."""
    return f"{float(Context(prec=4, rounding=ROUND_FLOOR).create_decimal(repr(value))):.4g}"
