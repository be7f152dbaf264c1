"""The mutations fit the tree, cover the table of sharp edges, and a sample is caught; and the runner can tell."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutations.run import ROOT, Broken, Mutation, applied, caught, check, copied_tree, mutations, read, run
from tests.test_docs import edges

PLAN_TEST = "tests/privacy/test_plan.py::test_declared_size"


def patch(folder: Path, before: str, after: str, *tests: str) -> Mutation:
    """A mutation of the first line of plan.py, its docstring; a blank line follows."""
    file = folder / "made-up.patch"
    header = "Guarantee: none\n" + "".join(f"Test: {test}\n" for test in tests or [PLAN_TEST]) + "Row: none\n\n"
    lines = [f"-{before}", *(f"+{line}" for line in after.splitlines()), " "]
    hunk = f"@@ -1,2 +1,{len(lines) - 1} @@\n"
    name = "fedrad/privacy/plan.py"
    file.write_text(f"{header}--- a/{name}\n+++ b/{name}\n{hunk}" + "\n".join(lines) + "\n")
    return read(file)


@pytest.fixture(scope="module")
def first_line() -> str:
    return (ROOT / "fedrad/privacy/plan.py").read_text(encoding="utf-8").splitlines()[0]


def test_every_patch_applies_and_every_named_test_is_there() -> None:
    found = mutations()
    assert check(found) == []
    assert len(found) >= 50


def test_a_patch_that_does_not_fit_and_a_test_that_is_not_there_are_named(tmp_path: Path, first_line: str) -> None:
    assert check([patch(tmp_path, first_line, "# comment\n" + first_line)]) == []  # control
    (problem,) = check([patch(tmp_path, "no such line", "# comment")])
    assert "made-up: the patch does not apply" in problem
    for test in ("tests/privacy/test_plan.py::test_nothing", "tests/test_nowhere.py::test_declared_size"):
        assert check([patch(tmp_path, first_line, first_line + "\n# comment", test)]) == [
            f"made-up: there is no test {test}"
        ]


def test_a_header_says_what_is_broken_and_who_must_see_it(tmp_path: Path) -> None:
    file = tmp_path / "a.patch"
    file.write_text("Guarantee: x\nTest: tests/test_docs.py::test_x\n\n--- a/f\n+++ b/f\n")
    with pytest.raises(Broken, match="Row:"):
        read(file)
    with pytest.raises(Broken, match="no mutation nowhere"):
        mutations(["nowhere"])


def test_every_claim_of_the_sharp_edges_has_a_mutation_that_its_test_must_catch() -> None:
    covered = {
        (row, test.partition("::")[0]) for mutation in mutations() for row in mutation.rows for test in mutation.tests
    }
    table = edges((ROOT / "docs/sharp-edges.md").read_text(encoding="utf-8"))
    claimed = {(row["id"], file) for row in table for file in re.findall(r"`(tests/[^`]+)`", row["test"])}
    assert sorted(claimed - covered) == []
    assert sorted({row for row, _ in covered} - {row["id"] for row in table}) == []
    assert len(claimed) > 40


def test_the_tree_itself_is_never_patched(tmp_path: Path, first_line: str) -> None:
    mutation = patch(tmp_path, first_line, first_line + "\n# a comment")
    with copied_tree() as tree:
        applied(mutation, tree)
        assert "# a comment" in (tree / "fedrad/privacy/plan.py").read_text(encoding="utf-8")
    assert not tree.exists()
    assert "# a comment" not in (ROOT / "fedrad/privacy/plan.py").read_text(encoding="utf-8")


def test_what_is_no_python_under_the_patch_proves_nothing(tmp_path: Path, first_line: str) -> None:
    with copied_tree() as tree, pytest.raises(Broken, match="is no Python under the patch"):
        applied(patch(tmp_path, first_line, "def"), tree)


@pytest.mark.slow
def test_what_no_test_looks_at_is_not_caught(tmp_path: Path, first_line: str) -> None:
    assert not caught(patch(tmp_path, first_line, first_line + "\n# a comment"))


@pytest.mark.slow
@pytest.mark.parametrize("after", ["import nowhere_to_be_found", "raise NameError"])
def test_a_module_that_can_not_be_imported_proves_nothing(tmp_path: Path, first_line: str, after: str) -> None:
    with pytest.raises(Broken, match=r"pytest ended with|proves nothing"):
        caught(patch(tmp_path, first_line, after))


@pytest.mark.slow
def test_a_sample_is_caught(capsys: pytest.CaptureFixture[str]) -> None:
    """``make mutations`` runs all of them."""
    sample = [mutation for mutation in mutations() if mutation.sample]
    assert run(sample) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{len(sample)} mutations, {len(sample)} caught"
    assert len(sample) >= 3


def test_a_test_that_fails_anyhow_proves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.mutations.run.unmutated", list)
    (mutation,) = mutations(["clipping-is-off"])
    assert run([replace(mutation, sample=False)]) == 1
