"""A pretrained LLM learns to hand off: SmolLM2-135M-Instruct, three seeds, beside every baseline that reads text.

    python benchmarks/pretrained/run.py                        # everything; one to two days on two cores, or a GPU
    python benchmarks/pretrained/run.py seeds=1 steps=10       # a look
    python benchmarks/pretrained/run.py stages=train seeds=2 'arms=["GAPG"]'   # one run
    python benchmarks/pretrained/run.py stages=page            # the page alone

Stages are data, warm, train, evaluate, page. Stopped and started again it goes on where it was. Of a seed that is done
the page needs `seeds/N.json` alone, so that seeds may be run on several machines. What is fixed before:

- **Problems** are those of the families that `survey.py` took, as many of each; other ones for each seed, in training,
  warm-up and test. Those that it held out are the shift.
- **Cloud**: recorded answers, wrong as often as its family slips (`families.py`), then with the answer to another
  problem of the family. A model that is trained longer would fail where the device does.
- **Warm-up**: the form, and hand-offs in a fifth of the rows, drawn by chance whatever the row; on as few problems of
  all families that are not held out, so that it teaches how an answer looks, and none of the families in particular.
- **Runs** of at most `steps` steps of 16 prompts x 8 by LoRA, each problem once; the last step's policy is judged. A
  run ends before where its curve is flat: looked at after 40 steps and every 20 from there, the mean reward of the last
  20 is above that of the 20 before by no more than the standard error of the difference.
- **Priced** is an arm that was added when the rollouts of the other three on seed 1, and GAPG on 200 of its validation
  problems, had been seen: they hardly ask any more. A price moves until the share is met (docs/beyond-the-paper.md),
  measured on the rollouts, which are of new problems in every step. Without the filter, so that problems where all
  attempts and the cloud fail count too. It runs all its steps.
- Thresholds for a share are set on the test problems themselves, as everywhere in these evaluations, so that shares are
  equal. For the shift they are those of the test problems.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from families import FAMILIES
from results_page import measured, page
from survey import FOUND, TEMPLATE, Seen, attempted, problems, row, split, warm_up

from selfroute.assemble.evaluating import evaluate_recipe
from selfroute.assemble.pieces import quiet_libraries
from selfroute.assemble.training import train_recipe
from selfroute.backends.transformers import TransformersBackend
from selfroute.config import EvaluateRecipe, TrainRecipe, build, parse_overrides
from selfroute.environment import has_fast_bf16
from selfroute.prompts import TEMPLATES
from selfroute.tasks.jsonl import JsonLines
from selfroute.train.folder import goes_on
from selfroute.train.rl.checkpoint import STATE_FILE

ROOT = Path(__file__).resolve().parents[2]
WORDS = Path(__file__).with_name("words.md")
STAGES = ("data", "warm", "train", "evaluate", "page")
TUNED, BEST = "task tuning", "GAPG"
ARMS: Mapping[str, Mapping[str, Any]] = {
    TUNED: {"algorithm": "task_tuning"},
    BEST: {"algorithm": "gapg"},
    "GAPG, no filter": {"algorithm": "gapg", "prompt_filter": False},
    "GRPO": {"algorithm": "grpo"},
    # Its reward moves with the price, and is no curve to stop by.
    "GAPG, priced": {
        "algorithm": "gapg", "prompt_filter": False, "handoff_reward": "dual", "share_prompts": 0, "until_flat": None,
    },
}  # fmt: skip
ENDS = ("always_device", "always_cloud", "random_offload")
ROUTERS = (
    "prompt_length", "prompt_router", "tfidf_ridge", "embedding_knn", "embedding_logistic", "embedding_mlp",
    "matrix_factorization",
)  # fmt: skip
CASCADES = (
    "answer_features", "quality_gap", "answer_blend", "frugal_cascade", "mean_logprob", "min_logprob", "entropy",
)  # fmt: skip
ASKED_AGAIN = ("self_consistency", "self_verification")  # these cost further answers, so on the warm device alone
# Which device the strategies have beneath them, and which.
BENEATH = {
    "warm": (*ENDS, *ROUTERS, *CASCADES, *ASKED_AGAIN),
    TUNED: (*ENDS, *ROUTERS, *CASCADES),
    BEST: (*ENDS, *CASCADES),
}
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
SPAN = 20  # steps, after which a run ends if its curve is flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be changed with key=value.

    Attributes:
        families, held: in place of what the survey says.
        strategies: in place of those of `BENEATH`, on every device.
        test, shift: problems that are judged.
        warm: problems of each family in the warm-up, and its steps.
        looks: problems of each family by which the warm model is looked at.
        kept: folder of what the page needs of each seed that is done; what lies there counts, wherever it was run.
    """

    stages: tuple[str, ...] = STAGES
    seeds: tuple[int, ...] = (1, 2, 3)
    arms: tuple[str, ...] = tuple(ARMS)
    families: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    steps: int = 100
    prompts: int = 16
    group: int = 8
    tokens: int = 64
    learning_rate: float = 1e-4
    cloud_reward: float = 0.5
    rank: int = 16
    warm: int = 40
    warm_steps: int = 160
    looks: int = 24
    test: int = 1000
    shift: int = 500
    router_rows: int = 600
    out: Path = Path("out/pretrained")
    kept: Path = ROOT / "benchmarks/pretrained/seeds"
    page: Path = ROOT / "docs/results/pretrained.md"

    def place(self, seed: int) -> Path:
        return self.out / f"seed-{seed}"


