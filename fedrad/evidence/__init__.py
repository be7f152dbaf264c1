"""Statistics of a model's predictions on labelled reports: pure functions of arrays.

    scores.py       per label and overall: sklearn's metrics, calibration, and their intervals
    bootstrap.py    resampling by patient, all resamples at once
    predictions.py  the file that ``fedrad evaluate --predictions`` writes

Nothing here is private: whoever publishes such figures of private reports releases something that no epsilon covers.
"""

from __future__ import annotations
