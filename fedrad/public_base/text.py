"""What a public base is trained on: generated reports of several phrase banks, with their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedrad.corpora import BANKS, COLLECTIONS, NO_OTHER_LABEL
from fedrad.data.batches import Tokenized
from fedrad.data.synthetic import generate
from fedrad.errors import ConfigError

# Share of each bank among the reports. The bank ``fedrad.corpora.UNSEEN`` is left out.
SHARES: Final[Mapping[str, float]] = {
    "chest-xray": 0.3,
    "chest-xray-icu": 0.15,
    "chest-xray-british": 0.15,
    "chest-xray-indian": 0.15,
    "chest-ct": 0.13,
    "chest-ct-western": 0.12,
}
ROWS: Final = {**COLLECTIONS, "chexpert": (*COLLECTIONS["chexpert"], NO_OTHER_LABEL)}
"""The labels of each collection, in the order of its head's rows."""
COLUMNS: Final = {
    "chexpert": slice(0, len(ROWS["chexpert"])),
    "ct-rate": slice(len(ROWS["chexpert"]), len(ROWS["chexpert"]) + len(ROWS["ct-rate"])),
}
"""The columns of each collection in the labels and mask of `read_text`."""

# Set apart from the seeds of synthetic corpora, so that the reports differ from theirs.
SEED_OFFSET: Final = 7_000_000
SITES: Final = 24


@dataclass(frozen=True)
class BaseRecipe:
    """How a public base is made.

    Attributes:
        reports: number of generated reports, all banks together.
        epochs: passes over them.
        learning_rate: of the encoder, at the peak of a one-cycle schedule; the head's is five times as high.
        batch: reports in a step.
        max_length: tokens at which a report is cut.
        banks: share of each phrase bank.
        half: 0 or 1 to use one half of the phrases only (``data.synthetic.halves``); None for all.
    """

    reports: int = 8000
    epochs: int = 1
    learning_rate: float = 2e-4
    batch: int = 32
    max_length: int = 256
    seed: int = 0
    banks: tuple[tuple[str, float], ...] = tuple(SHARES.items())
    half: int | None = None


def read_text(recipe: BaseRecipe, tokenizer: Any, *, reports: int = 0, seed: int = 0) -> Tokenized:
    """The reports of a recipe, bank by bank. Labels and mask are [n, 33]: the labels of both collections (``COLUMNS``).

    Args:
        reports: how many; default: as the recipe says.
        seed: added to the recipe's, for reports that it does not train on.
    Raises:
        ConfigError: so few reports that no bank has one.
    """
    ids: list[list[int]] = []
    labels: list[NDArray[np.float32]] = []
    total = sum(share for _, share in recipe.banks)
    for bank, share in recipe.banks:
        count = round((reports or recipe.reports) * share / total)
        rows = list(generate(count, SEED_OFFSET + recipe.seed + seed, SITES, bank=bank, half=recipe.half))
        for start in range(0, len(rows), 1000):
            texts = [row["text"] for row in rows[start : start + 1000]]
            ids += tokenizer(texts, truncation=True, max_length=recipe.max_length)["input_ids"]
        labels += [labels_of(row["labels"], bank) for row in rows]
    if not ids:
        raise ConfigError(f"{reports or recipe.reports} generated reports are too few for {len(recipe.banks)} banks")
    matrix = np.stack(labels)
    return Tokenized.of(ids, np.nan_to_num(matrix), (~np.isnan(matrix)).astype(np.float32))


def labels_of(given: Mapping[str, int], bank: str) -> NDArray[np.float32]:
    """The labels of a report of a bank, [33]; NaN for labels of the other collection."""
    collection = next(name for name, labels in COLLECTIONS.items() if labels == BANKS[bank])
    other = any(value for name, value in given.items() if name not in ("No Finding", "Support Devices"))
    full = {**given, NO_OTHER_LABEL: int(not other)}
    found = np.full(sum(map(len, ROWS.values())), np.nan, dtype=np.float32)
    found[COLUMNS[collection]] = [full[name] for name in ROWS[collection]]
    return found


def of_collection(tokens: Tokenized, collection: str) -> NDArray[np.int64]:
    """The reports of `read_text` whose labels are those of a collection."""
    return np.flatnonzero(tokens.mask[:, COLUMNS[collection].start])
