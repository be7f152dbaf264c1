"""The reference of all settings, and the apps that must name each of them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedrad.config import Experiment
from fedrad.keys import KEYS, SECTIONS
from fedrad.limits import LIMITS
from fedrad.reference import reference

RULES_HEAD = "## Settings that exclude each other"
DOCS = Path(__file__).parent.parent / "docs" / "configuration.md"


def test_every_key_is_documented() -> None:
    assert [name for name, key in KEYS.items() if len(key.doc) < 10] == []
    assert {key.limit for key in KEYS.values()} == {"", *LIMITS}
    assert {name: type(section) for name, section in vars(Experiment()).items()} == SECTIONS


def test_the_reference_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == reference(), "run: make docs"


def test_the_module_prints_the_reference() -> None:
    printed = subprocess.run([sys.executable, "-m", "fedrad.reference"], capture_output=True, text=True, check=True)

    assert printed.stdout == reference()
    assert printed.stderr == ""


def test_the_reference_has_every_key_once() -> None:
    assert [reference().partition(RULES_HEAD)[0].count(f"| `{name}` |") for name in KEYS] == [1] * len(KEYS)


def test_importing_fedrad_and_its_configuration_does_not_import_torch() -> None:
    code = (
        "import sys, fedrad, fedrad.config; print([m for m in ('torch', 'flwr', 'transformers') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert printed.stdout.strip() == "[]"


ROOT = Path(__file__).parent.parent
APPS = [*sorted(ROOT.glob("simulations/*/pyproject.toml")), ROOT / "deployment" / "pyproject.toml"]


@pytest.mark.parametrize("app", APPS, ids=lambda path: path.parent.name)
def test_an_app_names_every_key_since_flower_takes_no_others(app: Path) -> None:
    config = tomllib.loads(app.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    flat = {f"{section}.{key}": value for section, keys in config.items() for key, value in keys.items()}

    assert set(flat) == set(KEYS)
    assert Experiment.from_flat(flat | {"data.path": "/data"}).flat() == flat | {"data.path": "/data"}
