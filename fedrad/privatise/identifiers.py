"""Finds identifiers in radiology reports by rules: names, dates, times, numbers, phones, e-mails, places, ages over 89.

The rules are public and rest on how reports are written in English. They miss what has no sign around it, such as a
bare surname, and what is written in another way. Nobody should rely on them alone; ``--ner`` adds a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, order=True)
class Span:
    """Characters ``start`` to ``end`` (exclusive) of a text."""

    start: int
    end: int


_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_YEAR = r"(?:19|20)\d\d"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
_UNITS = r"(?!\s*(?:ml|cc|mm|cm|hu|mgy|mg|kg|ms|m\b|g\b|x\b|%))"

# A part of a name: "Smith", "SMITH", "O'Brien", "Garcia-Lopez", "J."; particles only between such parts.
_PART = r"(?:[A-ZÀ-Þ][\w'’\-]+|[A-ZÀ-Þ]\.?(?![\w']))"
_PARTICLE = r"(?:van|von|der|den|de|del|della|di|da|dos|la|le|al|el|bin|ibn|ter|ten)"
_NAME = rf"{_PART}(?:,?[ ]+(?:{_PARTICLE}[ ]+){{0,2}}{_PART}){{0,3}}"
_CREDENTIALS = r"(?:M\.?D\.?|D\.?O\.?|Ph\.?D\.?|R\.?N\.?|N\.?P\.?|P\.?A\.?(?:-C)?|FRCR|FRANZCR|DABR|MBBS|RT\(R\))"
_TITLE = r"(?:[Dd]r|DR|[Mm]rs?|MRS?|[Mm]s|MS|[Mm]iss|MISS|[Pp]rof(?:essor)?|PROF|[Dd]octor|[Ss]ister|[Nn]urse|[Rr]ev)"
_ROLE = (
    r"(?:patient(?:'s)?(?: name)?|pt(?: name)?|name|referr(?:ing|ed)(?: (?:physician|doctor|provider|by))?"
    r"|ordering(?: (?:physician|provider|doctor))|attending(?: (?:physician|radiologist))?|radiologist|resident|fellow"
    r"|technologist|consultant|(?:next of kin|daughter|son|wife|husband|mother|father|sister|brother|spouse|guardian)"
    r"|(?:electronically )?(?:signed|dictated|read|reported|interpreted|transcribed|reviewed|verified|approved"
    r"|performed|requested|ordered)(?: and \w+)? by|discussed with|communicated (?:to|with)|called to|notified"
    r"|conveyed to|relayed to|telephoned to|paged|spoke (?:to|with)|attn|cc)"
)
_PLACE_END = (
    r"(?:hospitals?|clinics?|infirmary|hospice|institute|university|college|medical cent(?:er|re)|health(?:care)?"
    r" cent(?:er|re)|cent(?:er|re)|nursing home|care home|prison|school"
    r"|street|st|road|rd|avenue|ave|lane|ln|drive|boulevard|blvd|way|court|crescent|square|terrace|county|city)"
)
_PHONE = r"(?:ext(?:ension)?|pager|beeper|bleep|tel|phone|fax)\.?[ ]*(?:number|no\.?|#|:)*"
_CAPITAL = r"[A-ZÀ-Þ][\w'’.\-]*"
_CAPITALS = rf"{_CAPITAL}(?:[ ]+{_CAPITAL}){{0,3}}"
_ZIP = r"\d{5}\b(?:-\d{4})?"
_STATES = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|OR|PA"
    "|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY"
)
_NUMBERED = (
    r"(?:mrn|mr|medical record|hospital|accession|acc|chart|account|acct|case|study|exam|patient|record|encounter"
    r"|visit|order|requisition|policy|member|insurance|licen[cs]e|passport|nhs|ssn|social security|serial|device|lot"
    r"|uhid|chi)"
)

# Each rule marks its group "id", or the whole match.
_RULES: Final[tuple[re.Pattern[str], ...]] = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", 0),
        (r"(?:https?://|www\.)\S+", re.I),
        # dates
        (r"\b\d{1,4}[/.\-]\d{1,2}[/.\-]\d{2,4}\b", 0),
        (rf"\b{_MONTH}[ ]+{_DAY}\b(?:,?[ ]+{_YEAR}\b)?", re.I),
        (rf"\b{_DAY}[ \-]+(?:of[ ]+)?{_MONTH}(?:[ ,\-]+(?:{_YEAR}|\d\d)\b)?", re.I),
        (rf"\b{_MONTH}(?:[ ,\-/]+|[ ]of[ ]){_YEAR}\b", re.I),
        (rf"\b(?:in|since|until|last|early|late|mid)[ \-]+(?P<id>{_MONTH})(?![\w])", re.I),
        (rf"\b\d{{1,2}}/{_YEAR}\b", 0),
        (r"\b(?:on|from|dated|since|of|dob:?)[ ]+(?P<id>\d{1,2}/\d{1,2})\b(?!/)", re.I),
        (rf"\b{_YEAR}\b{_UNITS}", re.I),
        (r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b", re.I),
        # times
        (r"\b\d{1,2}:\d{2}(?::\d{2})?(?:[ ]*[ap]\.?m\b\.?)?(?:[ ]*(?:hours|hrs|h)\b)?", re.I),
        (r"\b\d{1,2}(?:\.\d{2})?[ ]*[ap]\.?m\b\.?", re.I),
        (r"\b[0-2]\d[0-5]\d[ ]*(?:hours|hrs|h)\b", re.I),
        (r"\bat[ ]+(?P<id>[0-2]\d[0-5]\d)\b", re.I),
        # numbers of records, devices and accounts
        (
            rf"\b{_NUMBERED}(?:[ ]+(?:id|identifier))?[ ]*(?:number|num|no\.?|nr\.?|id|#)?[ ]*[:#=]?[ ]*"
            r"(?P<id>(?=[\w\-/]*\d{3})[A-Za-z0-9][\w\-/]*(?:[ ]\d{3,})*)",
            re.I,
        ),
        (r"\b\d{5,}\b", 0),
        (r"\b(?=[A-Za-z\-]*\d)(?=[\d\-]*[A-Za-z])(?:[A-Za-z\-]*\d){4,}[A-Za-z\d\-]*\b", 0),
        (r"\b\d{3}-\d{2}-\d{4}\b", 0),
        (r"\b\d{3}[ \-]\d{3}[ \-]\d{4}\b", 0),
        # phones
        (r"(?:\+\d{1,3}[ .\-]?)?\(?\b\d{2,5}\)?[ .\-]\d{3,4}[ .\-]?\d{3,4}\b", 0),
        (r"\b\d{3}[.\-]\d{4}\b", 0),
        (
            rf"\b{_PHONE}[ ]*(?P<id>\d{{3,}}[\d\-]*)",
            re.I,
        ),
        # ages over 89
        (r"\b(?P<id>9\d|1[0-2]\d)[ \-]*(?:years?|yrs?|y\.?[ ]*/?[ ]*o|yo|y)\b", re.I),
        (r"\b(?:aged?:?|age of)[ ]*(?P<id>9\d|1[0-2]\d)\b", re.I),
        (r"\b(?P<id>9\d|1[0-2]\d)(?=[MF]\b)", 0),
        (
            r"\b(?P<id>(?:ninety(?:[ \-](?:one|two|three|four|five|six|seven|eight|nine))?|(?:a[ ]|one[ ])?hundred"
            r"(?:[ ](?:and[ ])?\w+)?))[ \-]years?[ \-]old",
            re.I,
        ),
        # names
        (rf"\b(?P<id>{_TITLE}\.?[ ]+[^\W\d_][\w'’\-]*\.?(?:[ ]+(?:{_PARTICLE}[ ]+){{0,2}}{_PART}){{0,3}})", 0),
        (rf"(?i:\b{_ROLE})(?:[ ]*[:\-,])?[ ]+(?P<id>{_NAME})", 0),
        (rf"\b(?P<id>{_NAME}),?[ ]+{_CREDENTIALS}(?![\w])", 0),
        # places
        (rf"\b(?:\d+[ ]+)?(?:{_CAPITAL}[ ]+){{1,4}}(?i:{_PLACE_END})\b", 0),
        (
            rf"\b(?:Hospital|Clinic|University|Institute|City|County)[ ]+of[ ]+(?:the[ ]+)?{_CAPITALS}",
            0,
        ),
        (rf"\b(?:St\.?|Saint|Mount|Our Lady of)[ ]+{_CAPITAL}(?:'s)?", 0),
        (
            rf"\b{_CAPITALS}(?:,[ ]+(?:{_STATES})\b(?:[ ]+{_ZIP})?|[ ]+(?:{_STATES})[ ]+{_ZIP})",
            0,
        ),
        (r"\b[A-Z]{1,2}\d[A-Z\d]?[ ]\d[A-Z]{2}\b", 0),
        (
            r"\b(?i:lives in|living in|resident of|resides in|residing in|born in|transferred from|transfer from|moved"
            rf" from|visiting from|travel(?:l?ed)? (?:to|from)|returned from)[ ]+(?:the[ ]+)?"
            rf"(?P<id>{_CAPITALS})",
            0,
        ),
        (r"\b(?:ward|room|bed|bay|unit)[ ]+(?P<id>[A-Z]?\d+[A-Z]?|[A-Z]\d*)\b", re.I),
    )
)

# Words after "discussed with" and the like that begin nobody's name.
_NOBODY: Final = re.compile(
    r"(?:the|an?|no|none|he|she|they|his|her|emergency|e[dr]|[im]icu|micu|sicu|team|staff|department|surgery|medicine"
    r"|chest|ct|mri|xr|pa|ap|lateral|portable|exam|findings|impression|comparison|history|indication|technique|clinical"
    r"|is|was|has|with|and|age|sex|supine|upright|left|right|bilateral|small|mild|there|lungs|heart|in|unit)\b",
    re.IGNORECASE,
)


def identifiers(text: str) -> list[Span]:
    """The identifiers that the rules find, in order, without overlaps; those that touch are one."""
    found = []
    for rule in _RULES:
        for match in rule.finditer(text):
            start, end = match.span("id" if "id" in rule.groupindex else 0)
            if not _NOBODY.match(text, start):
                found.append(Span(start, end))
    return merged(found)


def merged(spans: Iterable[Span]) -> list[Span]:
    """The union of spans, in order."""
    union: list[Span] = []
    for span in sorted(spans):
        if union and span.start <= union[-1].end:
            union[-1] = Span(union[-1].start, max(span.end, union[-1].end))
        else:
            union.append(span)
    return union
