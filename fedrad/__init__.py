"""fedrad: federated, differentially private LoRA fine-tuning on radiology reports.

The public names are loaded when they are first used (PEP 562), so that ``import fedrad`` and ``fedrad --help`` stay
fast: torch and transformers alone take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrad.config import Experiment as Experiment
    from fedrad.data.load import load_corpus as load_corpus
    from fedrad.privacy.accounting import epsilon as epsilon
    from fedrad.privacy.plan import PrivacyPlan as PrivacyPlan
    from fedrad.simulation.centralized import train as train
    from fedrad.simulation.simulate import simulate as simulate
    from fedrad.tasks.classifier import Classifier as Classifier

__version__ = "0.1.0"
__all__ = ["Classifier", "Experiment", "PrivacyPlan", "__version__", "epsilon", "load_corpus", "simulate", "train"]

_HOMES = {
    "Classifier": "fedrad.tasks.classifier",
    "Experiment": "fedrad.config",
    "PrivacyPlan": "fedrad.privacy.plan",
    "epsilon": "fedrad.privacy.accounting",
    "load_corpus": "fedrad.data.load",
    "simulate": "fedrad.simulation.simulate",
    "train": "fedrad.simulation.centralized",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedrad' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
