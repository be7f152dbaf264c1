"""A second ledger on the same reports is noticed, however they were exported, and needs a person's consent."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from fedrad.errors import LedgerError, LedgerTampered
from fedrad.ledger import bindings
from fedrad.ledger.bindings import bind, check_path
from fedrad.ledger.ledger import Ledger
from fedrad.privacy.plan import PrivacyPlan

TEXTS = [f"Heart size is normal in study {i}. XXXX effusion: none, no. {i * i}." for i in range(400)]
OTHERS = [f"CT of the abdomen {i}: liver lesion of {i} mm, unchanged." for i in range(400)]


class Place:
    """A witness folder, and reports in files of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.witness = folder, folder / "witness"

    def bind(self, site: str, path: str, texts: list[str], *shares_with: str) -> None:
        where = self.folder / path
        where.parent.mkdir(parents=True, exist_ok=True)
        if not where.exists():
            where.touch()
        directory = self.folder / site
        bind(self.witness, site=site, directory=directory, path=where, texts=texts, shares_with=shares_with)

    def refuses(self, site: str, path: str, texts: list[str], *shares_with: str) -> str:
        before = (self.witness / "reports.json").read_bytes()
        with pytest.raises(LedgerError) as refused:
            self.bind(site, path, texts, *shares_with)
        assert (self.witness / "reports.json").read_bytes() == before
        return str(refused.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.bind("mercy", "a/reports.csv", TEXTS)
    return made


def test_the_same_path_under_another_name(place: Place) -> None:
    said = place.refuses("grace", "a/reports.csv", OTHERS)
    assert "'mercy'" in said
    assert str(place.folder / "mercy") in said
    assert 'shares-reports-with="mercy"' in said
    (place.folder / "link.csv").symlink_to(place.folder / "a" / "reports.csv")
    os.link(place.folder / "a" / "reports.csv", place.folder / "hard.csv")
    for path in ("link.csv", "hard.csv", "a", "a/../a/reports.csv"):  # `a` is the folder that holds them
        assert "are those of site 'mercy'" in place.refuses("grace", path, OTHERS)
        with pytest.raises(LedgerError, match="mercy"):
            check_path(place.witness, site="grace", path=place.folder / path, shares_with=())
    place.bind("grace", "b/reports.csv", OTHERS)  # control


@pytest.mark.parametrize(
    "exported",
    [
        TEXTS,
        TEXTS[::-1],
        [text.upper().replace(" ", "\n ").replace("XXXX", "___") + "\r\n" for text in TEXTS],
        TEXTS[:90],
        [*OTHERS, *(text + " x" for text in OTHERS), *TEXTS],
        [*TEXTS[:100], *OTHERS[:300]],
    ],
    ids=["copied", "reordered", "written another way", "a part", "and others", "a quarter of each"],
)
def test_the_same_texts_in_another_file(exported: list[str], place: Place) -> None:
    said = place.refuses("grace", "b/export.csv", exported)
    assert "'mercy'" in said
    assert "Heart" not in said
    assert "study" not in said


@pytest.mark.parametrize("exported", [OTHERS, [*TEXTS[:60], *OTHERS[:340]], [], ["Normal."]])
def test_other_reports_are_bound_without_a_word(exported: list[str], place: Place) -> None:
    place.bind("grace", "b/export.csv", exported)
    place.bind("mercy", "a/reports.csv", TEXTS)


def test_large_sets_are_compared_by_their_sketches(tmp_path: Path) -> None:
    place = Place(tmp_path)
    everything = [f"report {i} of many" for i in range(20_000)]
    place.bind("mercy", "a.csv", everything)
    assert "mercy" in place.refuses("grace", "b.csv", everything[5_000:15_000])
    assert "mercy" in place.refuses("grace", "b.csv", everything[:700])
    place.bind("grace", "b.csv", [f"another {i}" for i in range(18_500)] + everything[:1_500])
    (sketch, _) = (b["sketch"] for b in json.loads((place.witness / "reports.json").read_text())["bindings"])
    assert len(sketch) == 1024


def test_reports_are_added_to_and_moved(place: Place) -> None:
    place.bind("mercy", "moved/reports.csv", [*TEXTS, *OTHERS])
    place.bind("grace", "a/reports.csv", [f"something else {i}" for i in range(50)])  # the old place is free
    assert "mercy" in place.refuses("third", "c.csv", OTHERS)  # what was added is in the sketch


@pytest.mark.parametrize("path", ["b/others.csv", "a/reports.csv"], ids=["elsewhere", "in their place"])
def test_reports_that_a_site_left_behind_are_still_charged(path: str, place: Place) -> None:
    place.bind("mercy", path, OTHERS)
    for texts in (TEXTS, OTHERS):
        assert "Many of the reports" in place.refuses("grace", "c/reports.csv", texts)
    place.bind("mercy", "a/reports.csv", TEXTS)  # the site itself goes on, with either
    place.bind("grace", "c/reports.csv", [f"something else {i}" for i in range(50)])  # control


def test_consent_is_recorded_and_holds_for_both(place: Place) -> None:
    assert "mercy" in place.refuses("grace", "a/reports.csv", TEXTS, "charity")  # another site's name is no consent
    place.bind("grace", "a/reports.csv", TEXTS, "mercy")
    place.bind("grace", "a/reports.csv", TEXTS)
    place.bind("mercy", "a/reports.csv", TEXTS)
    check_path(place.witness, site="mercy", path=place.folder / "a/reports.csv", shares_with=())
    stored = json.loads((place.witness / "reports.json").read_text())["bindings"]
    assert {b["site"]: b["shares_with"] for b in stored} == {"mercy": [], "grace": ["mercy"]}
    assert "grace" in place.refuses("third", "a/reports.csv", TEXTS, "mercy")


def test_consent_is_a_founding_fact_of_the_new_ledger(tmp_path: Path) -> None:
    given = {"site": "grace", "cap": 1.0, "delta": 1e-5, "witness": tmp_path / "witness"}
    with Ledger.open(tmp_path / "state", **given, shares_with=("mercy",)) as opened:  # type: ignore[arg-type]
        (facts,) = opened._database.execute("SELECT facts FROM meta").fetchone()
    assert json.loads(facts)["shares-reports-with"] == ["mercy"]
    with Ledger.open(tmp_path / "state", **given) as opened:  # type: ignore[arg-type]
        opened.verify()


def test_consent_to_a_ledger_that_a_refusal_left_empty_is_one_of_its_founding_facts(tmp_path: Path) -> None:
    given = {"site": "grace", "cap": 1.0, "delta": 1e-5, "witness": tmp_path / "witness"}
    plan = PrivacyPlan.calibrate(epsilon=1.0, delta=1e-5, declared_size=200, expected_batch=20, steps=9, clip=1.0)
    for consents, noted in (((), None), (("mercy",), ["mercy"]), (("charity",), ["charity", "mercy"])):
        with Ledger.open(tmp_path / "state", **given, shares_with=consents) as opened:  # type: ignore[arg-type]
            ((facts,),) = opened._database.execute("SELECT facts FROM meta").fetchall()
            assert json.loads(facts).get("shares-reports-with") == noted
    with Ledger.open(tmp_path / "state", **given) as opened:  # type: ignore[arg-type]
        opened.record_intent(run="1", round=1, plan=plan, steps=1)
    # What is charged fixes them: the chain begins with their hash.
    with Ledger.open(tmp_path / "state", **given, shares_with=("third",)) as opened:  # type: ignore[arg-type]
        assert len(opened.rows()) == 1


def test_nothing_of_a_report_can_be_read_from_the_index(place: Place) -> None:
    index = place.witness / "reports.json"
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.witness.stat().st_mode) == 0o700
    assert "Heart" not in index.read_text()
    other = Place(place.folder / "elsewhere")
    other.bind("mercy", "a.csv", TEXTS)
    first, second = (json.loads((p.witness / "reports.json").read_text()) for p in (place, other))
    assert first["salt"] != second["salt"]
    assert not set(first["bindings"][0]["sketch"]) & set(second["bindings"][0]["sketch"])


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"salt": "zz", "bindings": []}', '{"salt": "00", "bindings": [{}]}', ""]
)
def test_a_damaged_index_is_not_a_new_one(damage: str, place: Place) -> None:
    (place.witness / "reports.json").write_text(damage)
    with pytest.raises(LedgerTampered, match="damaged"):
        check_path(place.witness, site="mercy", path=place.folder, shares_with=())
    with pytest.raises(LedgerTampered, match="damaged"):
        place.bind("mercy", "a/reports.csv", TEXTS)


def test_what_can_not_be_noticed(place: Place) -> None:
    """As the documentation says: a lost folder, and texts that were reworded."""
    (place.witness / "reports.json").unlink()
    place.bind("grace", "a/reports.csv", TEXTS)
    assert "grace" in place.refuses("mercy", "a/reports.csv", TEXTS)  # first come, first served
    place.bind("mercy", "b.csv", [text.replace("Heart", "Cardiac") for text in TEXTS])


def test_an_index_that_did_not_change_is_not_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "_write", lambda *args: pytest.fail("written"))
    place.bind("mercy", "a/reports.csv", TEXTS[::-1])
