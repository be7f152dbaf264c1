"""Writes reports of Open-i as a table such as a hospital has it: for docs/evaluate.md, and to try `fedrad data check`.

    python -m benchmarks.openi_table DIR reports.csv --reports 400 [--start 400] [--plain]

Without ``--plain`` the table is as spreadsheet programs in Germany write it: semicolons, cp1252, ja and nein. Columns
are mrn, report, and one for each of four findings, two of them under names that no public base knows. The reports
are real: keep the file out of the repository.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from fedrad.data.openi import source

COLUMNS = {
    "Cardiomegaly": "Cardiomegaly",
    "effusion": "Pleural Effusion",
    "nodule": "Lung Lesion",
    "Lung Opacity": "Lung Opacity",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openi", type=Path, help="the folder with indiana_reports.csv")
    parser.add_argument("out", type=Path)
    parser.add_argument("--reports", type=int, default=400)
    parser.add_argument("--start", type=int, default=0, help="how many to skip")
    parser.add_argument("--plain", action="store_true", help="commas, UTF-8, 0 and 1")
    arguments = parser.parse_args()
    _, rows = source(arguments.openi).read(print)
    words = ("0", "1") if arguments.plain else ("nein", "ja")
    encoding, separator = ("utf-8", ",") if arguments.plain else ("cp1252", ";")
    with arguments.out.open("w", newline="", encoding=encoding, errors="replace") as file:
        table = csv.writer(file, delimiter=separator)
        table.writerow(["mrn", "report", *COLUMNS])
        for k, row in enumerate(rows):
            if arguments.start <= k < arguments.start + arguments.reports:
                labels = (words[row["labels"][label]] for label in COLUMNS.values())
                table.writerow([row["patient"], row["text"], *labels])


if __name__ == "__main__":
    main()
