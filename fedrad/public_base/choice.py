"""The base model that a run starts from, and what that base already knows of the run's labels.

With ``train.warm-start = "synthetic"`` a run starts from a public base: the one that comes with fedrad, a folder that
``fedrad base build`` made, or, in a simulation, one that is built once and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import fedrad
from fedrad.cache import fedrad_cache_dir, sources
from fedrad.config import Experiment
from fedrad.corpora import COLLECTIONS
from fedrad.data.label_names import positions
from fedrad.errors import ModelError
from fedrad.model.base import BaseModel, load_base
from fedrad.public_base.build import Line, train_base
from fedrad.public_base.folder import write_base_folder
from fedrad.public_base.text import BaseRecipe


def base_of(experiment: Experiment) -> BaseModel:
    """The base model of a run: ``model.name``, or its public base if the run starts warm.

    If ``model.name`` is not a public base, one is built from it, which takes minutes, and kept in the cache folder. Its
    weights depend on the machine, so hospitals of a real federation can't each build their own
    (``policy.accept_model``).

    Raises:
        ModelError: as `load_base`.
    """
    base = load_base(experiment.base_name, experiment.model.revision, experiment.model.quantize)
    if experiment.warm_start != "synthetic" or base.public_head is not None:
        return base
    train = experiment.train
    recipe = BaseRecipe(  # with the same seed for every run, so the base is made once
        reports=train.warm_reports, epochs=train.warm_epochs, max_length=min(256, base.max_length)
    )
    facts = [base.sha256, asdict(recipe), train.threads, fedrad.__version__, _source_digest()]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    folder = fedrad_cache_dir() / "bases" / key
    if not folder.is_dir():
        print(f"fedrad: building the public base of {base.name!r} on generated reports, once", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        line = Line()
        trained, head = train_base(base, recipe, line)
        line.end()
        try:
            write_base_folder(trained, head, folder, {"made of": base.name, **asdict(recipe)})
        except ModelError:
            if not folder.is_dir():  # otherwise another run has built it meanwhile
                raise
    return load_base(str(folder))


def _source_digest() -> str:
    """A hash of the code and the phrases that the built base depends on."""
    digest = hashlib.sha256()
    package = Path(fedrad.__file__).parent
    for part in ("corpora.py", "data", "model", "public_base"):
        for file in sources(package / part):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def starts_warm(experiment: Experiment, findings: Sequence[str]) -> bool:
    """Whether a run with these ``Task.findings`` starts from what generated text taught: a head, or an adapter."""
    return experiment.warm_start == "notes" or _knows(experiment, findings)


def _knows(experiment: Experiment, findings: Sequence[str]) -> bool:
    return experiment.warm_start == "synthetic" and len(unknown_labels(findings)) < len(findings)


def unknown_labels(names: Sequence[str]) -> tuple[str, ...]:
    """The labels that generated reports do not have."""
    known = COLLECTIONS[collection_of(names)]
    return tuple(name for name, place in zip(names, positions(names, known), strict=True) if place < 0)


def collection_of(names: Sequence[str]) -> str:
    """The collection that has most of these labels."""
    return max(COLLECTIONS, key=lambda which: sum(place >= 0 for place in positions(names, COLLECTIONS[which])))


def directions_of(experiment: Experiment, base: BaseModel, findings: Sequence[str]) -> int:
    """How many features the head reads; 0 means the whole pooled vector.

    A warm start reads the base's first ``model.directions`` principal directions, and as many more as its initial head
    needs.
    """
    head = base.public_head
    if head is None or not experiment.model.directions or not _knows(experiment, findings):
        return 0
    wanted = min(experiment.model.directions, len(head.directions)) + len(findings) - len(unknown_labels(findings))
    return min(wanted, base.hidden)
