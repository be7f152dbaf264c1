"""What the tests of this folder start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.grid import forget
from tests.model import tiny
from tests.secure_run import One, Sisters


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny base model."""
    return tiny.save(tmp_path_factory.mktemp("base"), "bert")


@pytest.fixture
def sisters(tmp_path: Path) -> Sisters:
    forget()
    return Sisters(tmp_path)


@pytest.fixture
def one(tmp_path: Path) -> One:
    forget()
    return One(tmp_path)
