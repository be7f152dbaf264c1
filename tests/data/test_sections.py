from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrad.data.sections import parts, read_report, sections

TITLE = "                                 FINAL REPORT\n"
RULE = "______________________________________________________________________________\n"

CASES = {
    "findings and impression": (
        TITLE + " EXAMINATION:  CHEST (PA AND LAT)\n\n INDICATION:  ___F with cough  // pneumonia?\n\n"
        " TECHNIQUE:  PA.\n\n COMPARISON:  ___\n\n FINDINGS: \n\n The lungs are\n clear.  No effusion.\n\n"
        " IMPRESSION: \n\n No pneumonia.\n",
        "The lungs are clear. No effusion. No pneumonia.",
    ),
    "impression first": (
        TITLE + " IMPRESSION: Normal.\n\n FINDINGS: Clear lungs.\n",
        "Clear lungs. Normal.",
    ),
    "impression only": (
        TITLE + " INDICATION: Fall.\n\n Heart size.\n\n IMPRESSION:  Rib fracture.\n",
        "Rib fracture.",
    ),
    "findings only": (TITLE + " FINDINGS: Clear.\n", "Clear."),
    "empty impression": (TITLE + " FINDINGS: Clear.\n IMPRESSION:\n", "Clear."),
    "small letters": (TITLE + " Findings: Clear lungs.\n\n impression: Normal.\n", "Clear lungs. Normal."),
    "capitals within small": ("History: cough\nFindings: clear\nImpression: normal", "clear normal"),
    "joined with and": (TITLE + " HISTORY: Cough.\n\n FINDINGS AND IMPRESSION: Clear.\n", "Clear."),
    "joined with slash": (TITLE + " COMPARISON: None.\n\n FINDINGS/IMPRESSION: Clear.\n", "Clear."),
    "joined the other way": (TITLE + " IMPRESSION AND FINDINGS: Clear.\n", "Clear."),
    "joined, then impression": (TITLE + " FINDINGS/IMPRESSION: Clear.\n\n IMPRESSION: Normal.\n", "Clear. Normal."),
    "conclusion": (TITLE + " REPORT: x\n CONCLUSION: Normal.\n", "Normal."),
    "misspelt": (TITLE + " FINDINGS: Clear.\n\n IMPRESSON: Normal.\n", "Clear. Normal."),
    "plural": (TITLE + " IMPRESSIONS: Normal.\n", "Normal."),
    "without colon": (TITLE + " FINDINGS\n Clear.\n\n IMPRESSION\n Normal.\n", "Clear. Normal."),
    "in the middle of a line": (TITLE + " COMPARISON: None. FINDINGS: Clear. IMPRESSION: Normal.\n", "Clear. Normal."),
    "dash in capitals": (TITLE + " IMPRESSION - Normal.\n", "Normal."),
    "recommendation ends it": (TITLE + " IMPRESSION: Nodule.\n\n RECOMMENDATION(S): CT.\n", "Nodule."),
    "notification ends it": (TITLE + " IMPRESSION: Tube low.\n\n NOTIFICATION:  Dr. ___ at 9:23 AM.\n", "Tube low."),
    "subheadings stay": (
        TITLE + " FINDINGS:\n LUNGS: Clear.\n CHEST WALL: Intact.\n",
        "LUNGS: Clear. CHEST WALL: Intact.",
    ),
    "two impressions": (TITLE + " IMPRESSION: One.\n\n IMPRESSION: Two.\n", "One. Two."),
    "no header": (
        TITLE + " AP chest compared with ___.\n\n The lungs are clear.\n Heart normal.\n",
        "The lungs are clear. Heart normal.",
    ),
    "no header, one paragraph": ("The lungs are clear.", "The lungs are clear."),
    "no reading header": (
        TITLE + " INDICATION: Cough.\n\n Lungs are clear.\n\n NOTIFICATION: Dr. ___.\n",
        "Lungs are clear.",
    ),
    "view as header": (
        TITLE + " HISTORY: Cough.\n\n PA AND LATERAL CHEST: The lungs are clear and the heart is normal.\n",
        "The lungs are clear and the heart is normal.",
    ),
    "view as findings": (
        TITLE + " HISTORY: Cough.\n\n FRONTAL CHEST RADIOGRAPH: The lungs are clear and normal.\n\n"
        " IMPRESSION: Normal.\n",
        "The lungs are clear and normal. Normal.",
    ),
    "view as title": (TITLE + " CHEST RADIOGRAPH:  Portable.\n\n IMPRESSION: Normal.\n", "Normal."),
    "wet read before final": (
        "WET READ: ___ ___ ___ 9:23 AM\n  Large effusion.\n" + RULE + TITLE + " IMPRESSION: No effusion.\n",
        "No effusion.",
    ),
    "wet read versions before final": (
        "WET READ: ABC MON ___ 9:23 AM\n One.\nWET READ VERSION #1 ABC MON ___ 8:00 PM\n Two.\n"
        + RULE
        + TITLE
        + " FINDINGS: X.\n",
        "X.",
    ),
    "wet read alone": ("WET READ: ___ ___ 9:23 AM\n  Large effusion.\n", "Large effusion."),
    "wet read with headers alone": ("WET READ: 9:23 AM\n IMPRESSION: Large effusion.\n", "Large effusion."),
    "wet read, then untitled": (
        "WET READ: 9:23 AM\n Effusion.\n" + RULE + " IMPRESSION: No effusion.\n",
        "No effusion.",
    ),
    "preliminary before final": (
        "PRELIMINARY REPORT\n IMPRESSION: Mass.\n" + TITLE + " IMPRESSION: No mass.\n",
        "No mass.",
    ),
    "preliminary alone": ("PRELIMINARY REPORT\n IMPRESSION: Mass.\n", "Mass."),
    "wet read after final": (TITLE + " IMPRESSION: Clear.\n\nWET READ: ___ 9:23 AM\n Effusion.\n", "Clear."),
    "addendum before final": (
        "                                 FINAL ADDENDUM\n ADDENDUM:\n\n The line ends in the right atrium.\n\n"
        + RULE
        + TITLE
        + " IMPRESSION: Clear.\n",
        "Clear. The line ends in the right atrium.",
    ),
    "addendum behind": (TITLE + " IMPRESSION: Clear.\n\n ADDENDUM:  Rib fracture.\n", "Clear. Rib fracture."),
    "addendum with header": (
        TITLE + " IMPRESSION: Clear.\n\n ADDENDUM\n HISTORY: x\n IMPRESSION: Fracture.\n",
        "Clear. Fracture.",
    ),
    "two addenda": (TITLE + " IMPRESSION: A.\n ADDENDUM: B.\n ADDENDUM: C.\n", "A. B. C."),
    "addendum alone": ("ADDENDUM: Rib fracture.", "Rib fracture."),
    "addendum on the line": (TITLE + " IMPRESSION: A.\n\n ADDENDUM  The tube was moved.\n", "A. The tube was moved."),
    "final after final": (TITLE + " IMPRESSION: Old.\n" + TITLE + " IMPRESSION: New.\n", "New."),
    "stray line behind final": (TITLE + " IMPRESSION: A.\n ADDENDUM: B.\n" + RULE + " Dr. ___\n", "A. B."),
    "stamp before title": ("Requisition 12\n" + TITLE + " IMPRESSION: A.\n", "A."),
    "title with more on it": (" FINAL REPORT  IMPRESSION: A.\n", "A."),
    "removed names stay": (
        TITLE + " FINDINGS: Compared to ___, clear. ___ tube.\n",
        "Compared to ___, clear. ___ tube.",
    ),
    "rule in the final": (TITLE + " FINDINGS: Clear.\n" + RULE + " IMPRESSION: Normal.\n", "Clear. Normal."),
    "windows line ends": ("FINAL REPORT\r\nFINDINGS:\r\n Clear.\r\n\r\nIMPRESSION: Normal.\r\n", "Clear. Normal."),
    "prose like headers": (
        TITLE + " FINDINGS: There is, in\n comparison: a new mass; no other\n findings; stable.\n",
        "There is, in comparison: a new mass; no other findings; stable.",
    ),
    "prose like parts": (
        TITLE + " IMPRESSION: Differs from\n wet read by Dr. ___.\n",
        "Differs from wet read by Dr. ___.",
    ),
    "dash, then a new line": (TITLE + " FINDINGS -\n Clear.\n IMPRESSION -\n Normal.\n", "Clear. Normal."),
    "two dashes": (TITLE + " FINDINGS--Clear.\n IMPRESSION --\n Normal.\n", "Clear. Normal."),
    "long dashes": (TITLE + " FINDINGS – Clear.\n IMPRESSION—Normal.\n", "Clear. Normal."),
    "dash at the word": (TITLE + " FINDINGS-\n Clear.\n Impression-\n Normal.\n", "Clear. Normal."),
    "dash in small letters": ("Findings - Clear.\nImpression - Normal.", "Clear. Normal."),
    "space before the colon": ("Findings : Clear.\nIMPRESSION : Normal.", "Clear. Normal."),
    "hyphens are no headers": (
        TITLE + " FINDINGS: A well-\n defined mass - stable.\n",
        "A well- defined mass - stable.",
    ),
    "lines of the reading": (
        TITLE + " FINDINGS:\n Comparison: CT of ___.\n Lungs are clear.\n Technique: low dose.\n History: edema.\n"
        " IMPRESSION: Normal.\n",
        "Comparison: CT of ___. Lungs are clear. Technique: low dose. History: edema. Normal.",
    ),
    "recommendation in small letters ends it": (TITLE + " IMPRESSION: Nodule.\n Recommendation: CT.\n", "Nodule."),
    "placeholders": (TITLE + " FINDINGS: None.\n IMPRESSION: No edema.\n", "No edema."),
    "placeholders alone": (TITLE + " FINDINGS: nan\n IMPRESSION: XXXX.\n", ""),
    "words like placeholders": (TITLE + " FINDINGS: None seen.\n IMPRESSION: Normal.\n", "None seen. Normal."),
    "last paragraph is a placeholder": (TITLE + " The lungs are clear.\n\n ___\n", "The lungs are clear."),
    "placeholder final gives way": (
        "WET READ: 9:23 AM\n Effusion.\n" + RULE + TITLE + " IMPRESSION: None.\n",
        "Effusion.",
    ),
    "nothing": ("", ""),
    "title only": (TITLE, ""),
    "headers only": (TITLE + " FINDINGS:\n\n IMPRESSION:\n", ""),
    "indication only": (TITLE + " INDICATION: Cough.\n", ""),
}


