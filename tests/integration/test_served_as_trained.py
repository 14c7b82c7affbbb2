"""A policy is trained on a JSONL file, evaluated, exported, and served with one line: clients see what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest
import yaml
from tests.gateway.live import running
from typer.testing import CliRunner

from selfroute.assemble.serving import make_gateway
from selfroute.backends.carried import carried_prompt
from selfroute.commands.main import app
from selfroute.config.serving import load_serve_recipe
from selfroute.prompts import TEMPLATES
from selfroute.tasks.countdown import Countdown
from selfroute.verify.arithmetic import countdown_verdict, evaluate
from selfroute.verify.base import Verdict

ROWS = 24
TASK = {"jsonl": {"path": "data", "verifier": f"{__name__}:makes_the_target"}}
# A cloud that knows every question in the words of the training, and no other.
CLOUD = "recorded:cloud.jsonl"
PAIR = {"cloud": CLOUD, "cache": "answers.sqlite"}


def makes_the_target(completion: str, gold: str) -> Verdict:
    numbers = [int(number) for number in re.findall(r"\d+", gold)]
    return countdown_verdict(completion, numbers, int(evaluate(gold).value or 0))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The journey of docs/train-your-own.md with the shipped device, up to the export."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("data").mkdir()
        task = Countdown(seed=3, limit=ROWS)
        known = []
        for split in ("train", "test"):
            rows = [json.dumps({"question": row.question, "answer": row.gold}) for row in task.rows(split)]
            Path(f"data/{split}.jsonl").write_text("\n".join(rows) + "\n")
            for row in task.rows(split):
                words = TEMPLATES["think"].user.format(question=row.question)
                known.append({"prompt": words, "text": task.gold_completion(row)})
        Path("cloud.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in known))
        train = {"task": {"jsonl": {**TASK["jsonl"], "template": "think"}}, **PAIR, "model": "embedded:device-gapg",
                 "algorithm": "gapg", "steps": 1, "prompts_per_step": 2, "group_size": 2, "learning_rate": 1e-5,
                 "max_new_tokens": 160, "out": "out/mine"}  # fmt: skip
        # The recipe names neither template nor length: `jsonl` alone would take another template, and 512 tokens.
        compare = {"task": TASK, **PAIR, "policies": {"mine": "transformers:out/mine/checkpoint"},
                   "strategies": [], "out": "out/compared"}  # fmt: skip
        Path("train.yaml").write_text(yaml.safe_dump(train))
        Path("evaluate.yaml").write_text(yaml.safe_dump(compare))
        run("train", "train.yaml")
        said = run("evaluate", "evaluate.yaml")
        assert "asked as it was trained (template think, question wrapped" in said and "at most 160 tokens" in said
        assert "WARNING" not in said
        run("export", "out/mine", "--out", "out/export", "--type", "f16")
        yield folder


@pytest.mark.parametrize("device", ["transformers:out/mine/checkpoint", "llama_cpp:out/export/mine-f16.gguf"])
def test_the_client_gets_the_accuracy_that_was_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.chdir(folder)
    if device.startswith("llama_cpp"):
        pytest.importorskip("xllamacpp")
    records = [json.loads(line) for line in Path("out/compared/records.jsonl").read_text().splitlines()]
    questions = [json.loads(line) for line in Path("data/test.jsonl").read_text().splitlines()]
    gateway = make_gateway(load_serve_recipe(None, [f"device={device}", f"cloud={CLOUD}"]))
    right = asked = 0
    with running(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as client:
        for row in questions:
            answer = client.chat.completions.create(
                model="selfroute", messages=[{"role": "user", "content": row["question"]}]
            )
            content = (answer.choices[0].message.content or "").strip()
            tagged = content if content.startswith("<answer>") else f"<answer>{content}</answer>"
            right += bool(makes_the_target(tagged, row["answer"]).correct)
            asked += answer.model_dump()["selfroute"]["wants_cloud"]
    assert (right, asked) == (
        sum(record["correct"] for record in records),
        sum(record["wants_cloud"] for record in records),
    )
    assert right > 0.7 * ROWS and 0 < asked < ROWS, "or the comparison would show nothing"


def test_a_calibrated_share_is_the_one_that_is_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold that calibrate writes for a policy sends the requests that the evaluation says it sends."""
    monkeypatch.chdir(folder)
    said = run("calibrate", "out/compared", "--share", "0.5", "--serve", "my.yaml")
    assert said.splitlines()[-1].endswith("selfroute serve my.yaml")
    written = yaml.safe_load(Path("my.yaml").read_text())
    threshold = written["strategy"]["self_route"]["threshold"]
    assert written["device"] == {"transformers": "out/mine/checkpoint"} and "prompt" not in written
    records = [json.loads(line) for line in Path("out/compared/records.jsonl").read_text().splitlines()]
    scores = sorted((record["score"] for record in records if record["score"] is not None), reverse=True)
    wanted = sum(score >= threshold for score in scores)
    questions = [json.loads(line)["question"] for line in Path("data/test.jsonl").read_text().splitlines()]
    sent = 0
    gateway = make_gateway(load_serve_recipe(Path("my.yaml")))
    with running(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as client:
        for question in questions:
            answer = client.chat.completions.create(model="selfroute", messages=[{"role": "user", "content": question}])
            sent += answer.model_dump()["selfroute"]["source"] == "cloud"
    assert wanted == sent > sum(record["wants_cloud"] for record in records), "topped up by score"


def test_every_copy_of_the_policy_carries_its_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    trained = carried_prompt("out/mine")
    assert trained is not None
    assert (trained.name, trained.max_tokens, trained.share, trained.wrap) == ("think", 160, 0.3, True)
    for place in ("out/mine/checkpoints/checkpoint-1", "out/export/hf", "out/export/mine-f16.gguf"):
        assert carried_prompt(place) == trained
    # Ollama wraps the question itself, and a gateway in front of it reads that it must not.
    ollama = carried_prompt("out/export/Modelfile")
    assert ollama == replace(trained, wrap=False)
    written = Path("out/export/Modelfile").read_text()
    assert "{{ .Content }}{{ if $last }}. Let me solve this step by step.{{ end }}" in written
    assert f'SYSTEM """{trained.system}"""' in written and "PARAMETER num_predict 160" in written
