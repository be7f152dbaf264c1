"""``fedrad evaluate``: its figures are those of the predictions, and nothing that it writes shows a report."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from sklearn.metrics import f1_score, roc_auc_score
from typer.testing import CliRunner

import fedrad
from fedrad.cli import app as cli
from fedrad.evidence.predictions import read_predictions
from fedrad.tasks.single_label import SingleLabel
from fedrad.training.setup import set_up
from tests import small
from tests.data.conftest import write_csv
from tests.model import tiny

SECRET = "zyzzyva"
WORDS = ("effusion", "clear", "lungs", "edema", "left", "no", "large", "heart")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.untrained_run(tmp_path_factory.mktemp("run"))


def texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"{SECRET} {' '.join(rng.choice(WORDS, 6))}" for _ in range(count)]


def table(path: Path, count: int = 60) -> Path:
    """Reports of 20 patients, with the labels of the untrained run in words."""
    rng = np.random.default_rng(1)
    rows = [[text, f"p{k % 20}", *rng.choice(["Yes", "no"], len(small.LABELS))] for k, text in enumerate(texts(count))]
    return write_csv(path, ("text", "who", *small.LABELS), rows)


ARGUMENTS = ("--set", "data.patient-column=who", "--map", "yes=1,no=0", "--resamples", "50")


def test_figures_are_those_of_the_predictions(run: Path, tmp_path: Path) -> None:
    source = table(tmp_path / "t.csv")
    files = {name: tmp_path / name for name in ("f.json", "p.csv", "page.html")}
    options = ("--json", files["f.json"], "--predictions", files["p.csv"], "--html", files["page.html"])
    shown = call("evaluate", run, source, *ARGUMENTS, *options)
    assert shown.exit_code == 0, shown.output
    written = read_predictions(files["p.csv"])
    assert np.allclose(written.probabilities, fedrad.Classifier.load(run).predict(texts(60)), atol=1e-5)
    figures = json.loads(files["f.json"].read_text())
    assert (figures["reports"], figures["patients"]) == (60, 20)
    for k, label in enumerate(figures["labels"]):
        truth, score = written.labels[:, k], written.probabilities[:, k]
        assert label["f1"]["value"] == pytest.approx(f1_score(truth, score > 0.5, zero_division=0))
        assert label["auroc"]["value"] == pytest.approx(roc_auc_score(truth, score))
        assert label["auroc"]["low"] < label["auroc"]["value"] < label["auroc"]["high"]
        assert label["threshold"] == 0.5
    said = " ".join(shown.output.split())
    assert f"weighted F1 {figures['weighted_f1']['value']:.4f}" in said
    assert "is a release of its own, which the run's epsilon does not cover" in said
    assert "release of its own" in files["page.html"].read_text()
    for name, file in files.items():
        assert file.stat().st_mode & 0o077 == 0
        assert SECRET not in file.read_text(), name
    assert SECRET not in shown.output
    again = call("evaluate", run, source, *ARGUMENTS, *options)
    assert again.exit_code == 3
    assert "nothing is overwritten" in again.output


class Page(HTMLParser):
    """What a page refers to, and the ids on it."""

    def __init__(self) -> None:
        super().__init__()
        self.links, self.ids, self.images = list[str](), list[str](), 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "srcset", "data"):
                self.links.append(value or "")
            if key == "id":
                self.ids.append(value or "")
        self.images += tag == "svg"


def test_the_page_stands_alone(run: Path, tmp_path: Path) -> None:
    assert call("evaluate", run, table(tmp_path / "t.csv"), *ARGUMENTS, "--html", tmp_path / "p.html").exit_code == 0
    text = (tmp_path / "p.html").read_text()
    page = Page()
    page.feed(text)
    assert page.images == 1 + len(small.LABELS)
    assert [link for link in page.links if not link.startswith("#")] == []
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        drawn = ElementTree.fromstring(svg)
        title = drawn.find("{http://www.w3.org/2000/svg}title")
        assert title is not None
        assert drawn.attrib["aria-labelledby"] == title.attrib["id"]
    assert "currentColor" in text


def test_best_thresholds_are_called_optimistic(run: Path, tmp_path: Path) -> None:
    source = table(tmp_path / "t.csv")
    half, best = (
        call("evaluate", run, source, *ARGUMENTS, "--thresholds", how, "--json", tmp_path / f"{how}.json")
        for how in ("half", "best")
    )
    assert "optimistic" in best.output
    assert "optimistic" not in half.output
    f1 = [
        [label["f1"]["value"] for label in json.loads((tmp_path / f"{how}.json").read_text())["labels"]]
        for how in ("half", "best")
    ]
    assert all(b >= h for h, b in zip(*f1, strict=True))
    assert f1[0] != f1[1]


def test_reports_that_the_run_was_trained_on_are_left_out(tmp_path: Path) -> None:
    run, source = small.untrained_run(tmp_path / "run"), table(tmp_path / "t.csv")
    settings = {
        "data__name": "table",
        "data__path": str(source),
        "data__label_columns": ",".join(small.LABELS),
        "data__patient_column": "who",
        "data__map": "yes=1,no=0",
    }
    (run / "experiment.toml").write_text(small.experiment(**settings).to_toml())
    shown = call("evaluate", run, source, "--resamples", 10, "--predictions", tmp_path / "p.csv")
    assert "the test reports of the run, 12 of 4 patients" in shown.output, shown.output
    tested = set(read_predictions(tmp_path / "p.csv").patients)
    shown = call("evaluate", run, source, "--resamples", 10, "--all", "--predictions", tmp_path / "all.csv")
    assert "was trained on some of these reports" in " ".join(shown.output.split())
    assert tested < set(read_predictions(tmp_path / "all.csv").patients)
    elsewhere = table(tmp_path / "other.csv")  # control: other reports are all new
    assert "all reports, 60 of 20 patients" in call("evaluate", run, elsewhere, "--resamples", 10).output


def test_classes(tmp_path: Path) -> None:
    task = SingleLabel(("ct", "mr", "xr"))
    setup = set_up(small.experiment(), task)
    tiny.randomise(setup.classifier)
    task.export(setup.classifier, setup.base, tmp_path / "run/adapter", max_length=40, privacy_statement="none")
    rows = [[text, ("ct", "Magnet", "ct")[k % 3]] for k, text in enumerate(texts(30))]
    source = write_csv(tmp_path / "t.csv", ("text", "kind"), rows)
    columns = ("--set", "data.label-columns=kind")
    wrong = call("evaluate", tmp_path / "run", source, *columns)
    assert wrong.exit_code == 3
    assert "1 of its 2 classes are none of the run's" in wrong.output
    assert "Magnet" not in wrong.output
    files = ("--json", tmp_path / "f.json", "--predictions", tmp_path / "p.csv")
    shown = call("evaluate", tmp_path / "run", source, *columns, "--map", "magnet=mr", *files)
    assert shown.exit_code == 0, shown.output
    figures, written = json.loads((tmp_path / "f.json").read_text()), read_predictions(tmp_path / "p.csv")
    truth, said = written.labels.argmax(axis=1), written.probabilities.argmax(axis=1)
    assert figures["micro_f1"]["value"] == pytest.approx((truth == said).mean())  # accuracy
    expected = f1_score(truth, said, average="weighted", zero_division=0)
    assert figures["weighted_f1"]["value"] == pytest.approx(expected)
    assert [label["support"] for label in figures["labels"]] == [20, 10, 0]
    assert [label["threshold"] for label in figures["labels"]] == [None] * 3
    assert call("evaluate", tmp_path / "run", source, *columns, "--thresholds", "best").exit_code == 2
    classes = figures["classes"]
    assert classes["exact_match"] == pytest.approx((truth == said).mean())
    assert classes["top_3"] == 1.0  # of three
    assert classes["exact_match"] < classes["similarity"] < 1
    assert "Similarity of names flatters" in shown.output
    middle = float(np.median(written.probabilities.max(axis=1)))
    options = ("--map", "magnet=mr", "--abstain-below", middle, "--json", tmp_path / "g.json")
    assert call("evaluate", tmp_path / "run", source, *columns, *options).exit_code == 0
    sure = written.probabilities.max(axis=1) >= middle
    classes = json.loads((tmp_path / "g.json").read_text())["classes"]
    assert classes["answered"] == pytest.approx(sure.mean())
    assert classes["exact_match_of_answered"] == pytest.approx((truth == said)[sure].mean())
    assert call("evaluate", tmp_path / "run", source, *columns, "--map", "magnet=mr", "--generate", 4).exit_code == 2


def test_labels_that_run_and_reports_do_not_share(run: Path, tmp_path: Path) -> None:
    source = table(tmp_path / "t.csv")
    some = call("evaluate", run, source, *ARGUMENTS, "--set", "data.label-columns=Edema,Pneumothorax")
    assert "have no label Something that the generator does not know: not evaluated" in " ".join(some.output.split())
    none = write_csv(tmp_path / "n.csv", ("text", "a", "b"), [["x", 0, 1], ["y", 1, 0]])
    refused = call("evaluate", run, none, "--set", "data.label-columns=a,b")
    assert refused.exit_code == 3
    assert "has none of the run's labels" in refused.output
    other = call("evaluate", run, source, "--set", "privacy.epsilon=1")
    assert other.exit_code == 2
    assert "only settings data.* matter" in other.output
