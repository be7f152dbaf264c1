"""Reads ``patients.toml``, which says how often a bank's patients have each finding."""

from __future__ import annotations

from collections.abc import Mapping

from fedrad.data.synthetic.bank import Finding, Group, Patients
from fedrad.data.synthetic.toml_table import Table


def read_patients(table: Table, findings: Mapping[str, Finding]) -> Patients:
    """Reports names that are no finding, and findings that no patient has, as faults of ``table``."""

    def known(key: str, names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in findings:
                table.wrong(key, f"no finding is called {name!r}")
        return tuple(names)

    exclusive = []
    for at, names in enumerate(table.take("exclusive", list), 1):
        if isinstance(names, list):
            exclusive.append(frozenset(known(f"exclusive, entry {at}", names)))
        else:
            table.wrong(f"exclusive, entry {at}", "must be a list of findings")
    if "groups" in table.keys():
        named = table.table("groups")
        groups = tuple(_group(named.table(name)) for name in named.keys())
        patients = Patients(tuple(exclusive), groups)
        where, used = "groups", known("groups", [name for group in groups for name in group.findings])
    else:
        scenarios, weights = [], []
        for at, entry in enumerate(table.take("scenarios", list), 1):
            match entry:
                case [int() | float() as weight, [_, *_] as names]:
                    scenarios.append(known(f"scenarios, entry {at}", names))
                    weights.append(weight)
                case _:
                    table.wrong(f"scenarios, entry {at}", "must be [weight, [finding, ...]]")
        second = known("second", table.words("second"))
        unlabelled = table.table("unlabelled").numbers()
        odds = tuple(unlabelled.values())
        patients = Patients(
            tuple(exclusive), (), tuple(scenarios), tuple(weights), second, known("unlabelled", tuple(unlabelled)), odds
        )
        where, used = "scenarios", sum((*scenarios, second, patients.unlabelled), ())
    for name in sorted(set(findings) - set(used)) if not table.missing else ():
        table.wrong(where, f"no patient ever has the finding {name!r}")
    table.done()
    return patients


def _group(table: Table) -> Group:
    spread, shares = table.take("spread", float), table.table("shares").numbers()
    table.done()
    return Group(spread, tuple(shares), tuple(shares.values()))
