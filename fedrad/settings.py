"""The settings: every key that fedrad knows, with its default, its meaning and its limits.

``max_length`` in :class:`Data` is the key ``data.max-length``. Everything here is public: it may be printed, logged and
sent, so nothing that is computed from private reports is a field. ``config.py`` puts the sections together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedrad.corpora import BANKS, CORPORA
from fedrad.installed import installed
from fedrad.limits import setting

EMBEDDED = "all-MiniLM-L6-v2"
"""The encoder that needs no download."""
CHEST = "chest-minilm"
"""The public base that was made of it."""
AUTO = ("auto",)
_GENERATED = " or ".join(f"`{name}`" for name, corpus in CORPORA.items() if corpus.generated)
_DIVIDED = ", ".join(corpus.title for corpus in CORPORA.values() if corpus.own_split)


def spelt(word: str, choices: Iterable[str]) -> str:
    """The choice that ``word`` means, if dashes and underscores are one; else ``word`` itself."""
    return next((choice for choice in choices if choice.replace("_", "-") == word.replace("_", "-")), word)


@dataclass(frozen=True)
class Data:
    """Which reports, and how they are read."""

    name: str = setting(
        "synthetic",
        "where the reports come from; of a server with real hospitals: its public test set, or `none`",
        choices=(*CORPORA, "none"),
    )
    path: str = setting("", f"folder or file with the reports; needed unless `data.name` is {_GENERATED} or `none`")
    max_length: int = setting(256, "longest report in word-pieces; what is beyond is cut off", limit="at least 8")
    uncertain: str = setting(
        "negative",
        "what an uncertain label counts as: -1.0 in MIMIC-CXR's label file, or a finding that a generated report only "
        "suspects; `ignore` masks it out of loss and score. A public base has learnt them as negative",
        choices=("negative", "positive", "ignore"),
    )
    test_fraction: float = setting(
        0.2,
        f"share of the patients held out for testing, where the corpus has no split of its own (as {_DIVIDED} have)",
        limit="above 0 and below 1",
    )
    declared_size: int = setting(
        0,
        "`fedrad.centralized`: the number of training reports (or patients: `privacy.unit`) as stated in public, which "
        "sets the sampling rate; 0: the actual number rounded to two digits, fit for experiments only. Hospitals state "
        "theirs in their node configuration; in a federation this is about what each of them has, and decides no more "
        "than what `lora.targets=auto` trains",
        limit="at least 0",
    )
    bank: str = setting(
        "chest-xray",
        "phrase bank that generated reports are written from (`synthetic` only); it decides the labels",
        choices=tuple(BANKS),
    )
    reports: int = setting(3000, "reports to generate (`synthetic` only)", limit="at least 1")
    seed: int = setting(0, "seed of the generated corpus, the split and the shards", limit="at least 0")
    text_column: str = setting("text", "column with the report text (`table` only)", limit="not empty")
    patient_column: str = setting(
        "", "column with the patient id (`table` only); empty: every report is its own patient"
    )
    site_column: str = setting("", "column with the hospital (`table` only)")
    time_column: str = setting("", "column with the time of the report (`table` only)")
    no_finding: str = setting(
        "auto",
        "what the label No Finding means, for the start of its head: `nothing-abnormal`: nothing abnormal is "
        "mentioned, as in Open-i; `no-other-label`: no other label but Support Devices is positive, as CheXpert made "
        "MIMIC-CXR's; `auto`: by `data.name`",
        choices=("auto", "nothing-abnormal", "no-other-label"),
    )
    label_columns: str = setting(
        "",
        "label columns, commas between: several of 0 and 1, or a single one of class names; `chexpert` and `ct-rate` "
        "stand for the 14 and 18 labels of MIMIC-CXR and CT-RATE. Needed with `table`, and with `none`, where they are "
        "the labels of the hospitals",
    )
    classes: str = setting(
        "", "the class names, commas between, where `data.label-columns` is one column of them (`none` only)"
    )


@dataclass(frozen=True)
class Sites:
    """The hospitals."""

    count: int = setting(4, "number of hospitals; no effect on `fedrad.centralized`", limit="at least 1")
    partition: str = setting(
        "iid",
        "how a simulation deals the patients to hospitals; always whole patients",
        choices=("iid", "dirichlet", "by-site", "temporal"),
    )
    alpha: float = setting(0.5, "concentration of the `dirichlet` label skew; smaller is more skewed", limit="above 0")
    quorum: int = setting(
        0,
        "valid replies that a round needs; 0: half of the hospitals that it asks, rounded up. With secure aggregation "
        "it must be stated",
        limit="at least 0",
    )
    fraction: float = setting(
        1.0,
        "share of the hospitals that a round asks, drawn from `train.seed`; who is not asked spends nothing",
        limit="above 0, at most 1",
    )
    epsilons: tuple[float, ...] = setting(
        (),
        "a simulation's hospitals with budgets of their own, one for each; empty: `privacy.epsilon` for all. A real "
        "hospital's is the cap in its node configuration",
        limit="each above 0",
    )
    deltas: tuple[float, ...] = setting(
        (), "likewise for delta; empty: `privacy.delta` for all", limit="each at least 1e-9 and below 1"
    )
    batches: tuple[int, ...] = setting(
        (),
        "likewise for the expected batch; empty: `train.batch` for all. A real hospital may set `batch` in its node "
        "configuration",
        limit="each above 0",
    )
    ranks: tuple[int, ...] = setting(
        (),
        "likewise for the LoRA rank, under a strategy that can mix ranks; empty: `lora.rank` for all. A real hospital "
        "may set `rank` in its node configuration",
        limit="each above 0",
    )
    alone: int = setting(
        0,
        "`fedrad.centralized`: train on the reports of this one of the `sites.count` simulated hospitals alone, "
        "counted from 1, and test as ever; 0: on all reports",
        limit="at least 0",
    )
    timeout: float = setting(900.0, "seconds that a round may take", limit="above 0")
    connect_timeout: float = setting(120.0, "seconds to wait until the hospitals are connected", limit="above 0")


@dataclass(frozen=True)
class Model:
    """The frozen base model."""

    name: str = setting(
        EMBEDDED,
        "the embedded encoder, a hub id such as `prajjwal1/bert-small`, or a local folder, "
        "written with a leading `/`, `./`, `../` or `~/`",
        limit="not empty",
    )
    revision: str = setting("", "commit of a hub id; empty: the newest")
    pooling: str = setting(
        "mean", "how token states become one vector; a warm start needs `mean`", choices=("cls", "mean")
    )
    directions: int = setting(
        64,
        "warm start: how many principal directions of the pooled vector (on generated text, no privacy cost) the head "
        "reads, beside those that its start needs; fewer take less noise. 0: all numbers of the vector",
        limit="at least 0",
    )
    centre: bool = setting(
        True, "centre and rescale the pooled vector by constants that come from generated text only (no privacy cost)"
    )


@dataclass(frozen=True)
class Lora:
    """What is trained beside the classification head."""

    rank: int = setting(4, "rank of A and B", limit="at least 1")
    alpha: float = setting(8.0, "scaling numerator: the adapter adds (alpha / rank) B A", limit="above 0")
    targets: tuple[str, ...] = setting(
        AUTO,
        "linear layers that get an adapter; empty: train the head alone. `auto`, from a public base: all linear layers "
        "of all layers without privacy; with it those of the last layer where `data.declared-size` x "
        "min(`privacy.epsilon`, 1) is at least 1000, else the head alone. Not from a public base: `query,value`",
    )
    layers: int = setting(1, "adapt the last N layers; 0 means all", limit="at least 0")
    freeze_a: bool = setting(False, "keep A as it was initialised (FFA-LoRA, arXiv 2403.12313)")


@dataclass(frozen=True)
class Privacy:
    """What every hospital promises. See docs/privacy.md."""

    epsilon: float = setting(
        8.0, "budget of each hospital, met from below; 0 trains WITHOUT privacy", limit="at least 0"
    )
    delta: float = setting(1e-5, "must stay below 1 / declared shard size", limit="at least 1e-9 and below 1")
    clip: float = setting(
        1.0,
        "largest L2 norm of what one unit adds (a report's gradient, the sum of a patient's, a hospital's whole "
        "update), over all trainable tensors",
        limit="above 0",
    )
    unit: str = setting(
        "report",
        "what one guarantee protects",
        choices=("report", "patient", "hospital"),
    )
    reports_per_patient: int = setting(
        4,
        "with `privacy.unit=patient`: reports of a sampled patient that a step uses at most, drawn afresh in each step",
        limit="at least 1",
    )
    noise: str = setting(
        "system",
        "`system`: from the operating system; `seeded`: repeatable, for simulations only, protects nobody",
        choices=("system", "seeded"),
    )
    secure_aggregation: bool = setting(
        False,
        "hospitals mask what they send, so that the server learns their sum alone (docs/secure-aggregation.md); needs "
        "`sites.quorum`",
    )
    shared_noise: bool = setting(
        False,
        "with secure aggregation and one local step: each hospital adds a share of the noise, enough in the sum of the "
        "smallest quorum. Rests on the other hospitals and on the server",
    )
    colluders: int = setting(
        0,
        "with secure aggregation: hospitals that may tell the server all they know; the others stay protected, and "
        "share the noise without them",
        limit="at least 0",
    )
    gradients: str = setting(
        "leaf", "per-sample gradients: per-sample leaves, or Opacus's engine", choices=("leaf", "opacus")
    )


@dataclass(frozen=True)
class Train:
    """The schedule and the optimizer."""

    rounds: int = setting(5, "federation rounds", limit="at least 1")
    local_steps: int = setting(
        0,
        "noisy steps of each hospital in a round; 0: 6, or 12 of LoRA in all linear layers",
        limit="at least 0",
    )
    batch: int = setting(
        0,
        "expected batch of a Poisson sample; the public divisor of the gradient. 0: 128; 256 of private LoRA in all "
        "linear layers; of the head alone a quarter of what the hospital declares, if that is more",
        limit="at least 0",
    )
    optimizer: str = setting("momentum", "optimizer of the private phase", choices=("momentum", "adam"))
    learning_rate: float = setting(
        0.0,
        "step size of the private phase (the head's; LoRA takes a fixed share of it); 0: chosen from public figures",
        limit="at least 0",
    )
    momentum: float = setting(
        0.9,
        "momentum; beta1 for `adam`. Under secure aggregation it starts anew in every round",
        limit="at least 0 and below 1",
    )
    average: float = setting(
        0.4,
        "share of the last iterates that are averaged; 0 means none. Under secure aggregation, of the last round only",
        limit="at least 0 and below 1",
    )
    warm_start: str = setting(
        "auto",
        "`synthetic`: start from a public base, an encoder and a head that generated reports have trained (no privacy "
        "cost); `auto`: `synthetic` for real reports and for `data.bank=chest-xray-hospitals`, `none` for the other "
        "generated ones, which would be tested on what the base was trained on, and for `model.pooling=cls`",
        choices=("auto", "none", "synthetic"),
    )
    warm_reports: int = setting(
        8000,
        "generated reports of which a public base is built where `model.name` is none and none is embedded",
        limit="at least 1",
    )
    warm_epochs: int = setting(1, "passes over them", limit="at least 1")
    seed: int = setting(
        0, "seed of the initial adapter, of sampling and (if `seeded`) of the noise", limit="at least 0"
    )
    threads: int = setting(
        2, "torch threads per process; pinned, since results depend on it to the bit", limit="at least 1"
    )
    device: str = setting(
        "cpu",
        "where the model is: `cpu`, `cuda`, or `auto`: a GPU at each hospital where torch finds one. Data, noise and "
        "ledgers stay with the processor. Tested on a stand-in, never run on a GPU: docs/performance.md",
        choices=("cpu", "cuda", "auto"),
    )
    precision: str = setting(
        "float32",
        "arithmetic of the frozen base model; `auto`: bfloat16 where this machine runs it clearly faster. Adapter, "
        "clipping, sums and noise are float32 or wider in any case, but bfloat16 blurs the guarantee (docs/privacy.md)",
        choices=("float32", "bfloat16", "auto"),
    )
    kernels: str = setting(
        "auto",
        "`probe`: a second's measurement picks matrix products, attention and micro-batches for this machine, once, "
        "and keeps the choice in the cache folder; `default`: torch's own, the same everywhere; `auto`: `default` if "
        "the noise is seeded, since such a run is there to be repeated to the bit, else `probe`",
        choices=("auto", "probe", "default"),
    )
    micro_tokens: int = setting(
        0,
        "padded tokens in one forward pass; 0: what `train.kernels` picks. Changes results by rounding only",
        limit="at least 0",
    )
    evaluate_every: int = setting(
        1, "rounds between evaluations; the last round is always evaluated", limit="at least 1"
    )


@dataclass(frozen=True)
class Strategy:
    """How the server turns the sites' adapters into the next one."""

    name: str = setting(
        "fedavg", "a strategy from the entry points `fedrad.strategies`; docs/strategies.md", choices=installed
    )
    weights: str = setting(
        "uniform",
        "weights of the average, all of them public: `declared`: by declared size; `inverse-variance`: by the noise of "
        "each hospital's plan",
        choices=("uniform", "declared", "inverse-variance"),
    )
    alternate: str = setting(
        "round",
        "`rolora`: B and A take turns by round, or by local `step` (LA-LoRA)",
        choices=("round", "step"),
    )
    tau: float = setting(
        0.0,
        "`refactor`: A gets the singular values to this power, B the rest (0: FedSVD, 0.5: FedASK)",
        limit="from 0 to 1",
    )
    every: int = setting(1, "`refactor`: rounds between two refactorings", limit="at least 1")
    subspace: str = setting(
        "random",
        "`fedsb`: where the frozen factors come from, both public: `random`: orthonormal ones from `train.seed`; "
        "`base`: the largest singular vectors of each adapted weight, where noise does most harm",
        choices=("random", "base"),
    )
    server_rate: float = setting(
        0.0,
        "`fedavgm`, `fedadam`: step size of the server; 0: 1 for `fedavgm`, 0.01 for `fedadam`",
        limit="at least 0",
    )
    server_momentum: float = setting(
        0.9, "momentum of the server: beta of `fedavgm`, beta1 of `fedadam`", limit="at least 0 and below 1"
    )


@dataclass(frozen=True)
class Run:
    """Where the results go."""

    out: str = setting("", "run directory; empty: `runs/<time>-<name>`")
    name: str = setting("", "a word for the run directory's name")
    predictions: bool = setting(
        False,
        "write `predictions.parquet` (and `predictions-before.parquet`, of the start): labels and probabilities of "
        "each test report, with its patient, for paired tests; mode 0600, for public or simulated test sets only",
    )
    track: str = setting(
        "jsonl",
        "where else to log, beside `metrics.jsonl`: `mlflow`: settings, scores, files, and the adapter as a registered "
        "model; `tensorboard`: scores. Each needs the extra of its name",
        choices=("jsonl", "mlflow", "tensorboard"),
    )
    tracking_uri: str = setting(
        "",
        "of `mlflow`: its tracking server or database, as `sqlite:////data/mlflow.db`; empty: MLflow's own default. Of "
        "`tensorboard`: a folder; empty: the run directory. Public like every setting: put no password in it",
    )
