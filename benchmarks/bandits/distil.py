"""A small language model taught an algorithm's decisions with TRL's SFTTrainer, judged beside its teacher.

    python benchmarks/bandits/distil.py train     # decisions of UCB, tokenizer, model; half an hour of a core
    python benchmarks/bandits/distil.py judge     # 30 runs in each setting it was taught

The model is made from nothing (0.4 M parameters) and reads the guided prompt: of each arm times, mean, value and bonus.
Its tokens are the words and two-digit numbers of such prompts, near numbers begin with near vectors, the sentence that
is always the same is left out, and each decision is shown with its arms in a drawn order. Any pretrained model can be
taught in the same way, from the file as it is.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.assemble.studying import environment_maker, judge, model_runs, policy_runs, write_demonstrations
from selfroute.config import Spec
from selfroute.environment import commit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OUT = Path("out/bandits/distil")
RESULTS = Path(__file__).with_name("distil.json")
SETTINGS = ("bernoulli-5-easy", "bernoulli-5-hard")
RUNS, STEPS, BATCH, RATE = 50, 2500, 64, 3e-3
TEACHER = Spec("ucb")
TEMPLATE = (
    "{% for message in messages if message['role'] != 'system' %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<end>{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
)


def train() -> None:
    """Write the teacher's decisions and teach a model."""
    decisions = OUT / "decisions.jsonl"
    makes = [environment_maker(setting) for setting in SETTINGS]
    if not decisions.exists():
        write_demonstrations(decisions, makes, TEACHER, shown="guided", runs=RUNS, seed=10_000)
    teach(decisions, OUT / "model")


def teach(decisions: Path, out: Path) -> None:
    """Supervised fine-tuning on a file of decisions; only the reply counts in the loss."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from selfroute.train.imitation.warmup import build_model

    torch.manual_seed(0)
    tokenizer = build_tokenizer(decisions)
    written = shuffled(decisions, STEPS * BATCH)
    ids = [[*own, tokenizer.eos_token_id] for own in tokenizer(written)["input_ids"]]
    # TRL can tokenize the file's messages itself, at some hundred rows a second; the reply is one token and the end.
    masks = [[0] * (len(own) - 2) + [1, 1] for own in ids]
    rows = Dataset.from_dict({"input_ids": ids, "completion_mask": masks})
    arguments = SFTConfig(
        output_dir=str(out),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=STEPS // 20,
        logging_steps=25,
        save_strategy="no",
        completion_only_loss=True,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    model = build_model(tokenizer, hidden_size=96, layers=3)
    order_numbers(model.get_input_embeddings().weight.data, tokenizer)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(out))
    tokenizer.save_pretrained(str(out))


def build_tokenizer(decisions: Path) -> PreTrainedTokenizerFast:
    """One token for each word, number and mark that a file of decisions holds."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|[:,]| "), behavior="isolated"),
            pre_tokenizers.Split(" ", behavior="removed"),
            pre_tokenizers.Split(Regex("[:,]"), behavior="removed"),
        ]
    )
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=4096, special_tokens=["<unk>", "<end>", "<pad>"], show_progress=False
    )
    numbers = [f"{number / 100:.2f}" for number in range(400)] + [str(number) for number in range(1001)]
    tokenizer.train_from_iterator(chain(texts(decisions), [" ".join(numbers)]), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )


def order_numbers(embeddings: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give tokens of near numbers near vectors: waves of their value, as long as any other token's in the mean."""
    import torch

    generator = torch.Generator().manual_seed(0)
    width = embeddings.shape[1]
    scale = embeddings.std() * math.sqrt(2)
    waves = torch.logspace(-0.5, 1.7, width)[torch.randperm(width, generator=generator)]
    phases = torch.rand(width, generator=generator) * 2 * math.pi
    for token, row in tokenizer.get_vocab().items():
        if token.replace(".", "", 1).isdecimal():
            value = float(token) if "." in token else math.log1p(float(token))
            embeddings[row] = scale * torch.cos(value * waves + phases)


def shuffled(decisions: Path, rows: int) -> list[str]:
    """So many decisions, each with its arms in another order: what is said of an arm says all, its name nothing."""
    rng = random.Random(0)
    with decisions.open(encoding="utf-8") as file:
        known = [json.loads(line) for line in file]
    return [_text(row, rng) for row in rng.choices(known, k=rows)]


def _text(row: dict[str, Any], rng: random.Random) -> str:
    *lines, ask = row["prompt"][-1]["content"].split("\n")
    names, said = zip(*(line.split(": ", 1) for line in lines), strict=True)
    order = rng.sample(range(len(names)), len(names))
    chosen = names[order.index(names.index(row["completion"][0]["content"]))]
    return "\n".join([*(f"{name}: {said[place]}" for name, place in zip(names, order, strict=True)), ask, chosen])


def texts(decisions: Path) -> Iterator[str]:
    with decisions.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield "\n".join(message["content"] for message in row["prompt"][1:] + row["completion"])


def judged(setting: str, seeds: int = 30) -> dict[str, Any]:
    """The student and its teacher on the same seeds."""
    from selfroute.backends.transformers import TransformersBackend

    make = environment_maker(setting)
    student = TransformersBackend.load(OUT / "model", name="student")
    studied = {
        "student": asyncio.run(model_runs(student, make, seeds, shown="guided", max_tokens=2)),
        "teacher": policy_runs(TEACHER, make, seeds),
        "uniform": policy_runs(Spec("uniform"), make, seeds),
    }
    return judge(studied, len(make(0).arms))


def main() -> None:
    if "train" in sys.argv[1:]:
        train()
    if "judge" in sys.argv[1:]:
        found = {setting: judged(setting) for setting in SETTINGS}
        about = {"command": "python benchmarks/bandits/distil.py train judge", "commit": commit(), "taught": RUNS}
        RESULTS.write_text(json.dumps({**about, "steps": STEPS, "batch": BATCH, "settings": found}, indent=1) + "\n")
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
