"""Written messages: what each role of the tickets pair learns."""

from __future__ import annotations

import random

import pytest

from selfroute.errors import ConfigError
from selfroute.handoff import parse
from selfroute.privacy.values import told
from selfroute.tasks.tickets import Tickets
from selfroute.train.imitation.messages import Messages
from selfroute.train.imitation.tokenizer import task_tokenizer
from selfroute.train.imitation.writers import Example, Role, TraceStyle


def examples(role: Role, count: int = 400, **style: float) -> list[Example]:
    rng, writer = random.Random(0), Messages(Tickets(), TraceStyle(**style), role)  # type: ignore[arg-type]
    return [writer.example(rng) for _ in range(count)]


def names(example: Example) -> list[str]:
    return told(parse(example.completion).message, ["Anna", "Boris", "Clara", "David", "Elena", "Felix"])


def test_a_device_asks_as_often_as_it_is_said_and_only_where_it_may() -> None:
    written = examples("device", final_handoff_rate=0.5)
    asking = [parse(example.completion).wants_cloud for example in written]
    offered = [example.offer for example in written]
    assert all(offer for asks, offer in zip(asking, offered, strict=True) if asks)
    assert 0.4 < sum(asking) / sum(offered) < 0.6
    assert all(parse(e.completion).message for e in written if parse(e.completion).wants_cloud)


def test_messages_leak_at_their_rate() -> None:
    assert not any(names(example) for example in examples("device", final_handoff_rate=1.0))
    assert sum(bool(names(example)) for example in examples("device", final_handoff_rate=1.0, leak_rate=1.0)) > 20


def test_a_cloud_works_out_messages_and_requests_and_never_asks() -> None:
    written = examples("cloud")
    assert not any(parse(example.completion).wants_cloud or example.offer for example in written)
    assert 0.55 < sum(len(example.question) < 60 for example in written) / len(written) < 0.85


def test_the_tokenizer_knows_the_words_and_reads_anything() -> None:
    writer = Messages(Tickets(), TraceStyle(), "device")
    tokenizer = task_tokenizer(writer.template, writer.corpus)
    for text in ("check digit of number 482913", "Grüße, ☃", writer.corpus[0]):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(" asthma")["input_ids"]) == 1


def test_a_style_of_searches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"traces\.attempts: 3 does nothing for task tickets"):
        Messages(Tickets(), TraceStyle(attempts=3), "device")
