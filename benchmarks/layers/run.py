"""One model in two places: what exits save, what codecs cost, what sending at once saves, and what an endpoint keeps.

    python benchmarks/layers/run.py exits --exits out/chain/exits-{seed}/checkpoint --seeds 1,2,3 --n 800
    python benchmarks/layers/run.py codecs --seeds 1,2,3 --n 800
    python benchmarks/layers/run.py stall --exits out/chain/exits-1/checkpoint --n 40
    python benchmarks/layers/run.py speed --exits out/chain/exits-1/checkpoint --n 40
    python benchmarks/layers/run.py memory --n 10000
    python benchmarks/layers/run.py smollm2 --n 6

`exits` writes many answers in one pass: the whole model's states at each place, and the token that the rule takes
there. With exact states and keys that are computed anew this is what the strategy itself writes; the first `--check`
answers are written by the strategy as well, and their text, the cloud's tokens and its positions compared. The exits of
each seed are trained on problems of their own (`selfroute train recipes/chain/exits.yaml seed=SEED`) and tested on
others. Ratios are of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import psutil
import torch

from selfroute.backends.base import Backend, capability, complete
from selfroute.backends.embedded import embedded
from selfroute.backends.exits import ExitBackend
from selfroute.backends.exits import exits as load_exits
from selfroute.backends.layers import Layered, Sending
from selfroute.network.layer_messages import Push, encode_push
from selfroute.network.link import Network
from selfroute.network.states import Block, Codec, decode_states, encode_states, position_bytes
from selfroute.prompts import PromptTemplate
from selfroute.strategies.base import Sides, answer
from selfroute.strategies.inside.early_exit import EarlyExit
from selfroute.tasks.chain import Chain
from selfroute.types import Message, Sampling, Trace

PLAIN = PromptTemplate("", "", "{question}")
POINTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.01)
SAMPLING = Sampling(max_tokens=100)
CODECS: tuple[Codec, ...] = ("fp32", "fp16", "int8", "int8_plain", "int4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--exits", default="out/chain/exits-{seed}/checkpoint")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--n", type=int, default=800)
    parser.add_argument("--check", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(PARTS[told.part](told), indent=2))


def questions(seed: int, count: int) -> list[tuple[Any, list[Message]]]:
    """Rows of the chain task, and what the whole model is asked."""
    task = Chain(limit=count, seed=seed)
    template = PromptTemplate("", "", "{question}. Let me solve this step by step.")
    return [(row, template.conversation(row.question)) for row in islice(task.rows("test"), count)]


# --- exits ---------------------------------------------------------------------------------------------------------


@dataclass
class Written:
    """One answer: its tokens, and which exit wrote each; the number of exits stands for the cloud."""

    prompt: int
    tokens: list[int]
    by: list[int]


@torch.inference_mode()
def write_all(whole: Any, device: ExitBackend, prompts: Sequence[list[int]], threshold: float) -> list[Written]:
    """Greedy answers under the rule, for many prompts in one pass; keys and values are those of the whole model."""
    from transformers import DynamicCache

    most = max(map(len, prompts))
    ids = torch.tensor([[0] * (most - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (most - len(p)) + [1] * len(p) for p in prompts])
    found, live, cache = [Written(len(p), [], []) for p in prompts], list(range(len(prompts))), DynamicCache()
    while live:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        made = whole.model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, output_hidden_states=True
        )
        tokens, by = chosen(device, made, threshold)
        keep = []
        for row, number in enumerate(live):
            found[number].tokens.append(tokens[row])
            found[number].by.append(by[row])
            if tokens[row] not in whole._eos and len(found[number].tokens) < SAMPLING.max_tokens:
                keep.append(row)
        live = [live[row] for row in keep]
        cache.batch_select_indices(torch.tensor(keep, dtype=torch.long))
        ids = torch.tensor([[tokens[row]] for row in keep])
        mask = torch.cat([mask[keep], torch.ones(len(keep), 1, dtype=mask.dtype)], dim=1)
    return found


def chosen(device: ExitBackend, made: Any, threshold: float) -> tuple[list[int], list[int]]:
    """The token that the rule takes for each row, and the number of the exit that wrote it."""
    tokens = made.logits[:, -1].argmax(-1)
    by = torch.full_like(tokens, len(device.exits))
    for number, (layers, leave) in reversed(list(enumerate(device._exits))):
        most, own = leave(made.hidden_states[layers][:, -1]).softmax(-1).max(-1)
        stands = most >= threshold
        tokens, by = torch.where(stands, own, tokens), torch.where(stands, number, by)
    return tokens.tolist(), by.tolist()


def exits(told: argparse.Namespace) -> dict[str, Any]:
    """Accuracy, who writes, and bytes, at several thresholds; mean and deviation over seeds."""
    rows: dict[float, list[dict[str, float]]] = {point: [] for point in POINTS}
    checked, alone = [], []
    for seed in map(int, told.seeds.split(",")):
        whole: Any = embedded("chain-cloud")
        device, asked = load_exits(told.exits.format(seed=seed)), questions(seed, told.n)
        prompts = [whole.prompt_ids(messages) for _, messages in asked]
        for point in POINTS:
            found = [w for i in range(0, told.n, 200) for w in write_all(whole, device, prompts[i : i + 200], point)]
            rows[point].append(facts(whole, [row for row, _ in asked], found, seed))
        alone.append(right(device, asked, seed))
        checked.append(asyncio.run(compare(whole, device, asked[: told.check], prompts[: told.check])))
    table = {str(point): over_seeds(values) for point, values in rows.items()}
    spread = over_seeds([{"accuracy": each} for each in alone])
    return {"n": told.n, "seeds": told.seeds, "points": table, "last exit alone": spread, "as the strategy": checked}


def right(device: ExitBackend, asked: Sequence[tuple[Any, list[Message]]], seed: int) -> float:
    """Part of the answers of the last exit alone that are right."""
    task = Chain(limit=len(asked), seed=seed)
    answers = device.generate_batch([messages for _, messages in asked], SAMPLING)
    return statistics.fmean(
        task.verify(row, answer.text).quality >= 0.5 for (row, _), answer in zip(asked, answers, strict=True)
    )


def facts(whole: Any, rows: Sequence[Any], found: Sequence[Written], seed: int) -> dict[str, float]:
    task = Chain(limit=len(rows), seed=seed)
    texts = [whole.tokenizer.decode(w.tokens, skip_special_tokens=True) for w in found]
    right = [task.verify(row, text).quality >= 0.5 for row, text in zip(rows, texts, strict=True)]
    by = [number for w in found for number in w.by]
    positions = [w.prompt + len(w.tokens) - 1 for w in found]
    shares = {f"exit {number + 1}": by.count(number) / len(by) for number in range(2)}
    return {
        "accuracy": statistics.fmean(right),
        **shares,
        "cloud": by.count(2) / len(by),
        "fp16 bytes of states": statistics.fmean(positions) * position_bytes("fp16", 128),
        "fp32, sent again for every token": statistics.fmean(
            sum(w.prompt + i for i in range(len(w.tokens))) * position_bytes("fp32", 128) for w in found
        ),
        "cloud positions": statistics.fmean(asked_positions(w) for w in found),
    }


def asked_positions(written: Written) -> int:
    """Positions that the cloud's layers ran: all before the last token that it wrote."""
    last = max((i for i, number in enumerate(written.by) if number == 2), default=-1)
    return written.prompt + last if last >= 0 else 0


