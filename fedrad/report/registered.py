"""A run's adapter as a version of a registered MLflow model: adapter, tokenizer, signature and privacy statement.

Versions of all corpora belong to one model. The alias ``newest-CORPUS`` follows the runs; which version is in use, for
instance as ``champion``, is for a person to say.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import fedrad
from fedrad.config import Experiment
from fedrad.model.base import load_base
from fedrad.model.export import import_peft
from fedrad.tasks.classifier import task_of_run
from fedrad.tasks.predicted import Asked, text_columns

MODEL = "fedrad"
"""The registered model."""


def register(client: Any, run: str, experiment: Experiment, directory: Path) -> str:
    """Logs the model of a finished run as ``model`` of the MLflow run, and registers it.

    Args:
        client: MLflow's, of the tracking server.
        run: the id of the MLflow run.
        directory: the run directory.

    Returns:
        the version.
    """
    privacy = privacy_of(directory)
    with tempfile.TemporaryDirectory(prefix="fedrad-") as folder:
        _save(directory, Path(folder), privacy)
        client.log_artifacts(run, str(Path(folder) / "model"), "model")
    if not client.search_registered_models(f"name = '{MODEL}'"):
        client.create_registered_model(MODEL)
    source = f"{client.get_run(run).info.artifact_uri}/model"
    tags = {name: str(value) for name, value in privacy.items() if name != "statement"}
    made = client.create_model_version(MODEL, source, run, tags=tags, description=privacy["statement"])
    client.set_registered_model_alias(MODEL, f"newest-{experiment.data.name}", made.version)
    return str(made.version)


def privacy_of(directory: Path) -> dict[str, Any]:
    """What a run guarantees: the statement of its adapter, and of its result epsilon (the largest of a hospital),
    delta, unit, noise and rule of accounting."""
    result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    names = {"epsilon": "epsilon_max", "delta": "delta", "unit": "unit", "noise": "noise", "accounting": "accounting"}
    statement = import_peft(directory / "adapter")[0].privacy
    return {"statement": statement, **{name: result.get(key) for name, key in names.items()}}


def _save(directory: Path, folder: Path, privacy: dict[str, Any]) -> None:
    """Writes the MLflow model to ``folder / "model"``."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    adapter, manifest = directory / "adapter", import_peft(directory / "adapter")[0]
    task, asked = task_of_run(adapter), Asked()
    base = load_base(manifest.spec.name, manifest.spec.revision)
    base.tokenizer.save_pretrained(folder / "tokenizer")
    texts = [ColSpec("string", name, required=False) for name in text_columns(task, asked)]
    values = [ColSpec("float", name, required=False) for name in task.columns]
    parameters = [
        ParamSpec("abstain_below", "double", asked.abstain_below),
        ParamSpec("generate", "long", asked.generate),
    ]
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"adapter": str(adapter), "tokenizer": str(folder / "tokenizer")},
        signature=ModelSignature(
            Schema([ColSpec("string", "text")]), Schema([*texts, *values]), ParamSchema(parameters)
        ),
        metadata={
            "privacy": privacy,
            "task": task.name,
            "base": manifest.spec.name,
            "base_sha256": manifest.base_sha256,
            "instruction": manifest.outputs.instruction,
        },
        pip_requirements=[f"fedrad=={fedrad.__version__}"],
    )
