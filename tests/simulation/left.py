"""What a finished run leaves, to compare one that was cut off with one that was not."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from fedrad.config import Experiment
from fedrad.ledger.view import read_ledger
from tests import small


class Left:
    """What a finished run leaves that must not depend on whether it was cut off."""

    def __init__(self, out: Path) -> None:
        self.tensors: dict[str, Tensor] = {}
        for file in ("adapter/adapter_model.safetensors", "adapter/head.safetensors", "checkpoint.safetensors"):
            self.tensors |= {f"{file}:{name}": tensor for name, tensor in load_file(out / file).items()}
        self.metrics = (out / "metrics.jsonl").read_text()
        views = [read_ledger(folder) for folder in sorted((out / "ledger").iterdir())]
        self.charges = {view.site: [(row.round, row.steps) for row in view.rows] for view in views}
        self.done = all(row.done for view in views for row in view.rows)
        result = json.loads((out / "result.json").read_text())
        assert (
            result["experiment"] == Experiment.load(out / "experiment.toml").digest()
        )  # as a sweep and a certificate say
        self.figures = {key: result[key] for key in result if key not in ("seconds", "bytes", "experiment")}

    def check(self, undisturbed: Left, *, bits: bool = True) -> None:
        assert self.charges == undisturbed.charges
        assert self.figures["epsilon"] == undisturbed.figures["epsilon"]
        assert self.done
        if bits:
            assert small.same(self.tensors, undisturbed.tensors)
            assert self.metrics == undisturbed.metrics
            assert self.figures == undisturbed.figures
        else:
            assert small.distance(self.tensors, undisturbed.tensors) < 1e-4
