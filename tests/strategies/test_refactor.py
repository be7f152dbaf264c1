"""Refactoring keeps product and row space; at tau = 0, under SGD, it is FFA with orthonormal A."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from fedrad.settings import Strategy as Settings
from strategies.factors import Product
from strategies.refactor import Refactor, refactored
from tests.strategies.rounds import (
    NAMES,
    STRATEGIES,
    Case,
    bits,
    cases,
    close,
    contributions,
    first_state,
    generator,
    matrix,
    trainable,
)

taus = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def product_of(case: Case) -> Product:
    random = generator(case.seed)
    return Product(
        torch.randn(case.out, case.rank, generator=random), torch.randn(case.rank, case.inputs, generator=random)
    )


def dense(p: Product) -> Tensor:
    return p.B.double() @ p.A.double()


def well_conditioned(p: Product) -> bool:
    values = torch.linalg.svdvals(dense(p))[: p.A.shape[0]]
    return bool(values[-1] > 1e-3 * values[0])


@given(cases(), taus)
def test_the_product_is_kept_and_its_singular_values_are_shared_out(case: Case, tau: float) -> None:
    before = product_of(case)
    assume(well_conditioned(before))
    after = refactored(before, tau)
    values = torch.linalg.svdvals(dense(before))[: case.rank]

    assert close(dense(after), dense(before), 1e-6)
    assert {after.B.dtype, after.A.dtype} == {torch.float32}
    assert close(after.A.double() @ after.A.double().T, torch.diag(values ** (2 * tau)))
    assert close(after.B.double().T @ after.B.double(), torch.diag(values ** (2 - 2 * tau)))


@given(cases(), taus)
def test_the_row_space_of_a_is_kept(case: Case, tau: float) -> None:
    before = product_of(case)
    after = refactored(before, tau)
    basis = torch.linalg.qr(before.A.double().T).Q
    outside = after.A.double() - after.A.double() @ basis @ basis.T

    if torch.linalg.cond(before.A.double()) < 1e3:
        assert float(outside.norm()) < 1e-5 * float(1 + after.A.norm())


def full_svd_rows(p: Product) -> Tensor:
    """A as the SVD of the whole matrix gives it: where B A has less rank, its rows may be any."""
    return torch.linalg.svd(dense(p)).Vh[: p.A.shape[0]]


@pytest.mark.parametrize("tau", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["zero", "rank 1 of 3", "tiny direction"])
def test_a_product_of_less_rank_stays_as_it_is(kind: str, tau: float) -> None:
    random = generator(1)
    A, B = torch.randn(3, 7, generator=random), torch.randn(9, 3, generator=random)
    if kind == "zero":
        B = torch.zeros(9, 3)
    elif kind == "rank 1 of 3":
        B = B[:, :1] @ torch.randn(1, 3, generator=random)
    else:
        B[:, 2] = B[:, 1] * (1 + 1e-7)
    before = Product(B, A)
    after = refactored(before, tau)

    assert bits(after.A) + bits(after.B) == bits(A) + bits(B)
    if kind == "zero":  # negative control: without the guard A would leave its row space
        basis = torch.linalg.qr(A.double().T).Q
        rows = full_svd_rows(before)
        assert float((rows - rows @ basis @ basis.T).norm()) > 0.1


def test_it_refactors_when_it_is_due() -> None:
    case = Case(out=9, inputs=7, rank=3, alpha=3.0, weights=(0.6, 0.4), seed=0)
    strategy = Refactor(Settings(every=3))
    state = first_state(case, strategy)
    key = f"{NAMES[0]}.lora_A"
    changed = []
    for number in range(1, 8):
        sent = contributions(case, strategy, state, number)
        assert key not in sent[0].adapter
        new = strategy.aggregate(state, sent, case.round(strategy, number))
        changed.append(bits(new[key]) != bits(state[key]))
        state = new

    assert changed == [False, False, True, False, False, True, False]


def test_hospitals_train_b_and_the_head_on_a_shared_a() -> None:
    case = Case(out=9, inputs=7, rank=3, alpha=3.0, weights=(1.0,), seed=0)
    spec = STRATEGIES["refactor"].shape(case.lora)

    assert (spec.freeze_a, spec.freeze_b, spec.init) == (True, False, "orthonormal")
    names = trainable(first_state(case, STRATEGIES["refactor"]), spec)
    assert STRATEGIES["refactor"].sent(names, 1) == {"head.weight", "head.bias", *(f"{n}.lora_B" for n in NAMES)}


def sgd(B: Tensor, A: Tensor, target: Tensor, noise: Tensor, clip: float, rate: float) -> Tensor:
    """One step of DP-SGD on 1/2 |B A - target|^2 with one clipped gradient [out, r] and noise [out, r] on it."""
    gradient = (B @ A - target) @ A.T
    gradient = gradient * min(1.0, clip / float(gradient.norm()))
    return B - rate * (gradient + noise)


def paths(tau: float, *, adam: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The products after 15 rounds of 4 steps with refactoring and without, and the rows of both A.

    The noise of the refactored run is that of the other, turned with its rows: isotropic noise has the same
    distribution turned, so that the two runs are equal in distribution if these two are equal.
    """
    random = torch.Generator().manual_seed(5)
    target = torch.randn(9, 7, generator=random, dtype=torch.float64)
    A = torch.linalg.qr(torch.randn(7, 3, generator=random, dtype=torch.float64)).Q.T
    fixed, turned = Product(torch.zeros(9, 3, dtype=torch.float64), A), Product(torch.zeros(9, 3).double(), A)
    for _ in range(15):
        B, B_turned = fixed.B, turned.B.double()
        rotation = A @ turned.A.double().T  # [r, r]: coordinates on the rows of A to those on the present rows
        for _ in range(4):
            noise = 0.3 * torch.randn(9, 3, generator=random, dtype=torch.float64)
            step = 0.3 * noise.sign() if adam else noise  # a step by coordinates, as a stand-in for Adam's
            turned_step = 0.3 * (noise @ rotation).sign() if adam else noise @ rotation
            B = sgd(B, A, target, step, clip=2.0, rate=0.1)
            B_turned = sgd(B_turned, turned.A.double(), target, turned_step, clip=2.0, rate=0.1)
        fixed, turned = Product(B, A), refactored(Product(B_turned, turned.A), tau)
    return dense(fixed), dense(turned), A, turned.A.double()