def reading(report: str) -> str:
    return read_report(report).text


@pytest.mark.parametrize("case", CASES)
def test_reading(case: str) -> None:
    report, expected = CASES[case]
    assert reading(report) == expected


@pytest.mark.parametrize(
    ("report", "placeholder", "cut"),
    [
        (" FINDINGS: Clear.\n IMPRESSION: Normal.\n", False, False),
        (" FINDINGS: nan\n IMPRESSION: Normal.\n", True, False),
        (" FINDINGS: \n IMPRESSION: Normal.\n", False, False),
        ("N/A", True, False),
        (" \n", False, False),
        (" COMPARISON: None.\n FINDINGS: Clear.\n", False, False),
        (" FINDINGS: Clear.\n COMPARISON: A nodule in ___.\n IMPRESSION: Normal.\n", False, True),
        ("Findings: Clear.\nTechnique: AP, with a nodule.\nImpression: Normal.\n", False, True),
        (" IMPRESSION: Normal.\n HISTORY: Edema.\n", False, True),
        (" FINDINGS: Clear.\n COMPARISON: None.\n IMPRESSION: Normal.\n", False, False),  # it says nothing
        (" FINDINGS: Clear.\n Comparison: A nodule.\n IMPRESSION: Normal.\n", False, False),  # it is kept
        (" FINDINGS: Clear.\n NOTIFICATION: Dr. ___ by telephone.\n", False, False),  # it always stands behind
        (" CHEST RADIOGRAPH: Portable.\n COMPARISON: ___ 2.\n IMPRESSION: Normal.\n", False, False),  # a title
        (" PA CHEST: The lungs are clear and normal.\n COMPARISON: A nodule.\n", False, True),
    ],
)
def test_placeholders_and_sections_behind_the_reading_are_told(report: str, placeholder: bool, cut: bool) -> None:
    assert read_report(TITLE + report)[1:] == (placeholder, cut)


