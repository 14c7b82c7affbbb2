"""What sessions cost: beside the batched sampler, alone and together, in arrival, in tokens read, and in memory.

    python benchmarks/inside/speed.py                      # all parts, embedded pair
    python benchmarks/inside/speed.py ends --n 500         # threshold 0 and above 1 against each side alone
    python benchmarks/inside/speed.py ends --n 500 --pair smollm2 --at-once 32 --minutes 20   # one model as both sides
    python benchmarks/inside/speed.py ends --n 500 --pair llama_cpp --at-once 8 --minutes 20  # the same on llama.cpp
    python benchmarks/inside/speed.py ends --n 500 --begin 128 ...                            # goes on after the 128th

Every ratio is of two measures of one run, taken in turns: medians of `--rounds` rounds, with the least and the largest
of the rounds' ratios. torch has one thread. `batch` and `together` count CPU seconds of the process, which others at
work on the machine do not lengthen; `arrival` counts the clock's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import psutil
import torch

from selfroute.backends.base import complete, complete_all
from selfroute.backends.embedded import embedded
from selfroute.backends.torch.sampler import sample
from selfroute.errors import SelfRouteError
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prompts import TEMPLATES
from selfroute.scores.tokens import MaxProbability
from selfroute.strategies.base import Sides, answer
from selfroute.strategies.inside.speculative import Speculative
from selfroute.strategies.inside.token_level import TokenLevel
from selfroute.tasks.countdown import Countdown
from selfroute.types import Completion, Message, Sampling

TEMPLATE = TEMPLATES["think"]
SAMPLING = Sampling(max_tokens=160)
MUZZLED = replace(SAMPLING, forbid=(HANDOFF_TEXT,))
PARTS = ("batch", "together", "arrival", "reading", "memory", "ends")


class Pair:
    """Two models of one vocabulary, and questions for them."""

    def __init__(
        self, name: str, count: int, seed: int, *, at_once: int = 256, minutes: float = math.inf, begin: int = 0
    ) -> None:
        self.name, self.at_once, self.minutes, self.begin = name, at_once, minutes, begin
        if name == "smollm2":
            from selfroute.backends.llama_cpp import find_smollm2
            from selfroute.backends.transformers import TransformersBackend

            self.device: Any = TransformersBackend.load(find_smollm2(), name="device", dtype="float32", device="cpu")
            self.cloud: Any = self.device
            self.sampling = Sampling(max_tokens=24)
        elif name == "llama_cpp":
            from selfroute.backends.llama_cpp import LlamaCppBackend, find_smollm2

            self.device = LlamaCppBackend(find_smollm2(), name="device", slots=8, context_tokens=1024, threads=1)
            self.cloud = self.device
            self.sampling = Sampling(max_tokens=24)
        else:
            self.device, self.cloud = embedded("device"), embedded("cloud", samples=1)
            self.sampling = SAMPLING
        rows = islice(Countdown(limit=count, seed=seed).rows("test"), count)
        self.questions = [TEMPLATE.conversation(row.question) for row in rows]
        self.sides = Sides(device=self.device, cloud=self.cloud, template=TEMPLATE)

    def prompts(self) -> list[list[Message]]:
        """As the device sees them."""
        return [list(TEMPLATE.device_messages(question, offer_handoff=False)) for question in self.questions]

    @property
    def muzzled(self) -> Sampling:
        """As the device is asked; llama.cpp can be forbidden nothing."""
        return self.sampling if self.name == "llama_cpp" else replace(self.sampling, forbid=(HANDOFF_TEXT,))


def spread(ratios: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "largest": round(max(ratios), 3),
        "rounds": len(ratios),
    }


async def seconds(work: Callable[[], Awaitable[Any]]) -> float:
    """CPU seconds of all threads of this process."""
    began = time.process_time()
    await work()
    return time.process_time() - began


async def batch(pair: Pair, rounds: int) -> dict[str, Any]:
    """64 answers of the device: sessions at threshold 0 against the batched sampler, and plain streams against it."""
    prompts = pair.prompts()[:64]
    strategy = TokenLevel(scorer=MaxProbability(), threshold=0.0)

    async def sampler() -> None:
        pair.device.generate_batch(prompts, MUZZLED)

    async def sessions() -> None:
        await asyncio.gather(*(answer(strategy, pair.sides, q, SAMPLING) for q in pair.questions[:64]))

    async def streams() -> None:
        await asyncio.gather(*(complete(pair.device, prompt, MUZZLED) for prompt in prompts))

    for warm in (sampler, sessions, streams):
        await warm()
    found: dict[str, list[float]] = {"sessions": [], "streams": []}
    for _ in range(rounds):
        base = await seconds(sampler)
        found["sessions"].append(await seconds(sessions) / base)
        found["streams"].append(await seconds(streams) / base)
    return {f"{name} / sampler, 64 answers": spread(ratios) for name, ratios in found.items()}


async def together(pair: Pair, rounds: int) -> dict[str, Any]:
    """Tokens per second of 32 sessions against those of one."""
    strategy = TokenLevel(scorer=MaxProbability(), threshold=0.0)

    async def rate(count: int) -> float:
        began = time.process_time()
        traces = await asyncio.gather(*(answer(strategy, pair.sides, q, SAMPLING) for q in pair.questions[:count]))
        tokens = sum(trace.usage("device").completion_tokens for trace in traces)
        return tokens / (time.process_time() - began)

    await rate(32)
    return {"tokens per CPU second, 32 sessions / one": spread([await rate(32) / await rate(1) for _ in range(rounds)])}


class BatchAfterBatch:
    """How streams were served before: those that wait are written together, once the batch before them is over."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.waiting: list[tuple[list[int], float, list[float]]] = []
        self.running = True
        self.wake = threading.Condition()
        self.worker = threading.Thread(target=self._work)
        self.worker.start()

    def ask(self, prompt: list[int], waits: list[float]) -> None:
        with self.wake:
            self.waiting.append((prompt, time.perf_counter(), waits))
            self.wake.notify()

    def close(self) -> None:
        with self.wake:
            self.running = False
            self.wake.notify()
        self.worker.join()

    def _work(self) -> None:
        while True:
            with self.wake:
                self.wake.wait_for(lambda: self.waiting or not self.running)
                if not self.waiting:
                    return
            time.sleep(0.002)
            with self.wake:
                taken, self.waiting = self.waiting, []
            first = [True]

            def on_step(step: Any, taken: Any = taken, first: Any = first) -> list[int]:
                if first[0]:
                    now = time.perf_counter()
                    for _, began, waits in taken:
                        waits.append(now - began)
                    first[0] = False
                return []

            sample(
                self.backend.model,
                [prompt for prompt, _, _ in taken],
                max_new_tokens=SAMPLING.max_tokens,
                eos_token_ids=self.backend._eos,
                pad_token_id=0,
                temperature=0.0,
                on_step=on_step,
            )


