"""A hospital's policy: read in one go, and stronger than any proposal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrad.config import Experiment
from fedrad.corpora import CHEXPERT, CT_RATE
from fedrad.errors import ConfigError, PlanError, PolicyRefusal
from fedrad.federation.node_config import read_policy
from fedrad.federation.policy import HospitalPolicy
from fedrad.model.base import load_base
from fedrad.settings import CHEST, EMBEDDED
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.training.setup import plan_for
from tests.model import tiny

NODE: dict[str, object] = {
    "site": "mercy",
    "data-path": "/srv/reports.csv",
    "state-dir": "/srv/fedrad",
    "epsilon-cap": 2,
    "declared-size": 1200,
    "label-columns": "chexpert",
}


def policy(**changes: object) -> HospitalPolicy:
    return read_policy(NODE | {key.replace("_", "-"): value for key, value in changes.items()})


def proposal(**privacy: object) -> Experiment:
    return Experiment.from_flat({f"privacy.{key}": value for key, value in privacy.items()})


def problems(node: dict[str, object]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_policy(node)
    return caught.value.problems


def test_the_defaults_are_careful() -> None:
    read = policy()
    assert read.epsilon_cap == 2.0
    assert isinstance(read.epsilon_cap, float)
    assert not read.allow_seeded
    assert read.delta == 1e-5
    assert read.witness == Path("~/.local/state/fedrad/witness").expanduser()


def test_dashes_and_underscores_of_the_loaders_name_are_one() -> None:
    """The labels that a hospital states go by the name: with another spelling they were CheXpert's."""
    assert policy(data_name="ct_rate") == policy(data_name="ct-rate")
    assert policy(data_name="ct_rate").task == MultiLabel(CT_RATE)


def test_a_proposal_is_clamped_to_the_cap() -> None:
    assert policy().authorize(proposal(epsilon=8.0)).epsilon == 2.0
    assert policy().authorize(proposal(epsilon=0.5)).epsilon == 0.5


@pytest.mark.parametrize(
    ("proposed", "says"),
    [
        ({"epsilon": 0.0}, "without privacy"),
        ({"noise": "seeded"}, "seeded noise"),
        ({"delta": 1.1e-5}, "delta"),
        ({"unit": "hospital"}, "updates without noise"),
        ({"unit": "patient"}, "promises per report"),
    ],
)
def test_what_can_not_be_clamped_is_refused(proposed: dict[str, object], says: str) -> None:
    policy().authorize(proposal())  # negative control: the proposal is fine but for this
    with pytest.raises(PolicyRefusal, match=says):
        policy().authorize(proposal(**proposed))


def test_work_that_grows_with_the_longest_report_is_refused_unless_all_are_padded_to_one_length() -> None:
    decoder = {"model.task": "causal-lm", "lora.targets": "query"}
    proposed = Experiment.from_flat({**decoder, "model.loss": "text"})
    with pytest.raises(PolicyRefusal, match="pad-lengths"):
        policy().authorize(proposed)
    assert policy(pad_lengths=True).authorize(proposed) == policy().authorize(Experiment.from_flat(decoder))


@pytest.mark.parametrize("precision", ["bfloat16", "auto"])
def test_arithmetic_that_epsilon_does_not_cover_is_refused(precision: str) -> None:
    proposed = Experiment.from_flat({"train.precision": precision})
    with pytest.raises(PolicyRefusal, match="bfloat16"):
        policy().authorize(proposed)
    assert policy(allow_bfloat16=True).authorize(proposed).epsilon == 2.0


def test_a_hospital_may_allow_seeded_noise_and_a_larger_delta() -> None:
    lenient = policy(allow_seeded=True, delta=1e-4)
    assert lenient.authorize(proposal(noise="seeded", delta=1e-4, epsilon=1.0)).epsilon == 1.0


