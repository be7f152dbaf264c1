"""Microsoft Presidio as a further detector; needs ``pip install 'fedrad[presidio]'`` and a spaCy model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrad.errors import ConfigError
from fedrad.privatise.identifiers import Span


@dataclass(frozen=True)
class Presidio:
    """All that Presidio's recognisers for English find, whatever their score: to mark too much is the safe side.

    Its recogniser of e-mail addresses is left out, because it fetches a list from the internet; the rules of
    ``identifiers`` find them.

    Attributes:
        model: name or folder of an installed spaCy model, e.g. en_core_web_sm.

    Raises:
        ConfigError: Presidio or the model is not installed. (Presidio itself would download the model.)
    """

    model: str
    analyzer: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            import spacy
            from presidio_analyzer import AnalyzerEngine
            from presidio_analyzer.nlp_engine import NlpEngineProvider
        except ImportError:
            raise ConfigError("--presidio needs Presidio: pip install 'fedrad[presidio]'") from None
        if not (spacy.util.is_package(self.model) or Path(self.model).is_dir()):
            raise ConfigError(f"--presidio: spaCy has no model {self.model!r}; install it, e.g. en_core_web_sm")
        models = [{"lang_code": "en", "model_name": self.model}]
        engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
        analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
        analyzer.registry.remove_recognizer("EmailRecognizer")
        object.__setattr__(self, "analyzer", analyzer)

    def __call__(self, text: str) -> list[Span]:
        """The spans of what it finds."""
        return [Span(found.start, found.end) for found in self.analyzer.analyze(text, language="en")]
