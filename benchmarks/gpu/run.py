"""SmolLM2-135M-Instruct through warm-up, GAPG and evaluation at a 30 % call share.

    python benchmarks/gpu/run.py          # meant for one GPU and under 10 minutes
    python benchmarks/gpu/run.py split    # the model in parts of at most 48 MB, to send to a machine without net

Small enough for a CPU: steps=2 rows=8 test=4 warm_steps=2 prompts=2 group=2 tokens=16 lora=true.

The task is sums and differences of two to four numbers of one or two digits, drawn here. Of 40 harder ones (to five
numbers of three digits) the model solves 1 before the warm-up, greedy, and asks for none. Warm-up: imitate written
steps, so that the model answers in tags and hands off at times, more often where there are more numbers. Cloud:
recorded answers, the gold ones with one in twenty made wrong. Then GAPG, and the model before and after it on held-out
problems. Stopped and started again it goes on where it was. Writes `results.json` and `results.md` beside this file
(`results=` names another folder); the run lies under `out/gpu`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfroute.assemble.evaluating import evaluate_recipe
from selfroute.assemble.pieces import quiet_libraries
from selfroute.assemble.training import model_files, train_recipe
from selfroute.config import EvaluateRecipe, TrainRecipe, build, parse_overrides
from selfroute.environment import provenance
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prompts import TEMPLATES

HERE = Path(__file__).parent
PARTS = Path("out/gpu-model")
PART_BYTES = 48 * 2**20
TEMPLATE = TEMPLATES["think"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes of the run.

    Attributes:
        rows, test: training and held-out problems.
        warm_rows, warm_steps: problems written out for the warm-up, and its steps of 16.
        prompts, group, steps: of GAPG.
        tokens: most of an attempt.
        lora: train an adapter of rank 16 in GAPG; false trains all weights.
        wrong: share of the cloud's answers that are wrong.
    """

    rows: int = 2000
    test: int = 500
    warm_rows: int = 3200
    warm_steps: int = 200
    prompts: int = 32
    group: int = 8
    steps: int = 100
    tokens: int = 96
    lora: bool = False
    learning_rate: float = 1e-5
    cloud_reward: float = 0.5
    wrong: float = 0.05
    seed: int = 0
    out: Path = Path("out/gpu")
    results: Path = HERE


@dataclass(frozen=True, slots=True)
class Sum:
    """A problem: the first number, then signed ones."""

    numbers: tuple[int, ...]

    @property
    def question(self) -> str:
        first, *rest = self.numbers
        return f"Compute {first}" + "".join(f" {'-' if n < 0 else '+'} {abs(n)}" for n in rest)

    @property
    def answer(self) -> int:
        return sum(self.numbers)

    def written(self) -> str:
        """The calculation step by step."""
        total, lines = self.numbers[0], []
        for n in self.numbers[1:]:
            lines.append(f"{total} {'-' if n < 0 else '+'} {abs(n)} = {total + n}")
            total += n
        return "\n".join(lines)


# --- inputs


def draw(rng: random.Random, count: int, seen: set[Sum]) -> list[Sum]:
    """Problems that were not drawn before, with two to four numbers equally often."""
    drawn: list[Sum] = []
    while len(drawn) < count:
        terms = 2 + len(drawn) % 3
        numbers = [rng.randrange(1, 10 ** rng.randint(1, 2)) for _ in range(terms)]
        made = Sum((numbers[0], *(n if rng.random() < 0.6 else -n for n in numbers[1:])))
        if made not in seen:
            seen.add(made)
            drawn.append(made)
    return drawn


def write_inputs(settings: Settings) -> list[Sum]:
    """Problems and recorded cloud answers; returns the problems of the warm-up, which are others."""
    rng, seen = random.Random(settings.seed), set[Sum]()
    test, train = draw(rng, settings.test, seen), draw(rng, settings.rows, seen)
    folder = settings.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, sums in (("train", train), ("test", test)):
        rows = [{"question": one.question, "answer": one.answer} for one in sums]
        write_lines(folder / f"{name}.jsonl", rows)
    slip = random.Random(f"cloud/{settings.seed}")
    answers = []
    for one in [*train, *test]:
        said = one.answer + (slip.choice([-10, -1, 1, 10]) if slip.random() < settings.wrong else 0)
        prompt = TEMPLATE.conversation(one.question)[0].content
        answers.append({"prompt": prompt, "text": f"<answer>{said}</answer>"})
    write_lines(settings.out / "cloud.jsonl", answers)
    return draw(rng, settings.warm_rows, seen)


