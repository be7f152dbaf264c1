"""What stands in a certificate, who signs it, and that nothing else leaves by it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from fedrad.certificate.digests import answer_in
from fedrad.certificate.envelope import KEY_FILE
from fedrad.certificate.issue import certify_hospital, certify_run, renew
from fedrad.certificate.verify import schema, verify
from fedrad.certificate.words import in_words
from fedrad.errors import CertificateError
from fedrad.federation.identity import make_identity
from fedrad.ledger.ledger import Ledger
from fedrad.ledger.view import read_ledger
from fedrad.privacy.plan import PrivacyPlan
from fedrad.training.site import adapter_digest
from fedrad.training.site_state import load_state, save_state
from tests.certificate.conftest import SITE, content_of, tamper
from tests.grid import CANARY, Mercy, federate, forget, small
from tests.model import tiny


@pytest.fixture
def mercy(tmp_path: Path) -> Iterator[Mercy]:
    forget()
    yield Mercy(tmp_path)
    forget()


def certificate_of(mercy: Mercy) -> Path:
    return Path(mercy.node["state-dir"]) / "certificate-mercy.json"


def key_id(file: Path) -> str:
    return str(json.loads(file.read_text())["signatures"][0]["keyid"])


def failures(file: Path, **options: str) -> list[str]:
    return [f"{f.what}: {f.words}" for f in verify(file, **options) if f.verdict == "FAILED"]  # type: ignore[arg-type]


def test_the_schema_is_one_and_closes_every_object() -> None:
    found = schema()
    Draft202012Validator.check_schema(found)

    def objects(node: object) -> Iterator[dict[str, object]]:
        if isinstance(node, dict):
            if "properties" in node and "type" in node:
                yield node
            for child in node.values():
                yield from objects(child)
        elif isinstance(node, list):
            for child in node:
                yield from objects(child)

    assert [node for node in objects(found) if node.get("additionalProperties") is not False] == []


def test_the_answer_is_the_one_that_the_site_keeps(run: Path) -> None:
    saved = load_state(run / "ledger" / SITE, durable=True)
    assert saved is not None

    assert answer_in(run / "ledger" / SITE) == (adapter_digest(saved.reply), "clear")


def test_a_run_is_certified_again_after_an_audit(run: Path) -> None:
    audit = {"kind": "gradient", "view": "all", "epsilon": 3.0, "delta": 1e-3, "confidence": 0.95, "canaries": 64}
    good, control = {**audit, "bound": 0.7, "broken": ""}, {**audit, "bound": 9.0, "broken": "no noise"}
    (run / "audit.json").write_text(json.dumps({"audits": [good, control], "seconds": 3.0}))
    before = run / "certificate.json"
    assert [f.verdict for f in verify(before) if f.what == "audits"] == ["not checked"]
    tamper(before, lambda content: content["code"].update(version="0.0.9"))  # trained by an older fedrad
    assert renew(run) == (before,)

    assert content_of(before)["audits"] == [{**audit, "bound": 0.7}]
    assert content_of(before)["code"]["version"] == "0.0.9"
    assert failures(before) == []
    assert "epsilon is at least 0.7, with 95% confidence" in in_words(content_of(before), key_id(before))


def test_a_folder_without_a_finished_run_is_not_certified(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"no result\.json"):
        renew(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(CertificateError, match="no certificate"):
        renew(tmp_path)


def test_every_simulated_hospital_has_its_own_and_it_is_called_a_simulation(tmp_path: Path) -> None:
    forget()
    out = tmp_path / "run"
    federate(small(tiny.save(tmp_path / "base", "bert"), run__out=str(out), sites__count=2))
    files = sorted(out.glob("certificate*.json"))

    assert [file.name for file in files] == ["certificate-site-000.json", "certificate-site-001.json"]
    assert [failures(file) for file in files] == [[], []]
    content = content_of(files[0])
    assert (content["kind"], content["size_stated"]) == ("simulation", False)
    assert content["guarantee"]["noise"] == {"source": "seeded", "meaning": "simulation only: protects nobody"}
    assert content["statement"]["promised"][0].startswith("SIMULATION ONLY")
    assert len({key_id(file) for file in files}) == 1
    assert not list(out.rglob("*.key"))  # the key was forgotten
    forget()


def test_a_run_without_privacy_is_certified_as_such(tmp_path: Path) -> None:
    forget()
    out = tmp_path / "run"
    experiment = small(tiny.save(tmp_path / "base", "bert"), run__out=str(out), sites__count=1, privacy__epsilon=0.0)
    federate(experiment, nodes=1)
    content = content_of(out / "certificate.json")

    assert content["guarantee"]["epsilon"] is None
    assert content["statement"]["promised"][0].startswith("NOT PRIVATE")
    assert failures(out / "certificate.json") == []
    forget()


def test_of_hospitals_as_units_the_server_s_ledger_is_certified(tmp_path: Path) -> None:
    forget()
    out = tmp_path / "run"
    federate(small(tiny.save(tmp_path / "base", "bert"), run__out=str(out), privacy__unit="hospital"))

    (file,) = out.glob("certificate*.json")
    content = content_of(file)
    assert (file.name, content["site"], content["guarantee"]["unit"]) == ("certificate.json", "server", "hospital")
    assert failures(file) == []
    assert any("against the server" in line for line in content["statement"]["not_promised"])
    forget()


# A real hospital


def test_a_hospital_s_certificate_covers_its_last_answer_and_all_before(mercy: Mercy) -> None:
    mercy.ask(mercy.request())
    first = certificate_of(mercy).read_bytes()
    mercy.ask(mercy.request(round=2))
    file = certificate_of(mercy)
    content = content_of(file)

    assert content["ledger"]["charges"] == 2
    assert content["kind"] == "hospital"
    assert failures(file) == []
    key = Path(mercy.node["state-dir"]) / KEY_FILE
    assert key.stat().st_mode & 0o777 == 0o600
    assert failures(file, key=key_id(file)) == []
    file.write_bytes(first)
    assert "out of date" in failures(file)[0]


def test_nothing_of_the_reports_is_in_a_certificate(mercy: Mercy) -> None:
    """Two hospitals that declare the same, with other reports and another number of them, sign the same but digests."""
    mercy.ask(mercy.request())
    other = Mercy(mercy.folder / "other", reports=31, base=mercy.experiment.model.name)
    other.ask(other.request())
    one, two = content_of(certificate_of(mercy)), content_of(certificate_of(other))

    for content in (one, two):
        assert CANARY not in json.dumps(content)
        content["adapter"]["sent"] = content["ledger"]["head"] = None
    assert one == two


def test_a_hospital_with_an_identity_signs_with_it(mercy: Mercy) -> None:
    public = make_identity(mercy.folder / "identity.key")
    (mercy.folder / "peers").write_text(f"mercy {public}\n")
    mercy.node |= {"identity-key": str(mercy.folder / "identity.key"), "peers": str(mercy.folder / "peers")}
    mercy.ask(mercy.request())

    assert key_id(certificate_of(mercy)) == public
    assert failures(certificate_of(mercy), key=str(mercy.folder / "peers")) == []
    assert not (Path(mercy.node["state-dir"]) / KEY_FILE).exists()


def test_a_key_that_others_may_read_signs_nothing_and_the_answer_leaves_anyway(
    mercy: Mercy, capfd: pytest.CaptureFixture[str]
) -> None:
    mercy.ask(mercy.request())
    before = certificate_of(mercy).read_bytes()
    (Path(mercy.node["state-dir"]) / KEY_FILE).chmod(0o644)
    answer = mercy.ask(mercy.request(round=2))

    assert answer["reply"]["round"] == 2
    assert "no new certificate" in capfd.readouterr().err
    assert certificate_of(mercy).read_bytes() == before


# Other ledgers


def a_plan(**changes: object) -> PrivacyPlan:
    settings: dict[str, object] = {
        "epsilon": 1.0, "delta": 1e-5, "declared_size": 1000, "expected_batch": 100, "steps": 10, "clip": 1.0
    }  # fmt: skip
    return PrivacyPlan.calibrate(**(settings | changes))  # type: ignore[arg-type]


def test_plans_that_were_chosen_one_after_another_are_counted_by_the_filter(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, site="mercy", cap=8.0, delta=1e-5) as book:
        book.record_intent(run="1", round=1, plan=a_plan(), steps=10)
        book.record_intent(run="2", round=1, plan=a_plan(steps=20, expected_batch=50), steps=20)
    file = certify_hospital(tmp_path, configuration="0" * 64, private=None)
    content = content_of(file)

    assert content["guarantee"]["rule"] == "renyi filter"
    assert content["ledger"]["trials"] == 2
    assert failures(file) == []
    assert math.isclose(content["guarantee"]["epsilon"], read_ledger(tmp_path).epsilon)

    def as_if_fixed(changed: dict[str, dict[str, object]]) -> None:
        changed["guarantee"] |= {"rule": "pld: one fixed plan", "order": 0}

    tamper(file, as_if_fixed)
    assert any(line.startswith("rule: ") and "chosen one after another" in line for line in failures(file))


def test_a_ledger_without_charges_is_not_certified(tmp_path: Path) -> None:
    Ledger.open(tmp_path, site="mercy", cap=8.0, delta=1e-5).close()

    with pytest.raises(CertificateError, match="no charge"):
        certify_hospital(tmp_path, configuration="0" * 64, private=None)


def test_an_adapter_that_left_masked_has_no_digest(run: Path) -> None:
    """Under shared noise it would let a guess at the hospital's unprotected adapter be tested."""
    site = run / "ledger" / SITE
    saved = load_state(site, durable=True)
    assert saved is not None
    save_state(site, replace(saved, left="shared"), durable=True)
    certify_run(run, "simulation")

    adapter = content_of(run / "certificate.json")["adapter"]
    assert (adapter["sent"], adapter["left"]) == (None, "shared")
