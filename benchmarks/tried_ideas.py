"""The ideas of `benchmarks.tried`, as functions of frozen features: each returns a head, or thresholds for one.

A private result is public, so that whatever is made of it afterwards costs nothing. What decides before that is the
scale of the noise, and generated reports.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedrad.config import Experiment
from fedrad.privacy.noise import Stream
from fedrad.privacy.plan import PrivacyPlan, declared_size
from fedrad.privacy.sampler import poisson_sample
from fedrad.training.inputs import Inputs
from fedrad.training.local import Recipe, TrainingState, learning_rate, run_steps
from fedrad.training.setup import Setup, plan_for


@dataclass(frozen=True)
class Walk:
    """DP-SGD of the head: the default's, with what is changed.

    Attributes:
        kappa, gamma: of the filter; 1 and 0 are none.
        momentum: 0.9 is the default's. The step size times 1 / (1 - momentum) is the default's in any case.
        bias: the constant feature that the bias is the weight of.
        longer: factor of the step size.
    """

    kappa: float = 1.0
    gamma: float = 0.0
    momentum: float = 0.9
    bias: float = 1.0
    longer: float = 1.0


FILTERS = {
    "DiSK, kappa 0.7, gamma 0.5, before momentum": Walk(0.7, 0.5),
    "DiSK, kappa 0.7, gamma 0.5, no momentum": Walk(0.7, 0.5, 0.0),
    "DiSK, kappa 0.1, gamma 9, no momentum": Walk(0.1, 9.0, 0.0),
    "no filter, no momentum": Walk(momentum=0.0),
    "no filter, no momentum, 0.7 of the step": Walk(momentum=0.0, longer=0.7),
    "no filter, momentum, 1.57 of the step": Walk(longer=1.57),  # moves the mean iterate as far as without momentum
}
# (clip, how far noise moves a coordinate of the whitened head, damping of the public Hessian; 0: none is used)
QUERIES = {
    "whitened, short": (1.0, 0.03, 0.0),
    "whitened, long": (1.0, 0.1, 0.0),
    "whitened, long, public Hessian": (1.0, 0.1, 0.03),
    "whitened, longest": (1.0, 1.0, 0.0),
}


@dataclass(frozen=True, eq=False)
class Task:
    """One corpus under one start, as features.

    Attributes:
        head: [L, k + 1], the start; the last column is the bias.
        train, test, public: features [n, k + 1], the last one 1, and labels [n, L].
    """

    experiment: Experiment
    setup: Setup
    state: dict[str, Tensor]
    inputs: Inputs
    head: Tensor
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    public: tuple[Tensor, Tensor]

    def terms(self, epsilon: float, seed: int) -> tuple[PrivacyPlan, Recipe]:
        one = Experiment.from_flat({**self.experiment.flat(), "privacy.epsilon": epsilon, "train.seed": seed})
        warm = self.experiment.warm_start == "synthetic"
        return plan_for(one, declared_size(len(self.inputs))), Recipe.of(one, warm=warm)


def default(task: Task, epsilon: float, seed: int, *turns: frozenset[str]) -> Tensor:
    """The head after the library's own steps."""
    plan, recipe = task.terms(epsilon, seed)
    adapter = {name: task.state[name] for name in task.setup.classifier.adapter()}
    start = TrainingState(adapter)
    task.setup.classifier.load_state(task.state)
    done = run_steps(
        task.setup.classifier, task.inputs, plan, recipe, start, recipe.total_steps, site="site-000", turns=turns
    ).result()
    return torch.cat([done["head.weight"], done["head.bias"][:, None]], 1).double()


def filtered(task: Task, epsilon: float, seed: int, walk: Walk) -> Tensor:
    """The head after DP-SGD with DiSK's simplified Kalman filter (Zhang et al. 2024, arXiv 2410.03883).

    The clipped per-report gradient is c grad(x + gamma d) + (1 - c) grad(x), with d the last move and
    c = (1 - kappa) / (kappa gamma); its noised mean g enters m <- (1 - kappa) m + kappa g. One Gaussian mechanism a
    step, as in the default. Momentum itself is a filter with kappa = 1 - momentum that does not look ahead.
    """
    plan, recipe = task.terms(epsilon, seed)
    rate = walk.longer * learning_rate(recipe, plan) * (1 - walk.momentum) / (1 - recipe.momentum)
    unit = torch.ones(task.head.shape[1], dtype=torch.float64)
    unit[-1] = walk.bias
    features, labels = task.train[0] * unit, task.train[1]
    head, total = task.head / unit, torch.zeros_like(task.head)
    move, mean, velocity = (torch.zeros_like(head) for _ in range(3))
    kappa, gamma = walk.kappa, walk.gamma
    c = (1 - kappa) / (kappa * gamma) if gamma else 0.0
    for step in range(recipe.total_steps):
        rows = poisson_sample(len(labels), plan.sampling_rate, Stream.seeded(recipe.seed, "site-000", step, "sample"))
        x, y = features[rows], labels[rows]
        errors = c * torch.sigmoid(x @ (head + gamma * move).T) + (1 - c) * torch.sigmoid(x @ head.T) - y
        stream = Stream.seeded(recipe.seed, "site-000", step, "noise")
        gradient = noised_sum(errors, x, plan, stream) / plan.divisor
        mean = (1 - kappa) * mean + kappa * gradient
        velocity = walk.momentum * velocity + mean
        move = -rate * velocity
        head = head + move
        if recipe.averages(step):
            total += head
    return total / (recipe.total_steps - recipe.averages_from) * unit


