"""Who takes part in a run and with what weight: hospitals, found among the nodes that are connected."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrad.config import Experiment
from fedrad.errors import ConfigError, RefusedReply, SitesMissing
from fedrad.federation.messages import Failure, Hello, labels_digest, read_answer
from fedrad.model.adapter import LoRASpec
from fedrad.training.corpus import site_name
from fedrad.training.setup import terms_of


@dataclass(frozen=True)
class Participant:
    """A site and the node that it answers on. Several simulated sites may share a node (``index`` tells them apart).

    Attributes:
        declared_weight: its declared size.
        rank: of its LoRA matrices.
        delta: that its budget is stated at.
        labels: digest of the labels that a real one states.
    """

    site: str
    node: int
    index: int
    declared_weight: int
    rank: int
    delta: float
    labels: str = ""


@dataclass(frozen=True)
class Federation:
    """The public facts of a run.

    Attributes:
        run: names the run.
        labels: the label names.
        hospitals: who takes part, sorted by site.
        directory: where simulated hospitals keep their ledgers, by site; empty for real ones.
        trainable: names of all tensors that the structure lets train.
        lora: the adapter's structure at the server.
    """

    run: str
    experiment: Experiment
    labels: tuple[str, ...]
    hospitals: tuple[Participant, ...]
    directory: str
    trainable: frozenset[str]
    lora: LoRASpec


def connect(
    grid: Grid, experiment: Experiment, known_sites: Collection[str] = ()
) -> tuple[bool, tuple[Participant, ...]]:
    """Asks the connected nodes who they are, until enough hospitals are there.

    Nodes of Flower's simulation stand for any hospital, so ``sites.count`` hospitals are dealt out to as many nodes as
    there are. Real nodes name their hospital.

    Args:
        known_sites: the hospitals that a resumed run began with; real ones that are not among them don't count.

    Returns:
        Whether the hospitals are simulated, and the hospitals, sorted by site.

    Raises:
        SitesMissing: not enough within ``sites.connect-timeout`` seconds; says who was there.
        ConfigError: two nodes claim the same hospital, or some are simulated and some are not.
    """
    count, limit = experiment.sites.count, experiment.sites.connect_timeout
    deadline = time.monotonic() + limit
    known: dict[int, Hello] = {}
    while True:
        nodes = sorted(grid.get_node_ids())
        known = {node: known[node] for node in nodes if node in known}
        known |= _introductions(grid, [node for node in nodes if node not in known], deadline)
        simulated = sorted(node for node, hello in known.items() if hello.simulated)
        if simulated and len(simulated) < len(known):
            raise ConfigError("simulated nodes and real hospitals are connected to the same SuperLink; keep them apart")
        if simulated:
            return True, tuple(
                _simulated(experiment, index, simulated[index % len(simulated)]) for index in range(count)
            )
        real = {hello.site: _real(experiment, hello, node) for node, hello in known.items()}
        if len(real) < len(known):
            raise ConfigError("two nodes claim the same hospital; give each its own site in its node configuration")
        real = {site: one for site, one in real.items() if not known_sites or site in known_sites}
        if len(real) >= count:
            return False, tuple(real[site] for site in sorted(real)[:count])
        if time.monotonic() > deadline:
            there = ", ".join(sorted(real)) or "none"
            raise SitesMissing(
                f"{len(real)} of {count} hospitals connected within {limit:g} s ({there}). Start the missing ones,"
                " or change sites.count or sites.connect-timeout."
            )
        print(f"waiting for hospitals: {len(real)} of {count} connected", flush=True)
        time.sleep(min(3.0, max(0.1, limit / 20)))


def refuse_other_labels(participants: Sequence[Participant], names: Sequence[str]) -> None:
    """Before the warm start, and before any hospital is asked to train: each would refuse.

    Raises:
        ConfigError: naming the real hospitals that state other labels than the run's.
    """
    if other := [one.site for one in participants if one.labels != labels_digest(names)]:
        raise ConfigError(
            [
                f"data.label-columns: {', '.join(other)} states other labels, or another order, than this run's"
                f" ({', '.join(names)}). Either set the hospitals' labels, without a test set: data.name=none"
                " data.label-columns=A,B (and data.classes, for one column of class names); or give the server public"
                " reports that have them: data.name=table data.path=FILE data.text-column=TEXT data.label-columns=A,B."
                " A hospital states its own in its node configuration: label-columns, classes"
            ]
        )


def _simulated(experiment: Experiment, index: int, node: int) -> Participant:
    terms = terms_of(experiment, index)
    return Participant(site_name(index), node, index, declared_weight=0, rank=terms.rank, delta=terms.delta)


def _real(experiment: Experiment, hello: Hello, node: int) -> Participant:
    rank, delta = hello.rank or experiment.lora.rank, experiment.privacy.delta
    return Participant(hello.site, node, -1, hello.declared_weight, rank, delta, hello.labels)


def _introductions(grid: Grid, nodes: list[int], deadline: float) -> Mapping[int, Hello]:
    if not nodes:
        return {}
    questions = [Message(content=RecordDict(), message_type=MessageType.QUERY, dst_node_id=node) for node in nodes]
    introduced = {}
    for answer in grid.send_and_receive(questions, timeout=max(1.0, deadline - time.monotonic())):
        node = answer.metadata.src_node_id
        if answer.has_error():
            print(f"node {node} could not introduce itself", flush=True)
            continue
        try:
            hello: Hello | Failure | None = read_answer(answer.content, Hello)
        except RefusedReply:
            hello = None
        if isinstance(hello, Hello):
            introduced[node] = hello
        else:
            print(f"node {node}: its node configuration is wrong, or is for another app; see its log", flush=True)
    return introduced


def public_weights(declared: Sequence[int], noise: Sequence[float], rule: str) -> list[float]:
    """Weights that sum to 1, from public figures only (decision 6). One hospital has exactly 1.0.

    Args:
        declared: declared sizes.
        noise: standard deviations of the noise in a step's mean gradient, by the plans.
        rule: "uniform", "declared", or "inverse-variance": proportional to 1 / noise^2, which gives the mean of least
            noise. It favours hospitals with much data or a large budget.
    """
    if rule == "uniform" or len(declared) == 1:
        return [1.0 / len(declared)] * len(declared)
    parts = [1 / sd**2 for sd in noise] if rule == "inverse-variance" else [float(size) for size in declared]
    return [part / sum(parts) for part in parts]
