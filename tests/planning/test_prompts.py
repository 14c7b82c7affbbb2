"""Prompts from files, and those that an evaluation sent to the cloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfroute.errors import ConfigError
from selfroute.planning.prompts import read_prompts


def evaluation(folder: Path) -> Path:
    """What `selfroute evaluate` leaves: two strategies on three rows, of which each sends another."""
    folder.mkdir()
    answers = {"2": "an answer"}
    sent = {"a": {"1"}, "b": {"2", "3"}}
    rows = [(strategy, str(i)) for strategy in sent for i in (1, 2, 3)]
    texts = [
        {"strategy": s, "id": i, "question": f"question {i}", "gold": "x", "cloud_text": answers.get(i, "")}
        for s, i in rows
    ]
    facts = [{"strategy": s, "id": i, "source": "cloud" if i in sent[s] else "device"} for s, i in rows]
    for name, values in (("samples.jsonl", texts), ("records.jsonl", facts)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in values), encoding="utf-8")
    return folder


def test_text_has_a_prompt_on_every_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\ntwo\n", encoding="utf-8")
    assert read_prompts(path) == ["one", "two"]


def test_json_lines_have_a_field(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n{"question": "two"}\n{"text": "three"}\n', encoding="utf-8")
    assert read_prompts(path) == ["one", "two", "three"]


def test_an_evaluation_tells_what_went_to_the_cloud(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "run")
    assert read_prompts(folder) == ["question 1", "question 2\nan answer", "question 3"]
    assert read_prompts(folder, strategy="b") == ["question 2\nan answer", "question 3"]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder, path = evaluation(tmp_path / "run"), tmp_path / "prompts.jsonl"
    with pytest.raises(ConfigError, match=r"strategy: 'c' is not in .*; known: a, b"):
        read_prompts(folder, strategy="c")
    with pytest.raises(ConfigError, match=r"'.*prompts\.jsonl' does not exist"):
        read_prompts(path)
    path.write_text('{"prompt": "one"}\n{"prompt', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 2 of .* is not whole JSON"):
        read_prompts(path)
    path.write_text('{"answer": "one"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="none of the fields prompt, question, text"):
        read_prompts(path)
    with pytest.raises(ConfigError, match="needs the folder of an evaluation"):
        read_prompts(path, strategy="a")
    path.with_suffix(".txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"prompts\.txt' has none"):
        read_prompts(path.with_suffix(".txt"))
