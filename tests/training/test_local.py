"""The training loop: what a round is made of, and what one report can change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrad.config import Experiment
from fedrad.data.batches import Tokenized
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.randomness import Stream, stream
from fedrad.training import local
from fedrad.training import recipe as rates_module
from fedrad.training.local import StepReport, TrainingState, run_steps
from fedrad.training.recipe import Recipe, automatic_learning_rate
from tests import small

STEPS = 6


def run(here: small.Ready, state: TrainingState, steps: int, site: str = "site-000") -> TrainingState:
    return run_steps(here.inputs, here.plan, here.recipe, state, steps, site=site)


def trained(exp: Experiment, steps: int = STEPS, site: str = "site-000") -> TrainingState:
    here = small.ready(exp)
    return run(here, here.state, steps, site)


# One computation, however it is cut


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("average", [0.0, 0.5])
@pytest.mark.parametrize("rounds", [2, 3, 6])
def test_rounds_of_steps_are_all_steps_at_once_bit_for_bit(optimizer: str, average: float, rounds: int) -> None:
    exp = small.experiment(train__optimizer=optimizer, train__average=average)
    once = trained(exp)
    state = small.ready(exp).state
    for _ in range(rounds):
        here = small.ready(exp)  # a new model each round, as in a new process
        state = run(here, state, STEPS // rounds)

    assert (state.step, state.averaged) == (once.step, once.averaged) == (STEPS, round(average * STEPS))
    assert small.same(state.adapter, once.adapter)
    assert small.same(state.moments, once.moments)
    assert small.same(state.average_sum, once.average_sum)
    assert small.same(state.result(), once.result())


@pytest.mark.parametrize("forgotten", ["moments", "step"])
def test_a_state_that_forgets_something_gives_another_result(forgotten: str) -> None:
    """Control of the test above: it would see a round that starts with fresh moments, or from step 0."""
    exp = small.experiment(train__average=0.0)
    here = small.ready(exp)
    half = run(here, here.state, STEPS // 2)
    broken = replace(half, moments={}) if forgotten == "moments" else replace(half, step=0)

    assert not small.same(run(here, broken, STEPS // 2).adapter, trained(exp).adapter)


def test_the_start_is_the_given_adapter_and_not_what_the_model_held() -> None:
    exp = small.experiment()
    here = small.ready(exp)
    first = run(here, here.state, 2)

    assert small.same(run(here, here.state, 2).adapter, first.adapter)


@pytest.mark.parametrize("micro_tokens", [1, 60, 100_000])
def test_micro_batches_change_nothing_but_rounding(micro_tokens: int) -> None:
    reference = trained(small.experiment())

    assert small.distance(reference.adapter, trained(small.experiment(train__micro_tokens=micro_tokens)).adapter) < 1e-5


def test_both_gradient_engines_agree() -> None:
    leaf, opacus = (trained(small.experiment(privacy__gradients=engine)) for engine in ("leaf", "opacus"))

    assert small.distance(leaf.adapter, opacus.adapter) < 1e-5


@pytest.mark.parametrize("targets", ["", "query,value"])
def test_every_tensor_of_the_adapter_moves(targets: str) -> None:
    here = small.ready(small.experiment(lora__targets=targets))
    after = run(here, here.state, 1)

    assert all(not torch.equal(after.adapter[name], here.state.adapter[name]) for name in after.adapter)


# Steps and their randomness


def test_every_step_draws_from_streams_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[object, ...]] = []

    def spy(mode: str, seed: int, *labels: str | int) -> Stream:
        drawn.append((mode, seed, *labels))
        return stream(mode, seed, *labels)

    monkeypatch.setattr(local, "stream", spy)
    here = small.ready(small.experiment(train__seed=5))
    run(here, run(here, here.state, 2), 1)

    assert drawn == [("seeded", 5, "site-000", step, use) for step in range(3) for use in ("sample", "noise")]


def test_the_number_of_steps_does_not_depend_on_the_number_of_reports() -> None:
    seen: dict[int, list[int]] = {}
    for reports in (1, 7, 40):
        here = small.ready(small.experiment(), small.tokens(reports), declared=40)
        told: list[StepReport] = []
        run_steps(
            here.inputs,
            here.plan,
            here.recipe,
            here.state,
            STEPS,
            site="site-000",
            on_step=told.append,
        )
        seen[reports] = [report.step for report in told]
        assert all(report.reports <= reports for report in told)

    assert list(seen.values()) == [list(range(1, STEPS + 1))] * 3


def test_the_sample_of_every_step_is_the_poisson_sample_of_its_stream() -> None:
    """By the definition, and not by the code under test: each report with the plan's rate, independently of the others.

    So the number of reports varies from step to step; a loop that took a fixed number of them would be told here,
    however it came by it.
    """
    here, told = small.ready(small.experiment()), list[StepReport]()
    run_steps(
        here.inputs,
        here.plan,
        here.recipe,
        here.state,
        20,
        site="site-007",
        on_step=told.append,
    )
    streams = [Stream.seeded(here.recipe.seed, "site-007", step, "sample") for step in range(20)]
    sizes = [int((one.uniform(len(here.inputs)) < here.plan.sampling_rate).sum()) for one in streams]

    assert [step.reports for step in told] == sizes
    assert len(set(sizes)) > 4  # control: samples of a fixed size would all be alike


def test_an_empty_sample_is_a_step_of_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "poisson_sample", lambda n, rate, stream: np.empty(0, dtype=np.int64))
    here = small.ready(small.experiment(train__momentum=0.0))
    after = run(here, here.state, 1)
    noise = Stream.seeded(0, "site-000", 0, "noise")
    scale = here.plan.noise_multiplier * here.plan.clip / here.plan.divisor

    assert after.step == 1
    parameters = here.setup.classifier.adapter()
    for name in sorted(parameters, key=lambda name: not name.startswith("head.")):  # the optimizer's order
        rate = 0.1 if name.startswith("head.") else 0.1 * rates_module.LORA_SHARE / rates_module.LORA_SCALE
        moved = here.state.adapter[name] - rate * scale * noise.normal(parameters[name].shape)
        assert torch.allclose(after.adapter[name], moved, atol=1e-6), name


def test_two_sites_and_two_steps_have_different_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "poisson_sample", lambda n, rate, stream: np.empty(0, dtype=np.int64))
    exp = small.experiment(train__momentum=0.0)
    here = small.ready(exp)
    start = here.state.adapter["head.weight"]
    one = run(here, here.state, 1).adapter["head.weight"]
    two = run(here, here.state, 2).adapter["head.weight"]
    other = run(here, here.state, 1, site="site-001").adapter["head.weight"]

    assert not torch.allclose(two - one, one - start, atol=1e-4)
    assert not torch.allclose(other, one, atol=1e-4)


def test_system_noise_never_repeats_and_seeded_noise_always_does() -> None:
    system = small.experiment(privacy__noise="system")
    seeded = small.experiment(privacy__noise="seeded")

    assert not small.same(trained(system, 1).adapter, trained(system, 1).adapter)
    assert small.same(trained(seeded, 1).adapter, trained(seeded, 1).adapter)
    assert not small.same(trained(seeded, 1).adapter, trained(small.experiment(train__seed=1), 1).adapter)


# Averaging


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("average", [0.2, 0.5, 0.9])
def test_the_result_is_the_mean_of_the_last_iterates(optimizer: str, average: float) -> None:
    exp = small.experiment(train__average=average, train__optimizer=optimizer)
    here = small.ready(exp)
    state, iterates = here.state, []
    for _ in range(STEPS):
        state = run(here, state, 1)
        iterates.append(state.adapter)
    last = iterates[-round(average * STEPS) :]

    assert len(last) == state.averaged
    for name, tensor in state.result().items():
        expected = np.mean([iterate[name].numpy().astype(np.float64) for iterate in last], axis=0)
        assert np.allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_without_averaging_the_result_is_the_last_iterate() -> None:
    state = trained(small.experiment(train__average=0.0))

    assert state.averaged == 0
    assert small.same(state.result(), state.adapter)


@pytest.mark.parametrize("average", [0.0, 0.4])
def test_nothing_is_averaged_after_the_runs_last_step(average: float) -> None:
    exp = small.experiment(train__average=average)
    here = small.ready(exp)
    planned = run(here, here.state, STEPS)
    beyond = run(here, planned, 3)

    assert planned.averaged == round(average * STEPS)
    assert beyond.averaged == planned.averaged
    assert small.same(beyond.average_sum, planned.average_sum)
    assert not small.same(beyond.adapter, planned.adapter)


@given(rounds=st.integers(1, 50), steps=st.integers(1, 20), average=st.floats(0, 1, exclude_max=True))
def test_averaging_starts_within_the_run(rounds: int, steps: int, average: float) -> None:
    exp = small.experiment(train__rounds=rounds, train__local_steps=steps, train__average=average)
    recipe = Recipe.of(exp)

    assert recipe.total_steps == rounds * steps
    assert 0 <= recipe.averages_from <= recipe.total_steps
    assert abs((recipe.total_steps - recipe.averages_from) - average * recipe.total_steps) <= 0.5


# The step size


def test_the_automatic_rate_is_made_of_public_figures_and_keeps_the_walk() -> None:
    """It is a function of recipe and plan alone, and falls as the noise rises."""
    quiet, loud = (small.ready(small.experiment(train__learning_rate=0.0, privacy__epsilon=e)) for e in (8.0, 0.5))
    rates = [automatic_learning_rate(here.recipe, here.plan) for here in (quiet, loud)]
    fewer = small.ready(small.experiment(train__learning_rate=0.0), small.tokens(30), declared=40)

    assert 0 < rates[1] < rates[0] <= rates_module.LARGEST_REACH * (1 - quiet.recipe.momentum)
    assert automatic_learning_rate(fewer.recipe, fewer.plan) == rates[0]  # the private count has no say
    assert not small.same(run(quiet, quiet.state, 1).adapter, quiet.state.adapter)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("sites", [1, 9])
@pytest.mark.parametrize("epsilon", [0.5, 0.1])
def test_noise_walks_as_far_however_much_there_is(warm: bool, sites: int, epsilon: float) -> None:
    """What noise alone adds up to: small after a warm start, which it would undo."""
    here = small.ready(small.experiment(train__learning_rate=0.0, privacy__epsilon=epsilon, train__rounds=400))
    recipe = replace(here.recipe, warm=warm, sites=sites)
    rate = automatic_learning_rate(recipe, here.plan)
    # Every step's noise moves the mean of the sites by this at the end, once momentum has let it go.
    each = rate * here.plan.noise_multiplier * here.plan.clip / here.plan.divisor / (1 - recipe.momentum)
    walked = each * (recipe.total_steps / sites) ** 0.5
    assert walked == pytest.approx(rates_module.WARM_WALK if warm else rates_module.COLD_WALK)
    assert rates_module.WARM_WALK < rates_module.COLD_WALK


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_however_little_noise_there_is_the_rate_is_bounded(warm: bool, momentum: float) -> None:
    here = small.ready(small.experiment(train__learning_rate=0.0, privacy__epsilon=1e4))
    rate = automatic_learning_rate(replace(here.recipe, warm=warm, momentum=momentum), here.plan)
    reach = rates_module.LARGEST_WARM_REACH if warm else rates_module.LARGEST_REACH
    assert rate == pytest.approx(reach * (1 - momentum))


@pytest.mark.parametrize("epsilon", [0.1, 1e4])
def test_a_gradient_moves_the_head_as_far_without_momentum(epsilon: float) -> None:
    here = small.ready(small.experiment(train__learning_rate=0.0, privacy__epsilon=epsilon))
    recipes = [replace(here.recipe, momentum=momentum) for momentum in (0.0, 0.5, 0.9)]
    reaches = [automatic_learning_rate(recipe, here.plan) / (1 - recipe.momentum) for recipe in recipes]
    assert reaches == pytest.approx([reaches[0]] * 3)


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_where_momentum_restarts_the_noise_walks_as_far(steps: int) -> None:
    """Secure aggregation keeps no moments of a round; one step's noise moves the result as far as built-up momentum."""
    here = small.ready(small.experiment(train__learning_rate=0.0))
    momentum = here.recipe.momentum
    again = replace(here.recipe, restarts=steps)
    rates = [automatic_learning_rate(recipe, here.plan) for recipe in (here.recipe, again)]
    # Noise of step i moves the end of its round by rate x (1 + m + m^2 + ...), one term a step that is left.
    walked = [sum(momentum**k for k in range(steps - i)) for i in range(steps)]
    assert rates[1] ** 2 * sum(w**2 for w in walked) == pytest.approx(steps * (rates[0] / (1 - momentum)) ** 2)
    assert rates[1] >= rates[0]
    assert replace(again, optimizer="adam").built_up == 1.0


