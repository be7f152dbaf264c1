"""Corpora of radiology reports: from files as they are published to hospitals' shards and micro-batches.

    mimic_cxr.py, ct_rate.py, openi.py, table.py, synthetic/    a reader for each entry of ``fedrad.corpora``
    report.py     what a report is: the columns, what a reader returns, and the Arrow file that holds the rows
    tabular.py    tables row by row, CSV or Parquet, with errors that name file and row and never show text
    cells.py      what a cell or section says, and when it is missing
    sections.py   findings and impression out of a MIMIC-CXR report
    load.py       ``load_corpus``: one corpus by name, cached as an Arrow file
    shards.py     train and test, and hospitals, always by patient
    batches.py    tokens, micro-batches, tensors
    label_names.py    label names that mean the same

Nothing here knows about privacy or models.
"""

from __future__ import annotations
