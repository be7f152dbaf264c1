"""The HTML report: complete by itself, readable by everybody, loud where nobody is protected, and true."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedrad.cli.app import app
from fedrad.errors import DataError
from fedrad.report.page.files import read_run
from fedrad.report.page.page import report
from fedrad.report.page.pictures import as_svg, drawing
from fedrad.report.page.series import Mean, lines_of
from tests.grid import federate, forget, small
from tests.model import tiny

CSS = (Path(__file__).parents[2] / "fedrad/report/page/template.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two budgets, one of them with two seeds; two hospitals each."""
    folder = tmp_path_factory.mktemp("sweep")
    base = tiny.save(folder / "base", "bert")
    forget()
    for name, epsilon, seed in (("one", 1.0, 0), ("other", 1.0, 1), ("larger", 8.0, 0)):
        federate(
            small(
                base,
                sites__count=2,
                run__out=str(folder / "runs" / name),
                privacy__epsilon=epsilon,
                train__seed=seed,
            )
        )
        forget()
    return folder / "runs"


@pytest.fixture
def run(sweep: Path, tmp_path: Path) -> Path:
    """A copy of one run, to change."""
    return shutil.copytree(sweep / "one", tmp_path / "one")


class Page(HTMLParser):
    """The elements of a page, in order, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rewritten(run: Path, **changes: object) -> Path:
    file = run / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return run


# By itself


def test_the_page_needs_nothing_from_elsewhere(sweep: Path) -> None:
    text = report([sweep])
    page = Page(text)

    assert [tag for tag in ("script", "link", "img", "iframe", "object") if page.of(tag)] == []
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.of("meta"))
    links = [link["href"] for link in page.of("a")]
    assert all(link is not None and link.startswith("#") for link in links)


def test_equal_runs_give_equal_pages_and_no_path_stands_in_them(sweep: Path) -> None:
    text = report([sweep])

    assert text == report([sweep])
    assert str(sweep.parent) not in text


def test_names_from_files_are_text(run: Path) -> None:
    """A label with markup, and with what matplotlib takes for mathematics."""
    bad = "<script>alert(1)</script> $x^2$"
    result = json.loads((run / "result.json").read_text())
    labels = {bad: 0.5, **dict.fromkeys(list(result["per_label"])[1:], 0.5)}
    text = report([rewritten(run, per_label=labels)])

    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt; $x^2$") >= 2  # in the picture and in its table


# For everybody


def test_headings_ids_and_names_for_a_screen_reader(sweep: Path) -> None:
    page = Page(report([sweep]))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    for _, attributes in page.elements:
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids
    pictures = page.of("svg")
    assert len(pictures) == 1 + 2 * 3
    assert all(picture["role"] == "img" and picture["aria-labelledby"] for picture in pictures)
    regions = [attributes for attributes in page.of("div") if attributes.get("class") == "scroll"]
    assert all(r["tabindex"] == "0" and (r.get("aria-label") or r.get("aria-labelledby")) for r in regions)
    assert page.of("a")[0] == {"class": "skip", "href": "#main"}
    assert page.of("html") == [{"lang": "en"}]


def palette(mode: str) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.S)
    assert len(blocks) == 2
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[("light", "dark").index(mode)]))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_can_be_read(mode: str) -> None:
    colours = palette(mode)
    assert contrast("#ffffff", "#000000") == 21
    for text in ("ink", "quiet", "link"):
        assert contrast(colours[text], colours["paper"]) >= 4.5
    for text in ("ink", "quiet"):
        assert contrast(colours[text], colours["soft"]) >= 4.5
    assert contrast(colours["alarm"], colours["alarm-paper"]) >= 4.5
    for number in range(6):
        assert contrast(colours[f"s{number}"], colours["paper"]) >= 3  # lines and bars


def test_pictures_follow_the_page_s_colours(sweep: Path) -> None:
    """Black text would vanish in dark mode. No colour of matplotlib's own is left, and text is text."""
    pictures = re.findall(r"<svg.*?</svg>", report([sweep]), re.S)

    assert pictures
    assert all(re.findall(r"#[0-9a-f]{6}(?![0-9a-f])", picture) == [] for picture in pictures)
    assert all(("fill: var(--ink)" in picture and ">epsilon" in picture) or ">F1<" in picture for picture in pictures)
    with drawing(2.0) as (figure, plot):  # control: another colour would be seen
        plot.plot([0, 1], [0, 1], color="#123456")
        assert "#123456" in as_svg(figure, "x", "x")


