"""The experiment: what is accepted, what is refused, and that every problem is named at once."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrad.config import Experiment, _unchecked, reference
from fedrad.errors import ConfigError
from fedrad.keys import KEYS, SECTIONS, parse_overrides
from fedrad.limits import LIMITS
from fedrad.rules import WAYS, documented_rules
from fedrad.settings import Privacy

RULES_HEAD = "## Settings that exclude each other"
DOCS = Path(__file__).parent.parent / "docs" / "configuration.md"

ROUNDED = st.floats(1e-6, 1e6, allow_nan=False)
NAMES = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).map(
    lambda text: text.strip() or "x"
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "data.path": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        "sites.count": st.integers(1, 500),
        "sites.alpha": ROUNDED,
        "lora.targets": st.lists(NAMES, max_size=4).map(tuple),
        "model.centre": st.booleans(),
        "privacy.epsilon": ROUNDED,
        "privacy.noise": st.sampled_from(["system", "seeded"]),
        "train.average": st.floats(0, 0.999),
        "run.name": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    },
)


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Experiment.load(None, overrides)
    return list(caught.value.problems)


def test_attributes_are_the_keys_with_underscores() -> None:
    exp = Experiment.load(None, ["data.max-length=64", "lora.freeze-a=true"])

    assert exp.data.max_length == 64
    assert exp.lora.freeze_a is True


def test_the_defaults_are_the_documented_ones() -> None:
    defaults = {name: key.plain(key.default) for name, key in KEYS.items()}

    assert Experiment().flat() == defaults
    assert defaults["privacy.epsilon"] == 8.0
    assert defaults["privacy.noise"] == "system"
    assert (defaults["lora.targets"], defaults["train.batch"], defaults["train.local-steps"]) == ("auto", 0, 0)


def test_every_key_is_documented() -> None:
    assert [name for name, key in KEYS.items() if len(key.doc) < 10] == []
    assert {key.limit for key in KEYS.values()} == {"", *LIMITS}
    assert {name: type(section) for name, section in vars(Experiment()).items()} == SECTIONS


def test_an_experiment_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Experiment().privacy.epsilon = 100.0  # type: ignore[misc]


# --- Overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "section", "attribute", "value"),
    [
        ("privacy.epsilon=1", "privacy", "epsilon", 1.0),
        ("privacy.epsilon = 1.5", "privacy", "epsilon", 1.5),
        ("privacy.delta=1e-6", "privacy", "delta", 1e-6),
        ("privacy.noise=seeded", "privacy", "noise", "seeded"),
        ('privacy.noise="seeded"', "privacy", "noise", "seeded"),
        ("model.revision=1234567", "model", "revision", ""),
        ("run.name=1e5", "run", "name", "1e5"),
        ("run.name=true", "run", "name", "true"),
        ("run.out=/tmp/a=b", "run", "out", "/tmp/a=b"),
        ("run.out=", "run", "out", ""),
        ("lora.targets=", "lora", "targets", ()),
        ("lora.targets=[]", "lora", "targets", ()),
        ('lora.targets=["query"]', "lora", "targets", ("query",)),
        ("lora.targets=[query, key]", "lora", "targets", ("query", "key")),
        ("lora.targets=query,key,value", "lora", "targets", ("query", "key", "value")),
        ("train.seed=0x10", "train", "seed", 16),
    ],
)
def test_an_override_is_toml_or_a_bare_word(text: str, section: str, attribute: str, value: object) -> None:
    overrides = [text] if section != "model" else [text, "model.name=prajjwal1/bert-small"]
    value = "1234567" if section == "model" else value

    found = getattr(getattr(Experiment.load(None, overrides), section), attribute)

    assert found == value
    assert type(found) is type(value)


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('[privacy]\nepsilon = 3\n[train]\nrounds = 2\n[lora]\ntargets = ["key"]\n')

    exp = Experiment.load(file, ["privacy.epsilon=2", "privacy.epsilon=1"])

    assert (exp.privacy.epsilon, exp.train.rounds, exp.lora.targets) == (1.0, 2, ("key",))
    assert Experiment.load(file, {"privacy.epsilon": 2.0}).privacy.epsilon == 2.0


def test_an_override_without_a_value_is_refused() -> None:
    assert "section.key=value" in problems("privacy.epsilon")[0]


# --- Round trips -----------------------------------------------------------------------------------------------------


@given(CHANGES)
def test_flat_and_toml_read_back_to_an_equal_experiment(tmp_path_factory: Any, changes: dict[str, object]) -> None:
    exp = Experiment.from_flat(changes)
    file = tmp_path_factory.mktemp("toml") / "experiment.toml"
    file.write_text(exp.to_toml(), encoding="utf-8")

    assert Experiment.from_flat(exp.flat()) == exp
    assert Experiment.load(file) == exp
    assert Experiment.load(file).digest() == exp.digest()


@given(CHANGES, CHANGES)
def test_digests_are_equal_exactly_when_experiments_are(a: dict[str, object], b: dict[str, object]) -> None:
    one, other = Experiment.from_flat(a), Experiment.from_flat(b)

    assert (one.digest() == other.digest()) == (one == other)


def test_flat_holds_only_what_flower_can_carry() -> None:
    assert {type(value) for value in Experiment().flat().values()} == {str, int, float, bool}


def test_a_whole_number_given_for_a_number_has_the_same_digest() -> None:
    assert Experiment(privacy=Privacy(epsilon=1)) == Experiment.load(None, ["privacy.epsilon=1.0"])
    assert Experiment(privacy=Privacy(epsilon=1)).digest() == Experiment.load(None, ["privacy.epsilon=1.0"]).digest()


# --- What is refused -------------------------------------------------------------------------------------------------


def test_all_problems_come_at_once() -> None:
    found = problems(
        "privacy.epsilo=1",
        "train.rounds=1.5",
        "data.name=opni",
        "privacy.delta=2",
        "sites.count=2",
        "sites.quorum=3",
        "lora.freeze-a=true",
        "lora.targets=[]",
    )

    assert [text.split(":")[0].split(" ")[0] for text in found] == [
        "privacy.epsilo",
        "train.rounds",
        "data.name",
        "privacy.delta",
        "sites.quorum",
        "lora.freeze-a",
    ]


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ("privacy.epsilo", "privacy.epsilon"),
        ("data.max_length", "data.max-length"),
        ("epsilon", "privacy.epsilon"),
        ("train.epsilon", "privacy.epsilon"),
        ("lora.target", "lora.targets"),
        ("loras.alpha", "lora.alpha"),
        ("optimizer", "train.optimizer"),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(key: str, guess: str) -> None:
    assert problems(f"{key}=1") == [f"{key}: unknown key; did you mean {guess}?"]


def test_an_unknown_key_without_a_likeness_gets_no_guess() -> None:
    assert problems("zzz.qqq=1") == ["zzz.qqq: unknown key; `python -m fedrad.config` lists them"]


def test_an_unknown_word_gets_the_nearest_known_one() -> None:
    (found,) = problems("sites.partition=dirichlet-skew")

    assert found.endswith("must be one of iid, dirichlet, by-site, temporal; did you mean dirichlet?")


def test_capitals_do_not_hide_the_nearest_word() -> None:
    (found,) = problems("data.name=CT-RATE")
    assert found.endswith("did you mean ct-rate?")


def test_a_bank_is_one_that_generated_reports_can_be_written_from() -> None:
    (found,) = problems("data.bank=chest-cts")
    assert "must be one of chest-xray, " in found
    assert found.endswith("did you mean chest-ct?")


@pytest.mark.parametrize(
    ("key", "word", "meant"),
    [
        ("data.name", "ct_rate", "ct-rate"),
        ("data.name", "mimic_cxr", "mimic-cxr"),
        ("data.name", "mimic-cxr", "mimic-cxr"),
        ("data.bank", "chest_ct", "chest-ct"),
        ("sites.partition", "by_site", "by-site"),
        ("strategy.weights", "inverse_variance", "inverse-variance"),
    ],
)
def test_dashes_and_underscores_of_a_word_are_one(key: str, word: str, meant: str) -> None:
    assert Experiment.from_flat({key: word, "data.path": "/x"}).flat()[key] == meant
    assert Experiment.load(None, [f"{key}={word}", "data.path=/x"]).flat()[key] == meant


def test_other_text_keeps_its_underscores() -> None:
    flat = Experiment.load(None, ["data.text-column=my_text", "run.name=a_b", "model.name=./my_model"]).flat()
    assert (flat["data.text-column"], flat["run.name"], flat["model.name"]) == ("my_text", "a_b", "./my_model")
    (found,) = problems("data.name=ct__rate")
    assert "did you mean ct-rate?" in found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.rounds", 1.0),
        ("train.rounds", True),
        ("train.rounds", "3"),
        ("privacy.epsilon", True),
        ("privacy.epsilon", "1"),
        ("lora.freeze-a", 1),
        ("lora.freeze-a", "true"),
        ("run.name", 3),
        ("lora.targets", 3),
        ("lora.targets", ["query", 3]),
        ("data.name", None),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key}: expected "):
        Experiment.from_flat({key: value})


@pytest.mark.parametrize(
    "text",
    [
        "privacy.epsilon=-1",
        "privacy.epsilon=inf",
        "privacy.epsilon=nan",
        "privacy.delta=0",
        "privacy.delta=1",
        "privacy.clip=0",
        "lora.rank=0",
        "lora.layers=-1",
        "lora.alpha=0",
        "train.average=1",
        "train.batch=-1",
        "train.rounds=0",
        "train.local-steps=-1",
        "train.seed=-1",
        "data.test-fraction=0",
        "data.max-length=7",
        "sites.count=0",
        "sites.quorum=-1",
        "sites.timeout=0",
        "strategy.name=",
        'lora.targets=["a,b"]',
        'lora.targets=[""]',
    ],
)
def test_a_value_out_of_range_is_refused(text: str) -> None:
    (found,) = problems(text)

    assert found.startswith(text.split("=")[0])
    assert "must " in found


def test_no_privacy_has_to_be_asked_for_by_zero() -> None:
    assert Experiment.load(None, ["privacy.epsilon=0"]).privacy.epsilon == 0.0


def test_lists_of_numbers_come_in_every_way_and_go_out_as_text() -> None:
    for text in ("sites.epsilons=8,1,0.5,2", "sites.epsilons=[8, 1, 0.5, 2]", 'sites.epsilons="8, 1, 0.5, 2"'):
        exp = Experiment.load(None, [text, "sites.ranks=4,4,4,4"])
        assert exp.sites.epsilons == (8.0, 1.0, 0.5, 2.0)
        assert exp.flat()["sites.epsilons"] == "8.0,1.0,0.5,2.0"
        assert Experiment.from_flat(exp.flat()) == exp
    assert Experiment.load(None, ["sites.count=1", "sites.batches=4"]).sites.batches == (4,)
    assert Experiment.load(None, ["sites.epsilons="]).sites.epsilons == ()


@pytest.mark.parametrize(
    "text",
    ["sites.epsilons=8,x,1,1", "sites.ranks=1,2,3.5,4", "sites.ranks=true", "sites.epsilons=1,0,1,1", "sites.deltas=1"],
)
def test_lists_of_numbers_are_checked(text: str) -> None:
    assert problems(text)[0].startswith(text.split("=")[0])


@pytest.mark.parametrize(
    ("fraction", "count", "asked"), [(1.0, 4, 4), (0.5, 4, 2), (0.1, 30, 3), (0.3, 4, 2), (0.01, 4, 1)]
)
def test_a_fraction_of_the_hospitals_is_rounded_up(fraction: float, count: int, asked: int) -> None:
    assert Experiment.load(None, {"sites.fraction": fraction, "sites.count": count}).asked == asked


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.name=openi"], "data.path"),
        (["sites.epsilons=1,2"], "sites.epsilons"),
        (["privacy.epsilon=0", "sites.epsilons=1,1,1,1"], "sites.epsilons"),
        (["sites.fraction=0.5", "sites.quorum=3"], "sites.quorum"),
        (["privacy.epsilon=0", "strategy.weights=inverse-variance"], "strategy.weights"),
        (["privacy.unit=hospital", "strategy.weights=declared"], "strategy.weights"),
        (["data.name=table", "data.path=x.csv"], "data.label-columns"),
        (["data.name=none"], "data.label-columns"),
        (["data.name=table", "data.path=x.csv", "data.label-columns=a", "sites.partition=by-site"], "data.site-column"),
        (
            ["data.name=table", "data.path=x.csv", "data.label-columns=a", "sites.partition=temporal"],
            "data.time-column",
        ),
        (["sites.count=3", "sites.quorum=4"], "sites.quorum"),
        (["lora.targets=[]", "lora.freeze-a=true"], "lora.freeze-a"),
        (["model.revision=abc"], "model.revision"),
        (["data.name=openi", "data.path=/x", "privacy.unit=patient"], "privacy.unit"),
        (["strategy.name=fedavgg"], "strategy.name"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], key: str) -> None:
    (found,) = problems(*overrides)

    assert found.startswith(key)


BROKEN = (
    "run.resume=true",
    "data.name=openi",
    "data.name=none data.path=/x",  # and no labels
    "data.classes=a,b",
    "data.name=table sites.partition=by-site privacy.unit=patient",
    "data.name=table sites.partition=temporal",
    "data.name=openi privacy.unit=patient",
    "sites.quorum=9",
    "sites.epsilons=1 sites.deltas=1e-5 sites.batches=4 sites.ranks=2 privacy.epsilon=0",
    "strategy.weights=inverse-variance privacy.epsilon=0",
    "model.pooling=cls train.warm-start=synthetic model.revision=abc",
    "lora.targets= lora.freeze-a=true strategy.name=rolora",
    "train.precision=bfloat16 privacy.gradients=opacus train.optimizer=adam",
    "sites.ranks=2,4 lora.rank=2 strategy.name=flora privacy.unit=hospital",
    "sites.count=1 sites.epsilons=1 sites.deltas=1e-5 strategy.weights=declared privacy.unit=hospital",
    "privacy.secure-aggregation=true privacy.unit=hospital sites.count=2 strategy.name=fedex strategy.weights=declared",
    "privacy.secure-aggregation=true privacy.colluders=3",
    "privacy.secure-aggregation=true sites.quorum=2",
    "privacy.shared-noise=true privacy.colluders=1 sites.epsilons=1 sites.deltas=1e-5 sites.batches=4",
    "privacy.shared-noise=true privacy.epsilon=0 train.optimizer=adam",
    "strategy.name=fedavgm",
    "strategy.name=refactor strategy.every=9",
    "strategy.name=rolora strategy.alternate=step train.local-steps=1",
)


def test_every_rule_has_an_experiment_that_breaks_it_and_none_is_broken_by_the_defaults() -> None:
    met = set()
    for text in BROKEN:
        sections = {name: section() for name, section in SECTIONS.items()}
        for name, value in parse_overrides(text.split(" ")).items():
            key = KEYS[name]
            sections[key.section] = replace(sections[key.section], **{key.attribute: key.read(value)})
        rules = documented_rules(_unchecked(sections))
        met |= {number for number, rule in enumerate(rules) if rule.broken}

    assert [rule.name for number, rule in enumerate(rules) if number not in met] == []
    assert [rule.name for rule in documented_rules(Experiment()) if rule.broken] == []
    named = {word for rule in rules for word in (rule.key, rule.other)}
    assert named <= {*KEYS, *WAYS}
    assert all("{" not in rule.documented for rule in rules)


def test_a_value_that_is_wrong_raises_no_second_complaint() -> None:
    assert len(problems("data.name=opni")) == 1  # and not also that data.path is missing
    assert len(problems("data.name=openi", "data.path=3.5", "lora.rank=0")) == 1


def test_replacing_a_section_is_checked_too() -> None:
    exp = Experiment()

    with pytest.raises(ConfigError, match=r"privacy\.clip"):
        replace(exp, privacy=replace(exp.privacy, clip=-1.0))


@pytest.mark.parametrize("content", [None, b"[privacy\n", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "experiment.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=r"experiment\.toml: "):
        Experiment.load(file)


# --- Paths -----------------------------------------------------------------------------------------------------------


def test_relative_paths_are_found_and_made_absolute(tmp_path: Path) -> None:
    exp = Experiment.load(None, ["data.path=reports", "run.out=../run", "model.name=./bert"])

    resolved = exp.resolve_paths(tmp_path)

    assert exp.relative_paths() == ["data.path", "run.out", "model.name"]
    assert resolved.relative_paths() == []
    assert resolved.data.path == str(tmp_path / "reports")
    assert resolved.model.name == str(tmp_path / "bert")
    assert Path(resolved.run.out).resolve() == tmp_path.parent / "run"


def test_absolute_and_empty_paths_and_hub_ids_stay(tmp_path: Path) -> None:
    exp = Experiment.load(None, ["data.path=/data", "model.name=prajjwal1/bert-small"])

    assert exp.relative_paths() == []
    assert exp.resolve_paths(tmp_path) == exp


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Experiment.load(None, ["data.path=~/reports"]).resolve_paths(Path("/x")).data.path == f"{tmp_path}/reports"


# --- What is chosen by itself ----------------------------------------------------------------------------------------

REAL = {"data.name": "mimic-cxr", "data.path": "/x"}


@pytest.mark.parametrize(
    ("changes", "warm", "base"),
    [
        ({}, "none", "all-MiniLM-L6-v2"),
        (REAL, "synthetic", "chest-minilm"),
        ({"data.name": "none", "data.label-columns": "chexpert"}, "synthetic", "chest-minilm"),
        ({"train.warm-start": "synthetic"}, "synthetic", "chest-minilm"),
        (REAL | {"train.warm-start": "none"}, "none", "all-MiniLM-L6-v2"),
        (REAL | {"model.name": "prajjwal1/bert-small"}, "synthetic", "prajjwal1/bert-small"),
        (REAL | {"model.name": "./mine"}, "synthetic", "./mine"),
        ({"model.name": "chest-minilm"}, "none", "chest-minilm"),
        (REAL | {"model.pooling": "cls"}, "none", "all-MiniLM-L6-v2"),  # the public head reads the mean
    ],
)
def test_the_base_that_a_run_trains_on(changes: dict[str, object], warm: str, base: str) -> None:
    exp = Experiment.from_flat(changes)
    assert (exp.warm_start, exp.base_name) == (warm, base)


def test_a_warm_start_with_another_pooling_is_refused() -> None:
    (found,) = problems("model.pooling=cls", "train.warm-start=synthetic")
    assert found.startswith("model.pooling: ")
    assert Experiment.load(None, ["model.pooling=cls", "train.warm-start=none"]).model.pooling == "cls"


LAST, ALL_LINEAR, HEAD = (("query", "value"), 1), (("all-linear",), 0), ((), 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, LAST),
        ({"privacy.epsilon": 0.0}, LAST),
        (REAL, HEAD),
        (REAL | {"privacy.epsilon": 0.0}, ALL_LINEAR),
        (REAL | {"strategy.name": "head"}, HEAD),
        (REAL | {"strategy.name": "head", "privacy.epsilon": 0.0}, HEAD),
        (REAL | {"strategy.name": "fedsb"}, LAST),
        (REAL | {"lora.freeze-a": True}, LAST),
        (REAL | {"train.warm-start": "none"}, LAST),
        (REAL | {"train.warm-start": "none", "privacy.epsilon": 0.0}, LAST),
        ({"train.warm-start": "synthetic"}, HEAD),
        (REAL | {"lora.targets": "key", "lora.layers": 2}, (("key",), 2)),
        (REAL | {"lora.targets": "key", "privacy.epsilon": 0.0}, (("key",), 1)),
        ({"lora.targets": ""}, HEAD),
    ],
)
def test_what_is_adapted(changes: dict[str, object], expected: tuple[tuple[str, ...], int]) -> None:
    exp = Experiment.from_flat(changes)
    assert (exp.adapted.targets, exp.adapted.layers) == expected
    assert replace(exp.adapted, targets=exp.lora.targets, layers=exp.lora.layers) == exp.lora  # and nothing else


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 6),
        (REAL, 6),
        (REAL | {"privacy.epsilon": 0.0}, 12),
        (REAL | {"privacy.epsilon": 0.0, "train.warm-start": "none"}, 6),
        (REAL | {"lora.targets": "all-linear"}, 12),
        (REAL | {"data.declared-size": 1000}, 12),
        (REAL | {"data.declared-size": 999}, 6),
        (REAL | {"privacy.epsilon": 0.0, "train.local-steps": 3}, 3),
        ({"train.local-steps": 3}, 3),
    ],
)
def test_how_many_steps_a_round_takes(changes: dict[str, object], steps: int) -> None:
    assert Experiment.from_flat(changes).local_steps == steps


@pytest.mark.parametrize(
    ("changes", "batches"),
    [
        # declared: 1, 100, 128, 511, 512, 513, 10_000
        (REAL, (1, 100, 128, 128, 128, 128, 2500)),
        ({"lora.targets": ""}, (1, 100, 128, 128, 128, 128, 2500)),
        ({}, (1, 100, 128, 128, 128, 128, 128)),
        (REAL | {"privacy.epsilon": 0.0}, (1, 100, 128, 128, 128, 128, 128)),
        (REAL | {"lora.targets": "key"}, (1, 100, 128, 128, 128, 128, 128)),
        (REAL | {"train.batch": 300}, (1, 100, 128, 300, 300, 300, 300)),
        (REAL | {"train.batch": 16}, (1, 16, 16, 16, 16, 16, 16)),
    ],
)
def test_the_expected_batch_of_a_declared_size(changes: dict[str, object], batches: tuple[int, ...]) -> None:
    exp = Experiment.from_flat(changes)
    assert tuple(exp.expected_batch(size) for size in (1, 100, 128, 511, 512, 513, 10_000)) == batches


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("synthetic", "nothing-abnormal"),
        ("openi", "nothing-abnormal"),
        ("ct-rate", "nothing-abnormal"),
        ("table", "nothing-abnormal"),
        ("none", "nothing-abnormal"),
        ("mimic-cxr", "no-other-label"),
    ],
)
def test_what_no_finding_means(name: str, expected: str) -> None:
    flat: dict[str, object] = {"data.name": name, "data.label-columns": "Edema"}
    flat |= {"data.path": "/x"} if name not in ("synthetic", "none") else {}
    assert Experiment.from_flat(flat).no_finding == expected
    for stated in ("nothing-abnormal", "no-other-label"):
        assert Experiment.from_flat({**flat, "data.no-finding": stated}).no_finding == stated
        assert Experiment.from_flat({**flat, "data.no-finding": stated.replace("-", "_")}).no_finding == stated


# --- The reference ---------------------------------------------------------------------------------------------------


def test_the_reference_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == reference(), "run: make docs"


def test_the_module_prints_the_reference() -> None:
    printed = subprocess.run([sys.executable, "-m", "fedrad.config"], capture_output=True, text=True, check=True)

    assert printed.stdout == reference()
    assert printed.stderr == ""


def test_the_reference_has_every_key_once() -> None:
    assert [reference().partition(RULES_HEAD)[0].count(f"| `{name}` |") for name in KEYS] == [1] * len(KEYS)


def test_importing_fedrad_and_its_configuration_does_not_import_torch() -> None:
    code = (
        "import sys, fedrad, fedrad.config; print([m for m in ('torch', 'flwr', 'transformers') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert printed.stdout.strip() == "[]"


# --- The Flower apps --------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
APPS = [*sorted(ROOT.glob("simulations/*/pyproject.toml")), ROOT / "deployment" / "pyproject.toml"]


@pytest.mark.parametrize("app", APPS, ids=lambda path: path.parent.name)
def test_an_app_names_every_key_since_flower_takes_no_others(app: Path) -> None:
    config = tomllib.loads(app.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    flat = {f"{section}.{key}": value for section, keys in config.items() for key, value in keys.items()}

    assert set(flat) == set(KEYS)
    assert Experiment.from_flat(flat | {"data.path": "/data"}).flat() == flat | {"data.path": "/data"}