def main(arguments: Sequence[str]) -> None:
    """Run what is missing of the stages that are asked for."""
    values = parse_overrides(arguments)
    for name in ("stages", "seeds", "arms", "families", "held", "strategies"):
        if name in values and not isinstance(values[name], list):
            values[name] = [values[name]]
    options = build(Options, values, where="benchmarks/pretrained/run.py")
    for name, known in (("stages", STAGES), ("arms", ARMS), ("families", FAMILIES), ("held", FAMILIES)):
        if wrong := next((each for each in getattr(options, name) if each not in known), None):
            raise SystemExit(f"{name}: '{wrong}' is unknown; known: {', '.join(known)}")
    quiet_libraries()
    for seed in options.seeds:
        write_data(options, seed)
        if "warm" in options.stages:
            warm_up(task(options, seed, "warm"), options.place(seed) / "warm", steps=options.warm_steps, seed=seed)
            look(options, seed)
        for arm in options.arms if "train" in options.stages else ():
            train(options, seed, arm)
        for beneath in [each for each in BENEATH if each in ("warm", *options.arms)]:
            for part in ("test", "shift") if "evaluate" in options.stages else ():
                evaluate(options, seed, beneath, part)
        if "evaluate" in options.stages:
            keep(options, seed)
    if "page" in options.stages:
        write_page(options)


# --- problems -------------------------------------------------------------------------------------------------------


def chosen(options: Options) -> tuple[Sequence[str], Sequence[str]]:
    """Families that are trained on, and those of the shift."""
    if options.families:
        return options.families, options.held
    if not FOUND.exists():
        raise SystemExit(f"{FOUND.name} is missing; run python benchmarks/pretrained/survey.py, or name families=[...]")
    seen = json.loads(FOUND.read_text(encoding="utf-8"))["families"]
    return split({name: Seen(**values) for name, values in seen.items()})


def others(options: Options) -> list[str]:
    """Families of the warm-up alone: those that the survey attempted and did not take."""
    if options.families:
        return []
    trained, held = chosen(options)
    seen = json.loads(FOUND.read_text(encoding="utf-8"))["families"]
    return [name for name in seen if name not in (*trained, *held)]