proposals = st.builds(
    lambda epsilon, delta, noise: {"privacy.epsilon": epsilon, "privacy.delta": delta, "privacy.noise": noise},
    st.floats(allow_nan=True, allow_infinity=True) | st.floats(1e-6, 1e6),
    st.floats(allow_nan=True) | st.floats(1e-9, 1e-4),
    st.sampled_from(["system", "seeded", "none", ""]),
)


@given(proposals, st.floats(1e-6, 1e6), st.floats(1e-9, 1e-4), st.booleans())
def test_no_proposal_gets_more_than_the_cap(
    proposed: dict[str, object], cap: float, delta: float, seeded: bool
) -> None:
    own = policy(epsilon_cap=cap, delta=delta, allow_seeded=seeded)
    try:
        experiment = Experiment.from_flat(proposed)
        allowed = own.authorize(experiment).epsilon
    except (ConfigError, PolicyRefusal):
        return
    assert 0 < allowed <= cap
    assert experiment.privacy.delta <= delta
    assert seeded or experiment.privacy.noise == "system"


@pytest.mark.parametrize(("epsilon", "cap", "batch", "rounds"), [(8.0, 1.0, 256, 2), (100.0, 0.3, 4096, 1)])
def test_the_plan_stays_below_the_cap(epsilon: float, cap: float, batch: int, rounds: int) -> None:
    experiment = Experiment.from_flat(
        {"privacy.epsilon": epsilon, "train.batch": batch, "train.rounds": rounds, "train.local-steps": 2}
    )
    own = policy(epsilon_cap=cap)
    plan = plan_for(experiment, own.declared_size, own.authorize(experiment))
    assert plan.epsilon == cap  # and a plan whose noise does not meet its epsilon can't be made
    assert plan.delta <= own.delta
    assert plan.steps == rounds * 2


def test_all_problems_at_once() -> None:
    wrong = {
        "sight": "mercy",
        "data-path": "reports.csv",
        "state-dir": "/srv/fedrad",
        "epsilon-cap": -1.0,
        "declared-size": 12.5,
        "allow-seeded": "yes",
        "delta": 2.0,
        "witness-dir": "/srv/fedrad/witness",
        "colour": "red",
    }
    found = problems(wrong)
    assert len(found) == 10
    expected = {
        "sight": "did you mean site?",
        "colour": "unknown key",
        "site": "needed",
        "data-path": "absolute",
        "epsilon-cap": "above 0",
        "declared-size": "must be int, not float",
        "allow-seeded": "must be bool, not str",
        "delta": "at least 1e-09 and below 1",
        "witness-dir": "outside state-dir",
        "label-columns": "needed",
    }
    for key, says in expected.items():
        assert any(problem.startswith(f"node-config {key}: ") and says in problem for problem in found), key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon-cap", 0),
        ("epsilon-cap", float("nan")),
        ("epsilon-cap", float("inf")),
        ("epsilon-cap", True),
        ("epsilon-cap", "2"),
        ("declared-size", 0),
        ("declared-size", True),
        ("delta", 0.0),
        ("delta", 9e-10),  # no ledger states epsilon there
        ("delta", float("nan")),
        ("delta", 1 / 1200),  # not below 1 / declared-size
        ("data-name", "synthetic"),
        ("model", "prajjwal1/bert-small"),  # not pinned
        ("model-sha256", "abc"),
        ("classes", "normal,effusion"),  # no column for them
        ("device", "tpu"),
        ("reports-per-patient", 0),
        ("max-sampling-rate", 0.0),
        ("max-sampling-rate", 1.1),
        ("max-sampling-rate", float("nan")),
        ("max-local-steps", 0),
        ("answer-every", -1.0),
        ("answer-every", float("inf")),
        ("site", ""),
        ("site", "../grace"),
        ("site", "mercy hospital"),
        ("state-dir", "state"),
        ("witness-dir", "witness"),
        ("witness-dir", "/srv/fedrad"),
        ("witness-dir", "/srv/x/../fedrad/w"),
    ],
)
def test_values_out_of_range(key: str, value: object) -> None:
    (problem,) = problems(NODE | {key: value})
    assert problem.startswith("node-config model-sha256: " if key == "model" else f"node-config {key}: ")