def test_parts_name_who_wrote_when() -> None:
    report = "WET READ: 9:23 AM\n a\n" + RULE + TITLE + " b\n ADDENDUM: c\n"
    assert [(part.kind, part.text.strip()) for part in parts(report)] == [
        ("provisional", "a"),
        ("final", "b"),
        ("addendum", "c"),
    ]


def test_sections_keep_text_before_the_first_header() -> None:
    found = sections("Chest.\n HISTORY: Cough.\n FINDINGS: Clear.")
    assert [(section.kind, section.text.strip()) for section in found] == [
        ("", "Chest."),
        ("other", "Cough."),
        ("findings", "Clear."),
    ]


_line = st.one_of(
    st.sampled_from(
        ["FINDINGS:", "IMPRESSION: x", "WET READ: 9:23 AM", "FINAL REPORT", "ADDENDUM:", "", "_" * 20, "a; b"]
    ),
    st.text(max_size=40),
)


@given(st.lists(_line, max_size=12).map("\n".join))
def test_any_text_gives_one_normalised_line_of_its_own_words(report: str) -> None:
    text = reading(report)
    assert text == " ".join(text.split())
    assert len(text) <= len(report) + report.count("\n") + 1


@given(st.text(alphabet=st.characters(categories=["Ll"]), min_size=1, max_size=30))
def test_a_plain_report_is_read_whole(words: str) -> None:
    body = f"the {words} is clear"
    assert reading(f"FINAL REPORT\n FINDINGS:\n {body}\n IMPRESSION:\n {body}\n") == f"{body} {body}"
