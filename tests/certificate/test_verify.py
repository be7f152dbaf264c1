"""Tampered certificates: each kind is refused for its own reason, also where it was signed again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedrad.certificate.envelope import sealed
from fedrad.certificate.finding import Finding
from fedrad.certificate.verify import verify
from fedrad.errors import CertificateError
from fedrad.ledger.ledger import Ledger
from fedrad.secure.keys import identity_public_key, new_identity_key
from tests import small
from tests.certificate.conftest import KEY, SITE, content_of, other_plan, tamper


def by_what(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def refused(file: Path, **options: Any) -> dict[str, str]:
    """Part -> reason, of what failed."""
    return {finding.what: finding.words for finding in verify(file, **options) if finding.verdict == "FAILED"}


def test_an_untouched_certificate_passes_every_check(certificate: Path) -> None:
    findings = verify(certificate)

    assert {finding.verdict for finding in findings} == {"ok"}
    assert {"signature", "rule", "epsilon", "code", "ledger", "answer", "adapter", "configuration"} <= {
        finding.what for finding in findings
    }
    assert "which you did not pin" in by_what(findings)["signature"].words


def test_what_is_not_in_reach_is_said_to_be_unchecked(certificate: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "certificate.json"
    alone.parent.mkdir()
    alone.write_bytes(certificate.read_bytes())
    verdicts = {finding.what: finding.verdict for finding in verify(alone)}

    assert [verdicts[name] for name in ("ledger", "adapter", "configuration")] == ["not checked"] * 3
    assert verdicts["epsilon"] == verdicts["signature"] == "ok"
    assert {finding.verdict for finding in verify(alone, run=certificate.parent)} == {"ok"}


def epsilon_lowered(content: dict[str, Any]) -> None:
    content["guarantee"]["epsilon"] /= 2


def point_of_the_curve_lowered(content: dict[str, Any]) -> None:
    content["guarantee"]["curve"][0]["epsilon"] /= 2


def delta_lowered(content: dict[str, Any]) -> None:
    content["guarantee"]["delta"] /= 10


def more_noise(content: dict[str, Any]) -> None:
    content["events"][0]["noise_multiplier"] *= 2


def fewer_steps(content: dict[str, Any]) -> None:
    content["events"][0]["steps"] -= 1


def fewer_charged_steps(content: dict[str, Any]) -> None:
    content["plans"][0]["charged_steps"] -= 1


def unit_changed(content: dict[str, Any]) -> None:
    content["guarantee"]["unit"] = "patient"


def unit_of_the_plan_changed(content: dict[str, Any]) -> None:
    content["plans"][0]["fields"]["unit"] = content["guarantee"]["unit"] = "patient"


def rule_changed(content: dict[str, Any]) -> None:
    content["guarantee"]["rule"] = "renyi filter"


def sums_only_forgotten(content: dict[str, Any]) -> None:
    content["guarantee"]["only_in_sums_of"] = 2


def words_softened(content: dict[str, Any]) -> None:
    content["statement"]["not_promised"] = ["Nothing to worry about."]


def other_code(content: dict[str, Any]) -> None:
    content["code"]["sources"] = "0" * 64


def other_configuration(content: dict[str, Any]) -> None:
    content["configuration"] = "0" * 64


def other_head(content: dict[str, Any]) -> None:
    content["ledger"]["head"] = "0" * 64


def other_answer(content: dict[str, Any]) -> None:
    content["adapter"]["sent"] = "0" * 64


def other_trials(content: dict[str, Any]) -> None:
    content["ledger"]["trials"] += 1


def audit_above_the_claim(content: dict[str, Any]) -> None:
    content["audits"] = [
        {
            "kind": "gradient",
            "view": "all",
            "epsilon": 3.0,
            "delta": small.DELTA,
            "bound": 9.0,
            "confidence": 0.95,
            "canaries": 100,
        }
    ]


@pytest.mark.parametrize(
    ("change", "part", "reason"),
    [
        (epsilon_lowered, "epsilon", "it claims 1.4"),
        (point_of_the_curve_lowered, "curve", "but its charges compose to"),
        (delta_lowered, "epsilon", "at delta 0.0001, but its charges compose to"),
        (more_noise, "events", "noise or steps are not those of its plans"),
        (fewer_steps, "events", "noise or steps are not those of its plans"),
        (fewer_charged_steps, "events", "noise or steps are not those of its plans"),
        (unit_changed, "unit", "it claims the unit patient, the plans report"),
        (unit_of_the_plan_changed, "plans", "plan 1 was changed: its id does not follow"),
        (rule_changed, "rule", "order 0 is none of"),
        (sums_only_forgotten, "shared noise", "not what its plans say"),
        (words_softened, "words", "not what follows from its figures"),
        (other_code, "code", "made by other sources"),
        (other_configuration, "configuration", "not the configuration that was certified"),
        (other_head, "ledger", "its head is another"),
        (other_answer, "answer", "not what was certified"),
        (other_trials, "ledger", "claims other values than it holds: ledger"),
        (audit_above_the_claim, "audit", "above the claim"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_claim_that_was_changed_and_signed_again_is_refused(
    certificate: Path, change: Callable[[dict[str, Any]], None], part: str, reason: str
) -> None:
    tamper(certificate, change)

    assert reason in refused(certificate)[part]


def test_epsilon_is_computed_again_from_the_events(certificate: Path, tmp_path: Path) -> None:
    """Without anything else in reach: no ledger, no pinned key."""
    tamper(certificate, epsilon_lowered)
    alone = tmp_path / "certificate.json"
    certificate.rename(alone)
    true = content_of(alone)["guarantee"]["epsilon"] * 2

    assert f"but its charges compose to {true:.6g}" in refused(alone)["epsilon"]


def test_figures_that_agree_with_each_other_are_held_against_the_ledger(certificate: Path) -> None:
    """A lying signer's best: every figure follows from charges that were never made."""
    ledger = certificate.parent / "ledger" / SITE
    honest = certificate.read_bytes()
    with Ledger.open(ledger.with_name("other"), site=SITE, cap=3.0, delta=small.DELTA) as other:
        other.record_intent(run="run", round=1, plan=other_plan(), steps=2)
    ledger.rename(ledger.with_name("kept"))
    ledger.with_name("other").rename(ledger)

    assert set(refused(certificate)) == {"ledger"}
    assert honest == certificate.read_bytes()


