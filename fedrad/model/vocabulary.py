"""Checks that a tokenizer reads English reports.

A tokenizer without its vocabulary loads without an error, and then turns every word into the unknown token: training
would waste the whole privacy budget.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad.errors import ModelError

# A public text, written for this check, with common words of chest reports.
REPORT = """\
Chest radiograph, AP and lateral views. Comparison is made with the prior CT. The heart size is normal. The lungs are
clear. There is no focal consolidation, pleural effusion or pneumothorax. A small left pleural effusion has increased
since the previous study, with mild atelectasis at the right lower lobe. Findings are concerning for pneumonia or
pulmonary edema. The cardiomediastinal silhouette and hilar contours are unremarkable. No acute fracture is seen.
"""

# Measured on this report. Unread: 0 % with BERT and RoBERTa vocabularies, 8 % with the Chinese BERT's (few capitals),
# 11 % with an uncased vocabulary without lower-casing, 90 % or more with a vocabulary cut off within its first 2000
# tokens. Pieces per word: uncased BERT 1.6, Spanish RoBERTa 2.1, Chinese BERT 2.3, Kazakh RoBERTa 2.9; 5.5 to 6.5 with
# single characters, which are left of a byte-level vocabulary without its merges.
MOST_UNREAD = 0.1
MOST_PIECES = 4.0
# Embedding tables are padded by a few per cent (to a multiple of 64, 128 or 1024), not by more.
LEAST_NAMED = 0.9
# Most tokens of a byte-pair vocabulary without a merge: 256 bytes, the same at the end of a word, special tokens.
UNMERGED = 600


@dataclass(frozen=True)
class Reading:
    """How a tokenizer splits ``REPORT``.

    Attributes:
        unread: share of its characters, except blanks, that no known piece covers.
        pieces: mean number of pieces per word.
    """

    unread: float
    pieces: float


def reading(tokenizer: Any) -> Reading:
    """How much of an ordinary report a fast tokenizer reads.

    Counts characters, not pieces: some tokenizers drop what they do not know.
    """
    try:
        # No vocabulary has this cuneiform sign, so its tokens are those for unknown text, even if the tokenizer does
        # not declare them.
        sign = tokenizer("\U00012000", add_special_tokens=False)["input_ids"]
        encoded = tokenizer(REPORT, add_special_tokens=False, return_offsets_mapping=True)
    except Exception:  # what the tokenizers library raises, for instance if the unknown token is cut off
        return Reading(unread=1.0, pieces=0.0)
    unknown = {*tokenizer.all_special_ids, *sign}
    pieces = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    covered = {place for piece, span in pieces if piece not in unknown for place in range(*span)}
    letters = [place for place, letter in enumerate(REPORT) if not letter.isspace()]
    unread = sum(place not in covered for place in letters) / len(letters)
    return Reading(unread, len(pieces) / len(REPORT.split()))


def check_vocabulary(name: str, source: str, files: Sequence[str], tokenizer: Any, embeddings: int) -> None:
    """Refuses a tokenizer that does not belong to its model, or that has lost its vocabulary.

    Args:
        name: of the base model, for the message.
        source: folder or hub id of the tokenizer.
        files: as ``Family.tokenizer_files``.
        embeddings: rows of the embedding table.

    Raises:
        ModelError: ids beyond the embeddings, far fewer tokens than embeddings, or a usual report that is unread or cut
            into single characters.
    """
    ids = set(tokenizer.get_vocab().values())
    if max(ids, default=-1) >= embeddings:
        raise ModelError(
            f"base model {name!r}: its tokenizer has ids beyond its {embeddings} embeddings, so some texts would"
            " fail; take a tokenizer that belongs to the model."
        )
    found = reading(tokenizer)
    problems = []
    if found.unread > MOST_UNREAD:
        problems.append(
            f"its tokenizer can't read {found.unread:.0%} of an ordinary chest report (at most {MOST_UNREAD:.0%}), so"
            " most reports would look alike and the privacy budget would be wasted"
        )
    elif found.pieces > MOST_PIECES:
        problems.append(
            f"its tokenizer cuts an ordinary chest report into {found.pieces:.1f} pieces a word (at most"
            f" {MOST_PIECES:.0f}): it has lost its words, and only single characters are left"
        )
    if (used := min(len(ids), _reachable(tokenizer))) < LEAST_NAMED * embeddings:
        problems.append(f"its tokenizer can make no more than {used} of the model's {embeddings} tokens")
    if problems:
        raise ModelError(f"base model {name!r}: {'; '.join(problems)}. {remedy(source, files)}")


def remedy(source: str, files: Sequence[str]) -> str:
    """Which tokenizer files a folder lacks, and what to do."""
    copy = (
        f"Copy the model's own tokenizer files again, whole ({' or '.join(files)}, and tokenizer_config.json), with"
        " config.json and weights of the same model."
    )
    if not Path(source).is_dir():
        return copy
    here = {path.name for path in Path(source).iterdir()}
    if any(here.issuperset(each.split(" with ")) for each in files):
        return f"The tokenizer files in {source} are cut off or belong to another model. {copy}"
    wanted = " with ".join(files).split(" with ")
    return f"{source} lacks {', '.join(file for file in wanted if file not in here)}. {copy}"


def _reachable(tokenizer: Any) -> float:
    """Most tokens that a byte-pair vocabulary can make; infinite for other kinds."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return len(model["merges"]) + UNMERGED if model["type"] == "BPE" else math.inf