SHARING: dict[str, object] = {
    "allow_shared_noise": True,
    "min_quorum": 3,
    "min_colluders": 1,
    "identity_key": "/srv/identity.key",
    "peers": "/srv/peers",
}


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"min_quorum": 0, "min_colluders": 0}, ["min-quorum"]),
        ({"min_quorum": 1, "min_colluders": 0}, ["min-quorum"]),
        ({"min_quorum": 2}, ["min-quorum"]),  # less one colluder, that is one hospital
        ({"identity_key": "", "peers": ""}, ["allow-shared-noise"]),
        ({"min_quorum": 2, "identity_key": "", "peers": ""}, ["min-quorum", "allow-shared-noise"]),
        ({"peers": ""}, ["allow-shared-noise", "identity-key"]),
        ({"allow_shared_noise": False, "min_quorum": 0}, ["min-quorum"]),  # it could leave in clear, to all
        ({"allow_shared_noise": False, "min_quorum": 4, "min_colluders": 3}, ["min-quorum"]),
        ({"min_colluders": -1}, ["min-colluders"]),
        ({"noise_multiplier": 2.0, "batch": 64}, ["noise-multiplier"]),  # every hospital's must be the same
    ],
)
def test_noise_is_shared_among_pinned_hospitals_and_enough_of_them(changes: dict[str, object], keys: list[str]) -> None:
    assert policy(**SHARING).allow_shared_noise  # control: all of it together is fine
    assert policy(**SHARING | {"min_quorum": 2, "min_colluders": 0}).allow_shared_noise
    node = NODE | {key.replace("_", "-"): value for key, value in (SHARING | changes).items()}
    found = [problem.removeprefix("node-config ").partition(":")[0] for problem in problems(node)]
    assert sorted(found) == sorted(keys)


def test_a_server_that_counts_with_too_few_colluders_is_refused() -> None:
    def proposed(colluders: int) -> Experiment:
        sums = {"sites.count": 7, "sites.quorum": 6, "privacy.secure-aggregation": True, "privacy.colluders": colluders}
        return Experiment.from_flat(sums)

    careful = policy(min_quorum=4, min_colluders=2)
    for few in (0, 1):
        with pytest.raises(PolicyRefusal, match=rf"counts with {few} hospitals on its side.*against 2 or more"):
            careful.authorize(proposed(few))
        policy(min_quorum=4, min_colluders=few).authorize(proposed(few))
    assert careful.authorize(proposed(2)) == careful.authorize(proposed(3))


def test_an_empty_configuration_says_what_is_needed() -> None:
    assert len(problems({})) == 6


def test_a_hospital_names_its_unit_and_knows_its_patients() -> None:
    by_patient = policy(unit="patient", patient_column="id")
    assert by_patient.authorize(proposal(unit="patient")).epsilon == 2.0
    with pytest.raises(PolicyRefusal, match="promises per patient"):
        by_patient.authorize(proposal())
    assert by_patient.unit == "patient"
    for wrong, key in (({"unit": "patient"}, "patient-column"), ({"unit": "hospital"}, "unit")):
        with pytest.raises(ConfigError, match=f"node-config {key}"):
            read_policy({**NODE, **wrong})


def test_no_unit_of_patients_where_the_corpus_has_none() -> None:
    with pytest.raises(ConfigError, match="Open-i has no patient ids"):
        policy(data_name="openi", unit="patient")
    assert policy(data_name="openi").unit == "report"


def test_labels_are_stated_before_a_report_is_read() -> None:
    assert policy().task == MultiLabel(CHEXPERT)
    assert policy(data_name="ct-rate").task == MultiLabel(CT_RATE)
    assert policy(label_columns="b, a").task == MultiLabel(("b", "a"))
    assert policy(label_columns="kind", classes="normal, effusion").task == SingleLabel(("effusion", "normal"))
    policy(label_columns="b,a").accept_labels(("b", "a"))
    for other in (("a", "b"), ("b",), ("b", "a", "age")):
        with pytest.raises(PolicyRefusal, match="labels"):
            policy(label_columns="b,a").accept_labels(other)


