"""Tensors as Flower's arrays, byte for byte as Flower writes them: in numpy's file format.

Flower makes and parses the same few headers anew for every tensor of every message, which takes ten times as long as
the tensor of a simulated hospital. Here each kind of header is made once and read once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.lib import format as npy
from torch import Tensor

_STYPE = "numpy.ndarray"  # Flower's name of the format
_BEFORE_HEADER = 10  # bytes of version 1.0: the magic ones, the version and the header's length


def to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors as a Flower record, bit for bit, sorted by name."""
    record = ArrayRecord()
    for name in sorted(tensors):
        values = tensors[name].detach().contiguous().numpy()
        data = _header(values.dtype, values.shape) + values.tobytes()
        record[name] = Array(dtype=str(values.dtype), shape=values.shape, stype=_STYPE, data=data)
    return record


def from_arrays(arrays: ArrayRecord) -> dict[str, Tensor]:
    """A Flower record as tensors of their own memory.

    Raises:
        Exception: of any kind, for bytes that are no tensor: they come from elsewhere, and numpy refuses in many ways.
    """
    return {name: torch.from_numpy(_values(array)) for name, array in arrays.items()}


def finite(tensor: Tensor) -> bool:
    """Whether every number in it is finite."""
    # One that is not makes the sum so, which takes a quarter of the time of looking at each. A sum can also overflow.
    return math.isfinite(tensor.sum(dtype=torch.float64)) or bool(torch.isfinite(tensor).all())


@lru_cache(maxsize=256)
def _header(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    file = BytesIO()
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return file.getvalue()


def _values(array: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    data = array.data
    end = _BEFORE_HEADER + int.from_bytes(data[8:_BEFORE_HEADER], "little")
    if array.stype == _STYPE and data.startswith(npy.magic(1, 0)):
        dtype, shape, by_columns = _layout(data[:end])
        if not dtype.hasobject and not by_columns and min(shape, default=0) >= 0:
            return np.ndarray(shape, dtype, data, end).copy()
    return array.numpy().copy()  # whatever else numpy and Flower can read, and their refusals


@lru_cache(maxsize=256)
def _layout(header: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], bool]:
    file = BytesIO(header)
    npy.read_magic(file)
    shape, by_columns, dtype = npy.read_array_header_1_0(file)
    return dtype, shape, by_columns
