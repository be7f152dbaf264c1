"""Findings and impression out of a MIMIC-CXR report.

A report is plain text in one or more *parts* (a wet read, i.e. a resident's first impression; a preliminary report; the
final report; addenda). Each part has *sections* under headers like ``FINDINGS:``. Kept are:

1. The final report. Wet reads and preliminary reports count only if there is no final report.
2. From it, all findings, then all impressions (also ``FINDINGS AND IMPRESSION``, ``CONCLUSION``, in any case).
3. Without findings: the text under a header that names the view (``PA AND LATERAL CHEST: ...``), then the impression.
4. Without any of these: the last paragraph that is not under another header.
5. Addenda, at the end.

A section that holds only a placeholder (``cells.py``) is missing. Lines that begin ``Technique:`` or ``History:`` in
small letters belong to the reading around them if its own header is in capitals. White space is normalised;
de-identified spans ``___`` are kept. All functions are pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from fedrad.data.cells import said

PartKind = Literal["final", "provisional", "addendum"]
SectionKind = Literal["findings", "impression", "view", "other", ""]

# A line of underscores or dashes ends a wet read or an addendum; `___` alone is a removed name.
_RULE = re.compile(r"^[ \t]*(?:_{10,}|-{10,}|={10,})[ \t]*$")
_PART = re.compile(
    r"""^[ \t]*(?:
        (?P<final>FINAL[ ]+REPORT)
      | (?P<provisional>WET[ ]+READ | PRELIMINARY[ ]+(?:REPORT|READ) | PROVISIONAL[ ]+FINDINGS[ ]+IMPRESSION)
      | (?P<addendum>(?:FINAL[ ]+)?ADDENDUM)
    )\b(?P<rest>[^:\n]{0,60}?)(?P<end>:|[ \t]*$)""",
    re.VERBOSE | re.IGNORECASE,
)
# The rest of a part's title line is dropped if it is only a stamp: "WET READ VERSION #1 ___ MON ___ 9:23 PM".
_STAMP = re.compile(
    r"^[ \t]*(?:\(?VERSION\b.*|\([A-Z ]+\)|(?:(?:___|\w{2,4})[ \t]+){0,6}\d{1,2}:\d\d[ \t]*(?:AM|PM)?)[ \t:]*$",
    re.IGNORECASE,
)

_HEADER = re.compile(
    r"""^[ \t]*(?P<name>[A-Za-z][A-Za-z0-9 ,/&()'\-]{1,60}?)
        [ \t]*(?P<end>[:;–—] | -(?: -+ | (?=[ \t]*$) | (?<=[ \t]-)(?=[ \t]) ))""",
    re.MULTILINE | re.VERBOSE,
)
_BARE_HEADER = re.compile(
    r"^[ \t]*(?P<name>FINDINGS|IMPRESSION|FINDINGS[ ]?(?:AND|/|&)[ ]?IMPRESSION|CONCLUSION)[ \t.–—-]*$",
    re.MULTILINE | re.IGNORECASE,
)
# Within a line, only these two words in capitals are headers: "COMPARISON: None. IMPRESSION: Clear."
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
_BEFORE = re.compile(
    r"\b(?:TECHNI|COMPARISON|HISTORY|INDICATION|INFORMATION|CONTEXT|QUESTION|REASON|EXAM|STUD|PROCEDURE)"
)
_VIEW = re.compile(r"\b(?:CHEST|VIEWS?|RADIOGRAPHS?|RADIOGRAPHY|FILMS?|X ?RAYS?|CXR|PORTABLE|AP|PA|LATERAL)\b")
_ENOUGH_WORDS = 5


@dataclass(frozen=True)
class Part:
    """A piece of a report that was written at one time."""

    kind: PartKind
    text: str


@dataclass(frozen=True)
class Section:
    """The text under one header, without the header. Kind "" is text before any header.

    ``says`` is the text as one line, or "" if it is a placeholder.
    """

    kind: SectionKind
    text: str
    header: str
    says: str


class Reading(NamedTuple):
    """What a report says.

    Attributes:
        text: what the radiologist saw and concluded, as one line; "" if there is nothing.
        placeholder: whether a section of it, or all of it, is a placeholder.
        cut: whether a section like ``COMPARISON:``, which belongs before a reading, follows it and was left out.
    """

    text: str
    placeholder: bool
    cut: bool


def read_report(report: str) -> Reading:
    """Applies the rules above."""
    pieces = parts(report)
    body, used = "", list[Section]()
    for kind in ("final", "provisional"):
        found = [(part.text, sections(part.text)) for part in pieces if part.kind == kind]
        # The last final report is valid, unless it is only a stray line such as a signature.
        bodies = [(text, cut) for _, cut in found if (text := _under_headers(cut))]
        bodies = bodies or [(text, cut) for whole, cut in found if (text := _last_paragraph(whole))]
        used = bodies[-1][1] if bodies else used or [section for _, cut in found for section in cut]
        if bodies:
            body = bodies[-1][0]
            break
    addenda = [_addendum(part.text) for part in pieces if part.kind == "addendum"]
    text = " ".join(text for text in [body, *addenda] if text)
    kinds = ("findings", "impression") if body else ("findings", "impression", "")
    placeholder = any(s.kind in kinds and not s.says and s.text.strip() for s in used)
    views = () if _texts(used, "findings") else ("view",)
    first = next(
        (
            k
            for k, section in enumerate(used)
            if section.kind in ("findings", "impression") or (section.kind in views and _under_headers([section]))
        ),
        len(used),
    )
    return Reading(text, placeholder, any(_is_before(s.header) and s.says != "" for s in used[first:]))


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
            # Text before the title FINAL REPORT (a requisition, a stamp) is not part of the report.
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
    """One part cut at known headers. Subheadings of a reading, such as "LUNGS:", stay in it."""
    cuts: dict[int, tuple[int, SectionKind, str]] = {}
    for pattern in (_HEADER, _BARE_HEADER, _INLINE_HEADER):
        for match in pattern.finditer(text):
            name, end = match["name"], match.groupdict().get("end", ":")
            if end != ":" and name != name.upper() and (end == ";" or not name[0].isupper()):
                continue  # "findings; " in the middle of a sentence
            kind = _kind(name, match.groupdict().get("end") == ":")
            if kind and (end == ":" or name == name.upper() or kind in ("findings", "impression")):
                cuts.setdefault(match.start("name"), (match.end(), kind, name))
    found: list[Section] = []
    start_at, kind, header = 0, "", ""
    for start in sorted(cuts):
        if start < start_at:
            continue
        end, next_kind, name = cuts[start]
        in_reading = kind in ("findings", "impression")
        if in_reading and next_kind == "view":
            continue  # a subheading of the reading
        if in_reading and header == header.upper() and name != name.upper() and _is_before(name):
            continue  # a line of the reading, whose own header looks different
        found.append(Section(kind, text[start_at:start], header, said(text[start_at:start])))
        start_at, kind, header = end, next_kind, name
    found.append(Section(kind, text[start_at:], header, said(text[start_at:])))
    return [section for section in found if section.kind or section.text.strip()]


@lru_cache(maxsize=4096)
def _is_before(header: str) -> bool:
    """Whether sections of this name usually precede a reading; behind one, their text may be part of it."""
    return bool(_BEFORE.search(header.upper())) and _kind(header, True) == "other"


@lru_cache(maxsize=4096)
def _kind(header: str, colon: bool) -> SectionKind:
    capitals = header == header.upper()
    words = [word for word in re.split(r"[^A-Z]+", header.upper()) if word]
    known = _READING_WORDS["findings"] | _READING_WORDS["impression"]
    if any(word in known for word in words) and all(word in known | _FILLER_WORDS for word in words):
        return "findings" if any(word in _READING_WORDS["findings"] for word in words) else "impression"
    name = re.sub(r"[^A-Z0-9 ]+", " ", header.upper().replace("(S)", "S"))
    name = " ".join(name.split())
    # In small letters these words also occur in prose, so they must look like a header.
    if (_OTHER.fullmatch(name) and (capitals or (colon and header[0].isupper()))) or (
        capitals and _OTHER_IN_CAPITALS.fullmatch(name)
    ):
        return "other"
    return "view" if capitals and colon and _VIEW.search(name) else ""


def _under_headers(found: list[Section]) -> str:
    findings = _texts(found, "findings") or _texts(found, "view", _ENOUGH_WORDS)
    return " ".join(findings + _texts(found, "impression"))


def _texts(found: list[Section], kind: SectionKind, words: int = 1) -> list[str]:
    texts = [section.says for section in found if section.kind == kind and section.says]
    return [text for text in texts if text.count(" ") + 1 >= words]


def _last_paragraph(text: str) -> str:
    for paragraph in reversed(re.split(r"\n[ \t]*\n", text)):
        found = sections(paragraph)
        if found and found[0].kind == "" and found[0].says:
            return found[0].says
    return ""


def _addendum(text: str) -> str:
    found = sections(text)
    return " ".join(_texts(found, "findings") + _texts(found, "impression")) or said(text)