async def arrival(pair: Pair, rounds: int) -> dict[str, Any]:
    """95th percentile of the time to the first token: 60 plain streams, one each `gap`, while others are written."""
    prompts = [pair.device._encode(prompt) for prompt in pair.prompts()[:60]]
    started = time.perf_counter()
    await complete(pair.device, pair.prompts()[0], SAMPLING)
    gap = (time.perf_counter() - started) / 4  # so that some are under way whenever one comes

    async def now() -> float:
        waits: list[float] = []

        async def one(messages: list[Message]) -> None:
            began = time.perf_counter()
            first = True
            async for _ in pair.device.stream(messages, SAMPLING):
                if first:
                    waits.append(time.perf_counter() - began)
                    first = False

        tasks = []
        for messages in pair.prompts()[:60]:
            tasks.append(asyncio.create_task(one(messages)))
            await asyncio.sleep(gap)
        await asyncio.gather(*tasks)
        return statistics.quantiles(waits, n=20)[-1]

    async def before() -> float:
        waits: list[float] = []
        served = BatchAfterBatch(pair.device)
        for prompt in prompts:
            served.ask(prompt, waits)
            await asyncio.sleep(gap)
        await asyncio.to_thread(served.close)
        return statistics.quantiles(waits, n=20)[-1]

    ratios = [await now() / await before() for _ in range(rounds)]
    return {"p95 to the first token, joining / batch after batch": spread(ratios)}


async def reading(pair: Pair, rounds: int) -> dict[str, Any]:
    """Tokens that the cloud reads: its session is kept, against prompt and text sent with every call."""
    shares: list[dict[str, float]] = []
    for threshold in (0.5, 0.6, 0.7, 0.8):
        strategy = TokenLevel(scorer=MaxProbability(), threshold=threshold)
        traces = await asyncio.gather(*(answer(strategy, pair.sides, q, SAMPLING) for q in pair.questions))
        kept = resent = cloud = every = 0
        for trace, question in zip(traces, pair.questions, strict=True):
            used, prompt, before = trace.usage("cloud"), len(pair.cloud._encode(question)), 0
            kept += used.prompt_tokens
            cloud += used.completion_tokens
            every += used.completion_tokens + trace.usage("device").completion_tokens
            for segment in trace.segments:
                resent += prompt + before if segment.source == "cloud" else 0
                before += segment.usage.completion_tokens
        shares.append({"share": round(cloud / every, 4), "times fewer": round(resent / max(1, kept), 2)})
    return {"tokens read, re-sent / kept session": shares}


async def memory(pair: Pair, rounds: int) -> dict[str, Any]:
    """K/V bytes of 64 sessions at work over what their tokens need; and what 10,000 sessions leave behind."""
    config = pair.device.model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    sessions = [pair.device.session(prompt, SAMPLING) for prompt in pair.prompts()[:64]]
    pool, ratios = pair.device._running().pool, []
    for _ in range(10):
        await asyncio.gather(*(session.write(10) for session in sessions if not ended(pair, session)))
        tokens = sum(session.used.layer_tokens for session in sessions) // config.num_hidden_layers
        ratios.append(pool.bytes / (tokens * per_token))
    await asyncio.sleep(0.2)
    resting = pool.bytes / (tokens * per_token)
    for session in sessions:
        await session.close()
    del sessions, session
    sizes = [await _ten_thousand(pair, part) for part in range(10)]
    return {
        "K/V over layers × 2 × heads × size × tokens × bytes, at work": spread(ratios),
        "the same, at rest": round(resting, 3),
        "resident MB after each 1,000 of 10,000 sessions": sizes,
        "rows left": pool.held,
        "K/V bytes left": pool.bytes,
    }