async def compare(
    whole: Backend, device: ExitBackend, asked: Sequence[tuple[Any, list[Message]]], prompts: Sequence[list[int]]
) -> str:
    """How many answers the strategy itself writes alike, in text, cloud tokens and positions of the cloud."""
    same, strategy = 0, EarlyExit(thresholds=(0.9,), sending=Sending(codec="fp32"))
    expected = write_all(whole, device, prompts, 0.9)
    for (_, messages), written in zip(asked, expected, strict=True):
        trace = await answer(strategy, Sides(device=device, cloud=whole, template=PLAIN), messages, SAMPLING)
        used = trace.usage("cloud")
        text = device.tokenizer.decode(written.tokens, skip_special_tokens=True)
        same += (trace.text, used.completion_tokens, used.prompt_tokens) == (
            text, written.by.count(2), asked_positions(written)
        )  # fmt: skip
    return f"{same} of {len(expected)}"


def over_seeds(values: Sequence[dict[str, float]]) -> dict[str, str]:
    spread = {name: [value[name] for value in values] for name in values[0]}
    return {
        name: f"{statistics.fmean(v):.4g} ± {statistics.stdev(v) if len(v) > 1 else 0.0:.2g}"
        for name, v in spread.items()
    }


def codecs(told: argparse.Namespace) -> dict[str, Any]:
    """Accuracy of the whole model with states behind its first layer written and read again, by codec and seed."""
    found: dict[str, Any] = {}
    for seed in map(int, told.seeds.split(",")):
        whole: Any = embedded("chain-cloud")
        asked, task = questions(seed, told.n), Chain(limit=told.n, seed=seed)
        for codec in ("fp32", "int8", "int8_plain", "int4"):
            hook = whole.model.model.layers[0].register_forward_hook(carried(codec))
            answers = whole.generate_batch([messages for _, messages in asked], SAMPLING)
            hook.remove()
            right = [
                task.verify(row, answer.text).quality >= 0.5 for (row, _), answer in zip(asked, answers, strict=True)
            ]
            found.setdefault(codec, []).append(statistics.fmean(right))
    return {"n": told.n, "seeds": told.seeds, "right behind layer 1": found}


