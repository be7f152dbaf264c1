"""Which model protocols best, at which epsilon, in how many hospitals: exact match on generated order notes.

    python -m benchmarks.protocol --out runs/protocols                       all cells (hours on two cores)
    python -m benchmarks.protocol --out runs/protocols --models minilm       the encoder's head: about a minute a cell
    python -m benchmarks.protocol --out runs/protocols --models smollm2 --epsilons 8 --hospitals 1 --notes 1000
    python -m benchmarks.protocol --out runs/protocols --table               what there is so far

Every cell is a whole run of `fedrad simulate protocol --grid fused`, in a process of its own, and starts from public
notes in other words (`train.warm-start=notes`; `--start none` for without). A finished cell is not run again. Beside
the result stand the start before any private step, and always answering the most frequent protocol.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import table

DECODER = (
    "model.task=causal-lm",
    "model.name=smollm2",
    "lora.targets=all-linear",
    "lora.layers=2",
    "lora.rank=8",
    "lora.alpha=16",
    "train.optimizer=adam",
    "train.learning-rate=0.001",
    "train.warm-epochs=3",
)
MODELS: dict[str, tuple[str, ...]] = {
    "minilm": (),
    "smollm2": DECODER,
    "smollm2-nf4": (*DECODER, "model.quantize=nf4"),
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    model: str
    epsilon: float
    hospitals: int
    seed: int
    notes: int
    start: str

    @property
    def name(self) -> str:
        """Of its run directory."""
        ends = f"{self.hospitals}h-{self.notes}-{self.start}-{self.seed}"
        return f"{self.model}-eps{self.epsilon:g}-{ends}"

    def run(self, out: Path) -> None:
        """Runs it, unless it was.

        Raises:
            CalledProcessError: the run failed; it has said why.
        """
        if (out / self.name / "result.json").exists():
            return
        settings = [
            *MODELS[self.model],
            f"privacy.epsilon={self.epsilon}",
            f"sites.count={self.hospitals}",
            f"sites.partition={'by-site' if self.hospitals > 1 else 'iid'}",
            f"data.reports={self.notes}",
            f"data.seed={self.seed}",
            f"train.seed={self.seed}",
            f"train.warm-start={self.start}",
            "train.threads=1",
            "privacy.noise=seeded",
        ]
        command = [sys.executable, "-m", "fedrad", "simulate", "protocol", "--grid", "fused"]
        given = [part for setting in settings for part in ("--set", setting)]
        subprocess.run([*command, *given, "--out", str(out / self.name)], check=True)

    def row(self, out: Path) -> tuple[str, ...]:
        """Its line of the table; empty figures if it was not run."""
        what = (self.model, f"{self.epsilon:g}" if self.epsilon else "none", str(self.hospitals))
        file = out / self.name / "result.json"
        if not file.exists():
            return (*what, *["not run"] * 6)
        result = json.loads(file.read_text())
        before, prior = result["before"], result["label_prior"]
        figures = (prior["micro_f1"], before["micro_f1"], result["micro_f1"], result["macro_f1"], result["top_3"])
        return (*what, *(f"{figure:.3f}" for figure in figures), f"{result['seconds']:.0f}")


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    for model in options.models.split(","):
        for epsilon in options.epsilons.split(","):
            for hospitals in options.hospitals.split(","):
                for seed in range(options.seeds):
                    yield Cell(model, float(epsilon), int(hospitals), seed, options.notes, options.start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--epsilons", default="0,8,1", help="0: without privacy")
    parser.add_argument("--hospitals", default="1,4")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--notes", type=int, default=2000)
    parser.add_argument("--start", default="notes", choices=("notes", "none"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    cells = list(_cells(options))
    for cell in cells if not options.table else ():
        cell.run(options.out)
    columns = ("model", "epsilon", "hospitals", "most frequent", "start", "exact match", "macro F1", "top 3", "seconds")
    print(table(columns, [cell.row(options.out) for cell in cells]))


if __name__ == "__main__":
    main()
