"""Reads phrase banks from their TOML files and checks them. ``banks/*/bank.toml`` explains the files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from fedrad.corpora import BANKS
from fedrad.data.synthetic.bank import (
    IN_IMPRESSION,
    RATES,
    Bank,
    Finding,
    Hedge,
    Negative,
    Part,
    Phrase,
    Release,
    Style,
)
from fedrad.data.synthetic.grammar import Taste, endless, faults, names
from fedrad.data.synthetic.read_patients import read_patients
from fedrad.data.synthetic.toml_table import Table
from fedrad.errors import ConfigError, DataError

_FOLDER = Path(__file__).parent / "banks"
# Names that `Voice.bind` gives a value for each finding.
_BOUND: Final = frozenset({"side", "other", "lobe", "zone", "base", "basilar", "chg", "date", "deid"})
# Names that a group of sentences in normal.toml may use. Groups not listed here are about normal anatomy.
_BOUND_IN: Final = {
    "resolved": _BOUND | {"thing"},
    "indication": frozenset({"deid", "date"}),
    "technique": frozenset({"deid", "date"}),
    "comments": frozenset({"deid"}),
    "elsewhere": frozenset({"deid"}),
    "conclusions": frozenset[str](),
    "normal-conclusions": frozenset[str](),
}
_BOUND_IN_ANATOMY: Final = frozenset({"other", "deid", "negative"})
_ALWAYS: Final = ("resolved", "indication", "technique", "comments", "conclusions", "normal-conclusions")
# Only in a bank without [anatomy.*] (`normal._composed`).
_COMPOSED: Final = (
    "heart", "heart-and-mediastinum", "heart-and-vessels", "mediastinum", "vessels", "lungs", "lungs-otherwise",
    "negations", "bones", "pleura", "abdomen", "whole-normal", "elsewhere",
)  # fmt: skip
_CHANGES: Final = {"unknown": ""} | {change: change for change in ("new", "stable", "better", "worse", "gone")}
_PLACES: Final = ("zone", "base", "basilar")


def labels_of(bank: str) -> tuple[str, ...]:
    """The labels of a bank's reports. Raises ConfigError for a bank that is not one of ``BANKS``."""
    if bank not in BANKS:
        raise ConfigError(f"the phrase bank is {bank!r}: must be one of {', '.join(BANKS)}")
    return BANKS[bank]


def load_bank(name: str) -> Bank:
    """The bank of that name. Raises ConfigError as `labels_of`, and DataError as `read_bank`."""
    labels = labels_of(name)
    return read_bank(_FOLDER / name.replace("-", "_"), labels)


