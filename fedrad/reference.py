"""``python -m fedrad.reference`` prints all settings and the rules between them: the text of docs/configuration.md."""

from __future__ import annotations

from fedrad.config import Experiment
from fedrad.keys import KEYS, SECTIONS, shown
from fedrad.rules import documented_rules


def reference() -> str:
    """The text of docs/configuration.md."""
    lines = [_INTRODUCTION]
    for name, section in SECTIONS.items():
        head = "| key | default | what it is | allowed |\n|---|---|---|---|"
        lines += [f"\n## `{name}`\n", f"{section.__doc__}\n", head]
        for key in KEYS.values():
            if key.section == name:
                default = shown(key.plain(key.default))
                lines.append(f"| `{key.name}` | `{default}` | {key.doc} | {key.allowed} |")
    lines += [_RULES, *(f"| `{r.key}` | `{r.other}` | {r.documented} |" for r in documented_rules(Experiment()))]
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# Configuration

<!-- Generated: python -m fedrad.reference > docs/configuration.md -->

The same dotted keys work everywhere:

```bash
.venv/bin/fedrad simulate mimic --set privacy.epsilon=1 --set sites.count=8
PATH="$PWD/.venv/bin:$PATH" flwr run simulations/mimic --run-config 'privacy.epsilon=1.0 sites.count=8'
.venv/bin/python -m fedrad.centralized my.toml --set privacy.epsilon=1
```

In a TOML file they are grouped by section; keys that are not in the file have their defaults:

```toml
[privacy]
epsilon = 1.0

[lora]
targets = "query,key,value"
```

All mistakes in a configuration are reported at once, unknown keys with the most similar known key. In the words that a
key allows, dashes and underscores are equal: `ct-rate` and `ct_rate`. Text needs no quotes in `--set`, but it does in
`--run-config`, which is TOML. Every setting is public: it may be printed, stored and sent to other sites."""

_RULES = """
## Settings that exclude each other

Each row names the setting to change, what it contradicts (another setting, or a way to run), and why; `…` stands for a
figure of the experiment. The command line, the server and each hospital check all rows, and report all that are
violated. `fedrad plan --rules` prints the table.

| change | it contradicts | why |
|---|---|---|"""

if __name__ == "__main__":
    print(reference(), end="")
