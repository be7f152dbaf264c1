"""A whole experiment in small: a tiny BERT, random tokens, and what the training loop needs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from torch import Tensor

from fedrad.config import Experiment
from fedrad.data.batches import Tokenized
from fedrad.ledger.ledger import Ledger
from fedrad.model.kernels import on_cpu
from fedrad.privacy.plan import PrivacyPlan, declared_size
from fedrad.tasks.metrics import F1_FIGURES, Scores
from fedrad.tasks.multi_label import MultiLabel
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import StepReport, TrainingState
from fedrad.training.recipe import Recipe
from fedrad.training.result import Result
from fedrad.training.setup import Setup, plan_for, set_up
from fedrad.training.site import RoundRequest, Site, train_round
from tests.model import tiny

LABELS = ("Edema", "Pneumothorax", "Something that the generator does not know")
TASK = MultiLabel(LABELS)
DELTA = 1e-3


@cache
def model_folder() -> str:
    """A BERT of three layers, width 32, 48 positions."""
    return tiny.save(Path(mkdtemp(prefix="fedrad-tiny-")) / "model", "bert")


def untrained_run(directory: Path) -> Path:
    """A run directory with an adapter that was never trained, but whose probabilities depend on the text."""
    setup = set_up(experiment(), TASK)
    tiny.randomise(setup.classifier)
    TASK.export(setup.classifier, setup.base, directory / "adapter", max_length=40, privacy_statement="none")
    return directory


def experiment(**changes: object) -> Experiment:
    """A small experiment; ``privacy__noise="system"`` changes ``privacy.noise``."""
    settings: dict[str, object] = {
        "model.name": model_folder(),
        "data.reports": 60,
        "data.max-length": 40,
        "lora.rank": 2,
        "lora.layers": 2,
        "privacy.noise": "seeded",
        "privacy.delta": DELTA,
        "train.rounds": 2,
        "train.local-steps": 3,
        "train.batch": 16,
        "train.learning-rate": 0.1,
        "train.threads": 1,
        "train.micro-tokens": 128,
        "train.warm-reports": 64,
        "train.warm-epochs": 1,
    }
    settings |= {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    return Experiment.from_flat(settings)


def tokens(reports: int = 40, labels: int = len(LABELS), seed: int = 0) -> Tokenized:
    """Random reports of 3 to 30 tokens with random labels, none masked."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 31, reports)
    return Tokenized(
        ids=generator.integers(5, len(tiny.VOCABULARY), lengths.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=generator.integers(0, 2, (reports, labels)).astype(np.float32),
        mask=np.ones((reports, labels), dtype=np.float32),
    )


@dataclass(frozen=True)
class Ready:
    """All that ``run_steps`` takes, with an adapter that is nowhere zero."""

    experiment: Experiment
    setup: Setup
    inputs: Inputs
    plan: PrivacyPlan
    recipe: Recipe
    state: TrainingState

    def site(self, directory: Path, name: str = "site-000") -> Site:
        return Site(name, directory, self.setup.classifier, self.inputs, self.plan, self.recipe)


def ready(exp: Experiment, reports: Tokenized | None = None, declared: int | None = None) -> Ready:
    """Built from scratch, so that nothing is shared with another call but the base model's tensors."""
    reports = tokens() if reports is None else reports
    setup = set_up(exp, TASK)
    tiny.randomise(setup.classifier)
    inputs = prepare(setup, reports)
    adapter = {name: on_cpu(tensor) for name, tensor in setup.classifier.adapter().items()}
    plan = plan_for(exp, declared_size(len(reports)) if declared is None else declared)
    return Ready(exp, setup, inputs, plan, Recipe.of(exp), TrainingState(adapter))


def ledger(directory: Path, site: str = "site-000", cap: float = 8.0, witness: Path | None = None) -> Ledger:
    return Ledger.open(directory, site=site, cap=cap, delta=DELTA, witness=witness)


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether names and every bit agree."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and left[name].numpy().tobytes() == right[name].numpy().tobytes()
        for name in left
    )


def distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Largest difference of an entry, relative to the largest entry."""
    assert left.keys() == right.keys()
    largest = max(float(tensor.abs().max()) for tensor in left.values())
    return max(float((left[name] - right[name]).abs().max()) for name in left) / largest


def result(epsilon: Mapping[str, float]) -> Result:
    """The figures of a run that never was."""
    scores = Scores(dict(zip(F1_FIGURES, (0.75, 0.5, 0.25), strict=True)), dict.fromkeys(LABELS, 0.5))
    return Result(scores, epsilon, 6, dict.fromkeys(epsilon, 40), False, 12, 1.5, delta=DELTA)


def train_and_tell(directory: str, steps: int) -> None:
    """One round at a site, in a process that the test will kill; says each step as it is done."""
    here = ready(experiment(privacy__noise="system", train__rounds=1, train__local_steps=steps, train__batch=4))
    site = here.site(Path(directory))

    def tell(report: StepReport) -> None:
        print(report.step, flush=True)

    with ledger(site.directory) as book:
        train_round(site, book, RoundRequest("run", 1, steps, last=True), here.state.adapter, tell)
