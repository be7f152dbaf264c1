"""Reads a hospital's policy from its node configuration: keys, types, ranges, and values that contradict each other."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from fedrad.corpora import CORPORA, label_columns
from fedrad.errors import ConfigError
from fedrad.federation.policy import DEFAULT_WITNESS, HospitalPolicy
from fedrad.keys import KEYS
from fedrad.limits import spelt
from fedrad.privacy.accounting import SMALLEST_DELTA
from fedrad.privacy.calibration import SMALLEST_NOISE
from fedrad.settings import CHEST, EMBEDDED

_PRIVATISE = ("privatise", "privatise-epsilon", "privatise-mechanism", "privatise-task")


def read_policy(config: Mapping[str, object]) -> HospitalPolicy:
    """The policy that ``--node-config`` gives; keys as the attributes, with dashes.

    Raises:
        ConfigError: all problems at once.
    """
    kinds = {field.name.replace("_", "-"): field for field in fields(HospitalPolicy)}
    problems = []
    for key in config:
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=1)
            problems.append(f"node-config {key}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
    values: dict[str, object] = {}
    for key, field in kinds.items():
        if key not in config:
            if key in ("site", "data-path", "state-dir", "epsilon-cap", "declared-size"):
                problems.append(f"node-config {key}: needed; a hospital states it itself")
            continue
        value = config[key]
        if field.type == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value).__name__ != field.type:
            problems.append(f"node-config {key}: must be {field.type}, not {type(value).__name__}")
            continue
        values[field.name] = spelt(str(value), tuple(CORPORA)) if field.name == "data_name" else value
    problems += _out_of_range(values)
    if problems:
        raise ConfigError(problems)
    return HospitalPolicy(**values)  # type: ignore[arg-type]


def _out_of_range(values: Mapping[str, object]) -> Iterator[str]:
    """Every problem of these values, given by the attributes of ``HospitalPolicy``; each starts with its key.

    A value of a wrong type is skipped: the caller reports it.
    """
    cap, size, delta = values.get("epsilon_cap"), values.get("declared_size"), values.get("delta", 1e-5)
    if isinstance(cap, float) and not (cap > 0 and math.isfinite(cap)):
        yield "node-config epsilon-cap: must be above 0 and finite"
    if isinstance(size, int) and size < 1:
        yield "node-config declared-size: must be at least 1"
    if isinstance(delta, float) and not SMALLEST_DELTA <= delta < 1:
        yield f"node-config delta: must be at least {SMALLEST_DELTA} and below 1"
    elif isinstance(delta, float) and isinstance(size, int) and size >= 1 and delta >= 1 / size:
        yield f"node-config delta: {delta:g} must be below 1 / declared-size = {1 / size:g}"
    rate = values.get("max_sampling_rate", 1.0)
    if isinstance(rate, float) and not 0 < rate <= 1:
        yield "node-config max-sampling-rate: must be above 0, at most 1"
    every = values.get("answer_every", 0.0)
    if isinstance(every, float) and not 0 <= every < math.inf:
        yield "node-config answer-every: must be 0 or more seconds, and finite"
    if isinstance(steps := values.get("max_local_steps", 1), int) and steps < 1:
        yield "node-config max-local-steps: must be at least 1"
    if values.get("isolate_reports") is False and values.get("pad_passes", True):
        yield (
            "node-config pad-passes: set false with isolate-reports=false; where reports share passes, the number of"
            " passes can't be fixed, and the time of a round tells how many there are"
        )
    if values.get("pad_lengths") and not values.get("pad_passes", True):
        yield "node-config pad-lengths: goes with pad-passes"
    for key in ("batch", "rank", "min_quorum", "min_colluders"):
        number = values.get(key, 0)
        if isinstance(number, int) and number < 0:
            yield f"node-config {key.replace('_', '-')}: must be 0 or more"
    yield from _unsummable(values)
    noise = values.get("noise_multiplier", 0.0)
    if isinstance(noise, float) and not (math.isfinite(noise) and (noise == 0 or noise >= SMALLEST_NOISE)):
        yield f"node-config noise-multiplier: must be 0 (not fixed), or at least {SMALLEST_NOISE} and finite"
    elif noise and not values.get("batch"):
        yield "node-config noise-multiplier: goes with batch, which fixes the sampling rate"
    if noise and values.get("allow_shared_noise") is True:
        yield "node-config noise-multiplier: not with allow-shared-noise, which needs the same noise at all hospitals"
    if bool(values.get("identity_key")) != bool(values.get("peers")):
        yield "node-config identity-key: goes with peers; give both or neither"
    needed, optional = ("data_path", "state_dir"), ("identity_key", "peers")
    for key in (*needed, *(key for key in optional if values.get(key))):
        value = values.get(key)
        if isinstance(value, str) and not Path(value).is_absolute():
            yield f"node-config {key.replace('_', '-')}: must be an absolute path"
    witness, state = values.get("witness_dir", DEFAULT_WITNESS), values.get("state_dir")
    if isinstance(witness, str) and not Path(witness).expanduser().is_absolute():
        yield "node-config witness-dir: must be an absolute path"
    elif isinstance(witness, str) and isinstance(state, str) and _lies_in(witness, state):
        # What is deleted or set back together with the ledger could not tell of it.
        yield "node-config witness-dir: must lie outside state-dir"
    unit = values.get("unit", "report")
    if unit not in ("report", "patient"):
        yield "node-config unit: must be report or patient"
    name, columns = values.get("data_name", "table"), values.get("label_columns", "")
    corpus = CORPORA.get(str(name))
    if corpus is None or corpus.generated:
        real = ", ".join(name for name, corpus in CORPORA.items() if not corpus.generated)
        yield f"node-config data-name: must be one of {real}"
    table = corpus is not None and corpus.columns
    if table and not label_columns(str(columns)):
        yield (
            "node-config label-columns: needed; the label columns of the table, in the order of the run's labels;"
            " `chexpert` stands for MIMIC-CXR's 14, which generated reports have"
        )
    if unit == "patient" and corpus is not None and not corpus.patients:
        yield f"node-config unit: {corpus.title} has no patient ids; take unit report"
    if values.get("classes") and not (table and len(label_columns(str(columns))) == 1):
        yield "node-config classes: goes with one label column of a table that holds class names"
    for key in ("map", "missing", "separator", "encoding", *_PRIVATISE):
        setting = KEYS[f"data.{key}"]
        if trouble := setting.trouble(values.get(key.replace("-", "_"), setting.default)):
            yield f"node-config {key}: {trouble}"
    if (values.get("privatise", "none") != "none") != bool(values.get("privatise_epsilon", 0.0)):
        yield "node-config privatise: goes with privatise-epsilon, the unit of its budgets; give both or neither"
    if values.get("device", "cpu") not in ("cpu", "cuda", "auto"):
        yield "node-config device: must be cpu, cuda or auto"
    most = values.get("reports_per_patient", 1)
    if isinstance(most, int) and most < 1:
        yield "node-config reports-per-patient: must be at least 1"
    pin = values.get("model_sha256", "")
    if values.get("model", EMBEDDED) not in (EMBEDDED, CHEST) and not pin:
        yield "node-config model-sha256: needed with a model of your own; `fedrad model NAME` prints it"
    if isinstance(pin, str) and pin and not re.fullmatch("[0-9a-f]{64}", pin):
        yield "node-config model-sha256: must be 64 hexadecimal digits"
    if unit == "patient" and table and not values.get("patient_column"):
        yield "node-config patient-column: needed with unit patient; without it every report is a patient"
    if isinstance(values.get("site"), str) and not str(values["site"]).replace("-", "").replace("_", "").isalnum():
        yield "node-config site: letters, digits, - and _ only"


def _unsummable(values: Mapping[str, object]) -> Iterator[str]:
    """What is missing for ``min-colluders`` and ``allow-shared-noise``, which rely on secure sums."""
    quorum, colluders = values.get("min_quorum", 0), values.get("min_colluders", 0)
    shared = values.get("allow_shared_noise", False) is True
    if isinstance(quorum, int) and isinstance(colluders, int) and (shared or colluders > 0) and quorum < colluders + 2:
        # Colluders subtract what they sent: two others must be left in the sum, or it is one hospital's adapter.
        why = "allow-shared-noise" if shared else "min-colluders"
        yield (
            f"node-config min-quorum: must be {max(colluders, 0) + 2} or more with {why}, two more than min-colluders;"
            " otherwise a sum, less what colluders sent, could be this hospital's adapter alone"
        )
    if shared and not (values.get("identity_key") and values.get("peers")):
        yield (
            "node-config allow-shared-noise: needs identity-key and peers; without pinned identities a server that"
            " lies gets this hospital's adapter with its own share of the noise only"
        )


def _lies_in(folder: str, other: str) -> bool:
    return Path(folder).expanduser().resolve().is_relative_to(Path(other).resolve())
