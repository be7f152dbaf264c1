"""The experiment: the settings of one run, read from TOML and overrides and checked together.

An :class:`Experiment` is made of the frozen sections of ``settings.py``. The attribute ``exp.data.max_length`` is the
key ``data.max-length`` in a TOML file, in ``--set data.max-length=128`` and in Flower's ``--run-config``.

``python -m fedrad.config`` prints the reference that ``docs/configuration.md`` holds.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import tomli_w

from fedrad.corpora import CORPORA, UNSEEN, Corpus, label_columns, names_in
from fedrad.errors import ConfigError
from fedrad.settings import (
    AUTO,
    CHEST,
    EMBEDDED,
    Data,
    Lora,
    Model,
    Privacy,
    Rule,
    Run,
    Sites,
    Strategy,
    Train,
    spelt,
)

Flat = dict[str, str | int | float | bool]
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
        sections: dict[str, dict[str, Any]] = {}
        for key, value in flat.items():
            if key not in _KEYS:
                problems.append(_unknown(key))
                continue
            try:
                coerced = _coerce(_KEYS[key].type, value)
                coerced = spelt(coerced, _KEYS[key].choices) if _KEYS[key].choices else coerced
                sections.setdefault(_KEYS[key].section, {})[_KEYS[key].attribute] = coerced
            except TypeError as error:
                problems.append(f"{key}: {error}")
                wrong.add(key)
        built = {name: _SECTIONS[name](**values) for name, values in sections.items()}
        if not problems:
            return cls(**built)
        unchecked = object.__new__(cls)  # only to look for the remaining problems, so that the user sees all at once
        for name, section in _SECTIONS.items():
            object.__setattr__(unchecked, name, built.get(name) or section())
        raise ConfigError(problems + _problems(unchecked, wrong))

    @property
    def corpus(self) -> Corpus | None:
        """What the registry says of ``data.name``; None for ``none``."""
        return CORPORA.get(self.data.name)

    @property
    def warm_start(self) -> str:
        """``train.warm-start`` with ``auto`` resolved: ``synthetic`` for real reports and for the bank that no public
        base has seen; ``none`` for the other generated reports, which would be tested on what the base learnt from,
        and with pooling ``cls``, since the head of a public base reads the mean over the tokens."""
        if self.train.warm_start != "auto":
            return self.train.warm_start
        learnt = self.corpus is not None and self.corpus.generated and self.data.bank != UNSEEN
        return "none" if learnt or self.model.pooling == "cls" else "synthetic"

    @property
    def base_name(self) -> str:
        """The base model that the run trains on: ``model.name``, or, where the embedded encoder starts warm, the public
        base that was made of it."""
        return CHEST if self.warm_start == "synthetic" and self.model.name == EMBEDDED else self.model.name

    @property
    def adapted(self) -> Lora:
        """``lora`` with ``targets = "auto"`` resolved. From a public base: all linear layers without privacy; with it
        those of the last layer where the stated size is large enough for the budget, else the head alone, where fewer
        numbers take less noise (docs/utility.md).
        Otherwise, and under a strategy that is about LoRA, query and value of the last ``layers``."""
        if self.lora.targets != AUTO:
            return self.lora
        if self.warm_start != "synthetic" or self.strategy.name not in ("fedavg", "head") or self.lora.freeze_a:
            return replace(self.lora, targets=("query", "value"))
        if self.privacy.epsilon == 0 and self.strategy.name == "fedavg":
            return replace(self.lora, targets=_ALL_LINEAR, layers=0)
        if self.strategy.name == "fedavg" and self.lora_pays(self.data.declared_size):
            return replace(self.lora, targets=_ALL_LINEAR, layers=1)
        return replace(self.lora, targets=())

    def lora_pays(self, declared: int) -> bool:
        """Whether LoRA in the last layer is expected to end above the head alone, from a public base, at a hospital
        that declares so many reports."""
        enough = declared * min(self.privacy.epsilon, 1.0) >= _LORA_PAYS_FROM
        return self.privacy.unit == "report" and enough

    @property
    def local_steps(self) -> int:
        """``train.local-steps`` with 0 resolved: 6, or 12 of LoRA in all linear layers."""
        return self.train.local_steps or (12 if self.adapted.targets == _ALL_LINEAR else 6)

    def expected_batch(self, declared: int) -> int:
        """``train.batch`` of a hospital that declares so many units, with 0 resolved: a quarter of them where the head
        alone is trained, which costs next to nothing a step and takes less noise; 256 for private LoRA in all linear
        layers; else 128. Never more than all."""
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
        """The labels (or classes) of the reports as the settings tell them, and whether a report has exactly one.

        None where only reading tells: a table's single column may hold 0 and 1, or class names.
        """
        columns = label_columns(self.data.label_columns)
        if self.corpus is None:
            classes = tuple(sorted(names_in(self.data.classes)))
            return classes or columns, bool(classes)
        if self.corpus.columns and len(columns) == 1:
            return (), False
        return self.corpus.labels_of(self.data.bank, columns), False

    @property
    def asked(self) -> int:
        """Hospitals that a round asks: ``sites.fraction`` of them, rounded up."""
        # The margin is for products such as 0.1 * 30, which is a little above 3.
        return max(1, math.ceil(self.sites.fraction * self.sites.count - 1e-9))

    @property
    def quorum(self) -> int:
        """Valid replies that a round needs: ``sites.quorum``, or half of the hospitals that it asks, rounded up."""
        return self.sites.quorum or (self.asked + 1) // 2

    def flat(self) -> Flat:
        """Every key with its value; tuples are joined by commas, as Flower's run configuration needs."""
        return {key: _plain(spec.type, self._value(spec)) for key, spec in _KEYS.items()}

    def to_toml(self) -> str:
        """A TOML file that :meth:`load` reads back to an equal experiment."""
        nested: dict[str, Flat] = {}
        for key, value in self.flat().items():
            section, _, name = key.partition(".")
            nested.setdefault(section, {})[name] = value
        return tomli_w.dumps(nested)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of :meth:`flat`: equal experiments have equal digests."""
        text = json.dumps(self.flat(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def relative_paths(self) -> list[str]:
        """The keys whose paths depend on the working directory."""
        return [key for key, path in self._paths().items() if not Path(path).is_absolute()]

    def resolve_paths(self, base: Path) -> Experiment:
        """The same experiment with absolute paths: ``~`` is the home folder, the rest is taken from ``base``."""
        absolute = {key: str(base.absolute() / Path(path).expanduser()) for key, path in self._paths().items()}
        return Experiment.from_flat({**self.flat(), **absolute})

    def _paths(self) -> dict[str, str]:
        paths = {"data.path": self.data.path, "run.out": self.run.out}
        if self.model.name.startswith(("./", "../", "~/", "/")):  # else a hub id, which looks like a relative path
            paths["model.name"] = self.model.name
        return {key: path for key, path in paths.items() if path}

    def _value(self, spec: _Spec) -> Any:
        return getattr(getattr(self, spec.section), spec.attribute)


def parse_overrides(texts: Sequence[str]) -> dict[str, object]:
    """Typed values by dotted key, from ``section.key=value``.

    Raises:
        ConfigError: naming every text that is no assignment.
    """
    if broken := [
        f"`{text}`: write an override as section.key=value"
        for text in texts
        if not text.partition("=")[1] or text.strip().startswith("=")
    ]:
        raise ConfigError(broken)
    pairs = ((key.strip(), value.strip()) for key, _, value in (text.partition("=") for text in texts))
    return {key: _parse(key, value) for key, value in pairs}


class KeyDoc(NamedTuple):
    """One line of the reference."""

    key: str
    type: str
    default: str | int | float | bool
    doc: str
    allowed: str


class _Spec(NamedTuple):
    section: str
    attribute: str
    type: Any
    default: Any
    doc: str
    choices: tuple[str, ...]
    rule: Rule | None

    @property
    def key(self) -> str:
        return f"{self.section}.{self.attribute.replace('_', '-')}"

    @property
    def allowed(self) -> str:
        return ", ".join(self.choices) if self.choices else self.rule.says if self.rule else ""


_SECTIONS: dict[str, Any] = {f.name: f.default_factory for f in fields(Experiment)}
_KEYS: dict[str, _Spec] = {
    spec.key: spec
    for section, kind in _SECTIONS.items()
    for f in fields(kind)
    for spec in [_Spec(section, f.name, get_type_hints(kind)[f.name], f.default, **f.metadata)]
}
# Lists are one text with commas in Flower's run configuration.
_LISTS: dict[Any, Any] = {tuple[str, ...]: str, tuple[int, ...]: int, tuple[float, ...]: float}
_TYPE_NAMES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    tuple[str, ...]: "list of names, or names with commas between",
    tuple[int, ...]: "whole numbers, commas between",
    tuple[float, ...]: "numbers, commas between",
}


def dotted_keys() -> list[KeyDoc]:
    """Every key, in the order of the sections."""
    return [
        KeyDoc(key, _TYPE_NAMES[spec.type], _plain(spec.type, spec.default), spec.doc, spec.allowed)
        for key, spec in _KEYS.items()
    ]


def _problems(exp: Experiment, wrong: set[str] | None = None) -> list[str]:
    """Values out of range, then contradictions; keys in ``wrong`` are already known to be wrong and are left out."""
    wrong = set() if wrong is None else wrong
    found = []
    for key, spec in _KEYS.items():
        value = exp._value(spec)
        if key in wrong or not (trouble := _out_of_range(spec, value)):
            continue
        found.append(f"{key} = {_show(value)}: {trouble}")
        wrong = wrong | {key}
    return found + [f"{c.key}: {c.says}" for c in _contradictions(exp) if c.key not in wrong and c.other not in wrong]


def _out_of_range(spec: _Spec, value: Any) -> str:
    if spec.choices and value not in spec.choices:
        close = difflib.get_close_matches(str(value).lower(), spec.choices, n=1)
        return f"must be one of {spec.allowed}" + (f"; did you mean {close[0]}?" if close else "")
    numbers = value if spec.type == tuple[float, ...] else (value,) if spec.type is float else ()
    if not all(math.isfinite(number) for number in numbers):
        return "must be finite"
    if spec.rule and not spec.rule.holds(value):
        return f"must be {spec.rule.says}"
    if spec.type == tuple[str, ...] and any("," in name or not name.strip() for name in value):
        return "names must not be empty or hold a comma"
    return ""


@lru_cache(maxsize=1)
def installed_strategies() -> frozenset[str]:
    """Names of the entry points `fedrad.strategies`, ours and those of others; nothing is imported for it."""
    return frozenset(entry.name for entry in entry_points(group="fedrad.strategies"))


class _Contradiction(NamedTuple):
    key: str  # the one to change
    other: str  # the one that it contradicts
    applies: bool
    says: str


def _contradictions(exp: Experiment) -> list[_Contradiction]:
    """Settings that are fine alone but not together."""
    data, sites, corpus, absent = exp.data, exp.sites, exp.corpus, exp.data.name == "none"
    table = corpus is not None and corpus.columns
    where = f"say where the {data.name} reports are, e.g. data.path=/data/{data.name}"
    by_site, temporal = sites.partition == "by-site", sites.partition == "temporal"
    more = f"{sites.quorum} is more than the {exp.asked} hospitals that a round asks (sites.count, sites.fraction)"
    embedded = exp.model.name in (EMBEDDED, CHEST)
    checks = (
        _Contradiction("data.path", "data.name", corpus is not None and not (corpus.generated or data.path), where),
        _Contradiction(
            "data.path", "data.name", absent and bool(data.path), "data.name=none reads nothing; leave it empty"
        ),
        _Contradiction(
            "data.classes",
            "data.name",
            bool(data.classes) and not (absent and len(label_columns(data.label_columns)) == 1),
            "goes with data.name=none and one column in data.label-columns",
        ),
        _Contradiction("data.label-columns", "data.name", table and not data.label_columns, "needed for a table"),
        _Contradiction(
            "data.label-columns",
            "data.name",
            absent and not data.label_columns and not data.classes,
            "needed with data.name=none: the labels of the hospitals; `chexpert` stands for MIMIC-CXR's 14",
        ),
        _Contradiction(
            "data.site-column",
            "sites.partition",
            table and by_site and not data.site_column,
            "needed to split a table by-site",
        ),
        _Contradiction(
            "data.time-column",
            "sites.partition",
            table and temporal and not data.time_column,
            "needed for a temporal split of a table",
        ),
        _Contradiction(
            "train.learning-rate",
            "train.optimizer",
            exp.train.optimizer == "adam" and exp.train.learning_rate == 0,
            "is chosen automatically for momentum only; give one for adam, for instance 0.001",
        ),
        _Contradiction("sites.quorum", "sites.count", sites.quorum > exp.asked, more),
        _Contradiction(
            "strategy.name",
            "strategy.name",
            exp.strategy.name not in installed_strategies(),
            f"no strategy {exp.strategy.name!r} is installed; there are {', '.join(sorted(installed_strategies()))}",
        ),
        *(
            _Contradiction(
                f"sites.{name}",
                "sites.count",
                len(given) not in (0, sites.count),
                f"has {len(given)} values, but there"
                f" are {sites.count} hospitals (sites.count): give one for each, or none",
            )
            for name, given in (
                ("epsilons", sites.epsilons),
                ("deltas", sites.deltas),
                ("batches", sites.batches),
                ("ranks", sites.ranks),
            )
        ),
        _Contradiction(
            "sites.epsilons",
            "privacy.epsilon",
            bool(sites.epsilons) and exp.privacy.epsilon == 0,
            "budgets of single hospitals in a run without privacy; leave it empty, or set privacy.epsilon above 0",
        ),
        *(
            _Contradiction(
                key,
                "privacy.unit",
                exp.privacy.unit == "hospital" and wrong,
                f"with privacy.unit=hospital {says}",
            )
            for key, wrong, says in (
                ("strategy.weights", exp.strategy.weights != "uniform", "the server takes the uniform mean"),
                ("sites.epsilons", bool(sites.epsilons), "there is one budget, the server's"),
                ("sites.deltas", bool(sites.deltas), "there is one budget, the server's"),
                ("sites.ranks", bool(sites.ranks), "all hospitals must send the same shapes"),
                ("sites.count", sites.count < 2, "one hospital is not hidden among others; take 2 or more"),
            )
        ),
        _Contradiction(
            "data.patient-column",
            "privacy.unit",
            exp.privacy.unit == "patient" and table and not data.patient_column,
            "needed for privacy.unit=patient; without it every report is its own patient",
        ),
        _Contradiction(
            "privacy.unit",
            "data.name",
            exp.privacy.unit == "patient" and corpus is not None and not corpus.patients,
            f"{corpus.title if corpus else ''} names reports and no patients, so none can be protected as one; take"
            " privacy.unit=report",
        ),
        _Contradiction(
            "strategy.weights",
            "privacy.epsilon",
            exp.strategy.weights == "inverse-variance" and exp.privacy.epsilon == 0,
            "without privacy there is no noise to weigh by; take uniform or declared",
        ),
        *_secure_contradictions(exp),
        _Contradiction(
            "lora.freeze-a",
            "lora.targets",
            exp.lora.freeze_a and not exp.adapted.targets,
            "there is no A to freeze, because lora.targets is empty",
        ),
        _Contradiction(
            "model.pooling",
            "train.warm-start",
            exp.model.pooling == "cls" and exp.train.warm_start == "synthetic",
            "a warm start's head reads the mean over the tokens; take mean, or train.warm-start=none",
        ),
        _Contradiction(
            "model.revision",
            "model.name",
            embedded and bool(exp.model.revision),
            "the embedded model has no revisions; leave it empty",
        ),
    )
    return [check for check in checks if check.applies]


def _secure_contradictions(exp: Experiment) -> list[_Contradiction]:
    """What secure aggregation and shared noise rule out: terms under which they would protect nobody."""
    privacy, sites, train = exp.privacy, exp.sites, exp.train
    secure, shared, colluders = privacy.secure_aggregation, privacy.shared_noise, privacy.colluders
    least = max((exp.asked + colluders) // 2 + 1, colluders + 2)
    step = "with privacy.shared-noise all hospitals take one plain step of the same size:"
    return [
        *(
            _Contradiction(key, "privacy.secure-aggregation", secure and wrong, f"with secure aggregation {says}")
            for key, wrong, says in (
                ("strategy.weights", exp.strategy.weights != "uniform", "the server takes the uniform mean"),
                (
                    "privacy.unit",
                    privacy.unit == "hospital",
                    "the server can't clip single updates, which it can't see",
                ),
                (
                    "sites.count",
                    exp.asked < 3,
                    "a round asks 3 hospitals or more (sites.count, sites.fraction): of two, each sees the other's"
                    " adapter in the sum",
                ),
                ("privacy.colluders", least > exp.asked, f"{colluders} of {exp.asked} hospitals are too many"),
                (
                    "sites.quorum",
                    sites.quorum < least <= exp.asked,
                    f"the smallest sum must be stated: more than half of the {exp.asked} hospitals that a round asks"
                    f" and {colluders} colluders, so {least} or more",
                ),
            )
        ),
        *(
            _Contradiction(key, "privacy.secure-aggregation", not secure and given, "needs privacy.secure-aggregation")
            for key, given in (("privacy.shared-noise", shared), ("privacy.colluders", colluders > 0))
        ),
        *(
            _Contradiction(key, "privacy.shared-noise", shared and wrong, f"{step} {says}")
            for key, wrong, says in (
                ("privacy.epsilon", privacy.epsilon == 0, "without privacy there is no noise to share"),
                ("train.local-steps", exp.local_steps != 1, "set 1; a later step would see too little noise"),
                ("train.batch", train.batch == 0, "state it, for instance 128"),
                ("train.optimizer", train.optimizer != "momentum", "set momentum"),
                ("train.momentum", train.optimizer == "momentum" and train.momentum != 0, "set 0"),
                ("train.average", train.average != 0, "set 0"),
                ("train.learning-rate", train.learning_rate == 0, "state it, for instance 0.5"),
                ("sites.epsilons", bool(sites.epsilons), "leave it empty"),
                ("sites.deltas", bool(sites.deltas), "leave it empty"),
                ("sites.batches", bool(sites.batches), "leave it empty"),
            )
        ),
    ]


def _unknown(key: str) -> str:
    """ "did you mean": a key of that name in another section, else one that looks alike, else one whose name does."""
    name = key.rpartition(".")[2].replace("_", "-")
    names = {known.partition(".")[2]: known for known in reversed(_KEYS)}
    elsewhere = [known for known in _KEYS if known.endswith(f".{name}")]
    guesses = (
        difflib.get_close_matches(key, elsewhere, n=1, cutoff=0)
        or difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.75)
        or [names[close] for close in difflib.get_close_matches(name, names, n=1, cutoff=0.8)]
    )
    return f"{key}: unknown key; " + (
        f"did you mean {guesses[0]}?" if guesses else "`python -m fedrad.config` lists them"
    )


def _coerce(kind: Any, value: object) -> Any:
    """The value as the field's type. A whole number is a fine float; true is not a number."""
    if kind in _LISTS:
        return _coerce_list(kind, value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    raise TypeError(f"expected {_TYPE_NAMES[kind]}, got {_show(value)}")


def _coerce_list(kind: Any, value: object) -> Any:
    of = _LISTS[kind]
    items = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(value, str):
        items = [item.strip() for item in value.split(",")] if value.strip() else []
        with suppress(ValueError):
            items = [of(item) for item in items]
    with suppress(TypeError):
        return tuple(_coerce(of, item) for item in items)
    raise TypeError(f"expected {_TYPE_NAMES[kind]}, got {_show(value)}")


def _plain(kind: Any, value: Any) -> str | int | float | bool:
    plain: str | int | float | bool = ",".join(map(str, value)) if kind in _LISTS else kind(value)
    return plain


def _show(value: object) -> str:
    """A value as the user may have typed it, cut short."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _parse(key: str, text: str) -> object:
    """The right side of ``key=value``. A field of text needs no quotes, whatever its text looks like."""
    kind = _KEYS[key].type if key in _KEYS else None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.removeprefix("[").removesuffix("]") if kind in _LISTS else text
    if kind is str and not isinstance(value, str):
        return text  # a commit such as 1234567 is text for us and a number for TOML
    return value


def read_flat(path: Path) -> dict[str, object]:
    """The values of a TOML file by dotted key, not yet checked.

    Raises:
        ConfigError: it can't be read.
    """
    return _flatten(_read(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in nested.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def reference() -> str:
    """The text of docs/configuration.md."""
    lines = [_INTRODUCTION]
    for name, section in _SECTIONS.items():
        lines += [
            f"\n## `{name}`\n",
            section.__doc__ + "\n",
            "| key | default | what it is | allowed |",
            "|---|---|---|---|",
        ]
        for key in dotted_keys():
            if key.key.startswith(f"{name}."):
                lines.append(f"| `{key.key}` | `{_show(key.default)}` | {key.doc} | {key.allowed or key.type} |")
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# Configuration

<!-- Generated: python -m fedrad.config > docs/configuration.md -->

The same dotted keys work everywhere:

```bash
.venv/bin/fedrad simulate mimic --set privacy.epsilon=1 --set sites.count=8
.venv/bin/flwr run simulations/mimic --run-config 'privacy.epsilon=1.0 sites.count=8'
.venv/bin/python -m fedrad.centralized my.toml --set privacy.epsilon=1
```

In a TOML file they are grouped by section; what is not in the file has its default:

```toml
[privacy]
epsilon = 1.0

[lora]
targets = "query,key,value"
```

Every mistake in a configuration is reported at once, with the nearest known key. In the words that a key allows,
dashes and underscores are one: `ct-rate` and `ct_rate`. `--set` takes a bare word as text
and needs no quotes; `--run-config` is TOML, where text needs them. Every setting is public: it may be
printed, stored and sent to other sites."""

if __name__ == "__main__":
    print(reference(), end="")
