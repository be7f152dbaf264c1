"""What can be wrong with a chest, and how a radiologist says so.

Every phrase carries the labels that *it alone* asserts, as codes before the bar; ``-`` marks a finding that is none of
the fourteen (a report with one is not normal, and has no label for it). The labels of a report are the union over its
sentences, so text and labels cannot disagree.

Label rules, where reporting is ambiguous:

- *Asserted* counts: stated plainly, or "consistent with", "compatible with", "likely", "probable", "suggestive of",
  "representing". In a bare pair ("atelectasis versus infiltrate") only the first counts.
- *Hedged* does not: "may", "could", "possible", "question", "suspicious for", "concerning for", "cannot be excluded".
- Resolved or removed does not; unchanged, improved and worse do.
- Opacity, density, airspace disease, infiltrate and consolidation are Lung Opacity, whatever causes them; pneumonia or
  atelectasis said without such a word is not. Consolidation is also Consolidation.
- A granuloma is a Lung Lesion, calcified or not; calcified lymph nodes and "prior granulomatous disease" are not.
- Wires, clips, valves, pacemakers, tubes and catheters are Support Devices; a stated operation alone is not.
- An enlarged heart is Cardiomegaly, an enlarged (cardiac or cardiomediastinal) silhouette is that and Enlarged
  Cardiomediastinum; a heart at the upper limits of normal is neither, but is not a normal report.
- Vascular congestion is Edema. Fractures of any age count; vertebral compression deformities do not.
- Scars, hyperinflation, degenerative spines, aortas, hernias, low volumes: none of the fourteen and not No Finding.

Template language: see `grammar.expand`. ``<chg>`` is the change since the last report ("new", "unchanged", or nothing).
"""

from __future__ import annotations

from dataclasses import dataclass

CODES = {
    "AT": "Atelectasis",
    "CM": "Cardiomegaly",
    "CO": "Consolidation",
    "ED": "Edema",
    "EC": "Enlarged Cardiomediastinum",
    "FX": "Fracture",
    "LL": "Lung Lesion",
    "LO": "Lung Opacity",
    "PE": "Pleural Effusion",
    "PO": "Pleural Other",
    "PN": "Pneumonia",
    "PX": "Pneumothorax",
    "SD": "Support Devices",
}


@dataclass(frozen=True)
class Phrase:
    """A sentence template and the labels it asserts; ``labels`` is empty for a finding outside the fourteen."""

    labels: frozenset[str]
    template: str


@dataclass(frozen=True)
class Finding:
    """One abnormality: where in a report it is mentioned (``place``), whether it goes away, and its phrases.

    ``body`` and ``impression`` are alternatives for one sentence each; ``name`` is the noun for "resolution of ...",
    empty if such a thing is never said of it.
    """

    place: str
    chronic: bool
    name: str
    body: tuple[Phrase, ...]
    impression: tuple[Phrase, ...]


def _phrases(block: str) -> tuple[Phrase, ...]:
    phrases = []
    for line in block.strip().splitlines():
        codes, template = line.split("|", 1)
        phrases.append(Phrase(frozenset(CODES[code] for code in codes.split() if code != "-"), template.strip()))
    return tuple(phrases)


def finding(place: str, body: str, impression: str, *, name: str = "", chronic: bool = False) -> Finding:
    """A finding from blocks of lines "CODES | template"; raises KeyError for a code that is not in `CODES`."""
    return Finding(place, chronic, name, _phrases(body), _phrases(impression))


LEXICON: dict[str, str] = {
    "degree": "[mild|mild|minimal|moderate|slight|subtle|]",
    "amount": "[small|small|small|tiny|trace|moderate|large|small to moderate|moderate to large|]",
    "growth": "[mild|mild|mild|moderate|marked|severe|borderline|slight|]",
    "mildly": "[mildly|mildly|moderately|markedly|slightly|borderline|]",
    "seen": "[is seen|is noted|is present|is identified|is again seen|is visualized|noted|seen|]",
    "are_seen": "[are seen|are noted|are present|are identified|are again seen|are visualized|noted|seen]",
    "there_is": "[There is|There is|Redemonstrated|There is|Again noted is|Note is made of|There appears to be|]",
    "there_are": "[There are|There are|Redemonstrated|Again noted are|There are|Again seen are|]",
    "texture": "[patchy|patchy|streaky|ill-defined|hazy|linear|bandlike|focal|vague|confluent|scattered"
    "|coarse|airspace]",
    "thin": "[streaky|linear|bandlike|platelike|streaky|scattered linear|discoid|curvilinear|patchy]",
    "likely": "[likely|probably|most likely|consistent with|compatible with|likely representing|suggestive of"
    "|most compatible with|most suggestive of|which is consistent with|likely reflecting|representing]",
    "maybe": "[may represent|could represent|may reflect|which may represent|possibly|which could reflect"
    "|possibly due to|may be due to|cannot exclude|suspicious for|concerning for|question]",
    "mm": "[3|4|5|6|7|8|9|10|11|12] mm",
    "cm": "[1.2|1.4|1.8|2|2.1|2.4|2.6|3|3.5|4|4.8|5.2|7] cm",
    "rib": "[2nd|3rd|4th|5th|6th|7th|8th|9th]",
    "level": "[T4|T5|T6|T7|T8|T9|T11|T12|L1]",
    "where_base": "[in the <base>|at the <base>|within the <base>|of the <base>|in the <lobe>|in the lung bases"
    "|of both lung bases|at the bases|bilaterally]",
    "where": "[in the <zone>|within the <zone>|in the <lobe>|in the <lobe>|within the <lobe>|in the <zone>"
    "|projecting over the <zone>|in the <side> lung|in both lungs|bilaterally]",
    "tail": "[, unchanged|, not significantly changed| as before|, stable from prior exam| as seen previously||||]",
    "tip": "[tip in the SVC|tip overlying the mid SVC|distal tip in the lower superior vena cava|tip at the cavoatrial"
    " junction|tip projecting over the right atrium|tip in satisfactory position|tip near the brachiocephalic vein]",
    "follow": "[Recommend|Consider|Suggest] [CT of the chest|followup radiographs|short interval followup"
    "|nonemergent chest CT|comparison with prior films|clinical correlation] [for further evaluation|to document"
    " resolution|to exclude malignancy|if clinically indicated|after treatment].",
}
