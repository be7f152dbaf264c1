"""Reading settings: keys, types, limits, paths, and what is said of wrong ones."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.keys import KEYS
from fedrad.settings import Privacy
from tests.settings_given import problems

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


def test_an_experiment_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Experiment().privacy.epsilon = 100.0  # type: ignore[misc]


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
    assert problems("zzz.qqq=1") == ["zzz.qqq: unknown key; `python -m fedrad.reference` lists them"]


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


@pytest.mark.parametrize("content", [None, b"[privacy\n", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "experiment.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=r"experiment\.toml: "):
        Experiment.load(file)


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