def carried(codec: Codec) -> Any:
    """A hook that takes what a layer gives through a codec, position by position."""

    def through(module: Any, given: Any, states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, states.shape[-1])
        came = decode_states(encode_states(Block(0, flat.numpy()), codec), width=flat.shape[1])
        return torch.from_numpy(came.states.copy()).reshape(states.shape)

    return through


# --- time ----------------------------------------------------------------------------------------------------------


class Wire(Backend):
    """A cloud behind a link: what goes up takes its turn on it, and half a round trip each way."""

    def __init__(self, inner: Backend, network: Network) -> None:
        self.inner, self.name, self.network = inner, inner.name, network
        self.free = 0.0

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Any:
        assert self.inner is not None
        return self.inner.stream(messages, sampling)

    def tail(self, first: int) -> Any:
        assert self.inner is not None
        return _Carried(self, capability(self.inner, Layered).tail(first))


class _Carried:
    def __init__(self, wire: Wire, tail: Any) -> None:
        self._wire, self._tail = wire, tail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tail, name)

    async def carry(self, data: bytes) -> bytes:
        wire, network, now = self._wire, self._wire.network, time.perf_counter()
        wire.free = max(now, wire.free) + network.up_s(len(data))
        await asyncio.sleep(wire.free - now + network.rtt_s / 2)
        reply: bytes = await self._tail.carry(data)
        await asyncio.sleep(network.rtt_s / 2 + network.down_s(len(reply)))
        return reply


def stall(told: argparse.Namespace) -> dict[str, Any]:
    """How long the device waits for the cloud: sending at once, in one burst with a question, or blocked by each."""
    whole, network = embedded("chain-cloud"), Network(rtt_s=0.02, uplink_mbps=10.0)
    device = load_exits(told.exits.format(seed=1))

    async def waits(upload: Any) -> float:
        strategy = EarlyExit(thresholds=(0.9,), sending=Sending(codec="fp16", upload=upload))
        sides = Sides(device=device, cloud=Wire(whole, network), template=PLAIN)
        traces = [await answer(strategy, sides, messages, SAMPLING) for _, messages in questions(1, told.n)]
        return sum(s.seconds for trace in traces for s in trace.segments if s.source == "cloud")

    uploads = ("eager", "late", "blocking")
    rounds = [{upload: asyncio.run(waits(upload)) for upload in uploads} for _ in range(told.rounds)]
    found: dict[str, Any] = {"n": told.n}
    for other in ("late", "blocking"):
        ratios = [each["eager"] / each[other] for each in rounds]
        found[f"stall, eager / {other}"] = {"median": statistics.median(ratios), "of rounds": ratios}
    return found


