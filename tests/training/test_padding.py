"""Work as a function of public figures: the number of passes does not tell the reports, and changes no bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrad.data.batches import Tokenized
from fedrad.privacy.gradients import leaf_gradients
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.passes import passes_of_step
from fedrad.privacy.randomness import Stream
from fedrad.tasks.causal_lm import CausalLM
from fedrad.training import inputs as inputs_module
from fedrad.training import local
from fedrad.training.inputs import prepare
from fedrad.training.local import TrainingState, run_steps
from fedrad.training.padding import FILLER_LENGTH, padding_for
from fedrad.training.setup import plan_for, set_up
from tests import small
from tests.counted import Passes
from tests.model import tiny

DECLARED, STEPS, PER_PATIENT = 40, 2, 3
UNITS = pytest.mark.parametrize("unit", ["report", "patient"])
BATCHES = pytest.mark.parametrize("batch", [40, 20, 2])  # q = 1, 0.5, 0.05
TARGETS = pytest.mark.parametrize("targets", ["query,value", ""])


def shard(units: int, unit: str) -> Tokenized:
    """So many reports, or patients of whom the k-th has 1 + k modulo 4 reports."""
    if unit == "report":
        return small.tokens(units)
    owners = np.repeat(np.arange(units), 1 + np.arange(units) % 4)
    return replace(small.tokens(len(owners)), patients=owners)


def ready(units: int, unit: str, batch: int, *, pad: bool, full: bool = False, **changes: object) -> small.Ready:
    exp = small.experiment(
        privacy__unit=unit,
        privacy__reports_per_patient=PER_PATIENT,
        train__batch=batch,
        train__micro_tokens=1,
        **changes,
    )
    here = small.ready(exp, shard(units, unit), declared=DECLARED)
    if not pad:
        return here
    padding = padding_for(here.setup, here.plan, reports_per_patient=PER_PATIENT, full=full)
    inputs = prepare(here.setup, here.inputs.tokens, padding=padding)
    return replace(here, inputs=inputs)


def run(here: small.Ready) -> TrainingState:
    return run_steps(here.inputs, here.plan, here.recipe, here.state, STEPS, site="site-000")


@UNITS
@BATCHES
def test_a_step_has_the_passes_that_public_figures_say(unit: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, seen = Passes(monkeypatch), []
    for units in (20, 38):
        here = ready(units, unit, batch, pad=True)
        counted.counts()
        run(here)
        seen.append(counted.counts())
    assert seen == [(0, [passes_of_step(DECLARED, batch / DECLARED, small.DELTA)] * STEPS)] * 2
    # Control: without padding the passes are the units that were drawn.
    bare = []
    for units in (20, 38):
        run(ready(units, unit, batch, pad=False))
        bare.append(counted.counts()[1])
    assert bare[0] != bare[1]


@TARGETS
def test_so_has_the_reading_of_the_shard(targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Passes(monkeypatch)

    def read(reports: int, *, pad: bool) -> int:
        here = ready(reports, "report", 8, pad=False, lora__targets=targets)
        padding = padding_for(here.setup, here.plan, reports_per_patient=1, full=False) if pad else None
        counted.counts()
        prepare(here.setup, here.inputs.tokens, padding=padding)
        return counted.counts()[0]

    assert [read(reports, pad=True) for reports in (1, 20, 38, 44, 45)] == [45, 45, 45, 45, 89]  # the filler's own is 1
    assert [read(reports, pad=False) for reports in (20, 38)] == [20, 38]


def test_whether_the_lower_part_is_kept_is_decided_by_public_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    here = ready(2, "report", 20, pad=False)
    padding = padding_for(here.setup, here.plan, reports_per_patient=1, full=False)
    most = 44 * 40 * 32 * 4  # reports, tokens, width, bytes of a float32
    for limit, kept in ((most, True), (most - 1, False)):
        monkeypatch.setattr(inputs_module, "KEEP_AT_MOST", limit)
        found = prepare(here.setup, here.inputs.tokens, padding=padding)
        assert (found.kept is not None) is kept
        assert found.filler is not None
        assert (found.filler.kept is not None) is kept


@UNITS
def test_an_empty_step_has_them_too(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "poisson_sample", lambda n, rate, stream: np.empty(0, dtype=np.int64))
    here = ready(20, unit, 20, pad=True)
    bare = run(ready(20, unit, 20, pad=False))
    counted = Passes(monkeypatch)
    after = run(here)
    assert counted.counts()[1] == [passes_of_step(DECLARED, 0.5, small.DELTA)] * STEPS
    assert small.same(after.adapter, bare.adapter)


def test_a_step_with_more_runs_the_next_multiple(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Passes(monkeypatch)
    here = ready(60, "report", 40, pad=True)  # q = 1: 60 a step, where 44 were planned
    counted.counts()
    run(here)
    assert counted.counts()[1] == [88] * STEPS


@pytest.mark.parametrize(
    ("unit", "batch", "targets", "engine"),
    [
        ("report", 40, "query,value", "leaf"),
        ("report", 2, "query,value", "leaf"),
        ("report", 20, "", "leaf"),
        ("report", 20, "query,value", "opacus"),
        ("patient", 40, "query,value", "leaf"),
        ("patient", 2, "", "leaf"),
        ("patient", 20, "query,value", "leaf"),
    ],
)
def test_padding_changes_no_bit(unit: str, batch: int, targets: str, engine: str) -> None:
    options = {"lora__targets": targets, "privacy__gradients": engine, "train__optimizer": "adam"}
    bare, padded = (run(ready(25, unit, batch, pad=pad, **options)) for pad in (False, True))
    assert small.same(padded.adapter, bare.adapter)
    assert small.same(padded.moments, bare.moments)
    assert small.same(padded.average_sum, bare.average_sum)


def test_what_is_discarded_leaves_no_trace() -> None:
    here = ready(25, "report", 20, pad=False)
    parameters = here.setup.classifier.adapter()
    optimizer = PrivateOptimizer(torch.optim.SGD(parameters.items(), lr=1.0), here.plan)
    grads = {name: torch.randn(1, *p.shape) for name, p in parameters.items()}
    broken = {name: torch.full((1, *p.shape), torch.nan) for name, p in parameters.items()}
    optimizer.discard(grads)
    assert all(p.summed_grad is None for p in optimizer.params)
    optimizer.accumulate(grads, np.array([0]))
    before = [p.summed_grad.clone() for p in optimizer.params]
    for stand_in in (grads, broken):
        optimizer.discard(stand_in)
    assert all(torch.equal(p.summed_grad, total) for p, total in zip(optimizer.params, before, strict=True))
    optimizer.accumulate(grads, np.array([1]))  # control: what is accumulated does
    assert not torch.equal(optimizer.params[0].summed_grad, before[0])
    optimizer.step_noisy(Stream.seeded(0, "noise"))


# Lengths


@UNITS
def test_every_pass_has_one_shape_if_lengths_are_padded(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Passes(monkeypatch)
    rows = PER_PATIENT if unit == "patient" else 1
    here = ready(20, unit, 20, pad=False)
    padding = padding_for(here.setup, here.plan, reports_per_patient=PER_PATIENT, full=True)
    counted.counts()
    padded = prepare(here.setup, here.inputs.tokens, padding=padding)
    assert set(counted.prefix) == {(1, 40)}
    run(replace(here, inputs=padded))
    assert {shape for step in counted.steps for shape in step} == {(rows, 40, 32)}
    # Control: the number of passes alone does not hide how long the reports are.
    counted.counts()
    run(ready(20, unit, 20, pad=True))
    assert len({shape for step in counted.steps for shape in step}) > 5


@UNITS
@TARGETS
def test_padded_lengths_change_gradients_by_rounding_only(unit: str, targets: str) -> None:
    def gradients(here: small.Ready) -> dict[str, Tensor]:
        owners, found = here.inputs.units(here.plan.unit).of, []
        for owner in range(6):
            rows = np.flatnonzero(owners == owner)[:PER_PATIENT]
            batch = here.inputs.batch(rows)
            _, grads = leaf_gradients(
                here.setup.classifier.suffix,
                here.setup.classifier.adapter(),
                (batch.hidden, batch.attention),
                batch.losses,
            )
            found.append({name: grad[: len(rows)] for name, grad in grads.items()})
        return {name: torch.cat([grads[name] for grads in found]) for name in found[0]}

    bare = gradients(ready(25, unit, 20, pad=False, lora__targets=targets))
    padded = gradients(ready(25, unit, 20, pad=True, full=True, lora__targets=targets))
    assert small.distance(bare, padded) < 1e-5
    whole = run(ready(25, unit, 20, pad=False, lora__targets=targets))
    full = run(ready(25, unit, 20, pad=True, full=True, lora__targets=targets))
    assert small.distance(whole.adapter, full.adapter) < 1e-5


@UNITS
def test_what_is_not_kept_is_padded_alike(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lower part is run in every step, it is run as often and on the same shapes as the upper one."""
    monkeypatch.setattr(inputs_module, "KEEP_AT_MOST", 0)
    here = ready(20, unit, 20, pad=True, full=True)
    counted = Passes(monkeypatch)
    run(here)
    rows = PER_PATIENT if unit == "patient" else 1
    assert set(counted.prefix) == {(rows, 40)}
    assert counted.counts() == (STEPS * (passes := passes_of_step(DECLARED, 0.5, small.DELTA)), [passes] * STEPS)


def test_a_decoders_instruction_comes_on_top_of_the_filler(tmp_path: Path) -> None:
    """One longer than the filler made every round fail, as if data.max-length were the filler's length."""
    base = tiny.save_decoder(tmp_path / "decoder", "llama", max_position_embeddings=400)
    exp = small.experiment(model__name=base, model__task="causal-lm", data__max_length=400, train__warm_start="none")
    lengths = []
    for times in (1, 40):
        setup = set_up(exp, CausalLM(("edema", "effusion"), "No acute effusion. " * times))
        padding = padding_for(setup, plan_for(exp, DECLARED), reports_per_patient=1, full=False)
        lengths += padding.filler.lengths.tolist()
    assert lengths[0] > FILLER_LENGTH
    assert lengths[1] > lengths[0] + FILLER_LENGTH
