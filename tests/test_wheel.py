"""What is in a wheel and a source distribution, and that a wheel alone can do all that the documents say.

The wheel is installed into an environment of its own, outside the checkout, which borrows the packages that fedrad
depends on and nothing of the checkout. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from fedrad.corpora import BANKS
from tests.simulation.test_real_runs import overrides, settings

ROOT = Path(__file__).parent.parent
APPS = ("ct_rate", "mimic", "openi", "protocol")
# A package's tests, what a run leaves, and what could hold a secret or a report.
UNWANTED = ("tests/", "benchmarks/", "runs/", ".venv", ".csv", ".arrow", ".sqlite", ".key", ".pem", ".pyc")


def build(kind: str, folder: Path) -> Path:
    """``pyproject.toml`` as its own build backend reads it, without an index."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def modules(package: str) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in (ROOT / package).rglob("*.py")}


def data() -> set[str]:
    """The generator's phrases, the labels' synonyms, the public base, the certificates' schema, the report's page."""
    base = {f"fedrad/model/chest_minilm/{name}.safetensors" for name in ("difference", "head")}
    pages = {"fedrad/certificate/schema.json", "fedrad/report/page/template.html", "fedrad/report/evaluation.html.j2"}
    found = base | pages | {str(file.relative_to(ROOT)) for file in (ROOT / "fedrad/data").rglob("*.toml")}
    banks = {bank.replace("-", "_") for bank in BANKS}
    assert {f"fedrad/data/synthetic/banks/{bank}/bank.toml" for bank in banks} <= found
    return found


def test_the_wheel_holds_the_packages_the_apps_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        entry_points = file.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    wanted = modules("fedrad") | modules("strategies") | {"fedrad/py.typed"}
    wanted |= {f"fedrad/{name}" for name in modules("simulations")}
    wanted |= {f"fedrad/simulations/{app}/pyproject.toml" for app in APPS} | data()
    wanted |= {"fedrad/simulations/protocol/decoder.toml"}
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == wanted
    assert sorted(name.partition(".dist-info/")[2] for name in about) == [
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    ]
    assert "fedavg = strategies.fedavg:FedAvg" in entry_points
    assert [name for name in names if any(part in name for part in UNWANTED)] == []


def test_the_source_distribution_holds_what_a_wheel_is_built_from(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = modules("fedrad") | modules("strategies") | modules("simulations")
    wanted |= {f"simulations/{app}/pyproject.toml" for app in APPS} | data()
    assert wanted | {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "fedrad/py.typed"} <= names
    assert {name for name in names if name.startswith("docs/")} != set()
    assert [name for name in names if any(part in name for part in UNWANTED)] == []


class Bare:
    """An environment with the wheel, the packages that fedrad depends on and Flower's commands; a folder to work in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.home, self.bin = folder / "work", folder / "venv" / "bin"
        self.home.mkdir()
        venv.create(folder / "venv", with_pip=False)
        own = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
        # The folders of installed packages, and not what their own .pth files add, such as this checkout.
        borrowed = [entry for entry in sys.path if entry.endswith("site-packages")]
        (own / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", str(wheel)], check=True)
        for command in distribution("flwr").entry_points.select(group="console_scripts"):
            script = self.bin / command.name
            script.write_text(
                f"#!{self.bin / 'python'}\nimport sys\nfrom {command.module} import {command.attr}\n"
                f"sys.exit({command.attr}())\n"
            )
            script.chmod(0o755)

    def run(self, *command: str, **more: str) -> str:
        """What a command prints, which must end well."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL", "FLWR"))}
        environment = kept | {
            "PATH": f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "FEDRAD_CACHE": str(self.home / "cache"),
        }
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.home,
            env=environment | more,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(tmp_path_factory.mktemp("bare"), wheel)


def tiny() -> list[str]:
    flat = settings(sites__count=2, train__rounds=1, train__local_steps=1, train__warm_start="none")
    flat["model.centre"] = False
    return [part for pair in overrides(flat) for part in ("--set", pair)]


@pytest.mark.slow
def test_a_wheel_simulates_and_trains_in_one_process(bare: Bare) -> None:
    where = bare.run("python", "-c", "import fedrad, strategies; print(fedrad.__file__, strategies.__file__)")
    assert str(ROOT) not in where
    assert where.count(str(bare.bin.parent)) == 2
    assert bare.run("fedrad", "app", "openi").strip().endswith("site-packages/fedrad/simulations/openi")

    bare.run("fedrad", "simulate", "mimic", *tiny(), "--out", "simulated")
    bare.run("python", "-m", "fedrad.centralized", *tiny(), "--out", "centralized")
    for run in ("simulated", "centralized"):
        result = json.loads((bare.home / run / "result.json").read_text())
        assert 0 < result["epsilon_max"] <= 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_simulates_through_the_real_flwr_run(bare: Bare) -> None:
    """``--grid flower`` is ``flwr run`` of the folder that ``fedrad app`` names."""
    said = bare.run("fedrad", "simulate", "mimic", "--grid", "flower", *tiny(), "--out", "through-flower")
    assert "weighted F1" in said
    result = json.loads((bare.home / "through-flower" / "result.json").read_text())
    assert sorted(result["epsilon"]) == ["site-000", "site-001"]
    # Nothing is shown twice, as everything of Flower's was while Opacus had its handler on the root logger.
    lines = [line for line in said.splitlines() if line.strip()]
    assert len([line for line in lines if line.startswith("round 1/1")]) == 1
