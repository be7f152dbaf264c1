"""Real hospitals in a secure sum: their policies, and the identities that they pin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrad.errors import ConfigError, QuorumLost, SitesMissing
from fedrad.federation.identity import make_identity, read_identity
from tests.secure_run import SHARED, Sisters, pin


def test_real_hospitals(sisters: Sisters) -> None:
    grid, _, result = sisters.run()
    assert grid.sites("unmask") == ["ava", "ava", "bea", "bea", "cleo", "cleo"]
    assert list(result["epsilon"]) == ["ava", "bea", "cleo"]
    state = sisters.folder / "ava" / "state"
    assert {path.name for path in state.iterdir()} >= {"secure-aggregation.json", "secure-aggregation.rounds"}
    for name in ("secure-aggregation.json", "secure-aggregation.rounds"):
        assert (state / name).stat().st_mode & 0o777 == 0o600
    assert json.loads((state / "secure-aggregation.json").read_text())["state.kind"] == "Answered"


def test_a_real_hospital_refuses_shared_noise_by_default(sisters: Sisters) -> None:
    with pytest.raises(QuorumLost, match="ava: policy"):
        sisters.run(**SHARED)
    for hospital in sisters.hospitals:
        hospital.node["allow-shared-noise"] = True
    with pytest.raises(SitesMissing, match="0 of 3"):  # nor without pinned peers and a smallest sum of its own
        sisters.run(run__out=str(sisters.folder / "unpinned"), sites__connect_timeout=0.1, **SHARED)
    pin(sisters)
    for hospital in sisters.hospitals:
        hospital.node["min-quorum"] = 2
    _, _, result = sisters.run(**SHARED, run__out=str(sisters.folder / "allowed"))
    assert "falls with secure aggregation" in result["statement"]


def test_a_real_hospital_has_a_smallest_sum_of_its_own(sisters: Sisters) -> None:
    sisters.hospitals[0].node["min-quorum"] = 3
    proposals: list[dict[str, object]] = [{}, {"privacy__secure_aggregation": False}]
    for changes in proposals:
        out = str(sisters.folder / f"run-{len(changes)}")
        _, _, result = sisters.run(run__out=out, **changes)
        assert list(result["epsilon"]) == ["bea", "cleo"]
        assert not (sisters.folder / "ava" / "state" / "ledger.sqlite").exists()
    _, _, result = sisters.run(run__out=str(sisters.folder / "three"), sites__quorum=3)
    assert list(result["epsilon"]) == ["ava", "bea", "cleo"]


def test_pinned_identities(sisters: Sisters) -> None:
    pin(sisters)
    grid, _, _ = sisters.run(train__rounds=1)
    assert grid.sites("confirm") == ["ava", "bea", "cleo"]
    # A hospital to which somebody gave a wrong key for another one takes no part, and so does not train.
    peers = sisters.hospitals[2].folder / "peers"
    wrong = make_identity(sisters.folder / "other.key")
    peers.write_text("\n".join(f"ava {wrong}" if x.startswith("ava") else x for x in peers.read_text().splitlines()))
    grid, _, result = sisters.run(run__out=str(sisters.folder / "second"), train__rounds=1)
    assert grid.sites("train") == ["ava", "bea"]
    assert list(result["epsilon"]) == ["ava", "bea"]


def test_identity_files(tmp_path: Path) -> None:
    key, peers = tmp_path / "key", tmp_path / "peers"
    public = make_identity(key)
    peers.write_text(f"ava {public}\n")
    assert read_identity(key, peers).pinned == {"ava": bytes.fromhex(public)}
    with pytest.raises(ConfigError, match="made once"):
        make_identity(key)
    for content, says in ((f"ava {public}\nava {public}\n", "twice"), ("ava 00ff\n", "no key"), ("ava\n", "no key")):
        peers.write_text(content)
        with pytest.raises(ConfigError, match=says):
            read_identity(key, peers)
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_identity(key, peers)
