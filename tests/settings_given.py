"""Problems that overrides have."""

from __future__ import annotations

import pytest

from fedrad.config import Experiment
from fedrad.errors import ConfigError


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Experiment.load(None, overrides)
    return list(caught.value.problems)
