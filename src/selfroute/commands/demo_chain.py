"""Tokens changing hands: the chain pair writes a few answers together, each token coloured by its writer."""

from __future__ import annotations

import asyncio
from itertools import islice

from rich.text import Text

from selfroute.assemble.pieces import closing
from selfroute.backends.embedded import embedded
from selfroute.commands.terminal import boxed, console
from selfroute.prompts import TEMPLATES
from selfroute.scores.tokens import MaxProbability
from selfroute.strategies.base import Sides, answer
from selfroute.strategies.inside.token_level import TokenLevel
from selfroute.tasks.chain import Chain
from selfroute.types import Sampling, Trace

__all__ = ["demo_chain"]

THRESHOLD = 0.6
PROBLEMS = 6
COLOURS = {"device": "green", "cloud": "bold magenta"}


def demo_chain(*, seed: int = 1) -> list[Trace]:
    """Show answers that device and cloud write together; returns their traces.

    Args:
        seed: of the problems.
    """
    boxed(
        console(),
        "selfroute demo --task chain",
        f"The device writes; where its likeliest token has less than {THRESHOLD:.0%}, the cloud writes one token in "
        "its place. Green is the device's, magenta the cloud's. No head is trained here: what the device learned "
        "wrongly, it is sure of; `selfroute train` with algorithm: reward_head finds more of it.",
    )
    return asyncio.run(_answers(seed))


async def _answers(seed: int) -> list[Trace]:
    task, strategy = Chain(seed=seed), TokenLevel(scorer=MaxProbability(), threshold=THRESHOLD)
    pair = Sides(device=embedded("chain-device"), cloud=embedded("chain-cloud"), template=TEMPLATES[task.template])
    traces = []
    assert pair.cloud is not None
    async with closing(pair.device, pair.cloud):
        for row in islice(task.rows("test"), PROBLEMS):
            trace = await answer(strategy, pair, pair.template.conversation(row.question), Sampling(max_tokens=100))
            # A trace holds what was written, tags included.
            verdict = "right" if task.verify(row, trace.text).correct else f"wrong, it is {row.gold}"
            _show(f"{row.question} ({row.fields['kind']})", trace, verdict)
            traces.append(trace)
    return traces


def _show(title: str, trace: Trace, verdict: str) -> None:
    console().print(Text(title, style="bold"))
    written = Text()
    for segment in trace.segments:
        if segment.part == "answer":
            written.append(segment.text, style=COLOURS[segment.source])
    console().print(written)
    cloud, device = (trace.usage(side).completion_tokens for side in ("cloud", "device"))
    console().print(Text(f"{verdict}; the cloud wrote {cloud} of {cloud + device} tokens\n", style="dim"))
