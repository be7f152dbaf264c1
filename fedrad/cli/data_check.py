"""Whether a run could start with the data and the configuration that a user names, and what the data is like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedrad.config import Experiment
from fedrad.corpora import COLLECTIONS
from fedrad.data.find_source import source_settings
from fedrad.data.label_names import nearest, positions
from fedrad.data.report import label_matrix
from fedrad.data.survey import Problem, Survey, survey
from fedrad.data.tabular import header_of
from fedrad.errors import ConfigError, DataError, FedradError
from fedrad.federation.node_config import read_policy
from fedrad.federation.policy import HospitalPolicy
from fedrad.keys import read_flat
from fedrad.model.base import load_base
from fedrad.planning.expected_gain import ExpectedGain
from fedrad.planning.noise_to_signal import Noise
from fedrad.planning.notes import before_training
from fedrad.planning.outlook import Outlook, features_of, outlook_of
from fedrad.privacy.passes import most_units
from fedrad.privacy.plan import declared_size
from fedrad.public_base.choice import collection_of, starts_warm
from fedrad.tasks.causal_lm import CausalLM
from fedrad.training.corpus import Corpus, hospital_shares, read_corpus, table_columns
from fedrad.training.setup import longest_text, units_in


@dataclass
class DataCheck:
    """What was found, stage by stage; a stage that could not be reached is empty.

    Attributes:
        what: in words, what was read.
        max_length: tokens at which a run cuts a report.
        limit: in words, what sets it.
        known: what the public base makes of each label: its own name for it, or "".
        offered: for a label that it does not know, the one that may be meant.
        outlook: what ``fedrad plan`` says of this size; None if it can't be planned.
        expected: what it expects of private training; None unless the run starts from what a public base knows.
        notes: what the run would say before its first step.
        exit_code: 0 only if a run could start.
    """

    what: str = ""
    survey: Survey = field(default_factory=Survey)
    max_length: int = 0
    limit: str = "data.max-length"
    known: dict[str, str] = field(default_factory=dict)
    offered: dict[str, str] = field(default_factory=dict)
    outlook: Outlook | None = None
    expected: ExpectedGain | None = None
    notes: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    exit_code: int = 0

    def refuse(self, error: FedradError) -> None:
        """Notes what stops a run."""
        self.exit_code = self.exit_code or error.exit_code
        if isinstance(error, ConfigError):
            self.problems += [Problem(says) for says in error.problems]
        elif isinstance(error, DataError):
            rows = () if error.row is None else (error.row,)
            self.problems.append(Problem(error.problem, str(error.file or ""), rows, len(rows), error.remedy))
        else:
            self.problems.append(Problem(str(error)))

    @contextmanager
    def stage(self) -> Iterator[None]:
        """Within it, an error of fedrad's is noted, and ends the stage only."""
        try:
            yield
        except FedradError as error:
            self.refuse(error)


def check_data(source: Path | None, config: Path | None, overrides: Mapping[str, object]) -> DataCheck:
    """Reads the data to its end and goes as far as a run would before its first step.

    Args:
        source: a corpus folder, a table, or a hospital's node configuration (.toml); None: as the settings say.
        config: a TOML file with the settings of the run.
        overrides: settings in their place.
    """
    found = DataCheck()
    policy: HospitalPolicy | None = None
    experiment: Experiment | None = None
    with found.stage():
        flat = {} if config is None else read_flat(config)
        flat |= overrides
        if source is not None and source.suffix == ".toml":
            policy, experiment = _hospital(source, flat)
        else:
            experiment = _experiment(source, flat)
    if experiment is None:
        return found
    if experiment.corpus is None or experiment.corpus.generated:
        found.refuse(ConfigError("data.name: name real reports, e.g. fedrad data check reports.csv"))
        return found
    path = Path(experiment.data.path)
    found.what = f"{path} as {experiment.data.name}" + ("" if policy is None else f", of the hospital {policy.site}")
    lengths = None
    with found.stage():
        base = load_base(experiment.base_name, experiment.model.revision)
        found.max_length = longest_text(experiment, base)

        def lengths(texts: list[str]) -> list[int]:
            return [len(ids) for ids in base.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]

    found.survey = survey(experiment.data.name, path, table_columns(experiment), lengths, experiment.data.uncertain)
    for problem in found.survey.problems:
        found.exit_code = found.exit_code or DataError.exit_code
        found.problems.append(problem)
    if found.survey.labels and not found.survey.single:
        _know(found, tuple(label.name for label in found.survey.labels))
    if found.problems:
        return found
    with found.stage():
        corpus = read_corpus(experiment)
        corpus.task.outputs()
        if isinstance(corpus.task, CausalLM):
            found.max_length = corpus.task.room(base.tokenizer, found.max_length)
            found.limit += ", less what the decoder reads and writes beside"
        declared = _declared(found, experiment, policy, corpus)
        _plan(found, experiment, policy, corpus, declared)
    return found


def _experiment(source: Path | None, flat: dict[str, object]) -> Experiment:
    flat = {"sites.count": 1, **flat}  # one's own data is one place, unless the user says otherwise
    if source is not None:
        flat |= source_settings(source, str(flat.get("data.name", "")))
    try:
        return Experiment.from_flat(flat).resolve_paths(Path.cwd())
    except ConfigError as error:
        if flat.get("data.name") == "table" and not flat.get("data.label-columns"):
            offer = _columns_there(Path(str(flat.get("data.path"))))
            problems = [f"{p}; {offer}" if p.startswith("data.label-columns:") else p for p in error.problems]
            raise ConfigError(problems) from None
        raise