def read_bank(folder: Path, labels: tuple[str, ...]) -> Bank:
    """The bank in a folder.

    Args:
        labels: of the corpus, in the order of its label files.
    Raises:
        DataError: lists every fault in the files, with file, key and line.
    """
    problems: list[str] = []

    def toml(name: str, where: Path = folder) -> Table:
        try:
            with (where / name).open("rb") as file:
                return Table(name, "", tomllib.load(file), problems)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            problems.append(f"{name}: can't be read ({error})")
            return Table(name, "", None, problems)

    about, words, normal = toml("bank.toml"), toml("words.toml"), toml("normal.toml")
    normal_label = about.take("normal-label", str)
    indication, examination = about.take("indication", str), about.take("examination", str)
    codes = about.table("codes").strings()
    for code, label in codes.items():
        if label not in labels or label == normal_label:
            about.wrong(f"codes.{code}", f"{label!r} is no label that a phrase can assert")
    for label in sorted(set(labels) - {normal_label} - set(codes.values())) if codes else ():
        about.wrong("codes", f"the label {label!r} has no code")
    about.done()

    read = _Templates(codes, _lexicon(words.table("lexicon")))
    changes, places = words.table("changes"), words.table("places")
    findings: dict[str, Finding] = {}
    for file in sorted((folder / "findings").glob("*.toml")):
        named = toml(f"findings/{file.name}")
        for name in named.keys():
            if name in findings:
                named.wrong(name, "another table has this name")
            findings[name] = read.finding(named.table(name))
    sentences = normal.table("sentences")
    parts = normal.table("anatomy") if "anatomy" in normal.keys() else None
    anatomy = tuple(read.part(parts.table(name), findings) for name in parts.keys()) if parts else ()
    groups = _ALWAYS if anatomy else _ALWAYS + _COMPOSED
    styles, spelling = toml("style.toml"), Table("misspellings.toml", "", {}, problems)
    if styles.take("misspellings", bool, False):  # the banks share one file
        spelling = toml("misspellings.toml", _FOLDER)
    places_used = {finding.place for finding in findings.values()} | {part.place for part in anatomy}
    bank = Bank(
        labels=labels,
        normal_label=normal_label,
        lexicon=read.lexicon,
        changes={value: changes.words(key) for key, value in _CHANGES.items()},
        places={key: places.words(key) for key in _PLACES},
        findings=findings,
        sentences={key: read.sentences(sentences, key, _BOUND_IN.get(key, _BOUND_IN_ANATOMY)) for key in groups},
        anatomy=anatomy,
        negatives=() if anatomy else tuple(read.negative(normal.table("negatives"))),
        indication=indication,
        examination=examination,
        patients=read_patients(toml("patients.toml"), findings),
        styles=_styles(styles, spelling, places_used - {IN_IMPRESSION}),
    )
    for table in (words, changes, places, normal, sentences):
        table.done()
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise DataError(f"{count} in the phrase bank:\n" + "\n".join(f"- {p}" for p in problems), file=folder)
    return bank


class _Templates:
    """Reads templates and reports unknown label codes and names."""

    def __init__(self, codes: Mapping[str, str], lexicon: Mapping[str, str]) -> None:
        self.codes, self.lexicon = codes, lexicon

    def check(self, table: Table, key: str, template: str, bound: frozenset[str]) -> str:
        for fault in faults(template):
            table.wrong(key, fault)
        for name in sorted(names(template, self.lexicon) - bound):
            table.wrong(key, f"nothing here explains <{name}>")
        return template

    def sentences(self, table: Table, key: str, bound: frozenset[str]) -> tuple[str, ...]:
        return tuple(self.check(table, f"{key}, line {at}", line, bound) for at, line in table.lines(key))

    def finding(self, table: Table) -> Finding:
        found = Finding(
            place=table.take("place", str),
            chronic=table.take("chronic", bool, False),
            resolved=self.check(table, "resolved", table.take("resolved", str, ""), _BOUND),
            body=tuple(self.phrases(table, "body", _BOUND)),
            impression=tuple(self.phrases(table, "impression", _BOUND)),
        )
        phrases = found.body + found.impression
        asserted = {label for phrase in phrases for label in phrase.labels}
        denied = {label for phrase in phrases for label in phrase.denies}
        for label in sorted(asserted & denied):
            table.wrong("", f"asserts {label!r} in one phrase and denies it in another, which is then never said")
        table.done()
        return found

    def part(self, table: Table, findings: Collection[str]) -> Part:
        unless = table.words("unless") if "unless" in table.keys() else ()
        for name in unless:
            if name not in findings:
                table.wrong("unless", f"no finding is called {name!r}")
        sentences = tuple(self.phrases(table, "sentences", frozenset({"deid"})))
        if any(phrase.denies or phrase.hedges for phrase in sentences):
            table.wrong("sentences", "denies all that it names, so that ! and ? are for findings only")
        found = Part(
            place=table.take("place", str),
            chance=table.take("chance", float),
            unless=frozenset(unless),
            sentences=sentences,
        )
        table.done()
        return found

    def phrases(self, table: Table, key: str, bound: frozenset[str]) -> Iterator[Phrase]:
        for at, line in table.lines(key):
            where = f"{key}, line {at}"
            codes, bar, template = line.partition("|")
            if not bar or "[" in codes:
                table.wrong(where, 'must be "CODES | sentence"')
                continue
            asserted = [code for code in codes.split() if code[0] not in "!?"]
            denied = [code[1:] for code in codes.split() if code.startswith("!")]
            hedged = [code[1:] for code in codes.split() if code.startswith("?")]
            for code in {code.partition(":")[0] for code in hedged} & {*asserted, *denied}:
                table.wrong(where, f"hedges {code!r} and asserts or denies it")
            yield Phrase(
                self.labels(table, where, asserted or ["-"] if hedged else asserted),
                self.check(table, where, template.strip(), bound),
                self.labels(table, where, denied or ["-"]),
                tuple(self.hedges(table, where, hedged)),
            )

    def hedges(self, table: Table, where: str, hedged: list[str]) -> Iterator[Hedge]:
        for code, colon, words in (text.partition(":") for text in hedged):
            found = tuple(word.replace("_", " ") for word in words.split(",")) if colon else ()
            if not all(found) or words != words.lower():
                table.wrong(where, f"?{code}: needs its words in small letters, with commas between")
            for label in self.labels(table, where, [code]):
                yield Hedge(label, found)

    def labels(self, table: Table, where: str, codes: list[str]) -> frozenset[str]:
        if codes == ["-"]:
            return frozenset()
        for code in codes:
            if code not in self.codes and self.codes:  # without any, bank.toml is to blame
                table.wrong(where, f"unknown label code {code!r}; bank.toml has {', '.join(self.codes)}")
        if not codes:
            table.wrong(where, "no label code; a sentence that asserts no label has -")
        return frozenset(self.codes[code] for code in codes if code in self.codes)

    def negative(self, table: Table) -> Iterator[Negative]:
        for noun in table.keys():
            entry = table.table(noun)
            codes = entry.words("labels")
            self.labels(entry, "labels", list(codes))
            labels = tuple(self.codes[code] for code in codes if code in self.codes)
            yield Negative(noun, entry.take("weight", float), labels)
            entry.done()


