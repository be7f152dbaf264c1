"""Corpora of radiology reports: from files as they are published to hospitals' shards and micro-batches.

    report.py     what a report is: the columns, and the Arrow file that holds them
    files.py      CSV files read row by row, with errors that name file and row and never show text
    sections.py   findings and impression out of a MIMIC-CXR report
    labels.py     the label names, and what a cell of a label file means
    mimic_cxr.py, ct_rate.py, openi.py, table.py, synthetic/    one corpus each, as a stream of rows
    load.py       ``load_corpus``: one corpus by name, cached as an Arrow file
    shards.py     train and test, and hospitals, always by patient
    batches.py    tokens, micro-batches, tensors

Nothing here knows about privacy or models.
"""

from __future__ import annotations
