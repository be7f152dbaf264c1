"""The floors of the house: no import runs upwards, and no circle.

Which module may import which is read from the source with ``ast``, so that imports inside functions count for the
floors too. Circles are looked for among the imports that run when a module is loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The rooms, from the ground up. A module may import rooms of lower floors and its own, no others: not a neighbour's.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("fedrad.errors", "fedrad.files"),
    ("fedrad.corpora", "fedrad.limits", "fedrad.installed"),
    ("fedrad.settings", "fedrad.settings_data", "fedrad.cache", "fedrad.secure"),
    ("fedrad.keys", "fedrad.rules", "fedrad.evidence"),
    ("fedrad.config", "fedrad.privacy", "fedrad.data", "fedrad.model"),
    ("fedrad.ledger", "fedrad.tasks", "fedrad.privatise", "fedrad.reference"),
    ("fedrad.public_base", "fedrad.spark"),
    ("fedrad.training", "fedrad.predict"),
    ("fedrad.planning", "fedrad.evaluate", "fedrad.certificate"),
    ("fedrad.report",),
    ("fedrad.federation",),
    ("fedrad.simulation",),
    ("fedrad.audit", "fedrad.experiments"),
    ("fedrad.cli",),
    ("fedrad.centralized", "fedrad.__main__"),
)
# Beside the floors, a module that starts with the left name must not import one that starts with a name on the right.
FORBIDDEN = {
    "fedrad": ("strategies", "simulations", "deployment"),
    "strategies": ("fedrad.federation", "fedrad.simulation", "simulations", "deployment"),
}
NOTHING_OF_OURS = ("fedrad.errors", "fedrad.files")


class Import:
    """One import statement of a module: what it may bind to, and whether it runs when the module is loaded."""

    def __init__(self, targets: list[str], at_load: bool) -> None:
        self.targets, self.at_load = targets, at_load


def imports(source: str, module: str, is_package: bool) -> list[Import]:
    """Every import of ``source``, those under ``if TYPE_CHECKING`` left out."""
    package = module.split(".") if is_package else module.split(".")[:-1]

    def walk(node: ast.AST, at_load: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield Import([alias.name for alias in child.names], at_load)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                origin = ".".join([*base, *([child.module] if child.module else [])])
                yield Import([origin, *(f"{origin}.{alias.name}" for alias in child.names)], at_load)
            yield from walk(
                child, at_load and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            )

    return list(walk(ast.parse(source, filename=module), at_load=True))


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def above(module: str) -> list[str]:
    """The rooms that a module must not import: those of higher floors, and its neighbours."""
    height = next((i for i, rooms in enumerate(FLOORS) if any(under(module, room) for room in rooms)), None)
    if height is None:
        return []
    return [room for rooms in FLOORS[height:] for room in rooms if not under(module, room)]


def upward(modules: Mapping[str, list[Import]]) -> list[str]:
    """The imports that run upwards, as "module -> target"."""
    found = set()
    for module, statements in modules.items():
        banned = [name for floor, names in FORBIDDEN.items() if under(module, floor) for name in names]
        banned += ["fedrad"] if module in NOTHING_OF_OURS else []
        banned += above(module)
        for target in (target for statement in statements for target in statement.targets):
            if any(under(target, name) for name in banned):
                found.add(f"{module} -> {target}")
    return sorted(found)


def circles(modules: Mapping[str, list[Import]]) -> list[list[str]]:
    """Circles among the imports that run at load."""
    edges = {
        module: sorted(
            {
                target
                for statement in statements
                if statement.at_load
                for target in statement.targets
                # a package's own submodules import it by name: `from fedrad.data import x` in fedrad.data.y is fine
                if target in modules and target != module and not under(module, target)
            }
        )
        for module, statements in modules.items()
    }
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in edges[module]:
                visit(target, [*path, module])
            done.add(module)

    for module in edges:
        visit(module, [])
    return found


def house() -> dict[str, list[Import]]:
    """Every module of the project with its imports."""
    modules = {}
    for top in ("fedrad", "strategies", "simulations", "deployment"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            modules[name] = imports(path.read_text(encoding="utf-8"), name, is_package)
    return modules


def test_no_import_runs_upwards() -> None:
    assert upward(house()) == []


def test_no_imports_go_in_a_circle() -> None:
    assert circles(house()) == []


def reached(modules: Mapping[str, list[Import]], start: str) -> set[str]:
    """Every module of ours that ``start`` imports, itself or by way of others, at load or later."""
    found, waiting = set[str](), [start]
    while waiting:
        module = waiting.pop()
        if module in modules and module not in found:
            found.add(module)
            waiting += [target for statement in modules[module] for target in statement.targets]
    return found


def test_a_hospitals_app_has_no_way_to_a_simulated_hospital() -> None:
    modules = house()
    trusting = {"fedrad.simulation.hospitals", "fedrad.simulation.client", "fedrad.simulation.one_pass"}
    assert trusting <= modules.keys()
    assert reached(modules, "deployment.hospitals.client_app") & trusting == set()
    assert "fedrad.federation.policy" in reached(modules, "deployment.hospitals.client_app")
    assert reached(modules, "fedrad.simulation.client") & trusting != set()  # control: it would be found


def test_every_floor_is_there() -> None:
    modules = house()
    assert [floor for floor in FORBIDDEN if not any(under(module, floor) for module in modules)] == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("fedrad.privacy.plan", "from fedrad.data import report", "fedrad.privacy.plan -> fedrad.data"),
        ("fedrad.privacy.plan", "from fedrad import model", "fedrad.privacy.plan -> fedrad.model"),
        ("fedrad.privacy.plan", "from ..training.local import run", "fedrad.privacy.plan -> fedrad.training.local"),
        ("fedrad.data.load", "def f():\n    import fedrad.model.encoder", "fedrad.data.load -> fedrad.model.encoder"),
        ("fedrad.training.local", "import fedrad.federation", "fedrad.training.local -> fedrad.federation"),
        ("fedrad.federation.server", "from strategies import fedavg", "fedrad.federation.server -> strategies"),
        ("fedrad.cli.app", "import simulations.mimic", "fedrad.cli.app -> simulations.mimic"),
        ("fedrad.errors", "import fedrad.config", "fedrad.errors -> fedrad.config"),
    ],
)
def test_an_upward_import_is_caught(module: str, source: str, expected: str) -> None:
    assert expected in upward({module: imports(source, module, is_package=False)})


def test_a_downward_import_is_fine() -> None:
    source = "from fedrad.privacy.plan import PrivacyPlan\nfrom .local import run"

    assert upward({"fedrad.training.site": imports(source, "fedrad.training.site", is_package=False)}) == []


def test_a_circle_is_caught_and_a_late_import_is_none() -> None:
    def modules(back: str) -> dict[str, list[Import]]:
        sources = {"a.x": "from a import y", "a.y": "import a.z", "a.z": back}
        return {name: imports(source, name, is_package=False) for name, source in sources.items()}

    assert circles(modules("from .x import f")) == [["a.x", "a.y", "a.z", "a.x"]]
    assert circles(modules("def g():\n    from .x import f")) == []
    assert circles(modules("if TYPE_CHECKING:\n    from .x import f")) == []
