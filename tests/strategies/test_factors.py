"""Low-rank algebra against the matrices multiplied out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from strategies.factors import Product, combined, inner, norm, numerical_rank, recompressed, svd, truncated
from tests.strategies.rounds import bits, close, generator

shapes = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 12), st.integers(0, 2**31))


def product(out: int, inputs: int, m: int, seed: int) -> Product:
    random = generator(seed)
    return Product(torch.randn(out, m, generator=random), torch.randn(m, inputs, generator=random))


def dense(p: Product) -> Tensor:
    return p.B.double() @ p.A.double()


@given(shapes, st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_sums_norms_and_inner_products(shape: tuple[int, int, int, int], weights: list[float]) -> None:
    out, inputs, m, seed = shape
    # of ranks that differ
    products = [product(out, inputs, m + i, seed + i) for i in range(len(weights))]
    total = combined(products, weights)
    expected = sum(w * dense(p) for w, p in zip(weights, products, strict=True))

    assert close(dense(total), expected, 1e-12)  # type: ignore[arg-type]
    assert norm(total) == pytest.approx(float(dense(total).norm()), rel=1e-9, abs=1e-9)
    assert inner(products[0], products[-1]) == pytest.approx(
        float((dense(products[0]) * dense(products[-1])).sum()), rel=1e-9, abs=1e-9
    )


@given(shapes)
def test_the_svd_is_that_of_the_product(shape: tuple[int, int, int, int]) -> None:
    p = product(*shape)
    U, values, V = svd(p)
    k = len(values)

    assert k == min(*shape[:3])
    assert close(U * values @ V.T, dense(p), 1e-12)
    assert close(values, torch.linalg.svdvals(dense(p))[:k], 1e-12)
    for columns in (U, V):
        assert close(columns.T @ columns, torch.eye(k, dtype=torch.float64), 1e-12)
    assert bool((V.gather(0, V.abs().argmax(0, keepdim=True)) > 0).all())


@given(shapes, st.integers(0, 2**31))
def test_signs_do_not_depend_on_those_of_the_factors(shape: tuple[int, int, int, int], seed: int) -> None:
    p = product(*shape)
    signs = torch.randint(0, 2, (shape[2],), generator=generator(seed)) * 2.0 - 1
    flipped = Product(p.B * signs, p.A * signs.unsqueeze(1))
    values = svd(p).values
    gaps = (values[:-1] - values[1:]) / values[0]
    if len(values) == 1 or float(gaps.min()) > 1e-3:  # else the vectors themselves are badly determined
        V = svd(p).V
        largest = V.abs().topk(min(2, len(V)), dim=0).values
        if len(largest) == 1 or float((largest[0] - largest[1]).min()) > 1e-6:  # else, so is the largest entry
            assert close(V, svd(flipped).V, 1e-7)


@given(shapes, st.data(), st.sampled_from([0.5, 1.0, 3.0]))
def test_truncation_is_the_best_of_its_rank(shape: tuple[int, int, int, int], data: st.DataObject, s: float) -> None:
    p = product(*shape)
    rank = data.draw(st.integers(1, min(*shape[:3])))
    cut = truncated(p, rank, s)
    tail = torch.linalg.svdvals(dense(p))[rank:]

    assert (cut.B.shape[1], cut.A.shape[0]) == (rank, rank)
    assert {cut.B.dtype, cut.A.dtype} == {torch.float32}
    assert close((dense(p) - s * dense(cut)).norm(), tail.norm())


@given(shapes, st.integers(1, 3))
def test_recompression_keeps_the_matrix_at_its_rank(shape: tuple[int, int, int, int], copies: int) -> None:
    p = product(*shape)
    again = recompressed(combined([p] * copies, [0.5] * copies))

    assert again.A.shape[0] == torch.linalg.matrix_rank(dense(p), rtol=1e-6) <= p.most
    assert close(dense(again), 0.5 * copies * dense(p), 1e-6)
    assert float(again.B.norm()) == pytest.approx(float(again.A.norm()), rel=1e-5)


def test_numerical_rank() -> None:
    assert numerical_rank(torch.tensor([2.0, 1.0, 1e-9])) == 2
    assert numerical_rank(torch.tensor([2.0, 1.0, 1e-6])) == 3
    assert numerical_rank(torch.tensor([2.0, 1.0, 1e-6]), 1e-5) == 2
    assert numerical_rank(torch.zeros(3)) == 0


def test_a_zero_matrix_keeps_one_factor() -> None:
    again = recompressed(Product(torch.zeros(5, 3), torch.randn(3, 4, generator=generator(0))))

    assert (again.B.shape, again.A.shape) == ((5, 1), (1, 4))
    assert not dense(again).any()


def test_the_same_numbers_give_the_same_bits() -> None:
    for make in (recompressed, lambda p: truncated(p, 2)):
        one, two = make(product(7, 5, 3, 1)), make(product(7, 5, 3, 1))
        assert bits(one.A) + bits(one.B) == bits(two.A) + bits(two.B)


def test_no_matrix_of_the_full_size_is_formed() -> None:
    """2^20 x 2^20 numbers would be 8 TiB."""
    p = product(2**20, 2**20, 2, 0)

    assert norm(Product(truncated(p, 1).B, truncated(p, 1).A)) == pytest.approx(float(svd(p).values[0]), rel=1e-5)
    assert recompressed(combined([p, p], [1.0, 1.0])).A.shape == (2, 2**20)
    assert inner(p, p) == pytest.approx(norm(p) ** 2, rel=1e-6)
