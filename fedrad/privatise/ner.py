"""Named entities by a spaCy model as a further detector; needs ``pip install 'fedrad[ner]'`` and the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from fedrad.errors import ConfigError
from fedrad.privatise.identifiers import Span

_KINDS: Final = frozenset({"PERSON", "PER", "ORG", "GPE", "LOC", "FAC", "DATE", "TIME"})


@dataclass(frozen=True)
class Entities:
    """Persons, organisations, places, dates and times that a model finds.

    Attributes:
        model: name of an installed spaCy model, e.g. en_core_web_sm.

    Raises:
        ConfigError: spaCy or the model is not installed.
    """

    model: str
    pipeline: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            import spacy

            object.__setattr__(self, "pipeline", spacy.load(self.model))
        except ImportError:
            raise ConfigError("--ner needs spaCy: pip install 'fedrad[ner]'") from None
        except OSError:
            raise ConfigError(f"--ner: spaCy has no model {self.model!r}; install it, e.g. en_core_web_sm") from None

    def __call__(self, text: str) -> list[Span]:
        """The spans of its entities."""
        return [
            Span(entity.start_char, entity.end_char) for entity in self.pipeline(text).ents if entity.label_ in _KINDS
        ]