def test_the_model_is_the_hospitals_choice(tmp_path: Path) -> None:
    def proposed(name: str, warm: str = "none") -> Experiment:
        return Experiment.from_flat({"model.name": name, "train.warm-start": warm})

    for warm in ("none", "synthetic"):  # the embedded encoder, and the public base that was made of it
        policy().accept_model(proposed(EMBEDDED, warm))
        with pytest.raises(PolicyRefusal, match="program that runs on every report"):
            policy(model=CHEST).accept_model(proposed(str(tmp_path), warm))
    policy(model=CHEST).accept_model(proposed(CHEST))
    with pytest.raises(PolicyRefusal, match="program that runs on every report"):
        policy(model=CHEST).accept_model(proposed(EMBEDDED))
    with pytest.raises(PolicyRefusal, match="program that runs on every report"):
        policy().accept_model(proposed(str(tmp_path)))
    one, other = (tiny.save(tmp_path / name, "bert", seed=seed) for name, seed in (("one", 0), ("other", 1)))
    pinned = policy(model=one, model_sha256=load_base(one).fingerprint)
    pinned.accept_model(proposed(one))
    with pytest.raises(PolicyRefusal, match="not the one"):
        policy(model=other, model_sha256=load_base(one).fingerprint).accept_model(proposed(other))
    for warm in ("none", "synthetic"):
        with pytest.raises(PolicyRefusal, match="not the one"):
            policy(model_sha256="0" * 64).accept_model(proposed(EMBEDDED, warm))


def test_a_hospital_builds_no_public_base(tmp_path: Path) -> None:
    """Its weights would be others than the server's and every other hospital's, and nobody would notice."""
    one = tiny.save(tmp_path / "one", "bert")
    pinned = policy(model=one, model_sha256=load_base(one).fingerprint)
    by_default: dict[str, object] = {"data.name": "none", "data.label-columns": "a"}
    for data in ({"train.warm-start": "synthetic"}, by_default):
        with pytest.raises(PolicyRefusal, match="needs a public base"):
            pinned.accept_model(Experiment.from_flat({"model.name": one, **data}))
    base = tiny.save_public(tmp_path / "base")
    policy(model=base, model_sha256=load_base(base).fingerprint).accept_model(
        Experiment.from_flat({"model.name": base, "train.warm-start": "synthetic"})
    )


def test_of_the_data_settings_the_server_decides_the_length_alone() -> None:
    """The split's share of test reports made reading fail or not by the number of patients."""
    proposed = Experiment.from_flat(
        {
            "data.name": "table",
            "data.path": "/server.csv",
            "data.label-columns": "secret",
            "data.test-fraction": 1e-9,
            "data.seed": 7,
            "data.max-length": 99,
            "train.micro-tokens": 4096,
        }
    )
    own = policy(label_columns="a,b").own(proposed)
    assert (own.data.max_length, own.data.path, own.data.label_columns) == (99, "/srv/reports.csv", "a,b")
    assert (own.data.test_fraction, own.data.seed) == (Experiment().data.test_fraction, Experiment().data.seed)
    assert own.train.micro_tokens == 1
    common = policy(label_columns="a,b", isolate_reports=False, pad_passes=False)
    assert common.own(proposed).train.micro_tokens == 4096


def test_device_and_reports_of_a_patient_are_not_the_servers_to_raise() -> None:
    """A patient's reports share a pass: whether that fits in memory would tell who has many."""
    proposed = Experiment.from_flat({"train.device": "cuda", "privacy.reports-per-patient": 1000})
    own = policy(label_columns="a,b").own(proposed)
    assert (own.train.device, own.privacy.reports_per_patient) == ("cpu", 8)
    fewer = Experiment.from_flat({"privacy.reports-per-patient": 2})
    assert policy(label_columns="a,b", device="auto").own(fewer).privacy.reports_per_patient == 2


