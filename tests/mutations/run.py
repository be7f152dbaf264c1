"""Mutations: small faults, each of which breaks a guarantee, and the test that must fail under it.

A patch file in ``patches/`` begins with what it is:

    Guarantee: what no longer holds under the patch
    Test: tests/ledger/test_ledger.py::test_charges_are_kept     (one line for each test that must fail)
    Row: P2                                                       (of docs/sharp-edges.md; or: none)
    Sample: yes                                                   (only where it runs with every pytest)

and goes on as a unified diff. It is applied to a copy of the tree, never to the tree itself.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
PATCHES = Path(__file__).parent / "patches"
COPIED = ("fedrad", "strategies", "simulations", "benchmarks", "tests", "docs")  # and the files beside them
SECONDS = 300  # for one test; a mutation that makes it wait longer has not been caught by it
# A test that ends so has not looked at what was broken.
NO_VERDICT = ("SyntaxError", "IndentationError", "ImportError", "ModuleNotFoundError", "NameError", "Failed: Timeout")


@dataclass(frozen=True)
class Mutation:
    """A patch and what it must make fail.

    Attributes:
        tests: node ids, of which each must fail; without parameters, one failing parameter is enough.
        rows: ids in the table of docs/sharp-edges.md.
        sample: it is among those that run with the ordinary tests.
    """

    file: Path
    guarantee: str
    tests: tuple[str, ...]
    rows: tuple[str, ...]
    sample: bool

    @property
    def name(self) -> str:
        return self.file.stem


class Broken(Exception):
    """A mutation that proves nothing: its patch does not apply, or its test can't be run or fails without it."""


def read(file: Path) -> Mutation:
    """The mutation in a patch file.

    Raises:
        Broken: its header is incomplete.
    """
    header = file.read_text(encoding="utf-8").partition("\n--- ")[0]
    found = {key: re.findall(rf"^{key}: (.+)$", header, re.M) for key in ("Guarantee", "Test", "Row", "Sample")}
    if len(found["Guarantee"]) != 1 or not found["Test"] or not found["Row"]:
        raise Broken(f"{file.name}: its header needs one line Guarantee:, and lines Test: and Row:")
    rows = tuple(row for row in found["Row"] if row != "none")
    return Mutation(file, found["Guarantee"][0], tuple(found["Test"]), rows, found["Sample"] == ["yes"])


def mutations(names: Iterable[str] = ()) -> list[Mutation]:
    """All of them, or those of these names, sorted.

    Raises:
        Broken: a name is unknown, or a header incomplete.
    """
    found = {file.stem: file for file in sorted(PATCHES.glob("*.patch"))}
    if unknown := sorted(set(names) - set(found)):
        raise Broken(f"there is no mutation {', '.join(unknown)} in {PATCHES}")
    return [read(file) for name, file in found.items() if not names or name in names]


