"""The settings of the reports and the hospitals. `settings` explains how they are declared."""

from __future__ import annotations

from dataclasses import dataclass

from fedrad.corpora import BANKS, CORPORA
from fedrad.limits import setting

_GENERATED = " or ".join(f"`{name}`" for name, corpus in CORPORA.items() if corpus.generated)
_DIVIDED = ", ".join(corpus.title for corpus in CORPORA.values() if corpus.own_split)


@dataclass(frozen=True)
class Data:
    """The reports, and how they are read."""

    name: str = setting(
        "synthetic",
        "where the reports come from; at a server with real hospitals: its public test set, or `none`",
        choices=(*CORPORA, "none"),
    )
    path: str = setting("", f"folder or file with the reports; needed unless `data.name` is {_GENERATED} or `none`")
    max_length: int = setting(256, "longest report in tokens; longer ones are truncated", limit="at least 8")
    uncertain: str = setting(
        "negative",
        "how an uncertain label counts (-1 in MIMIC-CXR's label file or in a table, or a finding that a generated "
        "report only suspects); `ignore` masks it out of loss and score. Public bases were trained with `negative`",
        choices=("negative", "positive", "ignore"),
    )
    test_fraction: float = setting(
        0.2,
        f"fraction of the patients held out for testing, if the corpus has no split of its own (as {_DIVIDED} have)",
        limit="above 0 and below 1",
    )
    declared_size: int = setting(
        0,
        "`fedrad.centralized`: the publicly stated number of training reports (or patients: `privacy.unit`), which "
        "sets the sampling rate; 0: the actual number rounded to two digits, for experiments only. Hospitals state "
        "theirs in their node configuration; in a federation this is their approximate size, and it decides only what "
        "`lora.targets=auto` trains",
        limit="at least 0",
    )
    bank: str = setting(
        "chest-xray",
        "phrase bank of the generated reports (`synthetic` only); it determines the labels",
        choices=tuple(BANKS),
    )
    reports: int = setting(3000, "reports or notes to generate (`synthetic` and `protocol` only)", limit="at least 1")
    seed: int = setting(0, "seed of the generated corpus, the split and the shards", limit="at least 0")
    text_column: str = setting("text", "column with the report text (`table` only)", limit="not empty")
    patient_column: str = setting(
        "", "column with the patient id (`table` only); empty: every report is its own patient"
    )
    site_column: str = setting("", "column with the hospital (`table` only)")
    time_column: str = setting("", "column with the time of the report (`table` only)")
    separator: str = setting(
        "auto",
        "separator of the cells of a CSV file (`table` only); `auto`: a comma, or a semicolon or tab if the header has "
        "no comma",
        choices=("auto", ",", ";", "tab"),
    )
    encoding: str = setting(
        "utf-8",
        "encoding of a CSV file without a byte order mark (`table` only); Windows programs of Western Europe and "
        "America write `cp1252`",
        choices=("utf-8", "cp1252", "latin-1"),
    )
    map: str = setting(
        "",
        "meaning of the words in the label columns (`table` only): 1, 0, -1 for uncertain, or a class name; as "
        "`yes=1,no=0`, in any case",
        limit="word=meaning, commas between, no word twice",
    )
    missing: str = setting(
        "auto",
        "how a label counts that is blank or a placeholder such as `nan` (`table` only): `negative`, `ignore` (left "
        "out of loss and score), or an `error`; `auto`: a blank is negative, and a placeholder an error. A report "
        "without a class is left out",
        choices=("auto", "error", "negative", "ignore"),
    )
    no_finding: str = setting(
        "auto",
        "meaning of the label No Finding, for the start of its head: `nothing-abnormal`: nothing abnormal is "
        "mentioned, as in Open-i; `no-other-label`: no other label except Support Devices is positive, as CheXpert "
        "defines it for MIMIC-CXR; `auto`: by `data.name`",
        choices=("auto", "nothing-abnormal", "no-other-label"),
    )
    privatise: str = setting(
        "none",
        "train on privatised texts: their tokens replaced by random ones near them, by this profile of "
        "`fedrad privatise`; drawn once for each hospital and kept. Tests are on clean reports. A guarantee beside "
        "epsilon, not part of it (docs/privatise.md). A real hospital sets it in its node configuration",
        choices=("none", "drop", "full", "private-low", "private-both", "uniform"),
    )
    privatise_epsilon: float = setting(0.0, "unit of the profile's budgets a token", limit="at least 0")
    privatise_mechanism: str = setting(
        "polar",
        "of `data.privatise`",
        choices=("polar", "full-polar", "laplace", "coordinate-laplace", "santext", "tem"),
    )
    privatise_task: str = setting(
        "chest x-ray findings",
        "of `data.privatise`: what the texts are for, in a few public words; tokens near them get more budget",
        limit="not empty",
    )
    label_columns: str = setting(
        "",
        "label columns, separated by commas: several columns of 0 and 1, or one column of class names; `chexpert` and "
        "`ct-rate` stand for the 14 and 18 labels of MIMIC-CXR and CT-RATE. Needed with `table`, and with `none` for "
        "the labels of the hospitals",
    )
    classes: str = setting(
        "",
        "the class names that there may be, separated by commas, if `data.label-columns` is one column of them. Needed "
        "with `none`; of a `table`, empty: those that are found",
    )


@dataclass(frozen=True)
class Sites:
    """The hospitals."""

    count: int = setting(4, "number of hospitals; no effect on `fedrad.centralized`", limit="at least 1")
    partition: str = setting(
        "iid",
        "how a simulation distributes the patients over the hospitals; a patient is never split",
        choices=("iid", "dirichlet", "by-site", "temporal"),
    )
    alpha: float = setting(0.5, "concentration of the `dirichlet` label skew; smaller is more skewed", limit="above 0")
    quorum: int = setting(
        0,
        "number of valid replies that a round needs; 0: half of the asked hospitals, rounded up. With secure "
        "aggregation it must be set",
        limit="at least 0",
    )
    fraction: float = setting(
        1.0,
        "fraction of the hospitals that a round asks, drawn from `train.seed`; the others spend nothing",
        limit="above 0, at most 1",
    )
    epsilons: tuple[float, ...] = setting(
        (),
        "epsilon of each simulated hospital; empty: `privacy.epsilon` for all. A real hospital's budget is the cap in "
        "its node configuration",
        limit="each above 0",
    )
    deltas: tuple[float, ...] = setting(
        (), "likewise for delta; empty: `privacy.delta` for all", limit="each at least 1e-9 and below 1"
    )
    batches: tuple[int, ...] = setting(
        (),
        "likewise for the expected batch; empty: `train.batch` for all. A real hospital may set `batch` in its node "
        "configuration",
        limit="each above 0",
    )
    ranks: tuple[int, ...] = setting(
        (),
        "likewise for the LoRA rank, under a strategy that can mix ranks; empty: `lora.rank` for all. A real hospital "
        "may set `rank` in its node configuration",
        limit="each above 0",
    )
    alone: int = setting(
        0,
        "`fedrad.centralized`: train on the reports of this one of the `sites.count` simulated hospitals alone, "
        "counted from 1, and test on the same reports as ever; 0: train on all reports",
        limit="at least 0",
    )
    timeout: float = setting(900.0, "seconds that a round may take", limit="above 0")
    connect_timeout: float = setting(120.0, "seconds to wait until the hospitals are connected", limit="above 0")
