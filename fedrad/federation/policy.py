"""A hospital's own policy: it clamps or refuses what a server proposes (P40). ``node_config.py`` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedrad.config import Experiment
from fedrad.corpora import CORPORA, label_columns, names_in
from fedrad.errors import PolicyRefusal
from fedrad.model.base import load_base
from fedrad.privacy.plan import PrivacyPlan
from fedrad.settings import CHEST, EMBEDDED, TEXT
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import Task
from fedrad.training.padding import Padding, padding_for
from fedrad.training.setup import Setup, Terms
from fedrad.training.shots import with_examples

DEFAULT_WITNESS = "~/.local/state/fedrad/witness"


@dataclass(frozen=True)
class HospitalPolicy:
    """What one hospital allows, whatever a server asks for.

    Attributes:
        site: the hospital's public name.
        data_name: which loader reads the reports (``data.name``'s choices).
        data_path: the folder or file with the reports, absolute.
        state_dir: where ledger and state live, absolute; back it up, never copy it back.
        epsilon_cap: the most that the ledger may ever hold, at ``delta``.
        model: the base model that this hospital trains on, and no other: the server's choice of a model, tokenizer
            included, would be the choice of a program that runs on every report. The embedded encoder stands for its
            public base too: both are pinned by this package.
        model_sha256: what ``fedrad model`` prints of it; needed for every model but these two.
        delta: the largest delta that a run may state; below 1 / ``declared_size``.
        unit: what this hospital promises to protect, "report" or "patient"; a server that proposes another is refused.
        declared_size: the shard's declared number of these units, a public statement that sets the sampling rate.
        witness_dir: a folder, absolute and outside ``state_dir``, that remembers how far the ledger had come.
        shares_reports_with: other sites, commas between, whose ledgers may be on the same reports (``bindings``): their
            budgets and this one add up.
        allow_seeded: accept noise that the server could regenerate. For tests with made-up reports only.
        allow_bfloat16: accept rounding by which reports change each other's gradients; docs/privacy.md has how far.
        isolate_reports: one report (or patient) in a forward pass, so that no other report touches its gradient even by
            rounding, which a server that chooses the weights could make large; 1.4 times as slow.
        pad_passes: run a number of passes that public figures fix, so that the time of a round does not tell the
            number of reports (``privacy.passes``); needs ``isolate_reports``.
        pad_lengths: let every pass also be as long as the longest report may be, so that its time does not tell the
            reports' lengths; slow.
        answer_every: seconds; the answer to a round leaves at a whole multiple of them after the question; 0: at once.
        max_sampling_rate: the largest share of its units that a step expects to use; a larger batch is cut down.
        max_local_steps: the most steps of a round.
        reports_per_patient: with the patient as unit, the most reports of one patient that a step takes; a smaller
            proposal is taken. They share a pass, so a server's choice would ask by memory who has many.
        device: where the model runs, "cpu", "cuda" or "auto"; the server's proposal counts for nothing.
        batch: its own expected batch; 0: what the server proposes.
        noise_multiplier: with ``batch``, the noise multiplier of every step of every run, instead of the least noise
            that meets the proposed epsilon. The ledger then takes no other steps, and counts them without the filter
            for plans that the server chooses one after another. 0: the proposal decides.
        rank: of its LoRA matrices, under a strategy that can mix ranks; 0: what the server proposes.
        min_quorum: its adapter may only leave in sums of so many hospitals or more, under secure aggregation; 0: in
            clear as well, and where it is summed, in sums of more than half of those that are asked.
        min_colluders: how many of the other hospitals may tell the server all they know without this one losing its
            protection, at least; a run that counts with fewer (``privacy.colluders``) is refused. Needs a
            ``min_quorum`` of two more.
        allow_shared_noise: accept that other hospitals add most of the noise that protects its reports. Needs pinned
            identities and a ``min_quorum``.
        identity_key: file with its private identity key (``identity.py``), absolute; empty: identities are not pinned.
        peers: file with the public identity keys of all hospitals, its own included, absolute.
        text_column, patient_column, site_column, time_column: columns of a ``table``.
        label_columns: label columns of a ``table``, as ``data.label-columns``; needed there.
        map, missing, separator, encoding: how a ``table`` is written, as ``data.map`` and so on.
        classes: where ``label_columns`` is one column of class names: which ones there may be, commas between. Whether
            all of them occur changes nothing.
        privatise, privatise_epsilon, privatise_mechanism, privatise_task: as ``data.privatise`` and so on: whether it
            trains on privatised texts, and how. The server has no say in it.
    """

    site: str
    data_path: str
    state_dir: str
    epsilon_cap: float
    declared_size: int
    data_name: str = "table"
    model: str = EMBEDDED
    model_sha256: str = ""
    unit: str = "report"
    delta: float = 1e-5
    witness_dir: str = DEFAULT_WITNESS
    shares_reports_with: str = ""
    allow_seeded: bool = False
    allow_bfloat16: bool = False
    isolate_reports: bool = True
    pad_passes: bool = True
    pad_lengths: bool = False
    answer_every: float = 0.0
    max_sampling_rate: float = 0.5
    max_local_steps: int = 100
    reports_per_patient: int = 8
    device: str = "cpu"
    batch: int = 0
    noise_multiplier: float = 0.0
    rank: int = 0
    min_quorum: int = 0
    min_colluders: int = 0
    allow_shared_noise: bool = False
    identity_key: str = ""
    peers: str = ""
    text_column: str = "text"
    patient_column: str = ""
    site_column: str = ""
    time_column: str = ""
    label_columns: str = ""
    map: str = ""
    missing: str = "auto"
    separator: str = "auto"
    encoding: str = "utf-8"
    classes: str = ""
    privatise: str = "none"
    privatise_epsilon: float = 0.0
    privatise_mechanism: str = "polar"
    privatise_task: str = "chest x-ray findings"

    @property
    def witness(self) -> Path:
        return Path(self.witness_dir).expanduser()

    @property
    def shares_with(self) -> tuple[str, ...]:
        return names_in(self.shares_reports_with)

    @property
    def task(self) -> Task:
        """What this hospital's reports are labelled for, as it states before one is read."""
        if self.classes:
            return SingleLabel(tuple(sorted(names_in(self.classes))))
        return MultiLabel(CORPORA[self.data_name].labels_of("", label_columns(self.label_columns)))

    def task_for(self, experiment: Experiment) -> Task:
        """The same labels, learnt as the experiment proposes: by a head, or as the text that a decoder writes.

        Whether the base model is a decoder is not the server's to decide: ``model`` names it.

        Raises:
            PolicyRefusal: a decoder is to write several labels for a report.
            ConfigError: it is to be shown generated examples, and this hospital's classes are not the generator's.
        """
        if not experiment.causal:
            return self.task
        if not self.classes:
            raise PolicyRefusal(
                "the server proposes model.task=causal-lm, and a decoder writes one class for each report; this"
                " hospital states several labels (node-config classes states the classes of one column)"
            )
        model = experiment.model
        return with_examples(CausalLM(self.task.labels, model.instruction, model.loss), experiment)

    @property
    def mechanism(self) -> tuple[float, float] | None:
        """Sampling rate and noise multiplier of every step, where both are fixed."""
        if not self.noise_multiplier:
            return None
        return self._batch(self.batch) / self.declared_size, self.noise_multiplier

    def own(self, experiment: Experiment) -> Experiment:
        """The experiment as it runs here: on this hospital's reports, read in its own way, whatever was proposed.

        Of ``data.*`` the server decides where a report is cut, what an uncertain label counts as, and by the size
        that it states what is trained: none of them makes reading fail.
        """
        flat = {key: value for key, value in experiment.flat().items() if not key.startswith("data.")}
        own: dict[str, object] = {
            **flat,
            "data.max-length": experiment.data.max_length,
            "data.uncertain": experiment.data.uncertain,
            "data.declared-size": experiment.data.declared_size,  # decides what `lora.targets=auto` trains, no more
            "train.device": self.device,
            "train.warm-start": experiment.warm_start,  # `auto` goes by the server's data.name
            "privacy.reports-per-patient": min(experiment.privacy.reports_per_patient, self.reports_per_patient),
            "data.name": self.data_name,
            "data.path": self.data_path,
            "data.text-column": self.text_column,
            "data.patient-column": self.patient_column,
            "data.site-column": self.site_column,
            "data.time-column": self.time_column,
            "data.label-columns": self.label_columns,
            "data.classes": self.classes,
            "data.map": self.map,
            "data.missing": self.missing,
            "data.separator": self.separator,
            "data.encoding": self.encoding,
            "data.privatise": self.privatise,
            "data.privatise-epsilon": self.privatise_epsilon,
            "data.privatise-mechanism": self.privatise_mechanism,
            "data.privatise-task": self.privatise_task,
            # This is one hospital: nothing is dealt out here, so no column is needed for it.
            "sites.partition": "iid",
            "sites.alone": 0,
        }
        return Experiment.from_flat(own | ({"train.micro-tokens": 1} if self.isolate_reports else {}))

    def accept_labels(self, labels: tuple[str, ...]) -> None:
        """Before any report is read, so that no answer tells which columns or classes there are.

        Raises:
            PolicyRefusal: the server's head has other labels than this hospital states.
        """
        if labels != self.task.labels:
            raise PolicyRefusal(
                "the server's labels are not those of this hospital's node configuration (label-columns, classes;"
                f" {len(self.task.labels)} of them, in the same order)"
            )

    def accept_model(self, experiment: Experiment) -> None:
        """Before any report is read.

        Raises:
            PolicyRefusal: it is not this hospital's base model, not the pinned one, or a public base is to be built.
            ModelError: it can't be loaded.
        """
        name = experiment.base_name
        if name != self.model and (name, self.model) != (CHEST, EMBEDDED):
            raise PolicyRefusal(
                f"the server proposes the base model {name!r}; this hospital trains {self.model!r} (node-config"
                " model): a model's tokenizer is a program that runs on every report"
            )
        base = load_base(name, experiment.model.revision)
        if self.model_sha256 and base.fingerprint != self.model_sha256:
            raise PolicyRefusal(
                f"the base model {name!r} is not the one that node-config model-sha256 names: it has {base.fingerprint}"
            )
        if experiment.warm_start == "synthetic" and base.public_head is None:
            raise PolicyRefusal(
                f"a warm start needs a public base, and {name!r} is none; built here, it would be another than at the"
                " others. Make one with `fedrad base build` and give it to all, or set train.warm-start=none"
            )

    def authorize(self, experiment: Experiment) -> Terms:
        """Admits a proposal, and returns what this hospital trains by: epsilon clamped to the cap, the batch to the
        largest sampling rate, its own batch and rank.

        Raises:
            PolicyRefusal: the proposal can't be clamped into the policy: no privacy at all, or at the server only,
                noise that the server could regenerate, bfloat16 arithmetic, a larger delta than allowed, a smaller
                quorum, fewer colluders, more steps a round, noise that others should add, or work that grows with the
                longest report.
        """
        privacy = experiment.privacy
        if privacy.epsilon == 0:
            raise PolicyRefusal("the server proposes training without privacy; this hospital does not")
        if privacy.unit == "hospital":
            raise PolicyRefusal(
                "privacy.unit=hospital needs updates without noise; this hospital sends noised ones only"
            )
        if privacy.unit != self.unit:
            raise PolicyRefusal(
                f"the server proposes privacy.unit={privacy.unit}; this hospital promises per {self.unit}, and its"
                " declared size counts them"
            )
        if privacy.noise == "seeded" and not self.allow_seeded:
            raise PolicyRefusal("the server proposes seeded noise, which it could subtract; this hospital uses its own")
        if experiment.train.precision != "float32" and not self.allow_bfloat16:
            raise PolicyRefusal("the server proposes bfloat16, whose rounding epsilon does not cover; ask for float32")
        if privacy.delta > self.delta:
            raise PolicyRefusal(f"the server proposes delta {privacy.delta}; this hospital allows {self.delta}")
        quorum = experiment.sites.quorum if privacy.secure_aggregation else 1
        if quorum < self.min_quorum:
            raise PolicyRefusal(
                f"the adapter would leave in sums of {quorum}; this hospital allows sums of {self.min_quorum} or more"
                " (privacy.secure-aggregation, sites.quorum)"
            )
        if privacy.secure_aggregation and privacy.colluders < self.min_colluders:
            raise PolicyRefusal(
                f"the server counts with {privacy.colluders} hospitals on its side (privacy.colluders); this hospital"
                f" wants to be protected against {self.min_colluders} or more"
            )
        if privacy.shared_noise and not self.allow_shared_noise:
            raise PolicyRefusal(
                "the server proposes shared noise, by which this hospital's reports depend on other hospitals adding"
                " theirs; this hospital adds all of its own"
            )
        if experiment.local_steps > self.max_local_steps:
            raise PolicyRefusal(
                f"the server proposes {experiment.local_steps} steps a round (train.local-steps); this hospital"
                f" takes {self.max_local_steps} at most (node-config max-local-steps)"
            )
        if experiment.causal and experiment.model.loss == TEXT and not self.pad_lengths:
            raise PolicyRefusal(
                "the server proposes model.loss=text, which takes memory by the length of the longest report, so a lack"
                " of it would tell that length; this hospital needs node-config pad-lengths for it"
            )
        batch = self._batch(self.batch or experiment.expected_batch(self.declared_size))
        if privacy.shared_noise and batch != experiment.train.batch:
            raise PolicyRefusal(
                f"shared noise needs the same step size everywhere; this hospital's batch is {batch} (node-config"
                f" batch, max-sampling-rate), the server proposes {experiment.train.batch}"
            )
        return Terms(
            epsilon=min(privacy.epsilon, self.epsilon_cap),
            delta=privacy.delta,
            batch=batch,
            rank=self.rank or experiment.lora.rank,
            noise_multiplier=self.noise_multiplier,
        )

    def _batch(self, wanted: int) -> int:
        """The expected batch, cut down to the largest sampling rate."""
        return min(wanted, max(1, int(self.max_sampling_rate * self.declared_size)))

    def padding(self, setup: Setup, plan: PrivacyPlan) -> Padding | None:
        """The work that a round does whatever the shard holds; None: as much as there is."""
        if not self.pad_passes:
            return None
        return padding_for(setup, plan, reports_per_patient=self.reports_per_patient, full=self.pad_lengths)