# What it says


def test_a_seeded_run_is_called_what_it_is(sweep: Path) -> None:
    text = report([sweep])

    assert "PROTECTS NOBODY: the noise of all 3 runs came from a seed" in text
    assert text.index("PROTECTS NOBODY") < text.index("<nav")
    assert "NOBODY" in re.findall(r"<table id=\"overview\".*?</table>", text, re.S)[0]


def test_a_run_without_privacy_is_called_what_it_is(run: Path) -> None:
    text = report([rewritten(run, private=False, epsilon_max=None, noise="system")])

    assert "PROTECTS NOBODY: this run trained without differential privacy" in text


def test_a_private_run_raises_no_alarm(run: Path) -> None:
    assert 'class="alarm"' not in report([rewritten(run, noise="system")])


def test_several_runs_on_the_same_reports_add_up(sweep: Path) -> None:
    total = sum(
        json.loads((sweep / name / "result.json").read_text())["epsilon_max"] for name in ("one", "other", "larger")
    )
    found = re.search(r"together they have \(([\d.]+), 3[.01]*e-05\) by basic composition", report([sweep]))

    assert found is not None
    assert 0 <= float(found[1]) - total < 1e-4
    assert "basic composition" not in report([sweep / "one"]).split('id="runs"')[0]


def test_means_and_their_intervals(sweep: Path) -> None:
    runs = [read_run(sweep / name, name) for name in ("one", "other", "larger")]
    (line,) = lines_of(runs).values()
    values = [run.result["weighted_f1"] for run in runs]

    assert [(point.epsilon, point.runs) for point in line] == [(1.0, 2), (8.0, 1)]
    assert line[0].mean == pytest.approx(fmean(values[:2]))
    assert math.isnan(line[1].low)
    # Two values: t(0.975, 1) = 12.706, standard error |a - b| / 2.
    assert Mean.of(1.0, [0.5, 0.7]).high - 0.6 == pytest.approx(12.7062 * 0.1, rel=1e-4)


def test_runs_that_differ_by_more_than_a_seed_are_not_averaged(sweep: Path, run: Path) -> None:
    file = run / "experiment.toml"
    file.write_text(file.read_text().replace("local-steps = 2", "local-steps = 3"))
    lines = lines_of([read_run(run, "a"), read_run(sweep / "other", "b")])

    assert sorted(lines) == ["train.local-steps=2", "train.local-steps=3"]


def test_audits_and_comparisons_stand_on_the_page(run: Path) -> None:
    audit = {"kind": "gradient canaries", "view": "all", "epsilon": 1.0, "delta": 1e-5, "bound": 1.7}
    (run / "audit.json").write_text(
        json.dumps({"audits": [{**audit, "broken": "", "confidence": 0.95, "canaries": 64}]})
    )
    comparison = {"differences": [{"condition": "epsilon=1", "p": 0.04321}], "warnings": ["Two seeds carry no test."]}
    (run / "compare.json").write_text(json.dumps(comparison))
    text = report([run])

    assert "ABOVE THE CLAIM" in text
    assert "0.04321" in text
    assert "Two seeds carry no test." in text


# The command


def test_the_command_writes_a_page_and_overwrites_nothing(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert call("report", sweep, "--out", out).exit_code == 0
    before = out.read_bytes()

    again = call("report", sweep, "--out", out)
    assert again.exit_code == 3
    assert "nothing is overwritten" in again.stderr
    assert out.read_bytes() == before


def test_a_folder_without_runs_and_a_damaged_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no finished run"):
        report([tmp_path / "empty"])
    (run / "metrics.jsonl").write_text("{")
    with pytest.raises(DataError, match="can't be read as a run"):
        report([run])
