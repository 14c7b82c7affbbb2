"""A real small model whose prompt is tuned: SmolLM2-135M on llama.cpp, sums and products in words, a recorded cloud.

    python benchmarks/tuning/real.py                       # three seeds, all methods, 500 held-out rows; hours
    python benchmarks/tuning/real.py --inputs              # only the problems and the recorded cloud
    python benchmarks/tuning/real.py --write               # only the page, from what is there

Every method gets as many calls of the device, counted where they are made. Demonstrations are mined from the same 40
attempts for all, which the first run makes and the cache answers from then on; they are not in the count.

Then the held-out rows are answered once, each by one of the devices with its program, and cut at a 30 % share by the
probability with which the device asks: rows with the highest go to the cloud, those that asked first. A row below the
cut whose answer is a hand-off is tried again without the offer. Stopped and started again it goes on where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.assemble.tuning import tune_recipe
from selfroute.backends.base import complete_all
from selfroute.backends.cache import AnswerCache, cached
from selfroute.config import TuneRecipe, load_recipe, make_backend, make_task
from selfroute.environment import commit
from selfroute.grading import judge
from selfroute.handoff import handoff_score, parse
from selfroute.prompts import PromptTemplate, find_template
from selfroute.tasks.base import Row
from selfroute.types import Completion, Sampling

ROOT = Path(__file__).resolve().parents[2]
RECIPE, OUT = ROOT / "recipes/tuning/sums.yaml", Path("out/tuning")
SHARE, HELD_OUT, TRAIN = 0.3, 500, 240
# Shares of the problems: which numbers, and how they are joined.
KINDS = (
    (0.40, "plus", 1, 9), (0.12, "plus", 10, 49), (0.22, "times", 2, 9), (0.13, "times", 11, 99),
    (0.13, "plus", 100, 999),
)  # fmt: skip
PHRASES = ("What is {}?", "How much is {}?", "Compute {}.", "Tell me {}.")  # there are few sums of small numbers
METHODS = {
    "tuned": "consensus",
    "ridge": "ridge",
    "TPE": "tpe",
    "random search": "random_search",
    "best of 8": "{best_of: {candidates: 8}}",
    "one level (BDPL)": "gradient",
}
WRONG = 0.05  # of the recorded cloud's answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--calls", type=int, default=240)
    parser.add_argument("--rows", type=int, default=HELD_OUT, help="held-out rows that are judged, the first ones")
    options = parser.parse_args()
    if not options.write:
        write_inputs()
    if not (options.inputs or options.write):
        asyncio.run(run(options.seeds, options.methods, options.calls, options.rows))
    if not options.inputs:
        print(page(OUT / "held_out.json"))


# --- problems ------------------------------------------------------------------------------------------------------


def write_inputs() -> None:
    """Problems, no two alike, and a recorded cloud that slips now and then."""
    rng, seen = random.Random(0), dict[str, int]()
    while len(seen) < HELD_OUT + TRAIN:
        _, word, low, high = rng.choices(KINDS, [kind[0] for kind in KINDS])[0]
        first, second = rng.randint(low, high), rng.randint(low, high)
        asked = rng.choice(PHRASES).format(f"{first} {word} {second}")
        seen.setdefault(asked, first + second if word == "plus" else first * second)
    problems = list(seen.items())
    rng.shuffle(problems)
    folder = OUT / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("test", problems[:HELD_OUT]), ("train", problems[HELD_OUT:])):
        lines(folder / f"{name}.jsonl", [{"question": question, "answer": answer} for question, answer in part])
    slip = random.Random("cloud")
    said = [answer + (slip.choice([-10, -1, 1, 10]) if slip.random() < WRONG else 0) for _, answer in problems]
    lines(OUT / "cloud.jsonl", [{"prompt": q, "text": f"It is {s}."} for (q, _), s in zip(problems, said, strict=True)])


def lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# --- runs ----------------------------------------------------------------------------------------------------------


async def run(seeds: Sequence[int], methods: Sequence[str], calls: int, count: int) -> None:
    """Tune what is missing, and judge it on the held-out rows."""
    held = OUT / "held_out.json"
    found: dict[str, Any] = json.loads(held.read_text(encoding="utf-8")) if held.exists() else {}
    recipe = load_recipe(TuneRecipe, RECIPE)
    base = replace(find_template("plain"), system=recipe.instruction or "", help=recipe.offer[0])
    todo: list[tuple[str, int]] = [("untuned", 0)]
    todo += [(method, seed) for seed in seeds for method in ("random demonstrations", *methods)]
    for method, seed in todo:
        key = f"{method}/{seed}"
        if key in found:
            continue
        programs, counted = await made(method, seed, calls, base)
        found[key] = {"calls": counted, "commit": commit(), "held_out": await judged(programs, count)}
        held.write_text(json.dumps(found), encoding="utf-8")
        print(key, counted, summary(found[key]), flush=True)


async def made(
    method: str, seed: int, calls: int, base: PromptTemplate
) -> tuple[list[str | PromptTemplate], Mapping[str, Any]]:
    """The programs that a method ends with, one for each worker of ours, and the calls it took."""
    if method == "untuned":
        return [base], {"device": {"calls": 0}}
    if method == "random demonstrations":
        return await tuned("random_search", seed, calls, OUT / f"random-{seed}", updates=0)
    return await tuned(METHODS[method], seed, calls, OUT / f"{method.replace(' ', '-')}-{seed}")


async def tuned(
    name: str, seed: int, calls: int, out: Path, updates: int | None = None
) -> tuple[list[str | PromptTemplate], Mapping[str, Any]]:
    given = [
        f"method={name}", f"seed={seed}", f"max_calls={calls}", f"out={out}", f"cache={OUT / 'answers.sqlite'}",
        f"resume={'true' if (out / 'state.json').exists() else 'false'}",
    ]  # fmt: skip
    if updates is not None:
        given.append(f"updates={updates}")
    summary = await tune_recipe(load_recipe(TuneRecipe, RECIPE, given), say=print)
    files = [file for worker, file in summary["programs"].items() if worker != "consensus"]
    return [f"tuned:{file}" for file in files], summary["calls"]


# --- held-out rows -------------------------------------------------------------------------------------------------


async def judged(programs: Sequence[str | PromptTemplate], count: int) -> dict[str, list[Any]]:
    """Row by row: whether the device asks, with what probability, and who would be right.

    Rows are dealt to the devices in turn, each with its own program.
    """
    templates = [one if isinstance(one, PromptTemplate) else find_template(one) for one in programs]
    recipe = load_recipe(TuneRecipe, RECIPE)
    task = make_task(recipe.task)
    rows = list(task.rows("test"))[:count]
    asked = Sampling(max_tokens=recipe.max_tokens, top_logprobs=5)
    device = cached(make_backend(recipe.device), AnswerCache(OUT / "answers.sqlite"))
    assert recipe.cloud is not None
    cloud = make_backend(recipe.cloud, where="cloud")
    try:
        own = [templates[number % len(templates)] for number in range(len(rows))]
        conversations = [template.conversation(row.question) for template, row in zip(own, rows, strict=True)]
        told = [template.device_messages(turns) for template, turns in zip(own, conversations, strict=True)]
        answers = [one async for one in drained(device, told, asked)]
        helped = await complete_all(cloud, conversations, Sampling())
        asks = [parse(one.text).wants_cloud for one in answers]
        alone = [
            template.device_messages(turns, offer_handoff=False)
            for template, turns, ask in zip(own, conversations, asks, strict=True) if ask
        ]  # fmt: skip
        again = iter([one async for one in drained(device, alone, replace(asked, top_logprobs=None))])
        kept = [(next(again) if ask else one).text for one, ask in zip(answers, asks, strict=True)]
    finally:
        await device.aclose()
    return {
        "asks": asks,
        "score": [handoff_score(one.tokens) or 0.0 for one in answers],
        "device": [right(task, row, text) for row, text in zip(rows, kept, strict=True)],
        "cloud": [
            right(task, row, one.text if isinstance(one, Completion) else "")
            for row, one in zip(rows, helped, strict=True)
        ],
        "prompt_tokens": [one.usage.prompt_tokens for one in answers],
    }


async def drained(device: Any, prompts: Sequence[Any], sampling: Sampling) -> Any:
    for answer in await complete_all(device, prompts, sampling, concurrency=4):
        if not isinstance(answer, Completion):
            raise answer
        yield answer


def right(task: Any, row: Row, text: str) -> bool:
    return judge(task, row, text)[0] is True


# --- the page ------------------------------------------------------------------------------------------------------


def at_share(rows: Mapping[str, Sequence[Any]], share: float = SHARE) -> np.ndarray[Any, Any]:
    """Row by row, the expected correctness when the share with the highest scores goes to the cloud; ties by halves."""
    score = np.array(rows["score"]) + np.array(rows["asks"])  # who asks comes first
    device, cloud = np.array(rows["device"], float), np.array(rows["cloud"], float)
    cut = np.sort(score)[::-1][round(share * len(score)) - 1]
    above, level = score > cut, score == cut
    part = np.where(level, (round(share * len(score)) - above.sum()) / level.sum(), above.astype(float))
    return part * cloud + (1 - part) * device


def summary(one: Mapping[str, Any]) -> dict[str, float]:
    rows = one["held_out"]
    return {
        "at_share": float(at_share(rows).mean()),
        "local": float(np.mean(rows["device"])),
        "asks": float(np.mean(rows["asks"])),
        "as_run": float(np.where(rows["asks"], rows["cloud"], rows["device"]).mean()),
        "prompt_tokens": float(np.mean(rows["prompt_tokens"])),
    }


def interval(found: Mapping[str, Any], method: str, other: str) -> tuple[float, float, float]:
    """Difference at the share with its paired 95 % interval: rows are drawn anew, and seeds."""
    seeds = [
        key.split("/")[1] for key in found if key.startswith(f"{method}/") and f"{other}/{key.split('/')[1]}" in found
    ]
    gaps = np.array(
        [at_share(found[f"{method}/{s}"]["held_out"]) - at_share(found[f"{other}/{s}"]["held_out"]) for s in seeds]
    )
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        some = gaps[rng.integers(len(gaps), size=len(gaps))]
        drawn.append(some[:, rng.integers(gaps.shape[1], size=gaps.shape[1])].mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(gaps.mean()), float(low), float(high)


def page(file: Path) -> str:
    """The table of `results.md`."""
    found = json.loads(file.read_text(encoding="utf-8"))
    heads = [
        "method",
        "seeds",
        "overall at 30 %",
        "local",
        "asks as run",
        "overall as run",
        "prompt tokens",
        "device calls",
    ]
    table = [heads, ["---"] * len(heads)]
    for method in dict.fromkeys(key.split("/")[0] for key in found):
        runs = [one for key, one in found.items() if key.split("/")[0] == method]
        sums = [summary(one) for one in runs]
        calls = [one["calls"]["device"]["calls"] for one in runs]
        cells = [spread([s[name] for s in sums]) for name in ("at_share", "local", "asks", "as_run")]
        tokens = f"{np.mean([s['prompt_tokens'] for s in sums]):.0f}"
        table.append([method, str(len(runs)), *cells, tokens, f"{np.mean(calls):.0f}"])
    text = "\n".join(f"| {' | '.join(row)} |" for row in table)
    for other in dict.fromkeys(key.split("/")[0] for key in found):
        if other not in ("tuned", "untuned") and any(key.startswith("tuned/") for key in found):
            gap, low, high = interval(found, "tuned", other)
            text += (
                f"\n\ntuned less {other}: {100 * gap:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
            )
    return text


def spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{100 * values[0]:.1f} %"
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f} %"


if __name__ == "__main__":
    main()
