"""How often a bank's patients have each finding, from its ``patients.toml``, which explains that."""

from __future__ import annotations

from collections.abc import Mapping

from fedrad.data.synthetic.bank import Finding, Group, Patients
from fedrad.data.synthetic.toml_table import Table


def read_patients(table: Table, findings: Mapping[str, Finding]) -> Patients:
    def known(key: str, name: object) -> str:
        if name not in findings:
            table.wrong(key, f"no finding is called {name!r}")
        return str(name)

    exclusive = []
    for at, group in enumerate(table.take("exclusive", list), 1):
        if isinstance(group, list):
            exclusive.append(frozenset(known(f"exclusive, entry {at}", name) for name in group))
        else:
            table.wrong(f"exclusive, entry {at}", "must be a list of findings")
    if "groups" in table.keys():
        named = table.table("groups")
        groups = tuple(_group(named.table(name)) for name in named.keys())
        used = {name for group in groups for name in group.findings}
        patients = Patients(tuple(exclusive), groups)
    else:
        scenarios, weights = [], []
        for at, entry in enumerate(table.take("scenarios", list), 1):
            match entry:
                case [int() | float() as weight, [_, *_] as group]:
                    scenarios.append(tuple(known(f"scenarios, entry {at}", name) for name in group))
                    weights.append(weight)
                case _:
                    table.wrong(f"scenarios, entry {at}", "must be [weight, [finding, ...]]")
        second = tuple(known("second", name) for name in table.words("second"))
        unlabelled = table.table("unlabelled").numbers()
        used = {name for group in scenarios for name in group} | set(second) | set(unlabelled)
        patients = Patients(
            tuple(exclusive),
            (),
            tuple(scenarios),
            tuple(weights),
            second,
            tuple(unlabelled),
            tuple(unlabelled.values()),
        )
    for name in sorted(used - set(findings)):
        known("groups" if patients.groups else "unlabelled", name)
    for name in sorted(set(findings) - used) if not table.missing else ():
        table.wrong("groups" if patients.groups else "scenarios", f"no patient ever has the finding {name!r}")
    table.done()
    return patients


def _group(table: Table) -> Group:
    spread, shares = table.take("spread", float), table.table("shares").numbers()
    table.done()
    return Group(spread, tuple(shares), tuple(shares.values()))