def _lexicon(table: Table) -> dict[str, str]:
    lexicon = {}
    for key, value in list(table.left.items()):
        listed = isinstance(value, list) and all(isinstance(word, str) for word in value)
        lexicon[key] = f"[{'|'.join(value)}]" if listed else table.take(key, str)
        table.left.pop(key, None)
        for fault in faults(lexicon[key]):
            table.wrong(key, fault)
        if not re.fullmatch("[a-z_]+", key):
            table.wrong(key, "must be a name of small letters and _")
    for key in endless(lexicon):
        table.wrong(key, "refers to itself, so that a sentence with it would never end")
        lexicon[key] = ""
    return lexicon


def _styles(table: Table, misspellings: Table, places: set[str]) -> tuple[Style, ...]:
    redaction = table.table("redaction")
    release = Release(
        redacted=re.compile(r"\b(" + "|".join(re.escape(word) for word in redaction.words("words")) + r")\b"),
        usual=redaction.take("usual", float),
        rarely=redaction.table("others").numbers(),
        abbreviations=tuple(table.table("abbreviations").strings().items()),
        misspellings={word: misspellings.words(word) for word in misspellings.keys()},
    )
    redaction.done()
    styles = []
    for entry in table.tables("style"):
        headers = entry.words("headers")
        if len(headers) != 2:
            entry.wrong("headers", "must be two: before the findings and before the impression")
        style = Style(
            taste=Taste("", 0.0),
            release=release,
            mark=entry.take("mark", str),
            headers=(headers[0], headers[-1]) if headers else ("", ""),
            sections=entry.table("sections").strings() if "sections" in entry.keys() else {},
            bullet=entry.take("bullet", str, ""),
            wrap=entry.take("wrap", int),
            upper=entry.take("upper", bool),
            order=entry.words("order"),
            **{name: entry.take(name, float) for name in RATES},
        )
        for place in sorted(places - set(style.order)):
            entry.wrong("order", f"lacks the place {place!r}, so that its findings would be lost")
        for place in sorted(set(style.sections) - set(style.order)):
            entry.wrong("sections", f"{place!r} is no place of order")
        entry.done()
        styles.append(style)
    if not styles:
        table.wrong("style", "must have at least one style")
    table.done()
    return tuple(styles)