def test_a_seeded_run_can_not_call_its_noise_private(certificate: Path) -> None:
    def seeded(content: dict[str, Any]) -> None:
        content["plans"][0]["fields"]["noise"] = "seeded"

    tamper(certificate, seeded)
    found = refused(certificate)
    assert found["noise source"] == "it claims system, the plans seeded"
    assert "plan 1 was changed" in found["plans"]


# Signatures


def test_a_change_under_the_old_signature_is_noticed(certificate: Path) -> None:
    tamper(certificate, lambda content: content.update(size_stated=True), key=None)

    assert "changed after it was signed" in refused(certificate)["signature"]


def test_a_pinned_key_refuses_everybody_else(certificate: Path) -> None:
    tamper(certificate, lambda content: None)
    own, other = identity_public_key(KEY).hex(), identity_public_key(new_identity_key()).hex()

    assert refused(certificate, key=own) == {}
    assert "the key that you pinned" in by_what(verify(certificate, key=own))["signature"].words
    assert "is not the key that you pinned" in refused(certificate, key=other)["signature"]


def test_a_signature_of_another_key_under_a_pinned_name(certificate: Path) -> None:
    """The file names the pinned key, but another one signed."""
    tamper(certificate, lambda content: None, key=new_identity_key())
    outer = json.loads(certificate.read_text())
    outer["signatures"][0]["keyid"] = identity_public_key(KEY).hex()
    certificate.write_text(json.dumps(outer))

    assert "signature" in refused(certificate, key=identity_public_key(KEY).hex())


def test_a_key_may_be_pinned_by_a_file_of_all_hospitals(certificate: Path, tmp_path: Path) -> None:
    tamper(certificate, lambda content: None)
    own, other = identity_public_key(KEY).hex(), identity_public_key(new_identity_key()).hex()
    peers = tmp_path / "peers"
    peers.write_text(f"# keys\nmercy {other}\n{SITE} {own}\n")
    assert refused(certificate, key=str(peers)) == {}
    peers.write_text(f"mercy {own}\nother {other}\n")
    with pytest.raises(CertificateError, match=f"no public key of {SITE}"):
        verify(certificate, key=str(peers))


# What the digests are of


def test_another_byte_of_the_adapter(certificate: Path) -> None:
    file = certificate.parent / "adapter" / "head.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    assert refused(certificate) == {"adapter": "not the bytes that were certified: head.safetensors"}


def test_another_setting_in_the_configuration(certificate: Path) -> None:
    file = certificate.parent / "experiment.toml"
    file.write_text(file.read_text().replace("epsilon = 3.0", "epsilon = 1.0"))

    assert "not the configuration" in refused(certificate)["configuration"]


def in_ledger(run: Path, statement: str) -> None:
    with closing(sqlite3.connect(run / "ledger" / SITE / "ledger.sqlite")) as database:
        database.execute(statement)
        database.commit()


def test_a_row_that_was_removed(certificate: Path) -> None:
    in_ledger(certificate.parent, "DELETE FROM intent WHERE seq = 2")

    assert "it has 1 charges, and 2 were certified" in refused(certificate)["ledger"]


def test_a_row_that_was_edited(certificate: Path) -> None:
    in_ledger(certificate.parent, "UPDATE intent SET body = replace(body, '\"steps\":3', '\"steps\":1') WHERE seq = 2")

    assert "charge 2 was changed or removed" in refused(certificate)["ledger"]


def test_an_older_certificate_beside_a_newer_ledger(certificate: Path) -> None:
    with Ledger.open(certificate.parent / "ledger" / SITE, site=SITE, cap=9.0, delta=small.DELTA) as book:
        book.record_intent(run="another", round=1, plan=other_plan(), steps=1)

    assert "out of date: it covers 2 charges, and the ledger has 3" in refused(certificate)["ledger"]


# The form


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content.update(reports=1234), "additionalProperties"),
        (lambda content: content["guarantee"].pop("unit"), "required"),
        (lambda content: content["guarantee"]["noise"].update(meaning="safe"), "guarantee/noise"),
        (lambda content: content["guarantee"].update(relation="replace-one"), "guarantee/relation"),
    ],
)
def test_what_breaks_the_schema_is_read_no_further(
    certificate: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    tamper(certificate, change)

    with pytest.raises(CertificateError, match=rf"breaks the schema: .*{says}"):
        verify(certificate)


@pytest.mark.parametrize("text", ["{", "[]", '{"payloadType": "x"}'])
def test_what_is_no_certificate(certificate: Path, text: str) -> None:
    certificate.write_text(text)

    with pytest.raises(CertificateError):
        verify(certificate)


def test_a_payload_that_is_no_json(certificate: Path) -> None:
    outer = json.loads(sealed({}, KEY))
    outer["payload"] = "AAAA"
    certificate.write_text(json.dumps(outer))

    with pytest.raises(CertificateError, match="can't be decoded"):
        verify(certificate)
