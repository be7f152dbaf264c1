"""Flower's own reading and writing of arrays is the oracle: the same bytes out, the same in, and no more accepted."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedrad.federation.arrays import finite, from_arrays, to_arrays

DTYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool)


def tensors(shapes: list[tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"t{number}": (100 * torch.randn(shape, generator=generator)).to(DTYPES[number % len(DTYPES)])
        for number, shape in enumerate(shapes)
    }


def npy(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def of(data: bytes, stype: str = "numpy.ndarray") -> ArrayRecord:
    return ArrayRecord({"a": Array(dtype="float32", shape=(2, 3), stype=stype, data=data)})


@given(st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=7), st.integers(0, 2**16))
def test_the_bytes_are_flowers_own(shapes: list[tuple[int, ...]], seed: int) -> None:
    given = tensors(shapes, seed)
    ours, theirs = to_arrays(given), ArrayRecord(given)
    assert {name: vars(array) for name, array in ours.items()} == {name: vars(array) for name, array in theirs.items()}
    read = from_arrays(theirs)
    assert set(read) == set(given)
    for name, tensor in theirs.to_torch_state_dict().items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert read[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_odd_layouts_are_written_by_rows() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    for odd in (whole.T, whole[:, ::2], whole[1:1], torch.zeros(3, requires_grad=True)):
        assert torch.equal(from_arrays(to_arrays({"a": odd}))["a"], odd.detach())


def test_what_is_read_has_memory_of_its_own() -> None:
    sent = to_arrays({"a": torch.zeros(3)})
    before = sent["a"].data
    from_arrays(sent)["a"].add_(1.0)
    assert sent["a"].data == before
    assert not from_arrays(sent)["a"].any()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_other_files_of_numpy_are_read_as_flower_reads_them(version: tuple[int, int]) -> None:
    for values in (np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(6).reshape(2, 3)):
        file = io.BytesIO()
        np.lib.format.write_array(file, values, version=version)
        assert torch.equal(from_arrays(of(file.getvalue()))["a"], torch.from_numpy(np.ascontiguousarray(values)))


GOOD = npy(np.arange(6, dtype=np.float32).reshape(2, 3))
HOSTILE = {
    "pickled": npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "cut short": GOOD[:-1],
    "header cut short": GOOD[:40],
    "empty": b"",
    "no header": GOOD[:8],
    "other magic": b"X" + GOOD[1:],
    "negative": GOOD.replace(b"(2, 3)", b"(-1,) "),
    "a negative one": GOOD.replace(b"(2, 3)", b"(2,-3)"),
    "larger than it is": GOOD.replace(b"(2, 3)", b"(9, 9)"),
    "code for a shape": GOOD.replace(b"(2, 3)", b"exit()"),
    "strings": npy(np.array(["a", "b"])),
    "big-endian": npy(np.arange(3, dtype=">f4")),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_bytes_are_refused(how: str) -> None:
    for _ in range(2):  # what was once found out about a header is remembered: the refusal too
        with pytest.raises((ValueError, TypeError, SyntaxError, EOFError)):  # numpy and torch refuse in many ways
            from_arrays(of(HOSTILE[how]))
    with pytest.raises(TypeError):
        from_arrays(of(GOOD, stype="torch.tensor"))
    assert from_arrays(of(GOOD))["a"].tolist() == [[0, 1, 2], [3, 4, 5]]  # control


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_numbers_that_are_not_finite_are_found(dtype: torch.dtype) -> None:
    largest = torch.full((100,), torch.finfo(dtype).max, dtype=dtype)
    assert finite(largest)  # also where the sum is not
    assert finite(torch.zeros(0, dtype=dtype))
    for bad in ([float("nan")], [float("inf")], [float("inf"), float("-inf")]):
        holed = largest.clone()
        holed[40 : 40 + len(bad)] = torch.tensor(bad, dtype=dtype)
        assert not finite(holed)
