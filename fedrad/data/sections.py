"""Findings and impression out of a MIMIC-CXR report.

Such a report is plain text of one or more *parts* (a wet read, i.e. a first impression by a resident; a
preliminary report; the final report; addenda), each of *sections* under headers like ``FINDINGS:``. What this keeps:

1. The final report. Wet reads and preliminary reports count only if no final report follows or precedes them.
2. Of it: all findings, then all impressions (also ``FINDINGS AND IMPRESSION``, ``CONCLUSION``, in any case).
3. No findings: the text under a header that names the view (``PA AND LATERAL CHEST: ...``), then the impression.
4. None of that: the last paragraph that does not stand under another header.
5. Addenda are added behind.

White space is normalised, de-identified spans ``___`` stay as they are. All functions are pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from fedrad.data.report import one_line

PartKind = Literal["final", "provisional", "addendum"]
SectionKind = Literal["findings", "impression", "view", "other", ""]

# A line of underscores or dashes closes a wet read or an addendum; `___` is a removed name and never closes anything.
_RULE = re.compile(r"^[ \t]*(?:_{10,}|-{10,}|={10,})[ \t]*$")
_PART = re.compile(
    r"""^[ \t]*(?:
        (?P<final>FINAL[ ]+REPORT)
      | (?P<provisional>WET[ ]+READ | PRELIMINARY[ ]+(?:REPORT|READ) | PROVISIONAL[ ]+FINDINGS[ ]+IMPRESSION)
      | (?P<addendum>(?:FINAL[ ]+)?ADDENDUM)
    )\b(?P<rest>[^:\n]{0,60}?)(?P<end>:|[ \t]*$)""",
    re.VERBOSE | re.IGNORECASE,
)
# What is left of a part's title line is dropped if it is only a stamp: "WET READ VERSION #1 ___ MON ___ 9:23 PM".
_STAMP = re.compile(
    r"^[ \t]*(?:\(?VERSION\b.*|\([A-Z ]+\)|(?:(?:___|\w{2,4})[ \t]+){0,6}\d{1,2}:\d\d[ \t]*(?:AM|PM)?)[ \t:]*$",
    re.IGNORECASE,
)

_HEADER = re.compile(
    r"^[ \t]*(?P<name>[A-Za-z][A-Za-z0-9 ,/&()'\-]{1,60}?)[ \t]*(?P<end>:|;|[ \t]-[ \t])", re.MULTILINE
)
_BARE_HEADER = re.compile(
    r"^[ \t]*(?P<name>FINDINGS|IMPRESSION|FINDINGS[ ]?(?:AND|/|&)[ ]?IMPRESSION|CONCLUSION)[ \t.]*$",
    re.MULTILINE | re.IGNORECASE,
)
# Inside a line only the two words that matter, in capitals: "COMPARISON: None. IMPRESSION: Clear."
_INLINE_HEADER = re.compile(r"(?<=[.\s])(?P<name>FINDINGS|IMPRESSION)[ \t]*:")

_READING_WORDS = {
    "findings": {"FINDING", "FINDINGS", "FINDNGS", "FINDIGS", "FIDNINGS", "FINDGINGS"},
    "impression": {"IMPRESSION", "IMPRESSIONS", "IMPRESSON", "IMPRESSOIN", "IMPRSSION", "IMPRESION", "IMPERSSION",
                   "CONCLUSION", "CONCLUSIONS", "SUMMARY", "INTERPRETATION", "OPINION"},
}  # fmt: skip
_FILLER_WORDS = {"AND", "OR", "CHEST", "THE", "RADIOGRAPHIC", "FINAL", "CXR", "OF"}
_OTHER = re.compile(
    r"""(?:TYPE\ OF\ |DATE\ OF\ )?(?:EXAM(?:INATION)?S?|STUDY|STUDIES|PROCEDURES?)(?:\ DATE)?
      | (?:CLINICAL|PATIENT|MEDICAL|BRIEF|PAST\ MEDICAL)?\ ?(?:HISTORY|INFORMATION|INDICATIONS?|CONTEXT|QUESTION)
      | INDICATIONS?\ (?:AND\ )?(?:HISTORY|COMPARISONS?) | HISTORY\ (?:AND\ )?(?:INDICATIONS?|COMPARISONS?)
      | REASON\ FOR\ (?:THE\ |THIS\ )?(?:EXAM(?:INATION)?|STUDY) | TECHNIQUES? | COMPARISONS?(?:\ EXAMS?)?
      | RECOMMENDATIONS? | NOTIFICATIONS?
    """,
    re.VERBOSE,
)
_OTHER_IN_CAPITALS = re.compile(
    r"""REASON.* | TECHNICAL\ .* | COMPARISON.* | PRIOR.* | CONTRAST | DOSE | DLP | COMMUNICATION | CRITICAL\ RESULT.*
      | ATTENDING.* | RESIDENT.* | DICTATED.* | SIGNED.* | ELECTRONICALLY\ .* | TRANSCRIBED.* | REFERRING.*
      | PHYSICIAN.* | DATE | TIME | CPT.* | CLINICAL\ .*
    """,
    re.VERBOSE,
)
_VIEW = re.compile(r"\b(?:CHEST|VIEWS?|RADIOGRAPHS?|RADIOGRAPHY|FILMS?|X ?RAYS?|CXR|PORTABLE|AP|PA|LATERAL)\b")
_ENOUGH_WORDS = 5


@dataclass(frozen=True)
class Part:
    """A stretch of a report that was written at one time."""

    kind: PartKind
    text: str


@dataclass(frozen=True)
class Section:
    """A stretch under one header; the header itself is not in ``text``. Kind "" is text before any header."""

    kind: SectionKind
    text: str


def reading(report: str) -> str:
    """What the radiologist saw and concluded, as one line; "" if there is nothing. The rules are above."""
    pieces = parts(report)
    body = ""
    for kind in ("final", "provisional"):
        texts = [part.text for part in pieces if part.kind == kind]
        # The last final report is the valid one, but a stray line behind it (a signature) does not take its place.
        bodies = [found for text in texts if (found := _under_headers(text))]
        bodies = bodies or [found for text in texts if (found := _last_paragraph(text))]
        if bodies:
            body = bodies[-1]
            break
    addenda = [_addendum(part.text) for part in pieces if part.kind == "addendum"]
    return " ".join(text for text in [body, *addenda] if text)


def parts(report: str) -> list[Part]:
    """The report cut at lines like ``FINAL REPORT``, ``WET READ: ...``, ``ADDENDUM``; text before them is final."""
    found: list[Part] = []
    kind: PartKind = "final"
    lines: list[str] = []

    def close() -> None:
        if any(line.strip() for line in lines):
            found.append(Part(kind, "\n".join(lines)))
        lines.clear()

    titled = False
    for line in report.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if _RULE.match(line):
            if kind != "final":
                close()
                kind = "final"
            continue
        start = _part_start(line)
        if start is None:
            lines.append(line)
            continue
        close()
        kind, rest = start
        if kind == "final" and not titled:
            # What stands before the title FINAL REPORT (a requisition, a stamp) is not of it.
            found = [part for part in found if part.kind != "final"]
            titled = True
        lines.append(rest)
    close()
    return found


def _part_start(line: str) -> tuple[PartKind, str] | None:
    """(kind, what else is on the line) if the line begins a part."""
    match = _PART.match(line)
    if match is None:
        return None
    title = match["final"] or match["provisional"] or match["addendum"]
    if title != title.upper() and match["rest"].strip():
        return None  # prose that happens to begin a line with these words
    kind: PartKind = "final" if match["final"] else "provisional" if match["provisional"] else "addendum"
    rest = line[match.end() :]
    if match["rest"].strip():
        rest = match["rest"] + match["end"] + rest
    return kind, "" if _STAMP.match(rest) else rest


def sections(text: str) -> list[Section]:
    """One part cut at the headers that are known; capitals with a colon inside a reading ("LUNGS:") stay in it."""
    cuts: dict[int, tuple[int, SectionKind]] = {}
    for pattern in (_HEADER, _BARE_HEADER, _INLINE_HEADER):
        for match in pattern.finditer(text):
            if match.groupdict().get("end", ":") != ":" and match["name"] != match["name"].upper():
                continue  # "findings; " in the middle of a sentence
            kind = _kind(match["name"], match.groupdict().get("end") == ":")
            if kind:
                cuts.setdefault(match.start("name"), (match.end(), kind))
    found: list[Section] = []
    previous: tuple[int, SectionKind] = (0, "")
    for start in sorted(cuts):
        if start < previous[0]:
            continue
        if cuts[start][1] == "view" and previous[1] in ("findings", "impression"):
            continue  # a subheading of the reading
        found.append(Section(previous[1], text[previous[0] : start]))
        previous = cuts[start]
    found.append(Section(previous[1], text[previous[0] :]))
    return [section for section in found if section.kind or section.text.strip()]


@lru_cache(maxsize=4096)
def _kind(header: str, colon: bool) -> SectionKind:
    capitals = header == header.upper()
    words = [word for word in re.split(r"[^A-Z]+", header.upper()) if word]
    known = _READING_WORDS["findings"] | _READING_WORDS["impression"]
    if any(word in known for word in words) and all(word in known | _FILLER_WORDS for word in words):
        return "findings" if any(word in _READING_WORDS["findings"] for word in words) else "impression"
    name = re.sub(r"[^A-Z0-9 ]+", " ", header.upper().replace("(S)", "S"))
    name = " ".join(name.split())
    # In small letters these words also occur in a reading, so there they must look like a header.
    if (_OTHER.fullmatch(name) and (capitals or (colon and header[0].isupper()))) or (
        capitals and _OTHER_IN_CAPITALS.fullmatch(name)
    ):
        return "other"
    return "view" if capitals and colon and _VIEW.search(name) else ""


def _under_headers(text: str) -> str:
    found = sections(text)
    findings = _texts(found, "findings") or [t for t in _texts(found, "view") if len(t.split()) >= _ENOUGH_WORDS]
    return " ".join(findings + _texts(found, "impression"))


def _texts(found: list[Section], kind: SectionKind) -> list[str]:
    return [text for section in found if section.kind == kind and (text := one_line(section.text))]


def _last_paragraph(text: str) -> str:
    for paragraph in reversed(re.split(r"\n[ \t]*\n", text)):
        found = sections(paragraph)
        if found and found[0].kind == "":
            return one_line(found[0].text)
    return ""


def _addendum(text: str) -> str:
    found = sections(text)
    return " ".join(_texts(found, "findings") + _texts(found, "impression")) or one_line(text)
