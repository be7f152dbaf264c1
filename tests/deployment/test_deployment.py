"""docs/deployment.md end to end: a server and three hospitals over TLS, with budgets that the server can't exceed."""

from __future__ import annotations

import csv
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from fedrad import Classifier
from fedrad.config import Experiment
from fedrad.corpora import CHEXPERT
from fedrad.data.synthetic import generate
from fedrad.federation.policy import HospitalPolicy
from fedrad.ledger.ledger import Ledger
from fedrad.model.base import load_base
from tests import small
from tests.deployment.loopback import Loopback

REQUESTED, CAP = 4.0, 1.5
CAPS = {"hospital-a": 20.0, "hospital-b": 20.0, "hospital-c": CAP}
LIMIT = 900  # seconds for one run on a machine that does other things as well
DOCS = Path(__file__).parents[2] / "docs" / "deployment.md"


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Loopback]:
    world = Loopback(tmp_path)
    try:
        yield world
    finally:
        world.end()


def table(path: Path, seed: int) -> None:
    """A hospital's own export: its own names for text and patient, the labels' own names."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["report", "person", *CHEXPERT])
        for row in generate(60, seed):
            writer.writerow([row["text"], row["patient"], *(row["labels"][name] for name in CHEXPERT)])


def policy(folder: Path, name: str) -> dict[str, object]:
    return {
        "site": name,
        "data-path": str(folder / "reports.csv"),
        "text-column": "report",
        "label-columns": "chexpert",
        "patient-column": "person",
        "state-dir": str(folder / "state"),
        "witness-dir": str(folder / "witness"),
        "epsilon-cap": CAPS[name],
        "declared-size": 60,
        "model": small.model_folder(),
        "model-sha256": load_base(small.model_folder()).fingerprint,
        "allow-seeded": name != "hospital-b",
    }


def proposal(out: Path, **changes: object) -> dict[str, object]:
    flat: dict[str, object] = {
        "sites.count": 3,
        "sites.connect-timeout": 300.0,
        "sites.timeout": 300.0,
        "data.reports": 120,
        "data.max-length": 40,
        "model.name": small.model_folder(),
        "lora.rank": 2,
        "privacy.epsilon": REQUESTED,
        "train.rounds": 1,
        "train.local-steps": 2,
        "train.batch": 16,
        "train.threads": 1,
        "train.warm-reports": 64,
        "run.out": str(out),
    }
    return flat | {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}


def epsilon(folder: Path, name: str) -> float:
    where = {"witness": folder / "witness", "site": name, "delta": 1e-5}
    with Ledger.open(folder / "state", cap=CAPS[name], **where) as ledger:  # type: ignore[arg-type]
        return ledger.view.epsilon


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT)
def test_a_federation_of_real_processes(loopback: Loopback) -> None:
    loopback.superlink()
    for seed, name in enumerate(CAPS, 1):
        folder = loopback.folder / name
        folder.mkdir()
        table(folder / "reports.csv", seed)
        loopback.hospital(name, policy(folder, name))
    folders = {name: loopback.folder / name for name in CAPS}
    # Nobody else gets in: not without a registered key, not without any key, not without TLS.
    stranger = loopback.hospital("stranger", {}, register=False)
    nameless = loopback.node("nameless", {}, [])
    plain = loopback.node("plain", {}, ["--insecure"])

    # A run, two rounds, each message answered by a new process.
    results = loopback.folder / "server" / "first"
    status, details, said = loopback.run(proposal(results, train__rounds=2), LIMIT)

    assert status == "finished:completed", f"{details}\n{said}\n{loopback.log('hospital-a')[-2000:]}"
    assert len(re.findall(r"\[ROUND 1/2\]", said)) == 1  # every line of Flower's is streamed once
    result = json.loads((results / "result.json").read_text())
    assert sorted(result["epsilon"]) == sorted(CAPS)
    spent = {name: epsilon(folder, name) for name, folder in folders.items()}
    assert result["epsilon"] == spent
    assert CAP - 0.1 < spent["hospital-c"] <= CAP  # clamped: its plan has more noise
    assert all(REQUESTED - 0.1 < spent[name] <= REQUESTED for name in ("hospital-a", "hospital-b"))
    for folder in folders.values():
        assert stat.S_IMODE((folder / "state").stat().st_mode) == 0o700
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (folder / "state").iterdir()}
        assert modes.pop("public") == 0o700  # a folder with what the server had sent
        certificates = {name for name in modes if name.startswith("certificate-")}
        assert [modes.pop(name) for name in certificates] == [0o644]  # to be shown
        private = {"ledger.sqlite", "ledger.lock", "round.safetensors", "certificate.key"}
        assert modes == dict.fromkeys(private & modes.keys() | private - {"certificate.key"}, 0o600)
    assert {"adapter", "experiment.toml", "metrics.jsonl"} <= {path.name for path in results.iterdir()}
    assert list((results / "ledger").iterdir()) == []  # the ledgers are the hospitals'
    assert Experiment.load(results / "experiment.toml").privacy.epsilon == REQUESTED
    assert Classifier.load(results).predict(["No acute effusion."]).shape == (1, len(CHEXPERT))

    # Who was refused, by now.
    for process, name, code in ((stranger, "stranger", 2004), (nameless, "nameless", 2001)):
        assert process.wait(60) != 0
        assert f"[code: {code}]" in loopback.log(name)
    assert "Connection attempt failed" in loopback.log("plain")
    assert loopback.online() == 3
    plain.terminate()

    # Seeded noise: one allows it, one refuses, one has no budget left. Two are needed, so the run fails. (That two of
    # three are enough, and how a federation goes on without the third, is tested without processes.)
    results = loopback.folder / "server" / "second"
    status, details, said = loopback.run(proposal(results, privacy__noise="seeded"), LIMIT)

    assert status == "finished:failed"
    assert "hospital-b: policy" in details
    assert "hospital-c: budget-exhausted" in details
    assert "hospital-a" not in details
    assert "proposes seeded noise" in loopback.log("hospital-b")  # the text stays there
    assert "has spent epsilon" in loopback.log("hospital-c")
    assert not re.search("could subtract|has spent|room for", said + details + loopback.log("server"))
    assert not (results / "result.json").exists()
    assert epsilon(folders["hospital-b"], "hospital-b") == spent["hospital-b"]  # a refusal costs nothing
    assert epsilon(folders["hospital-c"], "hospital-c") == spent["hospital-c"]
    assert epsilon(folders["hospital-a"], "hospital-a") > spent["hospital-a"]  # runs add up

    # No report left a hospital.
    texts = [row["text"].split(".")[0].encode() for row in generate(60, 1)]
    longest = max(texts, key=len)
    assert longest in (folders["hospital-a"] / "reports.csv").read_bytes()
    for file in (loopback.folder / "server").rglob("*"):
        if file.is_file() and "cache" not in file.parts:  # its cache holds its own generated reports
            assert longest not in file.read_bytes(), file

    loopback.end()
    assert loopback.left() == []


def test_the_document_lists_every_key_of_a_hospital() -> None:
    table = DOCS.read_text(encoding="utf-8").split("| key | type | default |")[1].split("\n\n")[0]
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| ([a-z ]+) \|", table, re.MULTILINE)
    kinds = {"str": "text", "float": "number", "int": "whole number", "bool": "true or false"}

    assert sorted(listed) == sorted((f.name.replace("_", "-"), kinds[str(f.type)]) for f in fields(HospitalPolicy))
