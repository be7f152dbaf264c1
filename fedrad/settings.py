"""The settings: every key that fedrad knows, with its default, its meaning and its limits.

``max_length`` in :class:`Data` is the key ``data.max-length``. Everything here is public: it may be printed, logged and
sent, so nothing that is computed from private reports is a field. ``config.py`` puts the sections together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fedrad.corpora import BANKS, CORPORA

EMBEDDED = "all-MiniLM-L6-v2"
"""The encoder that needs no download."""
CHEST = "chest-minilm"
"""The public base that was made of it."""
AUTO = ("auto",)
_GENERATED = " or ".join(f"`{name}`" for name, corpus in CORPORA.items() if corpus.generated)
_DIVIDED = ", ".join(corpus.title for corpus in CORPORA.values() if corpus.own_split)


class Rule(NamedTuple):
    """A limit on one value: how it reads in the documentation, and its test."""

    says: str
    holds: Callable[[Any], bool]


POSITIVE = Rule("above 0", lambda v: v > 0)
NOT_NEGATIVE = Rule("at least 0", lambda v: v >= 0)
AT_LEAST_ONE = Rule("at least 1", lambda v: v >= 1)
DELTA = Rule("at least 1e-9 and below 1", lambda v: 1e-9 <= v < 1)  # the accountant goes no further
BETWEEN = Rule("above 0 and below 1", lambda v: 0 < v < 1)
SHARE = Rule("at least 0 and below 1", lambda v: 0 <= v < 1)
UP_TO_ONE = Rule("above 0, at most 1", lambda v: 0 < v <= 1)
FROM_ZERO_TO_ONE = Rule("from 0 to 1", lambda v: 0 <= v <= 1)
ALL_POSITIVE = Rule("each above 0", lambda v: all(number > 0 for number in v))
ALL_DELTAS = Rule("each at least 1e-9 and below 1", lambda v: all(1e-9 <= number < 1 for number in v))
NOT_EMPTY = Rule("not empty", lambda v: v != "")
LENGTH = Rule("at least 8", lambda v: v >= 8)


def _key(default: Any, doc: str, *, choices: Sequence[str] = (), rule: Rule | None = None) -> Any:
    """A field: ``choices`` are the allowed words."""
    return field(default=default, metadata={"doc": doc, "choices": choices, "rule": rule})


def spelt(word: str, choices: Sequence[str]) -> str:
    """The choice that ``word`` means, if dashes and underscores are one; else ``word`` itself."""
    return next((choice for choice in choices if choice.replace("_", "-") == word.replace("_", "-")), word)


@dataclass(frozen=True)
class Data:
    """Which reports, and how they are read."""

    name: str = _key(
        "synthetic",
        "where the reports come from; of a server with real hospitals: its public test set, or `none`",
        choices=(*CORPORA, "none"),
    )
    path: str = _key("", f"folder or file with the reports; needed unless `data.name` is {_GENERATED} or `none`")
    max_length: int = _key(256, "longest report in word-pieces; what is beyond is cut off", rule=LENGTH)
    uncertain: str = _key(
        "negative",
        "what an uncertain label counts as: -1.0 in MIMIC-CXR's label file, or a finding that a generated report only "
        "suspects; `ignore` masks it out of loss and score. A public base has learnt them as negative",
        choices=("negative", "positive", "ignore"),
    )
    test_fraction: float = _key(
        0.2,
        f"share of the patients held out for testing, where the corpus has no split of its own (as {_DIVIDED} have)",
        rule=BETWEEN,
    )
    declared_size: int = _key(
        0,
        "`fedrad.centralized`: the number of training reports (or patients: `privacy.unit`) as stated in public, which "
        "sets the sampling rate; 0: the actual number rounded to two digits, fit for experiments only. Hospitals state "
        "theirs in their node configuration; in a federation this is about what each of them has, and decides no more "
        "than what `lora.targets=auto` trains",
        rule=NOT_NEGATIVE,
    )
    bank: str = _key(
        "chest-xray",
        "phrase bank that generated reports are written from (`synthetic` only); it decides the labels",
        choices=tuple(BANKS),
    )
    reports: int = _key(3000, "reports to generate (`synthetic` only)", rule=AT_LEAST_ONE)
    seed: int = _key(0, "seed of the generated corpus, the split and the shards", rule=NOT_NEGATIVE)
    text_column: str = _key("text", "column with the report text (`table` only)", rule=NOT_EMPTY)
    patient_column: str = _key("", "column with the patient id (`table` only); empty: every report is its own patient")
    site_column: str = _key("", "column with the hospital (`table` only)")
    time_column: str = _key("", "column with the time of the report (`table` only)")
    no_finding: str = _key(
        "auto",
        "what the label No Finding means, for the start of its head: `nothing-abnormal`: nothing abnormal is "
        "mentioned, as in Open-i; `no-other-label`: no other label but Support Devices is positive, as CheXpert made "
        "MIMIC-CXR's; `auto`: by `data.name`",
        choices=("auto", "nothing-abnormal", "no-other-label"),
    )
    label_columns: str = _key(
        "",
        "label columns, commas between: several of 0 and 1, or a single one of class names; `chexpert` and `ct-rate` "
        "stand for the 14 and 18 labels of MIMIC-CXR and CT-RATE. Needed with `table`, and with `none`, where they are "
        "the labels of the hospitals",
    )
    classes: str = _key(
        "", "the class names, commas between, where `data.label-columns` is one column of them (`none` only)"
    )


@dataclass(frozen=True)
class Sites:
    """The hospitals."""

    count: int = _key(4, "number of hospitals; no effect on `fedrad.centralized`", rule=AT_LEAST_ONE)
    partition: str = _key(
        "iid",
        "how a simulation deals the patients to hospitals; always whole patients",
        choices=("iid", "dirichlet", "by-site", "temporal"),
    )
    alpha: float = _key(0.5, "concentration of the `dirichlet` label skew; smaller is more skewed", rule=POSITIVE)
    quorum: int = _key(
        0,
        "valid replies that a round needs; 0: half of the hospitals that it asks, rounded up. With secure aggregation "
        "it must be stated",
        rule=NOT_NEGATIVE,
    )
    fraction: float = _key(
        1.0,
        "share of the hospitals that a round asks, drawn from `train.seed`; who is not asked spends nothing",
        rule=UP_TO_ONE,
    )
    epsilons: tuple[float, ...] = _key(
        (),
        "a simulation's hospitals with budgets of their own, one for each; empty: `privacy.epsilon` for all. A real "
        "hospital's is the cap in its node configuration",
        rule=ALL_POSITIVE,
    )
    deltas: tuple[float, ...] = _key((), "likewise for delta; empty: `privacy.delta` for all", rule=ALL_DELTAS)
    batches: tuple[int, ...] = _key(
        (),
        "likewise for the expected batch; empty: `train.batch` for all. A real hospital may set `batch` in its node "
        "configuration",
        rule=ALL_POSITIVE,
    )
    ranks: tuple[int, ...] = _key(
        (),
        "likewise for the LoRA rank, under a strategy that can mix ranks; empty: `lora.rank` for all. A real hospital "
        "may set `rank` in its node configuration",
        rule=ALL_POSITIVE,
    )
    timeout: float = _key(900.0, "seconds that a round may take", rule=POSITIVE)
    connect_timeout: float = _key(120.0, "seconds to wait until the hospitals are connected", rule=POSITIVE)


@dataclass(frozen=True)
class Model:
    """The frozen base model."""

    name: str = _key(
        EMBEDDED,
        "the embedded encoder, a hub id such as `prajjwal1/bert-small`, or a local folder, "
        "written with a leading `/`, `./`, `../` or `~/`",
        rule=NOT_EMPTY,
    )
    revision: str = _key("", "commit of a hub id; empty: the newest")
    pooling: str = _key(
        "mean", "how token states become one vector; a warm start needs `mean`", choices=("cls", "mean")
    )
    directions: int = _key(
        64,
        "warm start: how many principal directions of the pooled vector (on generated text, no privacy cost) the head "
        "reads, beside those that its start needs; fewer take less noise. 0: all numbers of the vector",
        rule=NOT_NEGATIVE,
    )
    centre: bool = _key(
        True, "centre and rescale the pooled vector by constants that come from generated text only (no privacy cost)"
    )


@dataclass(frozen=True)
class Lora:
    """What is trained beside the classification head."""

    rank: int = _key(4, "rank of A and B", rule=AT_LEAST_ONE)
    alpha: float = _key(8.0, "scaling numerator: the adapter adds (alpha / rank) B A", rule=POSITIVE)
    targets: tuple[str, ...] = _key(
        AUTO,
        "linear layers that get an adapter; empty: train the head alone. `auto`, from a public base: all linear layers "
        "of all layers without privacy; with it those of the last layer where `data.declared-size` x "
        "min(`privacy.epsilon`, 1) is at least 1000, else the head alone. Not from a public base: `query,value`",
    )
    layers: int = _key(1, "adapt the last N layers; 0 means all", rule=NOT_NEGATIVE)
    freeze_a: bool = _key(False, "keep A as it was initialised (FFA-LoRA, arXiv 2403.12313)")


@dataclass(frozen=True)
class Privacy:
    """What every hospital promises. See docs/privacy.md."""

    epsilon: float = _key(8.0, "budget of each hospital, met from below; 0 trains WITHOUT privacy", rule=NOT_NEGATIVE)
    delta: float = _key(1e-5, "must stay below 1 / declared shard size", rule=DELTA)
    clip: float = _key(
        1.0,
        "largest L2 norm of what one unit adds (a report's gradient, the sum of a patient's, a hospital's whole "
        "update), over all trainable tensors",
        rule=POSITIVE,
    )
    unit: str = _key(
        "report",
        "what one guarantee protects",
        choices=("report", "patient", "hospital"),
    )
    reports_per_patient: int = _key(
        4,
        "with `privacy.unit=patient`: reports of a sampled patient that a step uses at most, drawn afresh in each step",
        rule=AT_LEAST_ONE,
    )
    noise: str = _key(
        "system",
        "`system`: from the operating system; `seeded`: repeatable, for simulations only, protects nobody",
        choices=("system", "seeded"),
    )
    secure_aggregation: bool = _key(
        False,
        "hospitals mask what they send, so that the server learns their sum alone (docs/secure-aggregation.md); needs "
        "`sites.quorum`",
    )
    shared_noise: bool = _key(
        False,
        "with secure aggregation and one local step: each hospital adds a share of the noise, enough in the sum of the "
        "smallest quorum. Rests on the other hospitals and on the server",
    )
    colluders: int = _key(
        0,
        "with secure aggregation: hospitals that may tell the server all they know; the others stay protected, and "
        "share the noise without them",
        rule=NOT_NEGATIVE,
    )
    gradients: str = _key(
        "leaf", "per-sample gradients: per-sample leaves, or Opacus's engine", choices=("leaf", "opacus")
    )


@dataclass(frozen=True)
class Train:
    """The schedule and the optimizer."""

    rounds: int = _key(5, "federation rounds", rule=AT_LEAST_ONE)
    local_steps: int = _key(
        0,
        "noisy steps of each hospital in a round; 0: 6, or 12 of LoRA in all linear layers",
        rule=NOT_NEGATIVE,
    )
    batch: int = _key(
        0,
        "expected batch of a Poisson sample; the public divisor of the gradient. 0: 128; 256 of private LoRA in all "
        "linear layers; of the head alone a quarter of what the hospital declares, if that is more",
        rule=NOT_NEGATIVE,
    )
    optimizer: str = _key("momentum", "optimizer of the private phase", choices=("momentum", "adam"))
    learning_rate: float = _key(
        0.0,
        "step size of the private phase (the head's; LoRA takes a fixed share of it); 0: chosen from public figures",
        rule=NOT_NEGATIVE,
    )
    momentum: float = _key(
        0.9, "momentum; beta1 for `adam`. Under secure aggregation it starts anew in every round", rule=SHARE
    )
    average: float = _key(
        0.4,
        "share of the last iterates that are averaged; 0 means none. Under secure aggregation, of the last round only",
        rule=SHARE,
    )
    warm_start: str = _key(
        "auto",
        "`synthetic`: start from a public base, an encoder and a head that generated reports have trained (no privacy "
        "cost); `auto`: `synthetic` for real reports and for `data.bank=chest-xray-hospitals`, `none` for the other "
        "generated ones, which would be tested on what the base was trained on, and for `model.pooling=cls`",
        choices=("auto", "none", "synthetic"),
    )
    warm_reports: int = _key(
        8000,
        "generated reports of which a public base is built where `model.name` is none and none is embedded",
        rule=AT_LEAST_ONE,
    )
    warm_epochs: int = _key(1, "passes over them", rule=AT_LEAST_ONE)
    seed: int = _key(0, "seed of the initial adapter, of sampling and (if `seeded`) of the noise", rule=NOT_NEGATIVE)
    threads: int = _key(
        2, "torch threads per process; pinned, since results depend on it to the bit", rule=AT_LEAST_ONE
    )
    device: str = _key(
        "cpu",
        "where the model is: `cpu`, `cuda`, or `auto`: a GPU at each hospital where torch finds one. Data, noise and "
        "ledgers stay with the processor. Tested on a stand-in, never run on a GPU: docs/performance.md",
        choices=("cpu", "cuda", "auto"),
    )
    precision: str = _key(
        "float32",
        "arithmetic of the frozen base model; `auto`: bfloat16 where this machine runs it clearly faster. Adapter, "
        "clipping, sums and noise are float32 or wider in any case, but bfloat16 blurs the guarantee (docs/privacy.md)",
        choices=("float32", "bfloat16", "auto"),
    )
    kernels: str = _key(
        "auto",
        "`probe`: a second's measurement picks matrix products, attention and micro-batches for this machine, once, "
        "and keeps the choice in the cache folder; `default`: torch's own, the same everywhere; `auto`: `default` if "
        "the noise is seeded, since such a run is there to be repeated to the bit, else `probe`",
        choices=("auto", "probe", "default"),
    )
    micro_tokens: int = _key(
        0,
        "padded tokens in one forward pass; 0: what `train.kernels` picks. Changes results by rounding only",
        rule=NOT_NEGATIVE,
    )
    evaluate_every: int = _key(1, "rounds between evaluations; the last round is always evaluated", rule=AT_LEAST_ONE)


@dataclass(frozen=True)
class Strategy:
    """How the server turns the sites' adapters into the next one."""

    name: str = _key(
        "fedavg", "a strategy from the entry points `fedrad.strategies`; docs/strategies.md", rule=NOT_EMPTY
    )
    weights: str = _key(
        "uniform",
        "weights of the average, all of them public: `declared`: by declared size; `inverse-variance`: by the noise of "
        "each hospital's plan",
        choices=("uniform", "declared", "inverse-variance"),
    )
    alternate: str = _key(
        "round",
        "`rolora`: B and A take turns by round, or by local `step` (LA-LoRA)",
        choices=("round", "step"),
    )
    tau: float = _key(
        0.0,
        "`refactor`: A gets the singular values to this power, B the rest (0: FedSVD, 0.5: FedASK)",
        rule=FROM_ZERO_TO_ONE,
    )
    every: int = _key(1, "`refactor`: rounds between two refactorings", rule=AT_LEAST_ONE)
    subspace: str = _key(
        "random",
        "`fedsb`: where the frozen factors come from, both public: `random`: orthonormal ones from `train.seed`; "
        "`base`: the largest singular vectors of each adapted weight, where noise does most harm",
        choices=("random", "base"),
    )


@dataclass(frozen=True)
class Run:
    """Where the results go."""

    out: str = _key("", "run directory; empty: `runs/<time>-<name>`")
    name: str = _key("", "a word for the run directory's name")
