"""The adapter as an MLflow model, as code: MLflow runs this file where the model is loaded, so nothing is pickled.

It takes a table with the column "text" and gives a table of as many rows: the answer, where a report has one class, and
a probability for each label. The parameters ``abstain_below`` and ``generate`` are those of ``fedrad predict``.
"""

from __future__ import annotations

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from fedrad.tasks.classifier import Classifier
from fedrad.tasks.predicted import Asked, frame_of


class ReportModel(PythonModel):
    """A run's adapter behind MLflow's ``predict``."""

    def load_context(self, context: Any) -> None:
        self.classifier = Classifier.load(context.artifacts["adapter"])

    # MLflow takes a hint for the schema of the input, and knows but few.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        return frame_of(self.classifier, model_input["text"], Asked(**(params or {})))


set_model(ReportModel())
