"""Training on privatised texts: drawn once, kept, counted, and nothing else of a text reaches the model."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import concatenate_datasets

from fedrad.certificate.envelope import sealed
from fedrad.certificate.verify import read, verify
from fedrad.certificate.words import statement
from fedrad.config import Experiment
from fedrad.errors import ConfigError, DataError
from fedrad.privatise.budgets import MECHANISMS, PROFILES
from fedrad.privatise.local import figures_of, in_words
from fedrad.rules import AUDITED, DEPLOYED, refuse
from fedrad.secure.keys import new_identity_key
from fedrad.settings_data import Data
from fedrad.simulation.centralized import train
from fedrad.simulation.hospitals import Simulation
from fedrad.training.corpus import Corpus, read_corpus
from fedrad.training.privatised import draws_in, draws_of_run, trained_on
from fedrad.training.result import local_guarantee
from tests import small
from tests.faults import Killed, faults
from tests.federation.test_policy import NODE, policy, problems

PRIVATE = {"data__privatise": "uniform", "data__privatise_epsilon": 20.0}


def experiment(**changes: object) -> Experiment:
    return small.experiment(**{"data__reports": 24, "sites__count": 1, **PRIVATE, **changes})


def texts(found: tuple[Corpus, np.ndarray]) -> list[str]:
    reports, rows = found
    column: list[str] = reports.reports.select(rows)["text"][:]
    return column


def drawn(exp: Experiment, corpus: Corpus, folder: Path, run: str = "one") -> list[str]:
    return texts(trained_on(exp, corpus, corpus.train, folder, site="site-000", run=run))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus(experiment())


def test_profiles_and_mechanisms_are_those_of_the_command() -> None:
    choices = {name: Data.__dataclass_fields__[name].metadata for name in ("privatise", "privatise_mechanism")}
    assert {"none", *PROFILES} == set(choices["privatise"]["choices"])
    assert set(MECHANISMS) == set(choices["privatise_mechanism"]["choices"])


def test_texts_are_drawn_once_and_kept_for_their_owner_alone(corpus: Corpus, tmp_path: Path) -> None:
    exp = experiment(privacy__noise="system")  # randomness that can't be had twice
    first = drawn(exp, corpus, tmp_path)

    assert first != corpus.reports.select(corpus.train)["text"][:]
    assert drawn(exp, corpus, tmp_path) == first
    assert drawn(exp, corpus, tmp_path, run="two") == first
    (file,) = (tmp_path / "privatised").glob("*.arrow")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert len(draws_in(tmp_path, ("one", "two"))["draws"]) == 1  # type: ignore[index]
    assert drawn(exp, corpus, tmp_path / "another hospital") != first


def test_everything_but_the_text_stays(corpus: Corpus, tmp_path: Path) -> None:
    found, rows = trained_on(experiment(), corpus, corpus.train, tmp_path, site="site-000", run="one")
    mine = corpus.reports.select(corpus.train)
    assert rows.tolist() == list(range(len(mine)))
    for column in ("labels", "patient", "site", "time", "split"):
        assert found.reports[column][:] == mine[column][:]


def test_equal_texts_get_answers_of_their_own(corpus: Corpus, tmp_path: Path) -> None:
    """One answer for both would tell that they are equal."""
    text = corpus.reports[0]["text"]
    same = replace(corpus, reports=corpus.reports.map(lambda row: {"text": text}))
    found = drawn(experiment(privacy__noise="system"), same, tmp_path)
    assert len(set(found)) == len(found)


def test_a_draw_by_other_settings_is_counted(corpus: Corpus, tmp_path: Path) -> None:
    drawn(experiment(), corpus, tmp_path)
    drawn(experiment(data__privatise_epsilon=30.0), corpus, tmp_path, run="two")
    assert epsilons(tmp_path, "one", "two") == [20, 30]
    assert "at most 100 a token" in in_words(draws_in(tmp_path, ("one", "two"))["draws"])  # type: ignore[index]


def test_whether_a_report_is_there_changes_no_other_text(corpus: Corpus, tmp_path: Path) -> None:
    """Otherwise two runs, one before and one after it came, would tell by all the other texts."""
    exp = experiment(privacy__noise="system")
    before = drawn(exp, replace(corpus, train=corpus.train[3:]), tmp_path)
    after = drawn(exp, corpus, tmp_path, run="two")
    assert after[3:] == before
    back = replace(corpus, train=corpus.train[::-1][:-2])
    assert drawn(exp, back, tmp_path, run="three") == after[::-1][:-2]
    assert epsilons(tmp_path, "one", "two", "three") == [20]  # of no text is there a second draw
    assert len(list((tmp_path / "privatised").glob("*.arrow"))) == 1


def test_wherever_the_process_ends_a_text_that_was_used_is_kept(corpus: Corpus, tmp_path: Path) -> None:
    exp = experiment(privacy__noise="system")
    for change in (1, 2, 3):  # the texts, their name, the notes
        folder = tmp_path / str(change)
        before = drawn(exp, replace(corpus, train=corpus.train[2:6]), folder)
        with faults(folder, change) as ended, pytest.raises(Killed):
            drawn(exp, replace(corpus, train=corpus.train[:6]), folder, run="two")
        after = drawn(exp, replace(corpus, train=corpus.train[:6]), folder, run="two")
        assert after[2:] == before
        assert epsilons(folder, "one", "two") == [20]
        kept = {file.suffix for file in (folder / "privatised").iterdir()}, len(list((folder / "privatised").iterdir()))
        assert kept == ({"", ".arrow", ".json"}, 3)
    assert ended.passed[-1].endswith("draws.json")  # control: nothing is written after it


def test_a_patients_new_name_is_another_draw_and_another_patient_is_none(corpus: Corpus, tmp_path: Path) -> None:
    exp = experiment(privacy__noise="system")
    before = drawn(exp, corpus, tmp_path)
    first = corpus.reports.select(corpus.train[:1]).map(lambda row: {"patient": "another"})
    more = replace(corpus, reports=concatenate_datasets([corpus.reports, first]))
    with_copy = drawn(exp, replace(more, train=np.append(corpus.train, len(corpus.reports))), tmp_path)
    assert with_copy[:-1] == before
    assert epsilons(tmp_path, "one") == [20]
    renamed = drawn(
        exp, replace(corpus, reports=corpus.reports.map(lambda r: {"patient": "x" + r["patient"]})), tmp_path
    )
    assert not set(renamed) & set(before)
    assert epsilons(tmp_path, "one") == [20, 20]


def test_the_number_of_draws_does_not_tell_what_a_text_is(corpus: Corpus, tmp_path: Path) -> None:
    """One report leaves and another comes: the count is the same whether it has the text of the one that left."""
    exp, rows = experiment(privacy__noise="system"), corpus.train[:4]
    gone = corpus.reports[int(rows[0])]["text"]
    for name, text in (("same", gone), ("other", "Large effusion.")):
        came = corpus.reports.select([int(rows[0])]).map(lambda row, text=text: {"text": text, "patient": "another"})
        reports = concatenate_datasets([corpus.reports, came])
        drawn(exp, replace(corpus, train=rows), tmp_path / name)
        after = replace(corpus, reports=reports, train=np.append(rows[1:], len(corpus.reports)))
        drawn(exp, after, tmp_path / name)
        assert epsilons(tmp_path / name, "one") == [20, 20]


def test_where_nobody_is_named_copies_are_drawn_anew_if_their_number_changes_and_all_that_comes_counts(
    corpus: Corpus, tmp_path: Path
) -> None:
    """Which copy is which is not known: one would show what another was in an earlier run."""
    exp = experiment(privacy__noise="system", data__name="openi", data__path="/elsewhere")
    same = replace(corpus, reports=corpus.reports.map(lambda row: {"text": "Heart size is normal, lungs are clear."}))
    two = drawn(exp, replace(same, train=corpus.train[:2]), tmp_path)
    three = drawn(exp, replace(same, train=corpus.train[:3]), tmp_path)
    assert not set(two) & set(three)
    assert epsilons(tmp_path, "one") == [20, 20]
    drawn(exp, replace(corpus, train=corpus.train[:3]), tmp_path)
    assert epsilons(tmp_path, "one") == [20, 20, 20]


def test_a_loss_of_what_was_kept_is_counted_and_a_change_refused(corpus: Corpus, tmp_path: Path) -> None:
    exp, folder = experiment(privacy__noise="system"), tmp_path / "privatised"
    before = drawn(exp, corpus, tmp_path)
    (file,) = folder.glob("*.arrow")
    whole = file.read_bytes()
    for damaged in (whole[:-8], whole.replace(before[0].encode(), before[0][::-1].encode()), b""):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="does not hold the privatised texts"):
            drawn(exp, corpus, tmp_path)
    file.unlink()
    assert not set(drawn(exp, corpus, tmp_path)) & set(before)
    assert epsilons(tmp_path, "one") == [20, 20]
    (folder / "draws.json").write_text("{")
    for reading in (lambda: drawn(exp, corpus, tmp_path), lambda: draws_in(tmp_path, ("one",))):
        with pytest.raises(DataError, match="is damaged"):
            reading()


def test_steps_on_texts_of_which_nothing_is_known_any_more_are_promised_nothing(tmp_path: Path) -> None:
    here = small.ready(small.experiment())
    with small.ledger(tmp_path) as ledger:
        ledger.record_intent(run="one", round=1, plan=here.plan, steps=1)
    exp = experiment()
    corpus = read_corpus(exp)
    drawn(exp, corpus, tmp_path)  # its first step was charged before: the folder was removed in between
    drawn(exp, corpus, tmp_path, run="two")
    assert not draws_in(tmp_path, ("one", "two"))["in_all_runs"]  # type: ignore[index]
    assert draws_in(tmp_path, ("two",))["in_all_runs"]  # type: ignore[index]


def epsilons(folder: Path, *runs: str) -> list[float]:
    told = draws_in(folder, runs)
    assert told is not None
    assert told["in_all_runs"]
    return [draw["epsilon"] for draw in told["draws"]]


def test_a_runs_statement_adds_up_the_draws_of_the_hospital_with_most(corpus: Corpus, tmp_path: Path) -> None:
    exp, few = experiment(), replace(corpus, train=corpus.train[:3])
    plan = small.ready(small.experiment()).plan

    def trains(site: str, *epsilons: float) -> None:
        folder = tmp_path / "ledger" / site
        for epsilon in epsilons:
            drawn(experiment(data__privatise_epsilon=epsilon), few, folder)
        with small.ledger(folder, site) as ledger:
            ledger.record_intent(run="one", round=1, plan=plan, steps=1)

    trains("site-000", 20.0)
    trains("site-001", 20.0, 30.0)
    trains("server")
    assert "at most 100 a token" in local_guarantee(exp, draws_of_run(tmp_path))[0]
    trains("site-002")
    assert "nothing is promised" in local_guarantee(exp, draws_of_run(tmp_path))[0]


def test_a_run_on_the_texts_themselves_is_noted(corpus: Corpus, tmp_path: Path) -> None:
    clear = experiment(data__privatise="none", data__privatise_epsilon=0.0)
    assert drawn(clear, corpus, tmp_path) == corpus.reports.select(corpus.train)["text"][:]
    assert draws_in(tmp_path, ("one",)) is None

    drawn(experiment(), corpus, tmp_path, run="two")
    assert draws_in(tmp_path, ("two",))["in_all_runs"]  # type: ignore[index]
    assert not draws_in(tmp_path, ("one", "two"))["in_all_runs"]  # type: ignore[index]
    drawn(clear, corpus, tmp_path, run="two")
    assert not draws_in(tmp_path, ("two",))["in_all_runs"]  # type: ignore[index]


def test_all_ways_to_train_draw_the_same_where_it_is_seeded(corpus: Corpus, tmp_path: Path) -> None:
    exp = experiment(sites__count=2)
    simulation = Simulation(exp, tmp_path / "simulated")
    apart = [text for k in range(2) for text in texts(simulation._trained_on(k, "run"))]
    one = Simulation(exp, tmp_path / "fused")
    assert texts(one._trained_on(-1, "run")) == apart
    alone = Simulation(experiment(), tmp_path / "alone")
    assert texts(alone._trained_on(0, "run")) == drawn(experiment(), corpus, tmp_path / "centralized")


def test_a_run_says_what_its_texts_guarantee_beside_epsilon(tmp_path: Path) -> None:
    exp = experiment(run__out=str(tmp_path / "out"))
    _, directory = train(exp)

    result = json.loads((directory / "result.json").read_text())
    file = directory / "certificate.json"
    content = read(file)[1]
    (kept,) = (directory / "ledger/site-000/privatised").glob("*.arrow")

    words = in_words([figures_of(exp)])  # type: ignore[list-item]
    assert "at most 40 a token" in words
    assert "not part of epsilon" in words
    assert result["statement"].endswith(words)
    assert result["privatised"]["groups"][3]["rate"] == 20
    assert content["texts"] == {"in_all_runs": True, "draws": [result["privatised"]]}
    assert words in content["statement"]["promised"]
    assert result["epsilon_max"] == content["guarantee"]["epsilon"] <= exp.privacy.epsilon  # the texts add nothing
    assert all(finding.verdict != "FAILED" for finding in verify(file, run=directory))
    assert len(datasets.Dataset.from_file(str(kept))) == len(read_corpus(exp).train)


def test_texts_that_a_certificate_claims_too_little_for_are_found(tmp_path: Path) -> None:
    _, directory = train(experiment(run__out=str(tmp_path / "out"), train__rounds=1))

    def verdicts(content: dict[str, Any]) -> set[str]:
        content["statement"] = statement(content)
        forged = tmp_path / "forged.json"
        forged.write_bytes(sealed(content, new_identity_key()))
        return {found.verdict for found in verify(forged, run=directory) if found.what == "texts"}

    content = read(directory / "certificate.json")[1]
    assert verdicts(content) == {"ok"}
    notes = directory / "ledger/site-000/privatised/draws.json"
    told = json.loads(notes.read_text())
    (drawn,) = told["draws"].values()
    drawn["times"] = 2
    notes.write_text(json.dumps(told))  # as if the texts had been lost once
    assert verdicts(content) == {"FAILED"}
    assert verdicts({key: value for key, value in content.items() if key != "texts"}) == {"FAILED"}
    notes.unlink()
    assert verdicts(content) == {"not checked"}
    content["texts"]["draws"][0]["groups"][0]["worst_case_over_all_pairs"] = 1.0
    assert verdicts(content) == {"FAILED", "not checked"}


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="is needed"):
        experiment(data__privatise_epsilon=0.0)
    with pytest.raises(ConfigError, match="privatises nothing"):
        experiment(data__privatise="none")
    with pytest.raises(ConfigError, match="canaries"):
        refuse(experiment(), AUDITED)
    with pytest.raises(ConfigError, match="decides for itself"):
        refuse(experiment(), DEPLOYED)


def test_a_real_hospital_decides_for_itself() -> None:
    mine = policy(privatise="drop", privatise_epsilon=100.0).own(Experiment())
    assert (mine.data.privatise, mine.data.privatise_epsilon) == ("drop", 100)
    assert policy().own(experiment()).data.privatise == "none"
    assert "goes with privatise-epsilon" in problems(NODE | {"privatise": "drop"})[0]
    assert "node-config privatise: " in problems(NODE | {"privatise": "some", "privatise-epsilon": 1.0})[0]
