"""The hub folder, used as somebody without fedrad would use it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import Result
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from fedrad.certificate.verify import verify
from fedrad.cli.app import app
from fedrad.errors import CertificateError
from fedrad.report.hub import export_run, protection
from fedrad.training.result import rounded_up
from tests import small
from tests.certificate.conftest import SITE, content_of, finished, run, tamper

__all__ = ["finished", "run"]  # fixtures


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def hub(run: Path, tmp_path: Path) -> Path:
    shown = call("export", run, tmp_path / "hub", "--license", "apache-2.0")
    assert shown.exit_code == 0, shown.output
    return tmp_path / "hub"


def test_it_loads_on_the_stock_base(hub: Path, run: Path) -> None:
    base = small.model_folder()
    tokens = AutoTokenizer.from_pretrained(hub)(["clear lungs", "edema"], padding=True, return_tensors="pt")
    both = [
        PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(folder)).eval()
        for folder in (hub, run / "adapter")
    ]
    with torch.no_grad():
        first, second, plain = (
            model(**tokens).last_hidden_state for model in (*both, AutoModel.from_pretrained(base).eval())
        )
    assert torch.equal(first, second)
    assert not torch.allclose(first, plain)  # the adapter does something


def test_the_card_is_one_and_has_the_privacy_block(hub: Path, run: Path) -> None:
    card = ModelCard.load(hub / "README.md")
    guarantee = content_of(run / "certificate.json")["guarantee"]

    assert card.data.library_name == "peft"
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == "model"
    assert card.data.to_dict()["privacy"] == {
        "epsilon": guarantee["epsilon"],
        "delta": small.DELTA,
        "unit": "report",
        "relation": "add-or-remove-one",
        "accountant": "pld: one fixed plan",
        "noise": "system",
        "protects": "report",
    }
    assert f"| {SITE} | {rounded_up(guarantee['epsilon'])} | 0.001 | report | add-or-remove-one |" in card.text
    assert "**What it does not protect:**" in card.text


def test_a_seeded_run_protects_nobody_in_the_card_either(run: Path) -> None:
    content = content_of(run / "certificate.json")
    content["guarantee"]["noise"] = {"source": "seeded", "meaning": "simulation only: protects nobody"}

    assert "seeded: simulation only: protects nobody" in protection([content])


def test_no_path_of_this_machine_is_in_it(hub: Path) -> None:
    texts = [file.read_text() for file in hub.iterdir() if file.suffix in (".json", ".md", ".txt")]

    assert len(texts) >= 5
    assert [text for text in texts if str(Path(small.model_folder()).parent) in text] == []
    assert json.loads((hub / "adapter_config.json").read_text())["base_model_name_or_path"] == "model"


def test_its_certificate_is_good_there(hub: Path) -> None:
    verdicts = {finding.what: finding.verdict for finding in verify(hub / "certificate.json")}

    assert (verdicts["adapter"], verdicts["epsilon"], verdicts["ledger"]) == ("ok", "ok", "not checked")


def test_nothing_is_overwritten(hub: Path, run: Path) -> None:
    before = {file.name: file.read_bytes() for file in hub.iterdir()}
    again = call("export", run, hub)

    assert again.exit_code == 4
    assert "nothing is overwritten" in again.stderr
    assert {file.name: file.read_bytes() for file in hub.iterdir()} == before


def test_a_run_whose_certificate_is_refused_is_not_exported(run: Path, tmp_path: Path) -> None:
    tamper(run / "certificate.json", lambda content: content["guarantee"].update(epsilon=0.1))
    with pytest.raises(CertificateError, match=r"nothing is exported: .*compose to"):
        export_run(run, tmp_path / "hub")

    assert not (tmp_path / "hub").exists()


def test_a_run_without_certificates_says_where_they_are(run: Path, tmp_path: Path) -> None:
    (run / "certificate.json").unlink()
    shutil.rmtree(run / "ledger")
    export_run(run, tmp_path / "hub", base_name="somebody/bert-tiny")
    card = ModelCard.load(tmp_path / "hub" / "README.md")

    assert card.data.base_model == "somebody/bert-tiny"
    assert "Each hospital writes its own" in card.text
