"""Presidio as a detector, where it is installed, with a spaCy model that knows nothing: its patterns alone."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fedrad.errors import ConfigError
from fedrad.privatise.presidio import Presidio

spacy = pytest.importorskip("spacy")
pytest.importorskip("presidio_analyzer")


def test_it_finds_identifiers_and_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a detector must not use the network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    spacy.blank("en").to_disk(tmp_path / "blank")
    text = "Call 212-555-0199 or mail a.smith@clinic.org on 03/14/2021."

    found = {text[span.start : span.end] for span in Presidio(str(tmp_path / "blank"))(text)}

    assert {"212-555-0199", "03/14/2021"} <= found


def test_a_model_that_is_not_there_is_not_downloaded() -> None:
    with pytest.raises(ConfigError, match="has no model"):
        Presidio("en_core_web_none")