def test_at_tau_0_under_dp_sgd_it_is_ffa_with_orthonormal_a() -> None:
    ffa, refactor, A, rows = paths(0.0)

    assert float((ffa - refactor).norm() / ffa.norm()) < 1e-5  # the factors are rounded to float32 in every round
    assert float((rows - rows @ A.T @ A).norm()) < 1e-5  # A never leaves the row space that it was drawn with
    assert float((rows - A).norm()) > 0.1  # though it does turn within it


def test_at_tau_half_and_under_steps_by_coordinates_it_is_not() -> None:
    """Negative control: the comparison can tell two runs apart."""
    for ffa, refactor, *_ in (paths(0.5), paths(0.0, adam=True)):
        assert float((ffa - refactor).norm() / ffa.norm()) > 0.05


@given(cases(), taus)
def test_the_mean_is_refactored_not_the_parts(case: Case, tau: float) -> None:
    strategy = Refactor(Settings(tau=tau))
    state = first_state(case, strategy)
    sent = contributions(case, strategy, state)
    new = strategy.aggregate(state, sent, case.round(strategy))
    for layer in NAMES:
        mean = sum(c.weight * matrix({**state, **c.adapter}, layer, case.lora) for c in sent)
        assert close(matrix(new, layer, case.lora), mean)  # type: ignore[arg-type]