def write_data(options: Options, seed: int) -> None:
    """Rows of all parts, no problem in two of them, and what the cloud says to each."""
    place = options.place(seed)
    if (place / "cloud.jsonl").exists():  # written last
        return
    trained, held = chosen(options)
    sizes = {"train": options.steps * options.prompts, "validation": 200, "test": options.test}
    parts = dealt(trained, sizes | {"warm": options.warm * len(trained)}, seed)
    for name in others(options):
        parts["warm"] += [row(name, problem) for problem in problems(name, seed, options.warm)]
    met = {row["question"] for rows in parts.values() for row in rows}  # levels of a kind have some problems in common
    parts |= dealt(held, {"shift": options.shift}, seed, without=met)
    for folder, files in {
        "data": {"train": "train", "validation": "validation", "test": "test"},
        "warm-data": {"train": "warm", "test": "validation"},
        "shift-data": {"train": "train", "validation": "validation", "test": "shift"},
    }.items():
        for file, part in files.items():
            write_lines(place / folder / f"{file}.jsonl", parts[part])
    rng = random.Random(f"cloud/{seed}")
    write_lines(place / "cloud.jsonl", [said for rows in parts.values() for said in recorded(rows, rng)])


def dealt(
    names: Sequence[str], sizes: Mapping[str, int], seed: int, without: Collection[str] = ()
) -> dict[str, list[dict[str, str]]]:
    """Problems of all families, as many of each, or all where one has fewer, in parts of the sizes.

    Args:
        without: questions that are left out.
    """
    total = sum(sizes.values())
    found = {name: [one for one in problems(name, seed, total) if one.question not in without] for name in names}
    each = min((n for n in range(total + 1) if sum(min(n, len(some)) for some in found.values()) >= total), default=0)
    rows = [row(name, problem) for name, some in found.items() for problem in some[:each]]
    random.Random(f"rows/{seed}").shuffle(rows)
    if len(rows) < total:
        raise SystemExit(f"{', '.join(names)}: too few different problems for {total}; ask for fewer")
    parts = {}
    for name, size in sizes.items():
        parts[name], rows = rows[:size], rows[size:]
    return parts


def recorded(rows: Sequence[Mapping[str, str]], rng: random.Random) -> list[dict[str, str]]:
    """The cloud's answers."""
    template, answers = TEMPLATES[TEMPLATE], []
    others = {name: [one["answer"] for one in rows if one["family"] == name] for name in {r["family"] for r in rows}}
    for each in rows:
        slips = rng.random() < FAMILIES[each["family"]].slips
        wrong = [answer for answer in others[each["family"]] if answer != each["answer"]]
        said = rng.choice(wrong or ["none"]) if slips else each["answer"]
        prompt = template.conversation(each["question"])[0].content
        answers.append({"prompt": prompt, "text": f"<answer>{said}</answer>"})
    return answers


def write_lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")


def task(options: Options, seed: int, part: str = "test") -> dict[str, Any]:
    folder = {"test": "data", "warm": "warm-data", "shift": "shift-data"}[part]
    place = str(options.place(seed) / folder)
    return {"jsonl": {"path": place, "verifier": "exact", "template": TEMPLATE, "validation_share": 0.0}}


# --- runs and evaluations -------------------------------------------------------------------------------------------


def look(options: Options, seed: int) -> None:
    """Say what the warm model solves before anything is trained: of nothing or everything there is nothing to learn."""
    file = options.place(seed) / "seen.json"
    if file.exists():
        return
    backend = TransformersBackend.load(str(options.place(seed) / "warm/checkpoint"))
    given = JsonLines(**task(options, seed, "warm")["jsonl"])
    seen = {name: attempted(backend, name, given, options.looks) for name in chosen(options)[0]}
    told = ", ".join(f"{name} {each.solved:.0%}" for name, each in seen.items())
    solved = statistics.fmean(each.solved for each in seen.values())
    note = (
        "" if 0.1 <= solved <= 0.9 else "; there is little to learn from that: take other families, or warm up longer"
    )
    print(f"seed {seed}: the warm model solves {solved:.0%} of its attempts ({told}){note}", flush=True)
    file.write_text(json.dumps({name: asdict(each) for name, each in seen.items()}, indent=1) + "\n", encoding="utf-8")


