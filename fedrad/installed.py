"""The installed strategies, ours and other packages': the entry points ``fedrad.strategies``."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

from fedrad.errors import ConfigError, place_of


@runtime_checkable
class Traits(Protocol):
    """Class attributes of a strategy; ``fedrad.training.strategy.Strategy`` explains each."""

    averaging: bool
    mixed_ranks: bool
    needs_lora: bool
    chooses_factors: bool
    server_state: bool
    offered: bool
    rules: Any


@lru_cache(maxsize=1)
def installed() -> dict[str, EntryPoint]:
    """The entry points by name, sorted. It imports none of them."""
    return {entry.name: entry for entry in sorted(entry_points(group="fedrad.strategies"), key=lambda e: e.name)}


def strategy_class(name: str) -> Any:
    """The class of an installed strategy, with its :class:`Traits`.

    Raises:
        ConfigError: it can't be imported, is not a strategy, or another package named ``strategies`` hides fedrad's.
    """
    entry = installed()[name]
    package = entry.module.partition(".")[0]
    try:
        found = import_module(package)
        hidden = package == "strategies" and vars(found).get("OF") != "fedrad"
        if hidden and entry.dist is not None and entry.dist.name == "fedrad":
            raise ConfigError(
                f"strategy.name: Python finds {found.__file__} instead of the package 'strategies' that comes with"
                " fedrad. If it is in the working directory, rename it or start elsewhere. If it is installed,"
                " uninstall it and install fedrad again."
            )
        strategy = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"strategy.name: {name!r} ({entry.value}) can't be imported: {type(error).__name__} at {place_of(error)}"
        ) from None
    if not isinstance(strategy, Traits):
        raise ConfigError(f"strategy.name: {name!r} is not a fedrad.training.strategy.Strategy")
    return strategy
