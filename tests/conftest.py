"""What must be set before torch, Ray and Flower are imported: one thread each, nothing sent home, no hub."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ |= {
    "TOKENIZERS_PARALLELISM": "false",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "COLUMNS": "120",  # width of rich's output
}

from collections.abc import Iterator  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.processors import PROCESSORS  # noqa: E402

torch.set_num_threads(1)
# A deadline for each example would be a test of the machine's speed.
settings.register_profile("fedrad", deadline=None)
settings.load_profile("fedrad")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache of corpora."""
    monkeypatch.setenv("FEDRAD_CACHE", str(tmp_path_factory.getbasetemp() / "fedrad-cache"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first: the last file to end leaves the other processes of xdist idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processor", choices=sorted(PROCESSORS), help="round matrix products as another processor does")


@pytest.fixture(autouse=True, scope="session")
def _processor(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only within the tests' own process and thread."""
    if name := request.config.getoption("--processor"):
        with PROCESSORS[name]():
            yield
    else:
        yield
