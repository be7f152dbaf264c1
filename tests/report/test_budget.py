"""The budget on paper: figures never flatter, every warning is there, and names can't drive the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from fedrad.ledger.chain import LedgerView, Row
from fedrad.planning.noise_to_signal import Choice
from fedrad.planning.outlook import Outlook
from fedrad.privacy.filter import Founding
from fedrad.privacy.plan import PrivacyPlan
from fedrad.report import budget
from tests.planning.test_outlook import outlook

DELTA = 1e-5
PLAN = PrivacyPlan.calibrate(epsilon=1.0, delta=DELTA, declared_size=1000, expected_batch=100, steps=40, clip=1.0)
FREE = PrivacyPlan.calibrate(epsilon=0.0, delta=DELTA, declared_size=1000, expected_batch=100, steps=40, clip=1.0)
_TIME = "2026-11-25T12:00:00+00:00"


def row(seq: int, run: str = "r", plan: PrivacyPlan = PLAN, steps: int = 10) -> Row:
    return Row(seq, run, seq, steps, plan.to_json(), plan.event(steps), _TIME, seq % 2 == 1, plan.steps)


def view(*rows: Row) -> LedgerView:
    return LedgerView("st. mary", DELTA, Founding(8.0, DELTA), rows)


def drawn(table: Table) -> str:
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(table)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


# A ledger


def test_the_table_has_a_line_for_each_charge() -> None:
    ledger = view(row(1), row(2), row(3))
    shown = drawn(budget.charges_table(ledger, ledger.curve())).splitlines()

    assert shown[0].strip() == "ledger of st. mary"
    assert " ".join(shown[1].split()) == "row time (UTC) run round steps q sigma done epsilon so far"
    assert [line.split()[0] for line in shown[2:5]] == ["1", "2", "3"]
    assert [line.split()[-2] for line in shown[2:5]] == ["yes", "no", "yes"]
    assert "2026-11-25 12:00:00" in shown[2]


def test_a_name_from_a_server_drives_neither_markup_nor_terminal() -> None:
    ledger = view(row(1, run="[red]\x1b[2Jname\u202e"))
    shown = drawn(budget.charges_table(ledger, ledger.curve()))

    assert "[red]?[2Jname?" in shown
    assert "\x1b" not in shown


def test_what_is_spent_is_rounded_up_and_what_is_left_down() -> None:
    ledger = view(row(1), row(2))
    said = budget.ledger_lines(ledger, ledger.left(3.0))

    spent = float(said.split("spent: epsilon ")[1].split()[0])
    left = float(said.split("left: epsilon ")[1].split()[0])
    assert ledger.epsilon <= spent <= ledger.epsilon * 1.001
    assert (3.0 - ledger.epsilon) * 0.999 <= left <= 3.0 - ledger.epsilon
    assert f"{ledger.left(3.0).steps} more steps as last charged" in said
    assert "(unit: report)" in said
    assert "2 charges, 20 noisy steps" in said


def test_the_rule_behind_the_figure_is_named() -> None:
    other = replace(PLAN, steps=39)
    one, two = view(row(1), row(2)), view(row(1), row(2, plan=other))
    assert "counted by: pld: one fixed plan" in budget.ledger_lines(one, None)
    assert "counted by: renyi filter: " in budget.ledger_lines(two, None)
    assert budget.ledger_json(two, two.curve(), None)["accounting"].startswith("renyi filter")
    assert two.curve()[0] == one.curve()[0]
    assert two.curve()[1] == two.epsilon > one.epsilon


def test_without_a_cap_it_says_so() -> None:
    assert "left: unknown" in budget.ledger_lines(view(row(1)), None)
    assert "--cap" in budget.ledger_lines(view(row(1)), None)


def test_runs_and_plans_are_counted_since_trials_spend_budget() -> None:
    other = replace(PLAN, expected_batch=50)
    said = budget.ledger_lines(view(row(1, "a"), row(2, "b"), row(3, "b", other)), None)

    assert "trials: 2 runs with 2 different plans" in said
    assert "trying settings out spends budget" in said
    assert "trials: 1 run with 1 different plan." in budget.ledger_lines(view(row(1)), None)


@pytest.mark.parametrize(
    ("plan", "warning"),
    [
        (FREE, "NOT PRIVATE"),
        (replace(PLAN, noise="seeded"), "SEEDED"),
        (replace(PLAN, unit="patient"), "MIXED UNITS"),
    ],
)
def test_a_ledger_that_promises_less_says_so(plan: PrivacyPlan, warning: str) -> None:
    assert warning in budget.ledger_lines(view(row(1), row(2, plan=plan)), None)
    assert warning not in budget.ledger_lines(view(row(1), row(2)), None)


def test_the_plot_has_a_bar_for_charges_evenly_spread_and_always_the_last() -> None:
    shown = budget.curve_plot([k / 100 for k in range(1, 101)], width=20, lines=5).splitlines()[1:]

    assert [line.split()[0] for line in shown] == ["20", "40", "60", "80", "100"]
    assert [line.count("█") for line in shown] == [4, 8, 12, 16, 20]
    assert len(budget.curve_plot([0.1, 0.2]).splitlines()) == 3
    assert budget.curve_plot([]) == budget.curve_plot([0.1, math.inf]) == ""


def test_json_and_csv_hold_every_charge_with_all_digits() -> None:
    ledger = view(row(1), row(2, "=b\x1b"))
    curve = ledger.curve()
    read = json.loads(json.dumps(budget.ledger_json(ledger, curve, ledger.left(3.0)), allow_nan=False))
    file = io.StringIO()
    budget.write_ledger_csv(ledger, curve, file)
    lines = list(csv.DictReader(io.StringIO(file.getvalue())))

    assert [charge["epsilon"] for charge in read["charges"]] == list(curve)
    assert [float(line["epsilon"]) for line in lines] == list(curve)
    assert (read["epsilon"], read["steps"], read["runs"]) == (ledger.epsilon, 20, ["r", "=b\x1b"])
    assert read["left"] == {"cap": 3.0, "epsilon": 3.0 - ledger.epsilon, "steps": ledger.left(3.0).steps}
    assert read["plans"][0]["noise_multiplier"] == PLAN.noise_multiplier
    assert "\x1b" not in file.getvalue()


def test_json_of_a_ledger_without_privacy_has_no_number_for_epsilon() -> None:
    ledger = view(row(1, plan=FREE))
    read = budget.ledger_json(ledger, ledger.curve(), None)

    assert (read["epsilon"], read["private"], read["charges"][0]["epsilon"]) == (None, False, None)
    json.dumps(read, allow_nan=False)


# A plan


def test_a_plan_names_its_figures() -> None:
    seen = outlook()
    said = budget.outlook_lines(seen)

    assert "900 declared reports in each of 4 hospitals" in said
    assert f"sigma = {seen.plan.noise_multiplier:.6g}" in said
    assert f"{seen.noise_per_step:.4g}" in said
    assert f"{seen.present.rho:.3g} (fine)" in said
    assert f"{seen.formula:.3g}" in said
    assert f"{seen.formula_shared:.3g} if hospitals shared" in said
    assert "by PLD" in said
    assert "by RDP" in said
    assert "advice: none needed" in said
    assert "warning" not in said.lower()


def test_a_plan_says_first_for_how_many_hospitals_it_is_and_whether_that_was_assumed() -> None:
    several, single = outlook(), outlook(sites__count=1)

    assert budget.outlook_lines(several).splitlines()[0] == "hospitals: 4 in each round"
    assert budget.outlook_lines(several, assumed=True).splitlines()[0].startswith("hospitals: 4 ASSUMED")
    assert several.alone == single.present.rho == pytest.approx(2 * several.present.rho)
    assert f"{single.present.rho:.3g} ({single.verdict}) for a single hospital alone" in budget.outlook_lines(several)
    assert "alone" not in budget.outlook_lines(single)


def test_no_figure_of_a_plan_is_called_epsilon_but_the_accountants() -> None:
    """mu and rho are for planning; neither is a privacy claim."""
    said = budget.outlook_lines(outlook())

    assert "mu" not in said.replace("multiplier", "").split()
    assert said.count("epsilon:") == 1


def loud(rho: float, advised: Choice) -> str:
    seen: Outlook = outlook()
    return budget.outlook_lines(replace(seen, present=replace(seen.present, rho=rho), advised=advised))


def test_a_noisy_plan_is_warned_of_and_told_what_to_take() -> None:
    quiet, noisy = Choice("fedsb", 4, 500, 0.2), Choice("head", 0, 462, 0.9)

    assert "WARNING: noise-dominated" in loud(1.2, quiet)
    assert "warning: borderline" in loud(0.5, quiet)
    assert "strategy.name=fedsb lora.rank=4 trains 500 numbers at noise / signal 0.2" in loud(1.2, quiet)
    assert "nothing stays below 0.3; strategy.name=head comes closest with 0.9" in loud(1.2, noisy)
    assert "a larger train.batch" in loud(1.2, quiet)
    assert all("worst-case heuristic" in loud(1.2, choice) for choice in (quiet, noisy))


def test_more_reports_are_advised_only_where_they_are_too_few() -> None:
    """With batches of one the planning formula holds no longer: 147 reports are not what 1,200 lack."""
    noisy, seen = Choice("head", 0, 462, 0.9), outlook()
    for enough, advised in ((1799, False), (1801, True)):  # 900 reports in each of four hospitals: 900 x sqrt(4)
        said = budget.outlook_lines(replace(seen, present=replace(seen.present, rho=1.2), advised=noisy, enough=enough))
        assert ("The head alone would stay below it with about" in said) == advised
        assert "nothing stays below 0.3" in said


def test_a_plan_without_privacy_says_so_and_gives_no_advice() -> None:
    said = budget.outlook_lines(outlook(privacy__epsilon=0.0))

    assert "NOT PRIVATE" in said
    assert "advice" not in said


def test_the_table_of_choices_marks_the_advised_one() -> None:
    seen = outlook()
    shown = drawn(budget.choices_table(seen)).splitlines()

    assert shown[1].split() == ["strategy", "rank", "1", "rank", "2", "rank", "4", "rank", "8"]
    assert [line.split()[0] for line in shown[2:7]] == ["head", "fedsb", "ffa", "rolora", "fedavg"]
    marked = [line.split()[0] for line in shown[2:7] if "*" in line]
    assert marked == [seen.advised.strategy]
    assert f"{seen.advised.trainable:,}" in " ".join(shown)


def test_json_of_a_plan_holds_all_of_it() -> None:
    seen = outlook(train__batch=5000)
    read = json.loads(json.dumps(budget.outlook_json(seen), allow_nan=False))

    assert read["plan"]["noise_multiplier"] == seen.plan.noise_multiplier
    assert read["plan"]["sampling_rate"] == 1.0
    assert (read["epsilon_pld"], read["epsilon_rdp"]) == (seen.epsilon, seen.rdp)
    assert (read["present"]["rho"], read["rho_formula"]) == (seen.present.rho, seen.formula)
    assert len(read["choices"]) == len(seen.offered)
    assert len(read["notes"]) == 1
    free = budget.outlook_json(outlook(privacy__epsilon=0.0, privacy__clip=1.0))
    assert (free["private"], free["epsilon_pld"]) == (False, None)
