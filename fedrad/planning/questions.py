"""What ``fedrad plan`` must be told, because it reads no data. Checked before its imports, which take seconds."""

from __future__ import annotations

from fedrad.config import Experiment
from fedrad.errors import ConfigError


def check_told(experiment: Experiment, declared: int | None, labels: int | None) -> None:
    """Refuses a plan if the size or the number of labels is not known.

    Args:
        declared, labels: as for ``outlook.outlook_of``.

    Raises:
        ConfigError: with both problems at once.
    """
    data, privacy, problems = experiment.data, experiment.privacy, []
    if privacy.unit == "hospital" and privacy.epsilon:
        return  # the server's noise depends on neither
    if declared is not None and declared < 1:
        problems.append(f"--reports: a hospital declares 1 or more, not {declared}")
    generated = experiment.corpus is not None and experiment.corpus.generated
    if declared is None and not data.declared_size and not (generated and privacy.unit == "report"):
        problems.append(f"--reports: say how many {privacy.unit}s a hospital declares; planning reads no data")
    if labels is not None and labels < 1:
        problems.append(f"--labels: a head has 1 or more, not {labels}")
    if labels is None and not experiment.causal and not experiment.stated_labels[0]:
        problems.append("--labels: say how many classes the label column has; planning reads no data")
    if problems:
        raise ConfigError(problems)