def ended(pair: Pair, session: Any) -> bool:
    return bool(session.ids) and session.ids[-1] in pair.device._eos


async def _ten_thousand(pair: Pair, part: int) -> float:
    for _ in range(1000 // 50):
        prompts = pair.prompts()
        sessions = [pair.device.session(prompts[i % len(prompts)], SAMPLING) for i in range(50)]
        await asyncio.gather(*(session.write(2) for session in sessions))
        for i, session in enumerate(sessions):
            if i % 3:  # a third is abandoned
                await session.close()
        del sessions, session
    gc.collect()
    await asyncio.sleep(0.2)
    return round(psutil.Process(os.getpid()).memory_info().rss / 2**20, 1)


def as_text(answer: Completion | SelfRouteError) -> str:
    if isinstance(answer, SelfRouteError):
        raise answer
    return answer.text


ENDS: dict[str, tuple[Any, str]] = {
    "threshold 0": (TokenLevel(scorer=MaxProbability(), threshold=0.0), "device"),
    "threshold 1.01": (TokenLevel(scorer=MaxProbability(), threshold=1.01), "cloud"),
    "threshold 1.01, 4 at a time": (TokenLevel(scorer=MaxProbability(), threshold=1.01, tokens=4), "cloud"),
    "speculative": (Speculative(), "cloud"),
}


async def ends(pair: Pair, rounds: int) -> dict[str, Any]:
    """Answers that are each side's alone, token for token: `--at-once` together, and a tenth of them one by one.

    Either is compared with answers that a side gave alone in the same way: llama.cpp rounds passes over several slots
    otherwise than those over one.
    """
    until = time.monotonic() + 60 * pair.minutes
    equal = {name: {"at once": 0, "one by one": 0} for name in ENDS}
    reached = singly = 0
    for begin in range(pair.begin, len(pair.questions), pair.at_once):
        if time.monotonic() > until:
            break
        part = range(begin, min(begin + pair.at_once, len(pair.questions)))
        few = part[: max(1, len(part) // 10)]
        alone = await _alone(pair, part)
        singles = [await _alone(pair, range(i, i + 1)) for i in few]
        for name, (strategy, side) in ENDS.items():
            together = await asyncio.gather(*(_text(pair, strategy, i) for i in part))
            equal[name]["at once"] += sum(a == b for a, b in zip(together, alone[side], strict=True))
            one_by_one = [await _text(pair, strategy, i) for i in few]
            equal[name]["one by one"] += sum(a == b[side][0] for a, b in zip(one_by_one, singles, strict=True))
        reached, singly = reached + len(part), singly + len(few)
        print(json.dumps({"reached": reached, "one by one": singly, "equal": equal}), file=sys.stderr, flush=True)
    return {"n": reached, "of them one by one": singly, "equal": equal}


async def _alone(pair: Pair, part: range) -> dict[str, list[str]]:
    """What each side answers without the other."""
    prompts, questions = pair.prompts(), pair.questions
    device = await complete_all(pair.device, [prompts[i] for i in part], pair.muzzled)
    cloud = await complete_all(pair.cloud, [questions[i] for i in part], pair.sampling)
    return {"device": [as_text(a) for a in device], "cloud": [as_text(a) for a in cloud]}


async def _text(pair: Pair, strategy: Any, i: int) -> str:
    return (await answer(strategy, pair.sides, pair.questions[i], pair.sampling)).text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", default=["batch", "together", "arrival", "reading", "memory"])
    parser.add_argument("--n", type=int, default=64, help="questions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pair", choices=("embedded", "smollm2", "llama_cpp"), default="embedded")
    parser.add_argument("--at-once", type=int, default=256, help="of ends: questions together")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of ends: begin no more questions then")
    parser.add_argument("--begin", type=int, default=0, help="of ends: the first question")
    options = parser.parse_args()
    if wrong := [part for part in options.parts if part not in PARTS]:
        parser.error(f"unknown part '{wrong[0]}'; known: {', '.join(PARTS)}")
    torch.set_num_threads(1)
    limits = {"at_once": options.at_once, "minutes": options.minutes, "begin": options.begin}
    pair = Pair(options.pair, options.n, options.seed, **limits)
    for part in options.parts:
        measure: Callable[[Pair, int], Awaitable[dict[str, Any]]] = globals()[part]
        found = asyncio.run(_run(measure, pair, options.rounds))
        print(json.dumps({part: found}, indent=2, ensure_ascii=False), flush=True)


async def _run(measure: Callable[[Pair, int], Awaitable[dict[str, Any]]], pair: Pair, rounds: int) -> dict[str, Any]:
    return await measure(pair, rounds)


if __name__ == "__main__":
    main()
