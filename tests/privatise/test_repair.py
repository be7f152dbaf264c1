"""A language model over candidates: what it finds, what it may change, and what it never sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedrad.cli import app as cli
from fedrad.errors import ModelError
from fedrad.model.base import load_base
from fedrad.privatise import lattice, privatiser
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Table, load_table
from fedrad.privatise.lattice import Lattice, likeliest
from fedrad.privatise.privatiser import DROPPED, Privatiser
from fedrad.privatise.reader import Reader, reader_of
from fedrad.privatise.repair import Repair
from tests.model import tiny

WORDS = (("no", "left", "##usion"), ("pleural", "heart", "effusion"), ("is", "."), ("normal", "edema", "right"))


@pytest.fixture(scope="module")
def table() -> Table:
    return load_table()


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_decoder(tmp_path_factory.mktemp("decoder"), "llama")


@pytest.fixture(scope="module")
def reader(table: Table, decoder: str) -> Reader:
    return reader_of(table, load_base(decoder), "chest")


def lattices(table: Table) -> list[Lattice]:
    """Three texts of different lengths; the first position of the last has one candidate only."""
    tokens = [table.tokenizer.convert_tokens_to_ids(list(words)) for words in WORDS]
    rows = np.array([ids + ids[:1] * (3 - len(ids)) for ids in tokens])
    fit = np.random.default_rng(0).normal(scale=2.0, size=rows.shape)
    fit[2, 2] = -np.inf
    last = fit[1:].copy()
    last[0, 1:] = -np.inf
    return [Lattice(rows, fit), Lattice(rows[:0], fit[:0]), Lattice(rows[1:], last)]


def every_text(of: Lattice) -> Iterator[tuple[np.ndarray, float]]:
    """All texts that a lattice allows, with the sum of their fits."""
    for which in product(range(of.tokens.shape[1]), repeat=len(of.tokens)):
        fit = float(of.fit[np.arange(len(which)), which].sum())
        if fit > -np.inf:
            yield of.tokens[np.arange(len(which)), which], fit


def test_a_wide_beam_finds_the_best_of_all_texts(table: Table, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with each whole text by itself: so the gaps between spellings of different lengths do no harm."""
    monkeypatch.setattr(lattice, "_HOPELESS", np.inf)
    given = lattices(table)
    best = [max(every_text(of), key=lambda each: each[1] + reader.log_probability(each[0]))[0] for of in given[::2]]
    assert max(map(len, (reader.pieces[k] for k in given[0].tokens.ravel()))) > 2

    found = likeliest(reader, given, beam=100)

    assert [ids.tolist() for ids in found] == [best[0].tolist(), [], best[1].tolist()]
    assert [ids.tolist() for ids in likeliest(reader, given[2:], beam=100)] == [best[1].tolist()]


def test_the_decoder_reads_the_text_that_the_tokens_are(table: Table, reader: Reader) -> None:
    text = "no pneumothorax, atelectasis or effusion."
    ids = table.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [piece for token in ids for piece in reader.pieces[token]]
    assert reader.base.tokenizer.decode(pieces) == f" {text}"


def test_a_table_of_the_decoders_own_needs_no_spelling(decoder: str) -> None:
    own = reader_of(load_table(decoder), load_base(decoder), "")
    assert own.pieces[:3] == [(0,), (1,), (2,)]
    assert len(own.start) == 1


def test_an_encoder_is_no_language_model(table: Table) -> None:
    with pytest.raises(ModelError, match="is an encoder"):
        reader_of(table, load_base("all-MiniLM-L6-v2"), "chest")


def test_a_text_that_is_too_long_is_read_in_parts(table: Table, reader: Reader) -> None:
    ids = np.array(table.tokenizer("no edema. " * 60, add_special_tokens=False)["input_ids"])
    (found,) = likeliest(reader, [Lattice(ids[:, None], np.zeros((len(ids), 1)))])
    assert found.tolist() == ids.tolist()


TEXT = "Dr. Anna Kowalska saw 2 small pleural effusions and edema of the chest on 03/14/2021."


@pytest.mark.parametrize("profile", ["uniform", "drop", "private-both"])
def test_a_repair_stays_near_the_answers_and_off_identifiers(table: Table, reader: Reader, profile: str) -> None:
    choice = Choice(30.0, profile)
    plain = Privatiser(table, choice, "chest", seed=0).walks([TEXT] * 3)
    repair = Repair(reader, neighbours=5, closeness=1.0)
    repaired = Privatiser(table, choice, "chest", seed=0, repair=repair).walks([TEXT] * 3)

    changed = 0
    for before, after in zip(plain, repaired, strict=True):
        assert (before.groups == after.groups).all()
        for group, one, other in zip(before.groups, before.answers, after.answers, strict=True):
            if group < 2 or choice.budgets[group] == np.inf or one == DROPPED:
                assert one == other
                continue
            near = table.outputs[(-table.cosines(table.unit[[one]].numpy())[0]).argsort()]
            words = table.tokenizer.convert_ids_to_tokens(near[:200].tolist())
            allowed = [k for k, word in zip(near, words, strict=False) if not any(c.isdigit() for c in word)][:5]
            digit = any(c.isdigit() for c in table.tokenizer.convert_ids_to_tokens(int(one)))
            assert other in ([one] if digit else allowed)
            changed += one != other
    assert (changed > 0) == (profile != "private-both")


def test_a_repair_sees_no_text(table: Table, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers in the same groups are repaired alike, whatever they were drawn from."""
    drawn = table.tokenizer("stone bridge over the river", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(privatiser.Privatiser, "_answers", lambda *_: np.array(drawn))
    of = Privatiser(table, Choice(1.0, "uniform"), "chest", repair=Repair(reader, closeness=1.0))
    one, other = of.walks(["his old house was cold"])[0], of.walks(["the left lung is clear"])[0]
    assert len(one.tokens) == len(drawn)
    assert (one.tokens != other.tokens).any()
    assert one.answers.tolist() == other.answers.tolist()
    assert one.answers.tolist() != drawn  # control: it does something


def test_the_command_repairs_and_says_so(table: Table, decoder: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the lungs are clear\n")
    common = ["privatise", str(tmp_path / "in.txt"), "--task", "chest", "--epsilon", "30", "--seed", "0"]
    shown = CliRunner().invoke(cli.app, [*common, str(tmp_path / "out.txt"), "--repair", decoder])
    assert shown.exit_code == 0, shown.output
    plain = CliRunner().invoke(cli.app, [*common, str(tmp_path / "plain.txt")])
    assert plain.exit_code == 0
    said = json.loads((tmp_path / "out.txt.manifest.json").read_text())
    assert said["repair"]["fingerprint"] == load_base(decoder).fingerprint
    before = json.loads((tmp_path / "plain.txt.manifest.json").read_text())
    assert before["repair"] == "none"
    assert said["groups"] == before["groups"]
    refused = CliRunner().invoke(cli.app, [*common, str(tmp_path / "o.txt"), "--repair", "all-MiniLM-L6-v2"])
    assert (refused.exit_code, "is an encoder" in refused.stderr) == (4, True)
    assert not (tmp_path / "o.txt").exists()
