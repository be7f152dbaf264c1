"""Do all private engines compute the same sum of clipped gradients? Asked before anything is timed.

The reference runs one report at a time through the stock model, clips and adds in float64. The engine without privacy
is the negative control: it does not clip, so it must be found to differ.

    python -m benchmarks.check                     small random models
    python -m benchmarks.check --model bert-small  a model that is timed
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.measure import one_thread, table
from benchmarks.peers import BASELINE, PEERS, PRIVATE, CantRun, Peer, losses_of, numerics, too_slow
from benchmarks.problems import MODELS, Problem, random_reports, stock
from fedrad.data.batches import Tokenized

TOLERANCE = 1e-5
ROUNDED = 2e-2  # engines that are asked to compute in bfloat16
AMPLIFIED = 10  # a sum of clipped gradients passes through a dozen products; each adds about its own error
LENGTHS = (7, 30, 12, 18, 25, 5, 41)


@dataclass(frozen=True)
class Verdict:
    """How far an engine is from the reference.

    Attributes:
        error: relative L2 error over all tensors together; None if it can't run.
        tolerance: what is allowed.
        reason: why it can't run.
    """

    engine: str
    model: str
    adapted: str
    error: float | None
    tolerance: float
    reason: str = ""

    @property
    def agrees(self) -> bool:
        return self.error is not None and self.error < self.tolerance

    @property
    def wrong(self) -> bool:
        """It ran, and gave something else."""
        return self.error is not None and not self.agrees


def uneven(model: str, lengths: Sequence[int]) -> Tokenized:
    """Random reports, of which the i-th has 2 i + 1 labels: random gradients have nearly equal norms otherwise, and an
    engine that does not clip would hardly be noticed."""
    batch = random_reports(model, lengths, seed=1)
    known = np.arange(batch.mask.shape[1])[None, :] <= 2 * np.arange(len(batch))[:, None]
    return replace(batch, mask=known.astype(np.float32))


def reference(problem: Problem, batch: Tokenized) -> tuple[float, dict[str, Tensor]]:
    """The median norm of the reports' gradients, and the sum of the gradients clipped to it: one report at a time."""
    model, tensors = stock(problem)
    rows = []
    for index in range(len(batch)):
        loss = losses_of(model, batch.select(np.array([index]))).sum()
        rows.append([gradient.double() for gradient in torch.autograd.grad(loss, list(tensors.values()))])
    norms = [torch.cat([gradient.flatten() for gradient in row]).norm().item() for row in rows]
    clip = statistics.median(norms)
    factors = [min(1.0, clip / norm) for norm in norms]
    sums = [sum(f * g for f, g in zip(factors, column, strict=True)) for column in zip(*rows, strict=True)]
    return clip, dict(zip(tensors, sums, strict=True))


def relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """|found - expected| / |expected| over all tensors together.

    Raises:
        KeyError: an engine left a tensor out.
    """
    difference = torch.cat([(found[name].double().cpu() - expected[name]).flatten() for name in expected])
    return (difference.norm() / torch.cat([tensor.flatten() for tensor in expected.values()]).norm()).item()


def product_error(device: str) -> float:
    """Relative error of the float32 products that torch calls "medium", the largest over some shapes.

    A matter of the processor: 1e-7 by most, 2e-3 where the factors are rounded to bfloat16 (Intel's AMX).
    """
    generator, errors = torch.Generator().manual_seed(0), []
    for rows, width, outputs in ((7, 32, 40), (256, 32, 40), (64, 512, 2048)):
        x, weight = (torch.randn(n, width, generator=generator).to(device) for n in (rows, outputs))
        exact = x.double() @ weight.double().T
        with numerics("medium", device):
            errors.append(float((linear(x, weight).double() - exact).norm() / exact.norm()))
    return max(errors)


def tolerance(peer: Peer, device: str) -> float:
    """What is allowed to an engine: what its products leave of its precision on this processor."""
    if peer.bfloat16:
        return ROUNDED
    return max(TOLERANCE, AMPLIFIED * product_error(device)) if peer.precision == "medium" else TOLERANCE


def verdicts(problem: Problem, peers: Sequence[Peer], lengths: Sequence[int] = LENGTHS) -> list[Verdict]:
    """Every engine against the reference, clipped at the median norm so that about half of the reports are clipped."""
    batch = uneven(problem.model, lengths)
    clip, expected = reference(replace(problem, device="cpu"), batch)
    found = []
    for peer in peers:
        allowed = tolerance(peer, problem.device)
        try:
            sums = peer.prepare(replace(problem, clip=clip)).clipped_sum(batch)
            error, reason = relative_error(sums, expected), ""
        except CantRun as cause:
            error, reason = None, str(cause)
        found.append(Verdict(peer.name, problem.model, problem.adapted, error, allowed, reason))
    return found


def rows(found: Sequence[Verdict]) -> list[list[str]]:
    return [[v.engine, v.model, v.adapted, v.reason if v.error is None else f"{v.error:.1e}", _word(v)] for v in found]


def _word(verdict: Verdict) -> str:
    return "can't run" if verdict.error is None else "agrees" if verdict.agrees else "DIFFERS"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="default: tiny-bert and tiny-albert")
    parser.add_argument("--adapted", default="qv,all", help="qv, qkv, all")
    options = parser.parse_args()
    one_thread()
    warnings.filterwarnings("ignore", "Full backward hook")
    engines, found, controls = [PEERS[name] for name in PRIVATE], [], []
    if options.model:
        for peer in (peer for peer in engines if too_slow(peer)):
            print(f"{peer.name}: not checked on a large model ({too_slow(peer)})")
        engines = [peer for peer in engines if not too_slow(peer)]
    for model in options.model or ("tiny-bert", "tiny-albert"):
        for adapted in options.adapted.split(","):
            problem = Problem(model, adapted)
            found += verdicts(problem, engines)
            controls += verdicts(problem, [BASELINE])
    print(table(("engine", "model", "adapted", "relative error", ""), rows(found)))
    print("\nnegative control (must differ)\n" + table(("engine", "model", "adapted", "error", ""), rows(controls)))
    if any(v.wrong for v in found) or not all(v.wrong for v in controls):
        sys.exit("check: an engine computes something else, or the negative control went unnoticed.")


if __name__ == "__main__":
    main()