def speed(told: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of the cut model above threshold 1 beside the whole model's, one answer at a time."""
    whole = embedded("chain-cloud")
    device, asked = load_exits(told.exits.format(seed=1)), [messages for _, messages in questions(1, told.n)]

    async def cut() -> list[Trace]:
        strategy = EarlyExit(thresholds=(1.01,), sending=Sending(codec="fp32", upload="late"))
        return [await answer(strategy, Sides(device=device, cloud=whole, template=PLAIN), m, SAMPLING) for m in asked]

    async def uncut() -> list[Any]:
        return [await complete(whole, messages, SAMPLING) for messages in asked]

    ratios = []
    for _ in range(told.rounds):
        spent = []
        for run in (cut, uncut):
            began = time.process_time()
            texts = [made.text for made in asyncio.run(run())]
            spent.append((time.process_time() - began, texts))
        assert spent[0][1] == spent[1][1]
        ratios.append(spent[0][0] / spent[1][0])
    return {"n": told.n, "cut / whole": statistics.median(ratios), "of rounds": ratios}


# --- memory --------------------------------------------------------------------------------------------------------


def memory(told: argparse.Namespace) -> dict[str, Any]:
    """What stays of answers opened and closed, a third of them abandoned."""
    whole = embedded("chain-cloud")
    tail: Any = capability(whole, Layered).tail(1)
    tail._idle_s, tail._most_open = 1.0, 1 << 20
    states = encode_states(Block(0, np.ones((32, 128), np.float32)), "fp16")
    sizes: list[tuple[int, float, int]] = []

    async def run() -> None:
        model, draw = bytes.fromhex(tail.whole.weights), random.Random(0)
        for number in range(told.n):
            push = Push(session=number.to_bytes(16), model=model, first=1, states=states, wanted=32)
            await tail.carry(encode_push(replace(push, wanted=32 if number % 4 == 0 else 0)))
            if draw.random() > 1 / 3:
                await tail.carry(encode_push(replace(push, states=b"", wanted=0, closes=True)))
            if number % (told.n // 10) == told.n // 10 - 1:
                await asyncio.sleep(2.5)
                gc.collect()
                sizes.append((number + 1, psutil.Process().memory_info().rss / 2**20, len(tail)))

    asyncio.run(run())
    return {"opened, MiB, still open": sizes}


# --- a pretrained model --------------------------------------------------------------------------------------------

TEXTS = (
    "Explain in two sentences why the sky is blue.",
    "Write a short note to a neighbour about a parcel.",
    "What is the difference between a list and a tuple in Python?",
    "Name three rivers in Europe and one fact about each.",
    "Give me a recipe for pancakes in four steps.",
    "Summarise the plot of Romeo and Juliet.",
    "Why do cats purr?",
    "Translate 'good morning, how are you' to Spanish.",
)


@torch.inference_mode()
def smollm2(told: argparse.Namespace) -> dict[str, Any]:
    """SmolLM2 cut in two, whole answers teacher-forced: equal tokens and the worst logit, by cut and codec."""
    from selfroute.backends.llama_cpp import find_smollm2
    from selfroute.backends.transformers import TransformersBackend

    whole = TransformersBackend.load(find_smollm2(), name="smollm2", dtype="float32", device="cpu")
    cut, answers = whole.cut, []
    for text in TEXTS[: told.n]:
        prompt = whole.prompt_ids([Message("user", text)])
        made = whole.generate_batch([[Message("user", text)]], Sampling(max_tokens=28))[0]
        answers.append((len(prompt), [*prompt, *whole.ids_of(made.text)]))
    found: dict[str, Any] = {}
    for at in (6, 15):
        worst: dict[str, float] = dict.fromkeys(CODECS, 0.0)
        equal: dict[str, int] = dict.fromkeys(CODECS, 0)
        total = 0
        for begin, ids in answers:
            own = whole.model(torch.tensor([ids])).logits[0, begin - 1 :]
            states = cut.part(0, at).run(cut.embed(ids))
            total += len(own)
            for codec in CODECS:
                carried = decode_states(encode_states(Block(0, states.numpy()), codec), width=cut.width).states
                logits = cut.logits(cut.part(at, cut.layers).run(torch.from_numpy(carried.copy()))[begin - 1 :])
                equal[codec] += int((logits.argmax(-1) == own.argmax(-1)).sum())
                worst[codec] = max(worst[codec], float((logits - own).abs().max() / own.abs().max()))
        found[f"cut at {at}"] = {c: {"equal": equal[c] / total, "worst logit": worst[c]} for c in CODECS}
    return {"tokens": total, "by cut": found}


PARTS = {"exits": exits, "codecs": codecs, "stall": stall, "speed": speed, "memory": memory, "smollm2": smollm2}

if __name__ == "__main__":
    main()
