"""A report: everything that runs have left, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad import __version__
from fedrad.certificate.digests import PACKAGES
from fedrad.errors import ConfigError
from fedrad.report.page import reading
from fedrad.report.page.drawings import epsilon_curve, label_bars, utility_curve
from fedrad.report.page.files import RunFiles, found_runs, names_of, read_comparison, read_run, shown
from fedrad.report.page.pictures import Picture
from fedrad.report.page.series import lines_of
from fedrad.training.result import rounded_up

MOST_IN_DETAIL, _MOST_ROWS = 8, 60


@dataclass(frozen=True)
class Grid:
    """A table of the page.

    Attributes:
        name: its id.
        title: its caption.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def report(paths: Sequence[Path]) -> str:
    """The page of these runs.

    Args:
        paths: run directories, or folders with runs in them.

    Raises:
        DataError: a folder holds no finished run, or one that can't be read.
        ConfigError: the extra ``report`` is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ConfigError("fedrad report: needs matplotlib and jinja2: pip install 'fedrad[report]'") from None
    folders = found_runs(paths)
    runs = [read_run(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
    environment = Environment(
        loader=PackageLoader("fedrad.report.page", "."),
        autoescape=True,  # every name in it came from a file
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment.get_template("template.html").render(content(runs, read_comparison(paths)))


def content(runs: Sequence[RunFiles], comparison: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the template is filled with."""
    detailed = runs[:MOST_IN_DETAIL]
    return {
        "version": __version__,
        "title": f"Report on {runs[0].name}" if len(runs) == 1 else f"Report on {len(runs)} runs",
        "alarms": reading.alarms(runs),
        "guarantee": reading.guarantee(runs),
        "together": reading.together(runs),
        "radiologist": reading.for_radiologists(runs),
        "overview": _overview(runs),
        "setting": _setting(runs),
        "curve": utility_curve(runs),
        "means": _means(runs),
        "comparison": _comparison(comparison),
        "warnings": [] if comparison is None else list(comparison.get("warnings", [])),
        "noise": _noise(runs),
        "details": [_detail(run, number) for number, run in enumerate(detailed)],
        "left_out": len(runs) - len(detailed),
        "audits": _audits(runs),
        "environment": _environment(runs),
    }


def _overview(runs: Sequence[RunFiles]) -> Grid:
    rows = tuple(
        (
            run.name,
            _epsilon(run.result["epsilon_max"]),
            rounded_up(run.result["delta"]),
            run.result["unit"],
            "yes" if run.protects else "NOBODY",
            *(f"{value:.4f}" for value in [*run.figures.values()][:1] or [float("nan")]),
            _before(run),
            str(len(run.certificates)),
        )
        for run in runs
    )
    score = shown(next((next(iter(run.figures)) for run in runs if run.figures), "score"))
    columns = ("run", "epsilon, largest", "delta", "unit", "protects", score, "before", "certificates")
    return Grid("overview", "What was run, and what came of it", columns, rows)


def _setting(runs: Sequence[RunFiles]) -> Grid:
    """The settings that a reader asks for first; what differs among the runs is said to."""
    keys = {
        "reports": "data.name",
        "base model": "model.name",
        "strategy": "strategy.name",
        "rounds": "train.rounds",
        "what one guarantee protects": "privacy.unit",
        "budget epsilon": "privacy.epsilon",
        "noise": "privacy.noise",
        "secure aggregation": "privacy.secure-aggregation",
        "seed": "train.seed",
    }
    flats = [run.experiment.flat() for run in runs]
    rows = []
    for name, key in keys.items():
        # A path says where something lies at whoever ran it, which is nobody's business here.
        values = dict.fromkeys(Path(str(flat[key])).name if key == "model.name" else _cell(flat[key]) for flat in flats)
        rows.append((name, ", ".join(values), key))
    hospitals = dict.fromkeys(str(len(run.result["reports"]["declared"])) for run in runs)
    steps = dict.fromkeys(str(run.result["steps"]) for run in runs)
    declared = dict.fromkeys(f"{size:,}" for run in runs for size in run.result["reports"]["declared"].values())
    rows += [
        ("hospitals", ", ".join(hospitals), ""),
        ("noisy steps of a hospital", ", ".join(steps), ""),
        ("declared size of a hospital", ", ".join([*declared][:8]) + (", ..." if len(declared) > 8 else ""), ""),
        ("test reports", ", ".join(dict.fromkeys(f"{run.result['reports']['test']:,}" for run in runs)), ""),
    ]
    return Grid("setting", "Settings", ("what", "value", "key"), tuple(rows))