# What one report can change


def summed(exp: Experiment, reports: Tokenized, removed: int | None) -> dict[str, Tensor]:
    """The sum of the clipped gradients of one step in which every report is sampled, before its noise."""
    kept = np.array([row for row in range(len(reports)) if row != removed])
    sums: list[Tensor] = []

    class Watched(PrivateOptimizer):
        def add_noise(self) -> None:
            sums.extend(p.summed_grad.clone() for p in self.params)
            super().add_noise()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "PrivateOptimizer", Watched)
        # The declared size is public: removing a report changes neither it nor the sampling rate, which is 1 here.
        here = small.ready(exp, reports.select(kept), declared=len(reports))
        assert here.plan.sampling_rate == 1.0
        run(here, here.state, 1)
    return dict(zip(here.setup.classifier.adapter(), sums, strict=True))


def change(exp: Experiment, reports: Tokenized, removed: int) -> float:
    """L2 distance, over all tensors together, of the sums on two neighbouring shards."""
    full, without = summed(exp, reports, None), summed(exp, reports, removed)
    return float(sum((full[name] - without[name]).square().sum() for name in full)) ** 0.5


@settings(max_examples=8, deadline=None)
@given(
    removed=st.integers(0, 11),
    seed=st.integers(0, 5),
    clip=st.sampled_from([0.05, 0.3, 1.0]),
    engine=st.sampled_from(["leaf", "opacus"]),
)
def test_one_report_changes_the_sum_by_at_most_the_clip_norm(removed: int, seed: int, clip: float, engine: str) -> None:
    exp = small.experiment(privacy__clip=clip, privacy__gradients=engine, train__batch=12)
    reports = small.tokens(12, seed=seed)

    assert change(exp, reports, removed) <= clip * (1 + 1e-4)  # the kept hidden states differ by float32 rounding


