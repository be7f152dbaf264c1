"""The settings of model, privacy, training and strategy: every key with its default, its meaning and its limits.

``local_steps`` in :class:`Train` is the key ``train.local-steps``. All settings are public: they may be printed, logged
and sent, so no field may be computed from private reports. ``settings_data.py`` has the sections about reports and
hospitals; ``config.py`` puts all sections together.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedrad.installed import installed
from fedrad.limits import setting

EMBEDDED = "all-MiniLM-L6-v2"
"""The encoder that comes with fedrad."""
CHEST = "chest-minilm"
"""The public base made from it."""
SMOLLM2 = "smollm2"
"""The decoder that `fedrad base fetch smollm2` fetches."""
CAUSAL = "causal-lm"
ANSWER, TEXT = "answer", "text"
AUTO = ("auto",)


@dataclass(frozen=True)
class Model:
    """The frozen base model."""

    name: str = setting(
        EMBEDDED,
        "the embedded encoder, `smollm2` (after `fedrad base fetch smollm2`), a hub id such as "
        "`prajjwal1/bert-small`, or a local folder, written with a leading `/`, `./`, `../` or `~/`",
        limit="not empty",
    )
    revision: str = setting("", "commit of a hub id; empty: the newest")
    quantize: str = setting(
        "none",
        "`nf4`: the frozen layers of a decoder take 4 bits a number (QLoRA), with the extra `qlora`; "
        "`train.precision` is what they are multiplied in",
        choices=("none", "nf4"),
    )
    task: str = setting(
        "classification",
        "`classification`: a head with an output for each label; `causal-lm`: a decoder, such as `smollm2`, writes the "
        "class of a report (docs/protocoling.md)",
        choices=("classification", CAUSAL),
    )
    instruction: str = setting(
        "Choose the imaging protocol for this order.",
        "`causal-lm`: what the decoder reads before each report",
        limit="not empty",
    )
    shots: int = setting(
        0,
        "`causal-lm`: number of generated order notes with their protocols that the decoder reads behind the "
        "instruction (a few-shot prompt; no privacy cost), if the classes are imaging protocols. Each takes about 55 "
        "tokens of `data.max-length`. Other examples: write them into `model.instruction`",
        limit="from 0 to 64",
    )
    loss: str = setting(
        ANSWER,
        "`causal-lm`: the tokens that are learnt: those of the `answer`, or of the whole `text`: instruction, note and "
        "answer, as stock causal training does. A note has one loss, the sum over its tokens",
        choices=(ANSWER, TEXT),
    )
    pooling: str = setting(
        "mean", "how token states become one vector; a warm start needs `mean`", choices=("cls", "mean")
    )
    directions: int = setting(
        64,
        "warm start: number of principal directions of the pooled vector (computed on generated text, no privacy cost) "
        "that the head reads, in addition to those that its start needs; fewer get less noise. 0: the whole vector",
        limit="at least 0",
    )
    centre: bool = setting(
        True, "centre and rescale the pooled vector by constants computed on generated text (no privacy cost)"
    )


@dataclass(frozen=True)
class Lora:
    """What is trained in addition to the classification head."""

    rank: int = setting(4, "rank of A and B", limit="at least 1")
    alpha: float = setting(8.0, "scaling numerator: the adapter adds (alpha / rank) B A", limit="above 0")
    targets: tuple[str, ...] = setting(
        AUTO,
        "linear modules that get an adapter; empty: train the head alone. `auto` from a public base: without privacy "
        "all linear modules of all layers; with privacy those of the last layer if `data.declared-size` x "
        "min(`privacy.epsilon`, 1) is at least 1000, else the head alone. `auto` otherwise: `query,value`",
    )
    layers: int = setting(1, "adapt the last N layers; 0 means all", limit="at least 0")
    freeze_a: bool = setting(False, "do not train A (FFA-LoRA, arXiv 2403.12313)")


@dataclass(frozen=True)
class Privacy:
    """The privacy guarantee of every hospital. See docs/privacy.md."""

    epsilon: float = setting(
        8.0, "budget of each hospital, never exceeded; 0 trains WITHOUT privacy", limit="at least 0"
    )
    delta: float = setting(1e-5, "must be below 1 / declared shard size", limit="at least 1e-9 and below 1")
    clip: float = setting(
        1.0,
        "largest L2 norm, over all trainable tensors, of a unit's contribution (a report's gradient, the sum of a "
        "patient's gradients, or a hospital's whole update)",
        limit="from 1e-9 to 1e9",
    )
    unit: str = setting(
        "report",
        "what one guarantee protects",
        choices=("report", "patient", "hospital"),
    )
    reports_per_patient: int = setting(
        4,
        "with `privacy.unit=patient`: largest number of reports of a sampled patient in a step, drawn anew each step",
        limit="at least 1",
    )
    noise: str = setting(
        "system",
        "`system`: from the operating system; `seeded`: repeatable, for simulations only, protects nobody",
        choices=("system", "seeded"),
    )
    secure_aggregation: bool = setting(
        False,
        "hospitals mask what they send, so that the server learns only the sum (docs/secure-aggregation.md); needs "
        "`sites.quorum`",
    )
    shared_noise: bool = setting(
        False,
        "with secure aggregation and one local step: each hospital adds only part of the noise, such that the sum over "
        "the quorum has enough. The guarantee then depends on the other hospitals and on the server",
    )
    colluders: int = setting(
        0,
        "with secure aggregation: number of hospitals that may tell the server all they know while the others stay "
        "protected; their noise is not counted",
        limit="at least 0",
    )
    gradients: str = setting(
        "leaf", "method for per-sample gradients: leaf tensors, or Opacus's engine", choices=("leaf", "opacus")
    )


@dataclass(frozen=True)
class Train:
    """The schedule and the optimizer."""

    rounds: int = setting(5, "federation rounds", limit="at least 1")
    local_steps: int = setting(
        0,
        "noisy steps of each hospital in a round; 0: 12 with LoRA in all linear modules, else 6",
        limit="at least 0",
    )
    batch: int = setting(
        0,
        "expected batch size of the Poisson samples; the public divisor of the gradient. 0: 256 with private LoRA in "
        "all linear modules; with the head alone a quarter of the declared size, if that is more than 128; else 128",
        limit="at least 0",
    )
    optimizer: str = setting("momentum", "optimizer of the private phase", choices=("momentum", "adam"))
    learning_rate: float = setting(
        0.0,
        "step size of the head in the private phase (LoRA's is a fixed fraction of it); 0: chosen from public figures",
        limit="from 0 to 1e9",
    )
    momentum: float = setting(
        0.9,
        "momentum; beta1 for `adam`. With secure aggregation it restarts in every round",
        limit="at least 0 and below 1",
    )
    average: float = setting(
        0.4,
        "fraction of the iterates, the last ones, that are averaged; 0: none. With secure aggregation, iterates of the "
        "last round only",
        limit="at least 0 and below 1",
    )
    warm_start: str = setting(
        "auto",
        "`synthetic`: start from a public base, an encoder and a head trained on generated reports (no privacy cost); "
        "`auto`: `synthetic` for real reports and for `data.bank=chest-xray-hospitals`; `none` for other generated "
        "reports, which the base was trained on, for `model.pooling=cls`, and for protocols. `notes`: the adapter is "
        "first trained on generated order notes, if the classes are imaging protocols; `synthetic` means that too for "
        "`data.name=protocol` and for a decoder",
        choices=("auto", "none", "synthetic", "notes"),
    )
    warm_reports: int = setting(
        8000,
        "number of generated reports to build a public base from, if `model.name` is not one and none is embedded; or "
        "of generated notes",
        limit="at least 1",
    )
    warm_epochs: int = setting(1, "epochs over them", limit="at least 1")
    seed: int = setting(
        0, "seed of the initial adapter, of sampling and (if `seeded`) of the noise", limit="from 0 to 2^63 - 1"
    )
    threads: int = setting(
        2, "torch threads per process; fixed, because results depend on it in the last bits", limit="from 1 to 1024"
    )
    device: str = setting(
        "cpu",
        "device of the model: `cpu`, `cuda`, or `auto` (a GPU if torch finds one). Data, noise and ledgers stay on the "
        "processor. Tested on a simulated device, never run on a GPU: docs/performance.md",
        choices=("cpu", "cuda", "auto"),
    )
    precision: str = setting(
        "float32",
        "precision of the frozen base model; `auto`: bfloat16 if it is clearly faster on this machine. Adapter, "
        "clipping, sums and noise are always float32 or wider, but bfloat16 weakens the guarantee (docs/privacy.md)",
        choices=("float32", "bfloat16", "auto"),
    )
    kernels: str = setting(
        "auto",
        "`probe`: choose matrix products, attention and micro-batches for this machine by a measurement of a second, "
        "and cache the choice; `default`: torch's own, the same everywhere; `auto`: `default` if the noise is seeded, "
        "because such a run must repeat to the bit, else `probe`",
        choices=("auto", "probe", "default"),
    )
    micro_tokens: int = setting(
        0,
        "padded tokens in one forward pass; 0: as chosen by `train.kernels`. Changes results by rounding only",
        limit="at least 0",
    )
    checkpointing: bool = setting(
        False,
        "keep only the inputs of each adapted layer for the backward pass, which computes the rest again: less memory, "
        "about half more time (docs/protocoling.md). Changes results by rounding at most",
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
        "public weights of the average: `declared`: by declared size; `inverse-variance`: by the noise of each "
        "hospital's plan",
        choices=("uniform", "declared", "inverse-variance"),
    )
    alternate: str = setting(
        "round",
        "`rolora`: train B and A alternately, by round or by local `step` (LA-LoRA)",
        choices=("round", "step"),
    )
    tau: float = setting(
        0.0,
        "`refactor`: A gets the singular values to this power, B the remaining factor (0: FedSVD, 0.5: FedASK)",
        limit="from 0 to 1",
    )
    every: int = setting(1, "`refactor`: rounds between two refactorings", limit="at least 1")
    subspace: str = setting(
        "random",
        "`fedsb`: the frozen factors, public in both cases: `random`: orthonormal, from `train.seed`; `base`: the "
        "largest singular vectors of each adapted weight, where noise does most harm",
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
    app: str = setting("", "the simulation app; `fedrad simulate` notes it here, so that `--resume` knows it")
    grid: str = setting("", "its `--grid`; noted in the same way", choices=("", "inprocess", "fused", "flower"))
    resume: bool = setting(
        False,
        "go on with the unfinished run in `run.out`, from its last finished round and with its settings; "
        "`--resume DIR` sets it",
    )
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
