"""The registry of corpora, and that a corpus needs no more than an entry there and a reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedrad.corpora import BANKS, CHEXPERT, COLLECTIONS, CORPORA, CT_RATE, corpus_named, label_columns
from fedrad.errors import ConfigError

READER = """
from pathlib import Path
from fedrad.corpora import CORPORA
from fedrad.data.report import FEATURES, Source, row_of

def source(path):
    file = Path(path, "toy.txt")
    def read(warn):
        lines = file.read_text().splitlines()
        rows = (row_of(text, {"a": 1, "b": 0, "c": 1}, f"p{k}") for k, text in enumerate(lines))
        return FEATURES(CORPORA["toy"].labels), rows
    return Source([file], read)
"""
# What a new corpus takes: a module in fedrad/data (here a folder that counts as part of it) and an entry.
REGISTERED = """
import sys, fedrad.data
fedrad.data.__path__.append(sys.argv[1])
from fedrad.corpora import CORPORA, Corpus
CORPORA["toy"] = Corpus("Toy", "toy", ("a", "b", "c"), patients=False, own_split=True, no_finding="no-other-label")
"""


@pytest.fixture
def registered(tmp_path: Path) -> str:
    (tmp_path / "toy.py").write_text(READER)
    (tmp_path / "toy.txt").write_text("One.\nTwo.\n")
    return REGISTERED


def run(tmp_path: Path, code: str) -> str:
    """What a process prints that has the registry's line from its start."""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_corpus_is_an_entry_and_a_reader(registered: str, tmp_path: Path) -> None:
    code = f"""{registered}
from fedrad import Experiment, load_corpus
from fedrad.reference import reference
from fedrad.errors import ConfigError
from fedrad.federation.node_config import read_policy
from fedrad.planning.outlook import outlook_of
from fedrad.planning.questions import check_told

folder, toy = sys.argv[1], ["data.name=toy", f"data.path={{sys.argv[1]}}"]
reports = load_corpus("toy", folder, cache_dir=folder + "/cache")
print(reports["text"][:], list(reports[0]["labels"]))
experiment = Experiment.load(None, [*toy, "strategy.name=head"])
print(experiment.stated_labels, experiment.no_finding, experiment.warm_start)
for wrong in (["data.name=toy"], [*toy, "privacy.unit=patient"], ["data.name=toi"]):
    try:
        Experiment.load(None, wrong)
    except ConfigError as error:
        print(error)
check_told(experiment, 900, None)
print(outlook_of(experiment, declared=900).present.trainable)
node = {{"site": "a", "data-path": folder, "state-dir": folder, "epsilon-cap": 1.0, "declared-size": 9}}
print(read_policy({{**node, "data-name": "toy"}}).task.labels)
print("openi, protocol, table, toy, none" in reference(), "MIMIC-CXR, CT-RATE, Toy have" in reference())
"""
    shown = run(tmp_path, code).splitlines()
    assert shown[:2] == ["['One.', 'Two.'] ['a', 'b', 'c']", "(('a', 'b', 'c'), False) no-other-label synthetic"]
    assert shown[2].startswith("data.path: say where the toy reports are")
    assert shown[3].startswith("privacy.unit: Toy has no patient ids")
    assert shown[4].endswith("did you mean toy?")
    assert int(shown[5]) % 3 == 0
    assert shown[6:] == ["('a', 'b', 'c')", "True True"]


def test_without_its_entry_there_is_no_such_corpus(registered: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be one of synthetic, mimic-cxr, ct-rate, openi, protocol, table"):
        corpus_named("toy")


def test_the_collections_of_labels() -> None:
    assert (len(set(CHEXPERT)), len(set(CT_RATE))) == (14, 18)
    assert list(CHEXPERT) == sorted(CHEXPERT)
    assert set(BANKS.values()) == set(COLLECTIONS.values())


def test_label_columns_may_name_a_collection() -> None:
    assert label_columns(" chexpert ") == CHEXPERT
    assert label_columns("ct-rate") == CT_RATE
    assert label_columns("chexpert, x") == ("chexpert", "x")
    assert label_columns("") == ()


@pytest.mark.parametrize("name", CORPORA)
def test_labels_that_nothing_tells_are_none(name: str) -> None:
    corpus = CORPORA[name]
    assert corpus.labels_of("chest-ct", ()) == {"synthetic": CT_RATE, "table": ()}.get(name, corpus.labels)
    assert corpus.labels_of("no such bank", ("a",)) == {"synthetic": (), "table": ("a",)}.get(name, corpus.labels)