def test_without_clipping_one_report_changes_more() -> None:
    """Control: the same measurement sees a report that is not clipped (a plan without privacy does not clip)."""
    reports = small.tokens(12)
    clipped = small.experiment(privacy__clip=0.05, train__batch=12)
    naked = small.experiment(privacy__clip=0.05, privacy__epsilon=0.0, train__batch=12)

    for removed in (0, 5, 11):
        assert change(clipped, reports, removed) <= 0.05 * (1 + 1e-4)
        assert change(naked, reports, removed) > 10 * 0.05


# Which tensors a step trains


def without(here: small.Ready, ending: str) -> frozenset[str]:
    return frozenset(name for name in here.state.adapter if not name.endswith(ending))


def run_blocks(here: small.Ready, blocks: list[frozenset[str]], steps: int = 4) -> TrainingState:
    return run_steps(
        here.inputs,
        here.plan,
        here.recipe,
        here.state,
        steps,
        site="site-000",
        blocks=blocks,
    )


@pytest.mark.parametrize("engine", ["leaf", "opacus"])
@pytest.mark.parametrize("frozen", [".lora_A", ".lora_B"])
def test_what_is_not_trained_gets_no_gradient_noise_momentum_or_average(engine: str, frozen: str) -> None:
    here = small.ready(small.experiment(privacy__gradients=engine, train__average=0.5))
    before = here.state.adapter
    after = run_blocks(here, [without(here, frozen)])
    for name in before:
        moved = not torch.equal(after.adapter[name], before[name])
        assert moved == (not name.endswith(frozen)), name
    assert not any(frozen in key for key in [*after.moments, *after.average_sum])
    assert all(parameter.grad is None for parameter in here.setup.classifier.parameters())
    assert all(parameter.requires_grad for parameter in here.setup.classifier.adapter().values())
    # Control: without blocks, that factor moves.
    control = small.ready(here.experiment)
    assert not all(
        torch.equal(run_blocks(control, []).adapter[name], before[name]) for name in before if name.endswith(frozen)
    )


