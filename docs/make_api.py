"""Prints docs/api.md: the public names of fedrad, their signatures and docstrings, and an example of each.

    python docs/make_api.py > docs/api.md

`tests/test_docs.py` runs the examples and holds the page against this script.
"""

from __future__ import annotations

import inspect

import fedrad

EXAMPLES = {
    "Experiment": """
>>> from fedrad import Experiment
>>> experiment = Experiment.load(None, ["privacy.epsilon=1", "data.reports=300", "train.rounds=1"])
>>> experiment.privacy.epsilon
1.0
""",
    "train": """
>>> from fedrad import train
>>> result, run = train(Experiment.load(None, ["data.reports=300", "train.rounds=1", "lora.targets="]))
>>> result.epsilon_max <= 8
True
>>> (run / "result.json").exists()
True
""",
    "simulate": """
>>> from pathlib import Path
>>> from fedrad import simulate
>>> settings = ["sites.count=2", "data.reports=300", "train.rounds=1", "train.warm-start=none", "lora.targets="]
>>> simulate("mimic", settings, Path("runs/two-hospitals"))  # doctest: +ELLIPSIS
test set: ...
""",
    "Classifier": """
>>> from fedrad import Classifier
>>> classifier = Classifier.load(run)
>>> classifier.predict(["Small left pleural effusion. No pneumothorax."]).shape
(1, 14)
""",
    "PrivacyPlan": """
>>> from fedrad import PrivacyPlan
>>> plan = PrivacyPlan.calibrate(
...     epsilon=1.0, delta=1e-5, declared_size=2000, expected_batch=256, steps=40, clip=1.0
... )
>>> plan.label
'report-level (1.0, 1e-05)-DP'
""",
    "epsilon": """
>>> from fedrad import epsilon
>>> epsilon([plan.event(40)], delta=1e-5) <= 1.0
True
""",
    "load_corpus": """
>>> from fedrad import load_corpus
>>> reports = load_corpus("synthetic", reports=10)
>>> len(reports), sorted(reports[0])[:3]
(10, ['labels', 'patient', 'site'])
""",
}


def page() -> str:
    """The whole of docs/api.md."""
    parts = [
        "# The Python interface",
        "",
        "Everything else may change without notice. Made by `python docs/make_api.py`.",
        "",
    ]
    for name, example in EXAMPLES.items():
        thing = getattr(fedrad, name)
        # of a class what makes one; the fields stand in its docstring
        made_by = {"Experiment": "load", "Classifier": "load", "PrivacyPlan": "calibrate"}.get(name)
        shown = getattr(thing, made_by) if made_by else thing
        title = f"{name}.{made_by}" if made_by else name
        text = (
            inspect.getdoc(shown) if made_by is None else f"{inspect.getdoc(thing)}\n\n{title}: {inspect.getdoc(shown)}"
        )
        parts += [f"## {name}", "", "```python", f"fedrad.{title}{inspect.signature(shown)}", "```", ""]
        parts += ["```text", text or "", "```", "", "```python", example.strip(), "", "```", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
