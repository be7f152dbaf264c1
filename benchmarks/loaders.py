"""How much memory and time it takes to load MIMIC-CXR: peak resident memory and reports per second.

Makes a folder like the published one (a zip of reports, labels, splits, metadata) with generated texts, and loads it in
a process of its own: a tenth of the studies, the same number with much longer texts, and all studies. The second shows
that texts do not stay in memory (its peak is higher only by what a thousand rows take). The third shows what does grow:
the zip's list of members and the tables, less than a kilobyte for a study. CPU seconds are for comparing: wall time on
a busy machine says little.

    python benchmarks/loaders.py                    all 227,835 studies
    python benchmarks/loaders.py --studies 5000     quicker
    python benchmarks/loaders.py --json             for machines
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

STUDIES = 227_835  # of MIMIC-CXR 2.0.0
STUDIES_PER_PATIENT = 3.5
IMAGES_PER_STUDY = 1.65


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "CACHE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), Path(options.measure[1]))))
        return
    results = []
    with tempfile.TemporaryDirectory(prefix="fedrad-loaders-") as folder:
        for studies, length in ((options.studies // 10, 1), (options.studies // 10, 10), (options.studies, 1)):
            corpus = Path(folder, f"{studies}-{length}")
            text_bytes = make(corpus, studies, length)
            command = [sys.executable, __file__, "--measure", str(corpus), str(Path(folder, f"{corpus.name}-cache"))]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append({"studies": studies, "text_mb": round(text_bytes / 1e6, 1), **json.loads(done.stdout)})
    if options.json:
        print(json.dumps({"loader": "mimic-cxr", "runs": results}))
        return
    columns = ("studies", "reports", "text_mb", "imports_mb", "peak_mb", "seconds", "cpu_seconds", "reports_per_second")
    print("  ".join(columns))
    for result in results:
        print("  ".join(f"{result[column]:>{len(column)},}" for column in columns))


def measure(folder: Path, cache: Path) -> dict[str, float]:
    """Loads the corpus in this process; memory in MB (10^6 bytes)."""
    from fedrad.data.load import load_corpus
    from fedrad.data.report import label_matrix

    imports = _peak()
    warnings.simplefilter("ignore")  # generated reports repeat themselves
    start, cpu = time.perf_counter(), time.process_time()
    ds = load_corpus("mimic-cxr", folder, cache_dir=cache)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = _peak()
    start = time.perf_counter()
    positives = int((label_matrix(ds) == 1).sum())
    labels_seconds = time.perf_counter() - start
    start = time.perf_counter()
    load_corpus("mimic-cxr", folder, cache_dir=cache)
    return {
        "reports": len(ds),
        "positive_labels": positives,
        "imports_mb": imports,
        "peak_mb": peak,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "reports_per_second": round(len(ds) / seconds),
        "labels_seconds": round(labels_seconds, 2),
        "from_cache_seconds": round(time.perf_counter() - start, 2),
    }


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)  # Linux counts in KiB


FINDINGS = (
    "The lungs are clear without focal consolidation.",
    "There is a small left pleural effusion with\n adjacent atelectasis.",
    "No pneumothorax is seen.",
    "The cardiomediastinal silhouette is within normal limits.",
    "The heart is mildly enlarged, unchanged from ___.",
    "Mild pulmonary vascular congestion is noted.",
    "A right internal jugular central venous catheter terminates in the\n mid SVC.",
    "Bony structures are intact.",
    "Patchy opacities at the bases may reflect atelectasis or infection.",
    "No free air is seen below the right hemidiaphragm.",
)
IMPRESSIONS = (
    "No acute cardiopulmonary process.",
    "Small left pleural effusion, slightly increased since ___.",
    "Mild edema. No pneumonia.",
    "1. Bibasilar opacities, likely atelectasis.\n\n 2. Unchanged cardiomegaly.",
)


def report(rng: random.Random, length: int = 1) -> str:
    """A report in MIMIC-CXR's layout; with ``length`` 1 somewhat shorter than real ones."""
    title = "                                 FINAL REPORT\n"
    head = (
        f" EXAMINATION:  CHEST (PA AND LAT)\n\n INDICATION:  ___ with cough {rng.random():.6f}\n\n COMPARISON:  ___\n\n"
    )
    findings = "  ".join(rng.choices(FINDINGS, k=length * rng.randint(3, 8)))
    impression = f" IMPRESSION: \n \n {'  '.join(rng.choices(IMPRESSIONS, k=length))}\n"
    kind = rng.random()
    if kind < 0.05:
        return title + f" AP chest compared with ___.\n\n {findings}\n"
    if kind < 0.25:
        return title + head + impression
    wet = f" WET READ: ___ ___ 9:23 AM\n  {rng.choice(IMPRESSIONS)}\n{'_' * 78}\n" if kind > 0.95 else ""
    return wet + title + head + f" FINDINGS: \n \n {findings}\n\n" + impression


def make(folder: Path, studies: int, length: int = 1) -> int:
    """Writes the corpus and returns the bytes of its texts."""
    from fedrad.corpora import CHEXPERT

    rng = random.Random(studies)
    folder.mkdir(parents=True)
    count = max(int(studies / STUDIES_PER_PATIENT), 2)
    subjects = sorted(rng.sample(range(10_000_000, 20_000_000), count))
    numbers = rng.sample(range(50_000_000, 60_000_000), studies)
    text_bytes = 0
    with (
        zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        gzip.open(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", "wt", newline="", compresslevel=1) as label_file,
        gzip.open(folder / "mimic-cxr-2.0.0-split.csv.gz", "wt", newline="", compresslevel=1) as split_file,
        gzip.open(folder / "mimic-cxr-2.0.0-metadata.csv.gz", "wt", newline="", compresslevel=1) as metadata_file,
    ):
        labels, splits, metadata = csv.writer(label_file), csv.writer(split_file), csv.writer(metadata_file)
        labels.writerow(["subject_id", "study_id", *CHEXPERT])
        splits.writerow(["dicom_id", "study_id", "subject_id", "split"])
        metadata.writerow(["dicom_id", "subject_id", "study_id", "StudyDate", "StudyTime"])
        for number in numbers:
            subject = rng.choice(subjects)
            split = ("test", "validate")[subject % 2] if subject % 100 < 2 else "train"
            text = report(rng, length)
            text_bytes += len(text)
            archive.writestr(f"files/p{str(subject)[:2]}/p{subject}/s{number}.txt", text)
            labels.writerow([subject, number, *rng.choices(("", "1.0", "0.0", "-1.0"), (80, 11, 6, 3), k=14)])
            date = f"{rng.randint(2110, 2210)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
            for image in range(1 + (rng.random() < IMAGES_PER_STUDY - 1)):
                splits.writerow([f"{number:x}-{image}", number, subject, split])
                metadata.writerow([f"{number:x}-{image}", subject, number, date, f"{rng.randint(0, 235959):06d}.5"])
    return text_bytes


if __name__ == "__main__":
    main()