def _columns_there(path: Path) -> str:
    """Which columns could be named. A file may come without a header, so what may be data is not shown."""
    try:
        names = header_of(path)
    except DataError as error:
        return str(error)
    return f"{path.name} has {', '.join(repr(name) for name in names if len(name) <= 40) or 'no short column names'}"


def _hospital(file: Path, flat: Mapping[str, object]) -> tuple[HospitalPolicy, Experiment]:
    """Policy and the settings by which the hospital would train; where ``flat`` does not say what a run proposes, what
    the hospital accepts."""
    node = read_flat(file)
    if any("." in key for key in node):
        raise ConfigError(f"{file}: has sections, as a run's settings have; give it with --config")
    policy = read_policy(node)
    run: dict[str, object] = {
        "sites.count": 1,
        "privacy.unit": policy.unit,
        "privacy.delta": min(Experiment().privacy.delta, policy.delta),
        "privacy.epsilon": min(Experiment().privacy.epsilon, policy.epsilon_cap),
    }
    if flat.get("data.name", "none") == "none":
        classes = {"data.classes": policy.classes} if policy.classes else {}
        columns = policy.label_columns if policy.classes else ",".join(policy.task.labels)
        run |= {"data.name": "none", "data.label-columns": columns, **classes}
    proposed = Experiment.from_flat(run | dict(flat))
    policy.accept_labels(proposed.stated_labels[0] if proposed.corpus is None else policy.task.labels)
    policy.accept_model(proposed)
    terms = policy.authorize(proposed)
    own = policy.own(proposed)
    return policy, replace(own, privacy=replace(own.privacy, epsilon=terms.epsilon))


def _know(found: DataCheck, names: tuple[str, ...]) -> None:
    collection = COLLECTIONS[collection_of(names)]
    places = positions(names, collection)
    free = [label for label, place in zip(collection, positions(collection, names), strict=True) if place < 0]
    for name, place in zip(names, places, strict=True):
        found.known[name] = collection[place] if place >= 0 else ""
        if place < 0 and (offer := nearest(name, free)):
            found.offered[name] = offer


def _declared(found: DataCheck, experiment: Experiment, policy: HospitalPolicy | None, corpus: Corpus) -> int:
    """The size that the plan is made for."""
    unit = experiment.privacy.unit
    if policy is None:
        shares = hospital_shares(experiment, corpus)
        return experiment.data.declared_size or declared_size(units_in(experiment, corpus.reports, shares[0]))
    if corpus.task != policy.task_for(experiment):
        raise DataError(
            "the labels in the reports are not those that the node configuration states.",
            file=policy.data_path,
            remedy="Correct label-columns; a column of class names needs all of them in classes.",
        )
    units = units_in(experiment, corpus.reports, np.arange(len(corpus.reports)))
    if units > most_units(policy.declared_size):
        found.notes += (
            f"there are more {unit}s than declared-size = {policy.declared_size} covers: the time of a round may tell"
            " so. State a larger declared-size.",
        )
    return policy.declared_size


def _plan(
    found: DataCheck, experiment: Experiment, policy: HospitalPolicy | None, corpus: Corpus, declared: int
) -> None:
    task = corpus.task
    outlook = outlook_of(experiment, declared=declared, labels=len(task.labels))
    found.outlook = outlook
    warm = starts_warm(experiment, task.findings)
    found.expected = outlook.expected if warm else None
    positives, tested = dict[str, int](), 0
    if policy is None and task.findings:  # of a class, the name may be a text, because a wrong column was named
        matrix, tested = label_matrix(corpus.reports)[corpus.test], len(corpus.test)
        positives = {name: int((matrix[:, k] == 1).sum()) for k, name in enumerate(task.labels)}
    found.notes += before_training(
        experiment,
        task.findings,
        noise=Noise([outlook.plan], outlook.hospitals),
        trainable=outlook.present.trainable,
        row=features_of(experiment, _width(experiment), len(task.labels)) + 1,
        positives=positives,
        reports=tested,
        expected=found.expected,
    )


def _width(experiment: Experiment) -> int:
    return load_base(experiment.base_name, experiment.model.revision).hidden


def as_json(found: DataCheck) -> dict[str, Any]:
    """What ``--json`` writes: no text and no patient."""
    data, outlook = found.survey, found.outlook
    return {
        "private": "These counts are computed from the reports: don't publish or send them.",
        "what": found.what,
        "could_start": found.exit_code == 0,
        "problems": [vars(problem) | {"rows": list(problem.rows)} for problem in found.problems],
        "rows": data.rows,
        "reports": data.reports,
        "patients": data.patients,
        "reports_per_patient": _quartiles(data.per_patient),
        "copies_within_a_patient": data.copies,
        "texts_of_several_patients": data.shared,
        "reports_with_removed_spans": data.holes,
        "tokens": _quartiles(data.lengths) | {"cut_at": found.max_length, "share_cut": cut_share(found)},
        "labels": [
            vars(label) | {"public_base": found.known.get(label.name), "may_be": found.offered.get(label.name)}
            for label in data.labels
        ],
        "plan": None
        if outlook is None
        else {
            "declared": outlook.plan.declared_size,
            "hospitals": outlook.hospitals,
            "epsilon": outlook.plan.epsilon if outlook.plan.private else None,
            "noise_to_signal": outlook.present.rho,
            "verdict": outlook.verdict,
            "expected": None if found.expected is None else str(found.expected),
        },
        "notes": [*data.notes, *found.notes],
    }


def cut_share(found: DataCheck) -> float | None:
    """The share of the reports that a run cuts off."""
    lengths = found.survey.lengths
    return float((lengths > found.max_length).mean()) if len(lengths) else None


def _quartiles(values: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, float | None]:
    at = {"median": 50, "90%": 90, "most": 100}
    return {name: float(np.percentile(values, q)) if len(values) else None for name, q in at.items()}
