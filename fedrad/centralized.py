"""Centralized DP-LoRA.

python -m fedrad.centralized [CONFIG.toml] [--set dotted.key=value ...] [--out DIR]
"""

from __future__ import annotations

# Not the training itself, whose imports take seconds: help and a mistyped key need none of them.
from fedrad.cli.app import centralized_alone

if __name__ == "__main__":
    centralized_alone()
