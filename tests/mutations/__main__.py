"""``python -m tests.mutations``: breaks fedrad on purpose, and sees whether the tests notice.

python -m tests.mutations                all mutations; exit 0 only if every one is caught
python -m tests.mutations NAME ...       these
python -m tests.mutations --check        only whether every patch applies and every named test exists
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.mutations.run import Broken, check, mutations, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="file name of a patch, without .patch")
    parser.add_argument("--check", action="store_true", help="run no test")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (default: 1)")
    options = parser.parse_args()
    try:
        found = mutations(options.names)
        if options.check:
            problems = check(found)
            print("\n".join([*problems, f"{len(found)} mutations, {len(problems)} problems"]))
            sys.exit(1 if problems else 0)
        # As tests/conftest.py has it; in force before the process from which test runs are forked imports anything.
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        os.environ |= {"TOKENIZERS_PARALLELISM": "false", "FLWR_TELEMETRY_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
        sys.exit(1 if run(found, options.jobs) else 0)
    except Broken as broken:
        sys.exit(f"mutations: {broken}")


if __name__ == "__main__":
    main()
