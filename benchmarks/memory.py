"""Peak memory of a step: one engine in a process of its own, which prints MB over what model and optimizer took.

Used by step.py, goals.py and scaling.py; by hand:

    python -m benchmarks.memory '{"peer": "opacus hooks", "problem": {"model": "bert-small"}, "work": {"reports": 64}}'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

from benchmarks.measure import growth, one_thread
from benchmarks.peers import PEERS, CantRun
from benchmarks.problems import Problem, Workload


def peak(peer: str, problem: Problem, work: Workload) -> float:
    """MB (10^6 bytes) that steps on all batches of ``work`` add at most.

    Raises:
        CantRun: the engine can't do this problem.
    """
    request = json.dumps({"peer": peer, "problem": asdict(problem), "work": asdict(work)})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", request],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    if "reason" in answer:
        raise CantRun(answer["reason"])
    return float(answer["mb"])


def main() -> None:
    request = json.loads(sys.argv[1])
    one_thread()
    problem = Problem(**request["problem"])
    batches = Workload(**request["work"]).of(problem.model)
    try:
        prepared = PEERS[request["peer"]].prepare(problem)

        def steps() -> None:
            for batch in batches:
                prepared.step(batch)

        print(json.dumps({"mb": growth(steps)}))
    except CantRun as cause:
        print(json.dumps({"reason": str(cause)}))


if __name__ == "__main__":
    main()
