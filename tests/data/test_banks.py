"""Phrase banks: what is wrong with one is said with file, key and line, all at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedrad.corpora import CHEXPERT, CT_RATE
from fedrad.data.synthetic import generate, read_bank
from fedrad.data.synthetic.read_bank import load_bank
from fedrad.errors import ConfigError, DataError

BANKS = Path(read_bank.__file__).parent / "banks"


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BANKS / "chest_xray", tmp_path / "bank"))


def change(bank: Path, file: str, old: str, new: str) -> None:
    text = (bank / file).read_text("utf-8")
    assert old in text
    (bank / file).write_text(text.replace(old, new, 1), "utf-8")


def problems(bank: Path, labels: tuple[str, ...] = CHEXPERT) -> list[str]:
    with pytest.raises(DataError) as error:
        read_bank.read_bank(bank, labels)
    head, *lines = str(error.value).splitlines()
    assert str(bank) in head
    return [line.removeprefix("- ") for line in lines]


LUNGS, CHEST = "findings/lungs.toml", "findings/chest.toml"
FIRST = "LO | <there_is> <chg> <degree> <texture> opacity <where>."


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (
            LUNGS,
            FIRST,
            FIRST.replace("LO", "LX"),
            "opacity.body, line 1: unknown label code 'LX'; bank.toml has AT, CM",
        ),
        (LUNGS, FIRST, FIRST.replace("LO", ""), "opacity.body, line 1: no label code; a sentence that asserts no"),
        (LUNGS, FIRST, FIRST + "]", "opacity.body, line 1: unbalanced ]"),
        (LUNGS, FIRST, "# why\n" + FIRST.replace("<where>", "[a|b"), "opacity.body, line 2: unbalanced ["),
        (LUNGS, FIRST, FIRST.replace("<where>", "<wehre>"), "opacity.body, line 1: nothing here explains <wehre>"),
        (LUNGS, FIRST, FIRST.replace("<where>", "<where"), "opacity.body, line 1: a < or > that is no <name>"),
        (LUNGS, FIRST, FIRST.replace("<where>", "a|b"), "opacity.body, line 1: a | outside of [ ]"),
        (LUNGS, FIRST, "There is an opacity.", 'opacity.body, line 1: must be "CODES | sentence"'),
        (LUNGS, FIRST, "[a|b] opacity.", 'opacity.body, line 1: must be "CODES | sentence"'),
        (
            LUNGS,
            FIRST,
            FIRST.replace("<where>", "<negative>"),
            "opacity.body, line 1: nothing here explains <negative>",
        ),
        (LUNGS, 'place = "lungs"', 'place = "lung"', "style.toml: style 1.order: lacks the place 'lung', so that"),
        (LUNGS, 'place = "lungs"', "", "opacity.place: must be text and is missing"),
        (LUNGS, 'place = "lungs"', 'plaice = ""\nplace = "lungs"', "opacity.plaice: unknown key"),
        (LUNGS, "[granuloma]", "[granulomas]", "patients.toml: scenarios, entry 1: no finding is called 'granuloma'"),
        (
            LUNGS,
            "[granuloma]",
            "[granulomas]",
            "patients.toml: scenarios: no patient ever has the finding 'granulomas'",
        ),
        (CHEST, "[cardiomegaly]", "[opacity]", "lungs.toml: opacity: another table has this name"),
        (CHEST, "[cardiomegaly]", "[cardiomegaly", "findings/chest.toml: can't be read"),
        (
            "words.toml",
            '"mild", ',
            '"<degree>", ',
            "lexicon.degree: refers to itself, so that a sentence with it would",
        ),
        ("words.toml", '"mild", ', '"mi[ld", ', "lexicon.degree: unbalanced ["),
        ("words.toml", 'gone = [""]', "gone = []", "changes.gone: must be a list of texts"),
        ("words.toml", 'gone = [""]', 'gon = [""]', "changes.gon: unknown key"),
        (
            "normal.toml",
            "Heart size normal.",
            "Heart size <side>.",
            "sentences.heart, line 3: nothing here explains <side>",
        ),
        ("normal.toml", "weight = 14", 'weight = "often"', "negatives.focal consolidation.weight: must be a number"),
        ("normal.toml", '["CO", "PN"]', '["XX"]', "negatives.focal consolidation.labels: unknown label code 'XX'"),
        ("normal.toml", "heart-and-vessels =", "vessels-too =", "sentences.vessels-too: unknown key"),
        ("patients.toml", "[17, ", "[", "scenarios, entry 1: must be [weight, [finding, ...]]"),
        ("bank.toml", 'AT = "Atelectasis"', "", "codes: the label 'Atelectasis' has no code"),
        ("bank.toml", '"Atelectasis"', '"No Finding"', "codes.AT: 'No Finding' is no label that a phrase can assert"),
        ("style.toml", "typo = 0.04", "", "style 1.typo: must be a number and is missing"),
    ],
)
def test_what_is_wrong_is_said_with_file_key_and_line(bank: Path, file: str, old: str, new: str, says: str) -> None:
    change(bank, file, old, new)
    found = problems(bank)
    assert any(says in problem for problem in found), found


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("normal.toml", "PC    | Peri", "PX    | Peri", "anatomy.heart.sentences, line 4: unknown label code 'PX'"),
        (
            "normal.toml",
            '["small nodes", "uncertain nodes"]',
            '["nodes"]',
            "anatomy.nodes.unless: no finding is called 'nodes'",
        ),
        ("normal.toml", "chance = 0.9", "", "anatomy.airways.chance: must be a number and is missing"),
        ("normal.toml", 'place = "airways"', 'place = "air"', "style.toml: style 1.order: lacks the place 'air'"),
        (
            "normal.toml",
            "- | Trachea",
            "- | <Side> trachea",
            "anatomy.airways.sentences, line 1: nothing here explains",
        ),
        ("patients.toml", "cardiomegaly =", "cardiomegally =", "groups: no finding is called 'cardiomegally'"),
        (
            "patients.toml",
            "cardiomegaly =",
            "cardiomegally =",
            "groups: no patient ever has the finding 'cardiomegaly'",
        ),
        ("patients.toml", "spread = 1.6", 'spread = "wide"', "groups.ageing.spread: must be a number"),
    ],
)
def test_what_only_a_bank_with_anatomy_has(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    bank = Path(shutil.copytree(BANKS / "chest_ct", tmp_path / "bank"))
    change(bank, file, old, new)
    found = problems(bank, CT_RATE)
    assert any(says in problem for problem in found), found


def test_all_that_is_wrong_is_said_at_once(bank: Path) -> None:
    change(bank, LUNGS, FIRST, FIRST.replace("LO", "LX") + "]")
    change(bank, "words.toml", 'mm = "[3|', 'mm = "3|')
    (bank / "patients.toml").unlink()
    found = problems(bank)
    assert [problem.split(":")[0] for problem in found] == ["words.toml", *["findings/lungs.toml"] * 2, "patients.toml"]


def test_comments_between_phrases_are_no_phrases(bank: Path) -> None:
    change(bank, LUNGS, FIRST, "# first\n\n" + FIRST)
    assert read_bank.read_bank(bank, CHEXPERT).findings == load_bank("chest-xray").findings


def test_an_unknown_bank() -> None:
    with pytest.raises(ConfigError, match="the phrase bank is 'brain-mri': must be one of chest-xray"):
        list(generate(1, 0, bank="brain-mri"))


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("findings/heart.toml", "CM !ED |", "CM !EX |", "cardiomegaly.body, line 11: unknown label code 'EX'"),
        ("findings/heart.toml", "CM !ED |", "!ED |", "cardiomegaly.body, line 11: no label code"),
        (
            "findings/heart.toml",
            "CM !ED |",
            "CM !ED !CM |",
            "cardiomegaly: asserts 'Cardiomegaly' in one phrase and denies it in another",
        ),
        ("normal.toml", "CM       |", "CM !ED   |", "anatomy.heart.sentences: denies all that it names"),
        ("style.toml", "misspellings = true", "misspellings = 3", "style.toml: misspellings: must be true or false"),
    ],
)
def test_what_a_bank_may_deny_and_misspell(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    bank = Path(shutil.copytree(BANKS / "chest_xray_icu", tmp_path / "bank"))
    change(bank, file, old, new)
    found = problems(bank)
    assert any(says in problem for problem in found), found


def test_a_bank_gets_the_misspellings_that_it_asks_for(tmp_path: Path) -> None:
    bank = Path(shutil.copytree(BANKS / "chest_xray_icu", tmp_path / "bank"))
    assert "opactiy" in read_bank.read_bank(bank, CHEXPERT).styles[0].release.misspellings["opacity"]
    change(bank, "style.toml", "misspellings = true", "misspellings = false")
    assert not read_bank.read_bank(bank, CHEXPERT).styles[0].release.misspellings


def test_what_stands_in_the_impression_needs_no_place_in_the_findings(tmp_path: Path) -> None:
    bank = Path(shutil.copytree(BANKS / "chest_xray_icu", tmp_path / "bank"))
    change(bank, "normal.toml", 'place = "impression"', 'place = "end"')
    assert any("style 1.order: lacks the place 'end'" in problem for problem in problems(bank))