def test_the_batch_is_cut_down_to_the_largest_sampling_rate() -> None:
    """A batch of the declared size or more would be every report in every step: q = 1."""

    def batch(proposed: int, **own: object) -> int:
        return policy(**own).authorize(Experiment.from_flat({"train.batch": proposed})).batch

    assert [batch(size) for size in (100, 600, 601, 10**6)] == [100, 600, 600, 600]  # half of 1,200
    assert batch(10**6, max_sampling_rate=0.1) == 120
    assert batch(10**6, max_sampling_rate=1) == 1200
    assert batch(128, batch=900) == 600
    assert batch(128, declared_size=1) == 1


def test_a_batch_that_is_cut_down_can_not_share_noise() -> None:
    settings = {
        "sites.count": 4,
        "sites.quorum": 3,
        "privacy.secure-aggregation": True,
        "privacy.shared-noise": True,
        "privacy.colluders": 1,
        "train.local-steps": 1,
        "train.average": 0.0,
        "train.momentum": 0.0,
        "train.learning-rate": 0.1,
    }
    own = policy(**SHARING)
    assert own.authorize(Experiment.from_flat({**settings, "train.batch": 600})).batch == 600
    with pytest.raises(PolicyRefusal, match="same step size everywhere; this hospital's batch is 600"):
        own.authorize(Experiment.from_flat({**settings, "train.batch": 601}))


def test_more_steps_a_round_than_the_policy_allows_are_refused() -> None:
    proposed = Experiment.from_flat({"train.local-steps": 101})
    with pytest.raises(PolicyRefusal, match=r"101 steps a round.*100 at most"):
        policy().authorize(proposed)
    assert policy(max_local_steps=101).authorize(proposed).batch == 128


def test_passes_are_padded_by_default_and_only_where_every_report_has_its_own() -> None:
    assert policy().pad_passes
    assert not policy().pad_lengths
    for wrong, key in (
        ({"isolate-reports": False}, "pad-passes"),
        ({"pad-passes": False, "pad-lengths": True}, "pad-lengths"),
    ):
        (problem,) = problems(NODE | wrong)
        assert problem.startswith(f"node-config {key}: ")


def test_a_hospital_that_fixes_its_noise_plans_with_it_whatever_is_proposed() -> None:
    read, asked = policy(batch=120, noise_multiplier=3.0), proposal(epsilon=1.9)
    plan = plan_for(asked, 1200, read.authorize(asked))

    assert (plan.sampling_rate, plan.noise_multiplier) == read.mechanism == (0.1, 3.0)
    assert policy(batch=120).mechanism is None
    with pytest.raises(PlanError, match=r"spends epsilon .* more than the target 0\.01: .*fewer steps"):
        plan_for(asked, 1200, read.authorize(proposal(epsilon=0.01)))


def test_fixed_noise_needs_a_fixed_batch_and_a_sensible_figure() -> None:
    assert "goes with batch" in problems(NODE | {"noise-multiplier": 2.0})[0]
    for value in (-1.0, 0.001, float("inf"), float("nan")):
        assert "noise-multiplier: must be" in problems(NODE | {"noise-multiplier": value, "batch": 64})[0]


def test_what_is_trained_is_the_same_at_the_server_and_here() -> None:
    """``lora.targets=auto`` goes by the size that the server states: both must build the same adapter."""
    model = {"data.name": "none", "data.label-columns": "a,b", "train.warm-start": "synthetic"}
    for size in (0, 2000):
        proposed = Experiment.from_flat({**model, "data.declared-size": size})
        own = policy(label_columns="a,b").own(proposed)
        assert (own.adapted, own.local_steps) == (proposed.adapted, proposed.local_steps)
        assert own.expected_batch(500) == proposed.expected_batch(500)
    assert proposed.adapted.targets == ("all-linear",)  # control: the size does decide
