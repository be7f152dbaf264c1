"""The difference of two encoders in 8-bit factors: how exact it is, and that it is the same on every machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.difference import difference, save_difference
from fedrad.errors import ModelError
from fedrad.model.difference import apply_difference, read_difference

FULL = 10_000


class Small(nn.Module):
    """A matrix, a vector, and one of each that stay as they are."""

    def __init__(self, matrix: Tensor, vector: Tensor) -> None:
        super().__init__()
        self.matrix, self.vector = nn.Parameter(matrix), nn.Parameter(vector)
        self.kept = nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3))
        self.kept_vector = nn.Parameter(torch.linspace(-1, 1, 5))


def drawn(seed: int, rows: int, columns: int, rank: int, size: float) -> tuple[Small, Small]:
    """Two modules whose matrices differ by one of that rank, components from ``size`` down to a hundredth of it."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    before = Small(normal(rows, columns).float(), normal(columns).float())
    spread = torch.logspace(0, -2, rank, dtype=torch.float64)
    change = size * (normal(rows, rank) * spread) @ normal(rank, columns)
    after = Small(
        (before.matrix.detach() + change).float(), (before.vector.detach().double() + size * normal(columns)).float()
    )
    return before, after


def quantised(tensors: dict[str, Tensor], name: str) -> float:
    """Largest error of an entry that rounding the factors to whole steps can make.

    Each entry of a component is a product of two numbers of at most 127 steps, each off by at most half a step.
    """
    powers = 2.0 ** tensors[f"{name}|e"].double()
    return float((tensors[f"{name}|c"] * powers * (127 * 0.5 * 2 + 0.25)).sum())


def change_of(before: Small, after: Small) -> Tensor:
    return after.matrix.detach().double() - before.matrix.detach().double()


SHAPES = st.tuples(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=60)
@given(SHAPES, st.integers(1, 12), st.sampled_from([1e-4, 1e-2, 1.0, 50.0]))
def test_of_full_rank_it_is_off_by_no_more_than_its_steps(shape: tuple[int, int, int], rank: int, size: float) -> None:
    """Also where most singular values are nothing but rounding: they must not coarsen the large ones."""
    seed, rows, columns = shape
    before, after = drawn(seed, rows, columns, min(rank, rows, columns), size)
    tensors = difference(before, after, FULL)
    found = apply_difference(before, tensors)
    assert isinstance(found, Small)
    largest = float(torch.linalg.matrix_norm(change_of(before, after), 2))
    components = len(tensors["matrix|e"])
    # A component's step is below 2 * 2 times its value over 127 squared, as a power of two may double it.
    bound = quantised(tensors, "matrix")
    assert bound <= 2.1 * components * largest / 127
    rounding = 2**-23 * float(after.matrix.detach().abs().max() + before.matrix.detach().abs().max())
    assert float((found.matrix - after.matrix).detach().abs().max()) <= bound + rounding


def test_a_component_that_is_tiny_beside_another_does_not_cut_it_off() -> None:
    """Their ratio is beyond what exponents span: the step must follow the large one."""
    before = Small(torch.zeros(4, 4), torch.zeros(4))
    after = Small(torch.diag(torch.tensor([1.0, 1e-3, 1e-9, 1e-12])), torch.zeros(4))
    found = apply_difference(before, difference(before, after, FULL))
    assert torch.allclose(found.matrix, after.matrix, atol=2e-3)  # type: ignore[arg-type]
    assert float(found.matrix[1, 1]) == pytest.approx(1e-3, rel=0.02)  # type: ignore[index]