def test_the_trained_tensors_alone_are_clipped_and_noised_jointly(monkeypatch: pytest.MonkeyPatch) -> None:
    clipped: list[set[str]] = []
    step_noisy = PrivateOptimizer.step_noisy

    def spy(self: PrivateOptimizer, randomness: Stream) -> None:
        parameters = {id(p): name for name, p in everything.items()}
        clipped.append({parameters[id(p)] for p in self.params})
        step_noisy(self, randomness)

    monkeypatch.setattr(PrivateOptimizer, "step_noisy", spy)
    here = small.ready(small.experiment())
    everything = here.setup.classifier.adapter()
    blocks = [without(here, ".lora_A"), without(here, ".lora_B")]
    run_blocks(here, blocks, 4)
    assert [set(block) for block in clipped] == [set(blocks[i % 2]) for i in range(4)]


def test_alternating_by_step_is_the_same_however_the_steps_are_cut() -> None:
    exp = small.experiment()
    here = small.ready(exp)
    blocks = [without(here, ".lora_A"), without(here, ".lora_B")]
    once = run_blocks(here, blocks, 4)
    half = run_blocks(small.ready(exp), blocks, 2)
    again = replace(small.ready(exp), state=half)
    assert small.same(run_blocks(again, blocks, 2).adapter, once.adapter)


def test_a_tensor_keeps_its_momentum_over_a_round_in_which_it_rests() -> None:
    exp = small.experiment()
    here = small.ready(exp)
    first = run_blocks(here, [without(here, ".lora_A")], 2)
    second = run_blocks(replace(small.ready(exp), state=first), [without(here, ".lora_B")], 2)
    resting = [key for key in first.moments if ".lora_B|" in key]
    assert resting
    assert all(torch.equal(first.moments[key], second.moments[key]) for key in resting)
    assert any(".lora_A|" in key for key in second.moments)
