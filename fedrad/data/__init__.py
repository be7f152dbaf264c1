"""Corpora of radiology reports: from published files to hospitals' shards and micro-batches.

    mimic_cxr.py, ct_rate.py, openi.py, table.py, synthetic/    a reader for each entry of ``fedrad.corpora``
    report.py     the columns of a report, what a reader returns, and the Arrow file that holds the rows
    tabular.py    tables row by row, CSV or Parquet, with errors that name file and row and never quote text
    cells.py      whether a cell or section is missing
    sections.py   findings and impression of a MIMIC-CXR report
    load.py       ``load_corpus``: one corpus by name, cached as an Arrow file
    shards.py     train and test sets, and hospitals, always by patient
    batches.py    tokens, micro-batches, tensors
    label_names.py    matches label names to known ones

Nothing here knows about privacy or models.
"""

from __future__ import annotations