def noised_sum(errors: Tensor, features: Tensor, plan: PrivacyPlan, stream: Stream) -> Tensor:
    """[L, k + 1]: the sum of the clipped gradients errors_i x_i^T, whose norm is |errors_i| |x_i|, with noise."""
    norms = errors.norm(dim=1) * features.norm(dim=1)
    total = (errors * (plan.clip / norms).clamp(max=1.0)[:, None]).T @ features
    bias, weight = (stream.normal(shape, torch.float64) for shape in ((len(total),), (len(total), total.shape[1] - 1)))
    return total + plan.noise_multiplier * plan.clip * torch.cat([weight, bias[:, None]], 1)


def one_query(task: Task, epsilon: float, seed: int, clip: float, walk: float, damping: float) -> Tensor:
    """The head after one noised gradient of all reports, whitened by the covariance of generated reports (after Mehta
    et al. 2022, arXiv 2211.13403), with the noise that one step without sampling needs.

    The step moves no coordinate of the whitened head by more than ``walk`` standard deviations of noise. With damping,
    each label's step is preconditioned by damping / (Hessian + damping), its Hessian that of the generated reports.
    """
    n = declared_size(len(task.inputs))
    plan = PrivacyPlan.calibrate(
        epsilon=epsilon, delta=1e-5, declared_size=n, expected_batch=n, steps=1, clip=clip, noise="seeded"
    )
    public = task.public[0]
    values, axes = torch.linalg.eigh(public.T @ public / len(public))
    whitener = axes @ torch.diag(values.clamp(min=0.01 * float(values.mean())).rsqrt()) @ axes.T
    features, labels = task.train[0] @ whitener, task.train[1]
    errors = torch.sigmoid(task.train[0] @ task.head.T) - labels
    gradient = noised_sum(errors, features, plan, Stream.seeded(seed, "query")) / n
    if damping:
        z, p = public @ whitener, torch.sigmoid(public @ task.head.T)
        eye = torch.eye(z.shape[1], dtype=torch.float64)
        for label, share in enumerate((p * (1 - p)).T):
            hessian = (z * share[:, None]).T @ z / len(z)
            gradient[label] = torch.linalg.solve(hessian + damping * eye, damping * gradient[label])
    return task.head - walk * n / (plan.noise_multiplier * clip) * gradient @ whitener


def shrunk(matrix: Tensor, noise: float) -> Tensor:
    """A noised matrix with the singular values that lie nearest, in mean, to those of the matrix without noise (Gavish
    & Donoho 2017, arXiv 1405.7511, Frobenius loss)."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    beta, unit = min(matrix.shape) / max(matrix.shape), noise * max(matrix.shape) ** 0.5
    y = values / unit
    kept = ((y**2 - beta - 1) ** 2 - 4 * beta).clamp(min=0).sqrt() / y * (y > 1 + beta**0.5)
    return (u * (unit * kept)) @ v


def noise_of(plan: PrivacyPlan, recipe: Recipe, share: float, every: int = 1, first: int = 0) -> float:
    """Standard deviation of what the noise of all steps makes of a coordinate that every ``every``-th step trains."""
    steps = np.arange(recipe.total_steps)
    gains = []
    for hit in steps[first::every]:
        velocity = position = total = 0.0
        for step in steps:
            if step % every == first:
                velocity = recipe.momentum * velocity + (step == hit)
                position += velocity
            total += position * recipe.averages(int(step))
        gains.append(total / (recipe.total_steps - recipe.averages_from))
    one = share * learning_rate(recipe, plan) * plan.noise_multiplier * plan.clip / plan.divisor
    return one * float(np.sqrt(np.sum(np.square(gains))))


def best_thresholds(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each label the logit above which F1 is largest, halfway to the next report, and that F1."""
    order = logits.argsort(0, descending=True)
    ranked, truth = logits.gather(0, order), labels.gather(0, order)
    called = torch.arange(1, len(logits) + 1, dtype=torch.float64)[:, None]
    f1, at = (2 * truth.cumsum(0) / (called + truth.sum(0))).max(0)
    below = ranked.gather(0, (at + 1).clamp(max=len(logits) - 1)[None])[0]
    return (ranked.gather(0, at[None])[0] + below) / 2, f1


def same_share(logits: Tensor, labels: Tensor) -> Tensor:
    """For each label the logit that as many generated reports exceed as have the label."""
    ranked = logits.sort(0, descending=True).values
    count = labels.sum(0).long()[None].clamp(min=1)
    return ((ranked.gather(0, count - 1) + ranked.gather(0, count)) / 2)[0]


def decisions(task: Task, head: Tensor) -> dict[str, Tensor]:
    """Rule -> threshold of each label, in logits. A head that was released may be looked at for nothing."""
    (x, y), (tested, truth) = task.public, task.test

    def half(f1: Tensor) -> Tensor:  # Lipton et al. 2014, arXiv 1402.1892: of a calibrated classifier
        return (f1 / 2).clamp(0.01, 0.99).logit()

    return {
        "1/2": torch.zeros(len(head), dtype=torch.float64),
        "F*/2, F* of the start on generated reports": half(best_thresholds(x @ task.head.T, y)[1]),
        "F*/2, F* of the result on generated reports": half(best_thresholds(x @ head.T, y)[1]),
        "as often as generated reports have it": same_share(x @ head.T, y),
        "best F1 on generated reports": best_thresholds(x @ head.T, y)[0],
        "best F1 on the test reports (no rule: a bound)": best_thresholds(tested @ head.T, truth)[0],
    }