@settings(max_examples=40)
@given(SHAPES, st.integers(1, 4), st.sampled_from([1e-3, 1.0]))
def test_of_a_lower_rank_it_is_the_truncated_decomposition(shape: tuple[int, int, int], rank: int, size: float) -> None:
    seed, rows, columns = shape
    before, after = drawn(seed, rows, columns, min(rows, columns), size)
    tensors = difference(before, after, rank)
    left, values, right = torch.linalg.svd(change_of(before, after), full_matrices=False)
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    found = apply_difference(Small(torch.zeros(rows, columns), torch.zeros(columns)), tensors)
    assert isinstance(found, Small)
    assert tuple(tensors["matrix|u"].shape) == (rows, min(rank, rows, columns))
    got = found.matrix.detach().double()
    bound = quantised(tensors, "matrix") + 2**-23 * float(got.abs().max())
    assert float((got - best).abs().max()) <= bound
    lost = float(torch.linalg.matrix_norm(change_of(before, after) - best))
    error = float(torch.linalg.matrix_norm(change_of(before, after) - got))
    assert abs(error - lost) <= bound * (rows * columns) ** 0.5


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 300))
def test_the_sum_is_exact_in_any_order(seed: int, rank: int) -> None:
    """With factors of the largest numbers and the widest exponents that there may be."""
    rng = np.random.default_rng(seed)
    u, v = (rng.choice([-127, 127, 126, -1, 0, 3], size=shape).astype(np.int8) for shape in ((3, rank), (rank, 4)))
    e = rng.integers(0, 21, rank).astype(np.int8)
    zero = Small(torch.zeros(3, 4), torch.zeros(4))
    scale = float(rng.uniform(1e-9, 1e-7))

    def applied(order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
        tensors = {"u": u[:, order].copy(), "v": v[order], "e": e[order]}
        given = {f"matrix|{part}": torch.from_numpy(value) for part, value in tensors.items()}
        found = apply_difference(zero, given | {"matrix|c": torch.tensor([scale], dtype=torch.float64)})
        return found.get_parameter("matrix").detach()

    exact = [[sum(int(u[i, m]) * int(v[m, j]) << int(e[m]) for m in range(rank)) for j in range(4)] for i in range(3)]
    assert max(abs(number) for row in exact for number in row) < 2**53
    expected = np.array([[scale * number for number in row] for row in exact]).astype(np.float32)
    first = applied(np.arange(rank))
    assert first.numpy().tobytes() == expected.tobytes()
    assert applied(rng.permutation(rank)).numpy().tobytes() == expected.tobytes()


def test_vectors_are_kept_in_half_precision_and_what_is_equal_is_left_out() -> None:
    before, after = drawn(0, 5, 6, 3, 0.1)
    tensors = difference(before, after, 2)
    assert {name.partition("|")[0] for name in tensors} == {"matrix", "vector"}
    found = apply_difference(before, tensors)
    change = (after.vector - before.vector).detach()
    assert tensors["vector|d"].dtype == torch.float16
    assert float((found.get_parameter("vector") - after.vector).abs().max()) <= float(change.abs().max()) * 2**-10
    for name in ("kept", "kept_vector"):
        kept = found.get_parameter(name).detach()
        assert kept.numpy().tobytes() == before.get_parameter(name).detach().numpy().tobytes()


def test_the_module_that_is_changed_is_a_copy() -> None:
    before, after = drawn(0, 5, 6, 3, 0.1)
    held = {name: tensor.detach().clone() for name, tensor in before.named_parameters()}
    apply_difference(before.requires_grad_(False), difference(before, after, 2))
    assert all(torch.equal(held[name], tensor) for name, tensor in before.named_parameters())


def test_modules_that_are_equal_have_no_difference() -> None:
    before, _ = drawn(0, 5, 6, 3, 0.1)
    assert difference(before, before, 2) == {}
    assert torch.equal(apply_difference(before, {}).get_parameter("matrix"), before.matrix)


def test_a_file_holds_the_same_difference(tmp_path: Path) -> None:
    before, after = drawn(0, 5, 6, 3, 0.1)
    tensors = difference(before, after, 2)
    save_difference(tensors, tmp_path / "d.safetensors")
    found = read_difference(tmp_path / "d.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "d.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="install fedrad again"):
        read_difference(path)


def without(part: str) -> dict[str, Tensor]:
    before, after = drawn(0, 5, 6, 3, 0.1)
    return {name: tensor for name, tensor in difference(before, after, 2).items() if name != part}


def replaced(**parts: Tensor) -> dict[str, Tensor]:
    return without("") | {f"matrix|{part}": tensor for part, tensor in parts.items()}


I8 = torch.int8


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"nowhere|d": torch.zeros(3)}, "changes nowhere, which the model does not have"),
        (without("matrix|u"), r"lacks matrix\|u"),
        (without("matrix|v"), r"lacks matrix\|v"),
        (without("matrix|e"), r"lacks matrix\|e"),
        (without("matrix|c"), r"lacks matrix\|c"),
        ({"vector|d": torch.zeros(7)}, r"of vector is \(7,\), the weight \(6,\)"),
        ({"vector|d": torch.zeros(1)}, r"of vector is \(1,\)"),  # it must not be spread over the vector
        (replaced(u=torch.zeros(4, 2, dtype=I8)), r"of matrix is \(4, 6\), the weight \(5, 6\)"),
        (replaced(v=torch.zeros(3, 6, dtype=I8)), "of matrix don't fit together"),
        (replaced(e=torch.zeros(1, dtype=I8)), "of matrix don't fit together"),
        (replaced(c=torch.zeros(2, dtype=torch.float64)), "of matrix don't fit together"),
        (replaced(u=torch.zeros(5, 2)), "of matrix don't fit together"),  # fractions would not sum exactly
    ],
)
def test_a_difference_that_does_not_fit_is_refused(tensors: dict[str, Tensor], says: str) -> None:
    before, _ = drawn(0, 5, 6, 3, 0.1)
    with pytest.raises(ModelError, match=says):
        apply_difference(before, tensors)
