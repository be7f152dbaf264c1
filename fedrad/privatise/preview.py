"""What happens to texts, token by token: for a screen, or as a page of HTML.

A page holds private text, unless the original tokens are hidden: then it shows their groups and what took their place,
which is what the result holds, and no token that was kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final, NamedTuple

from fedrad.privatise.budgets import GROUPS
from fedrad.privatise.privatiser import DROPPED, Privatiser, Walk
from fedrad.privatise.report import guarantee_lines, seed_source

HIDDEN: Final = "▒▒"  # the same for all tokens, so that no length shows
_HOLDS: Final = (
    "This page holds PRIVATE TEXT: the original tokens stand beside their answers. Keep it like the reports."
)
_HOLDS_NONE: Final = "This page holds no original text: hidden tokens, their groups, and what took their place."
_STYLE: Final = """body{font:16px/2 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}
header{font-size:14px;line-height:1.5}.warn{font-weight:bold;border:2px solid;padding:.5em}
.private{color:#a00}.none{color:#060}span{padding:.1em .3em;border-radius:.2em;white-space:nowrap}
.g1{background:#f4b6b6}.g2{background:#fbe0d2}.g3{background:#cfeccf}.g4{background:#dce6f5}
.gone{text-decoration:line-through}b{font-weight:600}"""


class Step(NamedTuple):
    """One token of a text.

    Attributes:
        token: as the vocabulary spells it.
        group: 1 to 4.
        answer: what took its place; "" if nothing did, None if the profile keeps the token.
    """

    token: str
    group: int
    answer: str | None


def steps(privatiser: Privatiser, walk: Walk) -> Iterator[Step]:
    """What happened to each token of a text."""
    spelt = privatiser.table.tokenizer.convert_ids_to_tokens
    for token, group, answer in zip(walk.tokens.tolist(), walk.groups.tolist(), walk.answers.tolist(), strict=True):
        kept = privatiser.choice.budgets[group] == math.inf
        shown = None if kept else "" if answer == DROPPED else spelt(answer)
        yield Step(spelt(token), group + 1, shown)


def page(privatiser: Privatiser, walks: Sequence[Walk], *, hide: bool) -> str:
    """A page of HTML with these texts.

    Args:
        hide: leave the original tokens out, also those that the profile keeps.
    """
    choice = privatiser.choice
    lines = [
        f"profile {choice.profile}, mechanism {choice.mechanism}, epsilon {choice.epsilon:g}, task: {privatiser.task}",
        f"randomness: {seed_source(privatiser)}",
        *guarantee_lines(privatiser),
    ]
    legend = " ".join(f'<span class="g{k}">{k} {escape(group)}</span>' for k, group in enumerate(GROUPS, 1))
    texts = "\n".join(f"<p>{' '.join(_shown(step, hide) for step in steps(privatiser, walk))}</p>" for walk in walks)
    warning = f'<p class="warn {"none" if hide else "private"}">{_HOLDS_NONE if hide else _HOLDS}</p>'
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>fedrad privatise</title><style>{_STYLE}</style>'
        f"<header>{warning}{''.join(f'<div>{escape(line)}</div>' for line in lines)}<p>{legend}</p></header>\n"
        f"{texts}\n</html>\n"
    )


def _shown(step: Step, hide: bool) -> str:
    token = HIDDEN if hide else escape(step.token)
    if step.answer == "":
        return f'<span class="g{step.group} gone">{token}</span>'
    answer = " kept" if step.answer is None else f" → <b>{escape(step.answer)}</b>"
    return f'<span class="g{step.group}">{token}{answer}</span>'