def _means(runs: Sequence[RunFiles]) -> Grid | None:
    lines = lines_of(runs)
    if not any(point.runs > 1 for points in lines.values() for point in points):
        return None
    rows = tuple(
        (name, f"{p.epsilon:g}" if p.epsilon else "none", str(p.runs), f"{p.mean:.4f}", f"{p.low:.4f} to {p.high:.4f}")
        for name, points in lines.items()
        for p in points
        if p.runs > 1
    )
    title = (
        "Main score: mean over runs that differ by their seeds only, and the 95% interval of that mean (Student's t)"
    )
    return Grid("means", title, ("condition", "epsilon", "runs", "mean", "95% interval"), rows)


def _comparison(comparison: Mapping[str, Any] | None) -> list[Grid]:
    """The tables of ``compare.json``, as `fedrad compare` has made them."""
    found = []
    for name, rows in (comparison or {}).items():
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            columns = tuple(dict.fromkeys(str(key) for row in rows for key in row))
            cells = tuple(tuple(_cell(row.get(column)) for column in columns) for row in rows[:_MOST_ROWS])
            more = f" (the first {_MOST_ROWS} of {len(rows)} rows)" if len(rows) > _MOST_ROWS else ""
            found.append(Grid(f"compare-{name}", f"fedrad compare: {name}{more}", columns, cells))
    return found


def _noise(runs: Sequence[RunFiles]) -> Grid | None:
    rows = reading.noise_rows(runs)
    columns = (
        "run",
        "noise multiplier",
        "expected batch",
        "steps",
        "numbers in the adapter",
        "noise / signal",
        "verdict",
    )
    return (
        Grid("noise", "How loud the noise is beside the largest possible signal", columns, tuple(rows))
        if rows
        else None
    )


def _detail(run: RunFiles, number: int) -> dict[str, Any]:
    pictures: list[Picture | None] = [label_bars(run, number), epsilon_curve(run, number)]
    return {
        "name": run.name,
        "number": number,
        "scores": _scores(run, number),
        "pictures": [picture for picture in pictures if picture is not None],
        "notes": list(run.result.get("notes", [])),
        "statement": run.result["statement"],
    }


def _scores(run: RunFiles, number: int) -> Grid | None:
    if not run.figures:
        return None
    kinds = {"label prior (reads no text)": "label_prior", "before training": "before"}
    rows = [
        (name, *(f"{run.result[key][figure]:.4f}" for figure in run.figures))
        for name, key in kinds.items()
        if run.result.get(key)
    ]
    rows.append(("after training", *(f"{value:.4f}" for value in run.figures.values())))
    columns = ("", *map(shown, run.figures))
    return Grid(f"scores-{number}", f"Scores of {run.name}", columns, tuple(rows))


def _audits(runs: Sequence[RunFiles]) -> Grid | None:
    rows = tuple(
        (
            run.name,
            audit["kind"],
            audit["view"],
            _epsilon(audit["epsilon"]),
            f"{audit['bound']:.3g} ({100 * audit['confidence']:g}% sure)",
            str(audit["canaries"]),
            "below the claim" if audit["epsilon"] is None or audit["bound"] <= audit["epsilon"] else "ABOVE THE CLAIM",
        )
        for run in runs
        for audit in run.audits
    )
    columns = ("run", "attack", "who attacks sees", "epsilon claimed", "epsilon is at least", "canaries", "so")
    return Grid("audits", "What attacks reached, beside what is claimed", columns, rows) if rows else None


def _environment(runs: Sequence[RunFiles]) -> Grid:
    """Versions and machine; where runs differ, all values."""
    keys = ["fedrad", *PACKAGES, "python"]
    rows = [
        (key, ", ".join(dict.fromkeys(str(run.result.get("versions", {}).get(key, "?")) for run in runs)))
        for key in keys
    ]
    machine = [
        ("processor", [str(run.result.get("processor", "not recorded")) for run in runs]),
        ("device, arithmetic", [_kernels(run.result.get("kernels", {})) for run in runs]),
        ("seconds", [f"{run.result['seconds']:,.0f}" for run in runs]),
    ]
    rows += [(name, ", ".join(dict.fromkeys(values))) for name, values in machine]
    return Grid("environment", "Versions and machine", ("what", "value"), tuple(rows))


def _kernels(kernels: Mapping[str, Any]) -> str:
    return f"{kernels.get('device', '?')}, {kernels.get('backbone', '?')}"


def _before(run: RunFiles) -> str:
    before, name = run.result.get("before"), next(iter(run.figures), "")
    return f"{before[name]:.4f}" if before and name else "-"


def _epsilon(value: float | None) -> str:
    return "none" if value is None else rounded_up(value, 4)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
