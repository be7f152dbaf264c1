"""The experiment: the settings of one run, read from TOML and overrides and checked together.

An :class:`Experiment` consists of the frozen sections of ``settings.py`` and ``settings_data.py``. ``keys.py`` checks
single values, and the table in ``rules.py`` their combinations.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from fedrad import rules
from fedrad.corpora import CORPORA, UNSEEN, Corpus, label_columns, names_in
from fedrad.errors import ConfigError
from fedrad.installed import strategy_class
from fedrad.keys import KEYS, SECTIONS, Plain, parse_overrides, read_flat, shown, unknown
from fedrad.settings import AUTO, CAUSAL, CHEST, EMBEDDED, Lora, Model, Privacy, Run, Strategy, Train
from fedrad.settings_data import Data, Sites

_BATCH = 128
_ALL_LINEAR = ("all-linear",)
_LORA_PAYS_FROM = 1000  # reports of a hospital x min(epsilon, 1); benchmarks/private_phase.py, docs/utility.md


@dataclass(frozen=True)
class Experiment:
    """One experiment, checked. Build it with :meth:`load` or :meth:`from_flat`.

    Raises:
        ConfigError: on construction, with every problem at once.
    """

    data: Data = field(default_factory=Data)
    sites: Sites = field(default_factory=Sites)
    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    privacy: Privacy = field(default_factory=Privacy)
    train: Train = field(default_factory=Train)
    strategy: Strategy = field(default_factory=Strategy)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        if problems := _problems(self):
            raise ConfigError(problems)

    @classmethod
    def load(cls, path: Path | None = None, overrides: Mapping[str, object] | Sequence[str] = ()) -> Experiment:
        """Read a TOML file (or only the defaults) and apply overrides.

        Args:
            path: TOML file, or None.
            overrides: typed values by dotted key, or strings ``"privacy.epsilon=1"`` whose values are TOML; a bare
                word is taken as a string.

        Raises:
            ConfigError: the file can't be read, or any key or value is wrong (all of them at once).
        """
        flat = {} if path is None else read_flat(path)
        changes = dict(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
        return cls.from_flat(flat | changes)

    @classmethod
    def from_flat(cls, flat: Mapping[str, object]) -> Experiment:
        """Build from dotted keys; keys that are absent have their defaults.

        Raises:
            ConfigError: with every unknown key, wrong type, value out of range and contradiction.
        """
        problems, wrong = [], set()
        values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for name, value in flat.items():
            if name not in KEYS:
                problems.append(unknown(name))
                continue
            key = KEYS[name]
            try:
                values[key.section][key.attribute] = key.read(value)
            except TypeError as error:
                problems.append(f"{name}: {error}")
                wrong.add(name)
        parts = {name: section(**values[name]) for name, section in SECTIONS.items()}
        if problems:
            raise ConfigError(problems + _problems(_unchecked(parts), wrong))
        return cls(**parts)

    @property
    def corpus(self) -> Corpus | None:
        """The registry's entry for ``data.name``; None for ``none``."""
        return CORPORA.get(self.data.name)

    @property
    def warm_start(self) -> str:
        """``train.warm-start`` with ``auto`` resolved.

        ``none`` for generated reports of a bank that the public base was trained on, and with pooling ``cls``, because
        the head of a public base reads the mean over the tokens, for a decoder, which has no head, and for generated
        notes with classes; otherwise ``synthetic``. For the last two ``synthetic`` means ``notes``.
        """
        protocols = self.causal or (self.corpus is not None and self.corpus.single)
        if self.train.warm_start != "auto":
            return "notes" if protocols and self.train.warm_start == "synthetic" else self.train.warm_start
        if protocols:
            return "none"
        learnt = self.corpus is not None and self.corpus.generated and self.data.bank != UNSEEN
        return "none" if learnt or self.model.pooling == "cls" else "synthetic"

    @property
    def causal(self) -> bool:
        """Whether a decoder writes the label."""
        return self.model.task == CAUSAL

    @property
    def base_name(self) -> str:
        """The base model of the run: ``model.name``, or its public base if the embedded encoder starts warm."""
        return CHEST if self.warm_start == "synthetic" and self.model.name == EMBEDDED else self.model.name

    @property
    def adapted(self) -> Lora:
        """``lora`` with ``targets = "auto"`` resolved.

        From a public base without privacy: all linear modules; with privacy those of the last layer if the declared
        size is large enough for the budget, else the head alone, because fewer trained numbers get less noise
        (docs/utility.md). Otherwise, and with a strategy that needs LoRA: query and value of the last ``layers``.
        """
        if self.lora.targets != AUTO:
            return self.lora
        method = strategy_class(self.strategy.name)
        if self.warm_start != "synthetic" or method.needs_lora or self.lora.freeze_a:
            return replace(self.lora, targets=("query", "value"))
        if self.privacy.epsilon == 0 and not method.chooses_factors:
            return replace(self.lora, targets=_ALL_LINEAR, layers=0)
        if not method.chooses_factors and self.lora_pays(self.data.declared_size):
            return replace(self.lora, targets=_ALL_LINEAR, layers=1)
        return replace(self.lora, targets=())

    def lora_pays(self, declared: int) -> bool:
        """Whether, from a public base, LoRA in the last layer is expected to beat the head alone at this size."""
        enough = declared * min(self.privacy.epsilon, 1.0) >= _LORA_PAYS_FROM
        return self.privacy.unit == "report" and enough

    @property
    def local_steps(self) -> int:
        """``train.local-steps`` with 0 resolved: 12 with LoRA in all linear layers, else 6."""
        return self.train.local_steps or (12 if self.adapted.targets == _ALL_LINEAR else 6)

    def expected_batch(self, declared: int) -> int:
        """``train.batch`` for a hospital with this declared size, with 0 resolved; never more than all.

        With the head alone a large batch, because a step is cheap and a large batch gets less noise.
        """
        if self.train.batch:
            return min(self.train.batch, declared)
        if not self.adapted.targets:
            return min(declared, max(_BATCH, declared // 4))
        private_lora = self.adapted.targets == _ALL_LINEAR and self.privacy.epsilon > 0
        return min(declared, 2 * _BATCH if private_lora else _BATCH)

    @property
    def no_finding(self) -> str:
        """``data.no-finding`` with ``auto`` resolved: ``no-other-label``, as CheXpert means it, for MIMIC-CXR."""
        if self.data.no_finding != "auto":
            return self.data.no_finding
        return self.corpus.no_finding if self.corpus else "nothing-abnormal"

    @property
    def stated_labels(self) -> tuple[tuple[str, ...], bool]:
        """The labels (or classes) of the reports according to the settings, and whether a report has exactly one.
        Empty if only the data can tell: a table's single column may hold 0 and 1, or class names."""
        columns, classes = label_columns(self.data.label_columns), tuple(sorted(names_in(self.data.classes)))
        if classes or self.corpus is None:
            return classes or columns, bool(classes)
        if self.corpus.columns and len(columns) == 1:
            return (), False
        return self.corpus.labels_of(self.data.bank, columns), self.corpus.single

    @property
    def asked(self) -> int:
        """How many hospitals a round asks: ``sites.fraction`` of them, rounded up."""
        # The margin is for products such as 0.1 * 30, which is slightly above 3.
        return max(1, math.ceil(self.sites.fraction * self.sites.count - 1e-9))

    @property
    def quorum(self) -> int:
        """How many valid replies a round needs: ``sites.quorum``, or half of the asked hospitals, rounded up."""
        return self.sites.quorum or (self.asked + 1) // 2

    @property
    def least_quorum(self) -> int:
        """The smallest ``sites.quorum`` with secure aggregation: it rules out two disjoint sums, even with the help of
        the colluders, and sums over fewer than two hospitals that do not collude."""
        return max((self.asked + self.privacy.colluders) // 2 + 1, self.privacy.colluders + 2)

    def flat(self) -> dict[str, Plain]:
        """Every key with its value, for Flower's run configuration: tuples are joined by commas."""
        return {name: key.plain(key.of(self)) for name, key in KEYS.items()}

    def to_toml(self) -> str:
        """A TOML file that :meth:`load` reads back to an equal experiment."""
        nested: dict[str, dict[str, Plain]] = {}
        for key, value in self.flat().items():
            section, _, name = key.partition(".")
            nested.setdefault(section, {})[name] = value
        return tomli_w.dumps(nested)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of :meth:`flat`: equal experiments have equal digests."""
        text = json.dumps(self.flat(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def training_digest(self) -> str:
        """The digest without ``run.*``, which says nothing of the training: a resumed run keeps it."""
        return replace(self, run=Run()).digest()

    def relative_paths(self) -> list[str]:
        """The keys whose paths depend on the working directory."""
        return [key for key, path in self._paths().items() if not Path(path).is_absolute()]

    def resolve_paths(self, base: Path) -> Experiment:
        """The same experiment with absolute paths: ``~`` is the home folder, other paths are relative to ``base``."""
        absolute = {key: str(base.absolute() / Path(path).expanduser()) for key, path in self._paths().items()}
        return Experiment.from_flat({**self.flat(), **absolute})

    def _paths(self) -> dict[str, str]:
        paths = {"data.path": self.data.path, "run.out": self.run.out}
        if self.model.name.startswith(("./", "../", "~/", "/")):  # else a hub id, which looks like a relative path
            paths["model.name"] = self.model.name
        return {key: path for key, path in paths.items() if path}


def _unchecked(sections: Mapping[str, Any]) -> Experiment:
    """An unchecked experiment, only for finding all its problems at once."""
    experiment = object.__new__(Experiment)
    vars(experiment).update(sections)
    return experiment


def _problems(experiment: Experiment, wrong: Collection[str] = ()) -> list[str]:
    """Values out of range, then contradictions, except for keys in ``wrong``, which are already reported."""
    found, known = [], set(wrong)
    for name, key in KEYS.items():
        value = key.of(experiment)
        if name not in known and (trouble := key.trouble(value)):
            found.append(f"{name} = {shown(value)}: {trouble}")
            known.add(name)
    sections = dict(vars(experiment))  # wrong values are replaced by defaults, so that every rule can be evaluated
    for key in map(KEYS.__getitem__, known):
        sections[key.section] = replace(sections[key.section], **{key.attribute: key.default})
    return found + rules.refusals(_unchecked(sections), wrong=known)