def applied(mutation: Mutation, tree: Path, *, only_check: bool = False) -> None:
    """Patches the tree; the lines may have moved, what is around them may not have changed.

    Raises:
        Broken: the patch does not fit, or leaves something that is no Python.
    """
    command = ["git", "apply", "-C1", "--whitespace=nowarn", *["--check"] * only_check, str(mutation.file)]
    # Not as a part of a repository that may lie around the tree.
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    done = subprocess.run(command, cwd=tree, env=outside, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Broken(f"{mutation.name}: the patch does not apply: {done.stderr.strip()}")
    for file in () if only_check else changed_files(mutation):
        try:
            ast.parse((tree / file).read_text(encoding="utf-8")) if file.endswith(".py") else None
        except SyntaxError as error:
            raise Broken(f"{mutation.name}: {file} is no Python under the patch (line {error.lineno})") from None


def changed_files(mutation: Mutation) -> list[str]:
    """Of the tree, by the patch."""
    return re.findall(r"^\+\+\+ b/(\S+)$", mutation.file.read_text(encoding="utf-8"), re.M)


def check(found: Sequence[Mutation]) -> list[str]:
    """What is wrong with mutations as they stand, without running a test: patches that do not apply, unknown tests."""
    problems = []
    for mutation in found:
        try:
            applied(mutation, ROOT, only_check=True)
        except Broken as broken:
            problems.append(str(broken))
        problems += [f"{mutation.name}: there is no test {test}" for test in mutation.tests if not _exists(test)]
    return problems


def _exists(test: str) -> bool:
    file, _, function = test.partition("::")
    if not (ROOT / file).is_file():
        return False
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return function.partition("[")[0] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@contextmanager
def copied_tree() -> Iterator[Path]:
    """The tree as it lies there, uncommitted changes included, without what it has produced."""
    with tempfile.TemporaryDirectory(prefix="fedrad-mutation-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        for name in COPIED:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ROOT.iterdir():
            if file.is_file() and not file.name.startswith("."):
                shutil.copy2(file, tree)
        yield tree


def outcomes(tree: Path, tests: Sequence[str], *, stop_at_first: bool) -> dict[str, list[tuple[str, str]]]:
    """What became of tests in a tree: node id (with and without parameters) -> ("passed" | "failed" | ..., message).

    Raises:
        Broken: they could not be collected.
    """
    report, output = tree.parent / "report.xml", tree.parent / "output.txt"
    options = ["-q", "-p", "no:cacheprovider", f"--timeout={SECONDS}", f"--junitxml={report}"]
    options += [f"--basetemp={tree.parent / 'temporary'}", *["-x"] * stop_at_first]
    child = _FORKS.Process(target=pytest_in, args=(tree, [*options, *tests], output))
    child.start()
    child.join()
    if child.exitcode not in (0, 1) or not report.is_file():
        said = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
        raise Broken(f"pytest ended with {child.exitcode}: {said.strip()[-600:]}")
    found: dict[str, list[tuple[str, str]]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        verdict = ("passed", "") if bad is None else (bad.tag, bad.get("message", ""))
        node = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        for key in {node, node.partition("[")[0]}:
            found.setdefault(key, []).append(verdict)
    report.unlink()
    return found


# Half of what a test run takes is importing torch and Flower: done once, in a process from which each run is forked.
# Nothing of fedrad's own may be among it.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["torch", "transformers", "peft", "opacus", "dp_accounting", "flwr.app", "datasets", "pytest"]
)


def pytest_in(tree: Path, arguments: list[str], output: Path) -> None:
    """Ends this process, which was forked for it, with pytest's exit code."""
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(tree)
    # First on the path, for the child's own children too: the installed fedrad may be this very checkout.
    sys.path[:] = [str(tree), *(place for place in sys.path if place not in ("", str(ROOT)))]
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in [name for name in sys.modules if name.partition(".")[0] in COPIED]:
        del sys.modules[name]
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    sys.exit(int(pytest.main(arguments)))


def unmutated(tests: Sequence[str]) -> list[str]:
    """Which of these tests do not pass as the tree is; all in one go.

    Raises:
        Broken: they could not be collected.
    """
    with copied_tree() as tree:
        found = outcomes(tree, tests, stop_at_first=False)
    verdicts = {test: {verdict for verdict, _ in found.get(test, [])} for test in tests}
    return [test for test, seen in verdicts.items() if "passed" not in seen or seen - {"passed", "skipped"}]


def caught(mutation: Mutation) -> bool:
    """Whether every test that the mutation names fails under it.

    Raises:
        Broken: the patch does not apply, or a test ended in an error that is no verdict.
    """
    with copied_tree() as tree:
        applied(mutation, tree)
        return all(_fails(mutation, tree, test) for test in mutation.tests)


def _fails(mutation: Mutation, tree: Path, test: str) -> bool:
    found = outcomes(tree, [test], stop_at_first=True).get(test, [])
    for verdict, message in found:
        if verdict == "error" or (verdict == "failure" and message.startswith(NO_VERDICT)):
            raise Broken(f"{mutation.name}: {test} ended in an error, which proves nothing: {message[:200]}")
    if not any(verdict in ("passed", "failure") for verdict, _ in found):
        raise Broken(f"{mutation.name}: {test} was not run")
    return any(verdict == "failure" for verdict, _ in found)


def run(found: Sequence[Mutation], jobs: int = 1) -> int:
    """Runs mutations, prints a line for each and one for all; how many were not caught."""
    tests = list(dict.fromkeys(test for mutation in found for test in mutation.tests))
    print(f"{len(tests)} tests without any mutation ...", flush=True)
    unfit = set(unmutated(tests))
    with ThreadPoolExecutor(jobs) as pool:
        words = pool.map(partial(_word, unfit), found)
        done = []
        for mutation, word in zip(found, words, strict=True):
            done.append(word)
            rows = ", ".join(mutation.rows) or "-"
            print(f"{word:8} {mutation.name:44} {rows:8} {' '.join(mutation.tests)}", flush=True)
    missed = len(found) - done.count("caught")
    print(f"{len(found)} mutations, {len(found) - missed} caught")
    return missed


def _word(unfit: set[str], mutation: Mutation) -> str:
    if bad := [test for test in mutation.tests if test in unfit]:
        print(f"{mutation.name}: {', '.join(bad)} does not pass without it", file=sys.stderr, flush=True)
        return "BROKEN"
    try:
        return "caught" if caught(mutation) else "MISSED"
    except Broken as broken:
        print(broken, file=sys.stderr, flush=True)
        return "BROKEN"