def write_lines(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def model_file() -> str:
    """SmolLM2's file: of its package, or put together from the parts of `split`."""
    parts = sorted(PARTS.glob("part*"))
    if not parts:
        return "smollm2"
    whole = PARTS / "smollm2.gguf"
    if not whole.exists():
        whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    return str(whole)


def split() -> None:
    """Write the model in parts, each small enough to be sent by itself."""
    from selfroute.backends.llama_cpp import find_smollm2

    content = find_smollm2().read_bytes()
    PARTS.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(content), PART_BYTES)):
        (PARTS / f"part{number}").write_bytes(content[start : start + PART_BYTES])
    print(f"{len(content) / 2**20:.0f} MB in {number + 1} parts in {PARTS}/")


# --- warm-up


def completion(one: Sum, rng: random.Random) -> str:
    """What the model shall imitate: the steps, then the answer or, the more numbers the likelier, the hand-off."""
    asks = rng.random() < 0.1 * (len(one.numbers) - 1)
    end = HANDOFF_TEXT if asks else f"<answer>{one.answer}</answer>"
    return f"<think>{one.written()}</think>{end}"


def batches(words: Any, sums: Sequence[Sum], settings: Settings, rows: int) -> Iterator[dict[str, Any]]:
    """Padded batches; only what the model shall write has a label."""
    import torch

    rng = random.Random(f"warm/{settings.seed}")
    for step in range(settings.warm_steps):
        tokens, labels = [], []
        for one in (sums[(step * rows + i) % len(sums)] for i in range(rows)):
            turns = TEMPLATE.device_messages(TEMPLATE.conversation(one.question))
            said = [{"role": turn.role, "content": turn.content} for turn in turns]
            text = words.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            prompt = words(text, add_special_tokens=False)["input_ids"]
            answer = words(completion(one, rng) + words.eos_token, add_special_tokens=False)["input_ids"]
            tokens.append(torch.tensor(prompt + answer))
            labels.append(torch.tensor([-100] * len(prompt) + answer))
        pad = torch.nn.utils.rnn.pad_sequence
        lengths = torch.tensor([len(row) for row in tokens])
        ids = pad(tokens, batch_first=True, padding_value=words.pad_token_id)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        yield {"input_ids": ids, "attention_mask": mask, "labels": pad(labels, batch_first=True, padding_value=-100)}