def slug(arm: str) -> str:
    return arm.lower().replace(",", "").replace(" ", "-")


def train(options: Options, seed: int, arm: str) -> None:
    """One run from the warm model, to its end or until its curve is flat; goes on where it was."""
    out = options.place(seed) / slug(arm)
    if (out / "run.json").exists():
        return
    values = {
        "task": task(options, seed), "model": str(options.place(seed) / "warm/checkpoint"),
        "cloud": {"recorded": str(options.place(seed) / "cloud.jsonl")}, "share": 0.3,
        "reward": {"local": 1.0, "cloud": options.cloud_reward, "format": 0.0}, "steps": options.steps,
        "until_flat": SPAN, "prompts_per_step": options.prompts, "group_size": options.group,
        "learning_rate": options.learning_rate,
        "max_new_tokens": options.tokens, "lora": {"rank": options.rank, "alpha": 2 * options.rank},
        "bf16": has_fast_bf16(), "seed": seed, "save_steps": 5, "out": str(out),
        "resume": goes_on(out, marker=STATE_FILE), **ARMS[arm],
    }  # fmt: skip

    def show(step: int, steps: int, numbers: Mapping[str, float]) -> None:
        shares = (numbers.get(f"rollouts/{name}", 0.0) for name in ("device_correct", "call_share"))
        print("seed {}, {} {}/{}  solves {:.0%}, asks {:.0%}".format(seed, arm, step, steps, *shares), flush=True)

    train_recipe(build(TrainRecipe, values, where=arm), on_progress=show)


def evaluate(options: Options, seed: int, beneath: str, part: str) -> None:
    """Strategies on one device; on the warm one also every policy, with and without its hand-off."""
    out, place = options.place(seed) / f"{slug(beneath)}-{part}", options.place(seed)
    if (out / "summary.json").exists():
        return

    def checkpoint(arm: str) -> dict[str, str]:
        return {"transformers": str(place / slug(arm) / "checkpoint")}

    policies = {arm: checkpoint(arm) for arm in ("warm", *options.arms) if arm != TUNED} if beneath == "warm" else {}
    values = {
        "task": task(options, seed, part), "split": "test", "share": 0.3, "device": checkpoint(beneath),
        "cloud": {"recorded": str(place / "cloud.jsonl")}, "policies": policies, "alone": bool(policies),
        "strategies": list(options.strategies or BENEATH[beneath]), "router_rows": options.router_rows,
        "max_tokens": options.tokens, "seed": seed, "cache": str(place / "answers.sqlite"), "out": str(out),
    }  # fmt: skip
    print(f"seed {seed}: evaluating on {beneath}, {part}", flush=True)
    asyncio.run(
        evaluate_recipe(build(EvaluateRecipe, values, where="evaluate"), command="python benchmarks/pretrained/run.py")
    )


def keep(options: Options, seed: int) -> None:
    """Keep what the page needs of a seed."""
    options.kept.mkdir(parents=True, exist_ok=True)
    found = measured(options.place(seed), tuple(BENEATH), SHARES, seed)
    (options.kept / f"{seed}.json").write_text(f"{json.dumps(found)}\n", encoding="utf-8")


def write_page(options: Options) -> None:
    files = {seed: options.kept / f"{seed}.json" for seed in options.seeds}
    missing = [str(seed) for seed, file in files.items() if not file.exists()]
    if missing:
        raise SystemExit(f"seed {', '.join(missing)}: not evaluated yet; the stage `evaluate` does")
    seeds = {seed: json.loads(file.read_text(encoding="utf-8")) for seed, file in files.items()}
    words = WORDS.read_text(encoding="utf-8").strip() if WORDS.exists() else ""
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(page(seeds, words), encoding="utf-8")
    print(f"written: {options.page}")


if __name__ == "__main__":
    main(sys.argv[1:])
