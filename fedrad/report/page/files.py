"""What finished runs have left, for the page: read, and nothing computed yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fedrad.certificate.audits import read_audits
from fedrad.certificate.verify import read as read_certificate
from fedrad.config import Experiment
from fedrad.errors import DataError


@dataclass(frozen=True)
class RunFiles:
    """A finished run.

    Attributes:
        name: tells it from the others on the page.
        result: ``result.json``.
        metrics: the lines of ``metrics.jsonl``.
        certificates: their contents, by site.
        audits: as ``certificate.audits`` reads them.
        numbers: of the adapter's weights, without a placeholder that only PEFT needs; 0: not known.
    """

    name: str
    folder: Path
    experiment: Experiment
    result: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    certificates: dict[str, dict[str, Any]]
    audits: tuple[dict[str, Any], ...]
    numbers: int

    @property
    def figures(self) -> dict[str, float]:
        """The final scores by name, the one that runs are judged by first; empty: nothing was evaluated."""
        names = list(self.result)[: list(self.result).index("per_label")]
        return {name: self.result[name] for name in names if self.result[name] is not None}

    @property
    def seeded(self) -> bool:
        return bool(self.result["noise"] == "seeded")

    @property
    def protects(self) -> bool:
        """Whether anybody is protected at all."""
        return bool(self.result["private"]) and not self.seeded


def found_runs(paths: Sequence[Path]) -> list[Path]:
    """The finished runs in these folders: each a run directory, or a folder with some below it, such as a sweep.

    Raises:
        DataError: there is none in one of them.
    """
    found: list[Path] = []
    for path in paths:
        here = [path] if (path / "result.json").is_file() else sorted(f.parent for f in path.rglob("result.json"))
        if not here:
            raise DataError("holds no finished run: there is no result.json in it or below it.", file=path)
        found += [folder for folder in here if folder not in found]
    return found


def read_run(folder: Path, name: str) -> RunFiles:
    """One run.

    Raises:
        DataError: a file is missing or damaged.
        CertificateError: a certificate or an audit is none.
        ConfigError: ``experiment.toml`` is none.
    """
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        result["per_label"], result["noise"], result["private"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"can't be read as a run ({type(error).__name__}).", file=folder) from None
    contents = [read_certificate(file)[1] for file in sorted(folder.glob("certificate*.json"))]
    return RunFiles(
        name=name,
        folder=folder,
        experiment=Experiment.load(folder / "experiment.toml"),
        result=result,
        metrics=tuple(metrics),
        certificates={content["site"]: content for content in contents},
        audits=tuple(read_audits(folder)),
        numbers=_numbers(folder / "adapter"),
    )


def read_comparison(paths: Sequence[Path]) -> dict[str, Any] | None:
    """The first ``compare.json`` that lies in one of the folders.

    Raises:
        DataError: it is none.
    """
    for file in (path / "compare.json" for path in paths):
        if file.is_file():
            try:
                read = json.loads(file.read_text(encoding="utf-8"))
                return {str(key): value for key, value in read.items()}
            except (OSError, ValueError, AttributeError) as error:
                raise DataError(f"can't be read ({type(error).__name__}).", file=file) from None
    return None


def shown(figure: str) -> str:
    """A figure's name as people write it: "weighted F1" for ``weighted_f1``."""
    return figure.replace("_", " ").replace(" f1", " F1")


def names_of(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of their paths that tell them apart."""
    for parts in range(1, 6):
        names = ["/".join(folder.resolve().parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _numbers(adapter: Path) -> int:
    try:
        targets = json.loads((adapter / "fedrad.json").read_text(encoding="utf-8"))["lora"]["targets"]
        total = 0
        for file in adapter.glob("*.safetensors"):
            with safe_open(file, framework="np") as weights:
                for key in weights.keys():
                    if targets or ".lora_" not in key:
                        total += prod(weights.get_slice(key).get_shape())
        return total
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return 0