def warm_up(settings: Settings, sums: Sequence[Sum], *, rows: int = 16, learning_rate: float = 1e-4) -> Path:
    """A model folder that answers in tags and hands off at times; made once."""
    import torch

    from selfroute.train.pretrained import load_network, load_tokenizer

    folder = settings.out / "warm"
    if (folder / "tokenizer.json").exists():  # written last
        return folder
    torch.manual_seed(settings.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = model_files(model_file())
    words, network = load_tokenizer(place.tokenizer), load_network(place.model)
    torch.nn.Module.to(network, device)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(2, settings.warm_steps + 1), pct_start=0.1
    )
    for step, batch in enumerate(batches(words, sums, settings, min(rows, settings.prompts * settings.group)), 1):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = network(**{name: value.to(device) for name, value in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == settings.warm_steps:
            print(f"warm-up {step}/{settings.warm_steps}  loss {float(loss.detach()):.3f}", flush=True)
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


# --- GAPG and evaluation


def task(settings: Settings) -> dict[str, Any]:
    return {"jsonl": {"path": str(settings.out / "data"), "verifier": "numeric", "template": "think",
                      "validation_share": 0.0}}  # fmt: skip


def train(settings: Settings, warm: Path, *, on_gpu: bool) -> Path:
    """GAPG from the warm model; goes on where it was."""
    out = settings.out / "gapg"
    if (out / "run.json").exists():
        return out / "checkpoint"
    values = {
        "task": task(settings),
        "model": str(warm),
        "cloud": {"recorded": str(settings.out / "cloud.jsonl")},
        "algorithm": "gapg",
        "share": 0.3,
        "reward": {"local": 1.0, "cloud": settings.cloud_reward, "format": 0.0},
        "steps": settings.steps,
        "prompts_per_step": settings.prompts,
        "group_size": settings.group,
        "learning_rate": settings.learning_rate,
        "max_new_tokens": settings.tokens,
        "lora": {"rank": 16, "alpha": 32} if settings.lora else None,
        "bf16": on_gpu,
        "seed": settings.seed,
        "save_steps": 20,
        "out": str(out),
        "resume": any((out / "checkpoints").glob("checkpoint-*/gapg_state.json")),
    }

    def on_progress(step: int, steps: int, numbers: Any) -> None:
        shares = (numbers.get(f"rollouts/{name}", 0.0) for name in ("device_correct", "call_share"))
        print("GAPG {}/{}  device right {:.0%}, asks {:.0%}".format(step, steps, *shares), flush=True)

    return train_recipe(build(TrainRecipe, values, where="train"), on_progress=on_progress)


def evaluate(settings: Settings, warm: Path, trained: Path) -> dict[str, Any]:
    """Before and after at the same share, and the baselines on the warm model."""
    values = {
        "task": task(settings),
        "split": "test",
        "share": 0.3,
        "device": {"transformers": str(warm)},
        "cloud": {"recorded": str(settings.out / "cloud.jsonl")},
        "policies": {"before": {"transformers": str(warm)}, "after": {"transformers": str(trained)}},
        "alone": True,
        "strategies": ["always_device", "random_offload", "always_cloud"],
        "max_tokens": settings.tokens,
        "seed": settings.seed,
        "out": str(settings.out / "evaluated"),
    }
    recipe = build(EvaluateRecipe, values, where="evaluate")
    return asyncio.run(evaluate_recipe(recipe, command="python benchmarks/gpu/run.py"))


FIGURES = {
    "overall_accuracy": "right at 30 %",
    "raw_call_share": "asks, as run",
    "raw_overall_accuracy": "right as run",
    "local_accuracy": "device right",
}


def report(settings: Settings, summary: dict[str, Any], seconds: dict[str, float], gpu: str) -> None:
    """`results.json` and `results.md`."""
    rows = {entry["name"]: {name: entry.get(name) for name in FIGURES} for entry in summary["strategies"]}
    options = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(settings).items()}
    origin = {**provenance(), "gpu": gpu}
    settings.results.mkdir(parents=True, exist_ok=True)
    found = {"settings": options, "strategies": rows, "seconds": seconds, **origin}
    (settings.results / "results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    lines = [
        "# SmolLM2-135M-Instruct: before and after GAPG",
        "",
        f"{settings.test} held-out problems, seed {settings.seed}, in %. `python benchmarks/gpu/run.py`, commit "
        f"{origin['commit']}, {gpu}, {sum(seconds.values()):.0f} s in all.",
        "",
        f"| strategy | {' | '.join(FIGURES.values())} |",
        "|---" * (1 + len(FIGURES)) + "|",
        *(f"| {name} | {' | '.join(cell(value) for value in row.values())} |" for name, row in rows.items()),
        "",
        "Seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()) + ".",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in origin["versions"].items()) + ".",
    ]
    (settings.results / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def cell(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def main(arguments: Sequence[str]) -> None:
    if list(arguments) == ["split"]:
        split()
        return
    settings = build(Settings, parse_overrides(arguments), where="benchmarks/gpu/run.py")
    import torch

    quiet_libraries()
    on_gpu = torch.cuda.is_available()
    gpu = torch.cuda.get_device_name() if on_gpu else "no GPU"
    sums = write_inputs(settings)
    file = settings.out / "seconds.json"  # those before an interruption count
    seconds: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    clock = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[name], clock = seconds.get(name, 0.0) + now - clock, now
        file.write_text(json.dumps(seconds) + "\n", encoding="utf-8")

    warm = warm_up(settings, sums)
    stage("warm-up")
    trained = train(settings, warm, on_gpu=on_gpu)
    stage("GAPG")
    summary = evaluate(settings, warm, trained)
    stage("evaluation")
    report(settings, summary, seconds, gpu)


if __name__ == "__main__":
    main(sys.argv[1:])
