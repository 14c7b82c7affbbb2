from __future__ import annotations

import math
import re
import time
from itertools import groupby, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selfroute.handoff import HANDOFF_TEXT, Piece, StreamParser, decides_at, handoff_score, parse
from selfroute.prompts import TEMPLATES, share_sentence, with_attempt
from selfroute.types import Message, Token

SENTENCE = "I need external assistance"
FRAGMENTS = st.sampled_from(
    [
        *("<think>", "</think>", "</THINK >", "<answer>", "</answer>", "<Answer >", "<answer>7</answer>", "<unknown>"),
        *("< / UNKNOWN >", "<unkown>", "<un", "known>", "<", "</", ">", "\\boxed{", "\\boxed{3}", "\\fbox", "\\text{"),
        *(
            HANDOFF_TEXT,
            SENTENCE,
            "I need external assitance",
            "i need",
            " external",
            " assist",
            "I",
            "i",
            "hi",
            "{",
            "}",
        ),
        *(" ", "\n", "1+2=3", "Step 1: ", ".", "\\", "ı", "é", "   \t    "),
    ]
)
TEXTS = st.one_of(st.lists(FRAGMENTS, max_size=14).map("".join), st.text(max_size=40))


def merged(pieces: list[Piece]) -> list[tuple[str, str]]:
    return [(kind, "".join(p.text for p in run)) for kind, run in groupby(pieces, key=lambda p: p.kind)]


def stream(chunks: list[str]) -> tuple[list[Piece], StreamParser]:
    parser = StreamParser()
    pieces = [piece for chunk in chunks for piece in parser.feed(chunk)]
    return pieces + parser.close(), parser


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(ends)] or [""]


def state(parser: StreamParser) -> tuple[object, ...]:
    return parser.wants_cloud, parser.answered, parser.decided_at, parser.malformed, parser.message


@settings(deadline=None)  # a busy machine is no failure
@given(TEXTS, st.lists(st.integers(0, 200)))
@example("Hi need external assistance", [1])
def test_any_chunking_gives_the_same_pieces_and_decision(text: str, places: list[int]) -> None:
    whole, at_once = stream([text])
    for chunks in (cut(text, places), list(text)):
        pieces, parser = stream(chunks)
        assert merged(pieces) == merged(whole)
        assert state(parser) == state(at_once)
    parsed = parse(text)
    assert (parsed.wants_cloud, parsed.answered, parsed.malformed, parsed.message) == (
        at_once.wants_cloud,
        at_once.answered,
        at_once.malformed,
        at_once.message,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"<think>7 is given</think>{HANDOFF_TEXT} What is 3 plus 4?", "What is 3 plus 4?"),
        (f"<think>7 is given {HANDOFF_TEXT} What is 3 plus 4?</think>", "What is 3 plus 4?"),
        ("I need external assitance. What is 3 plus 4?", "What is 3 plus 4?"),
        ("< Unkown >What is 3 plus 4?</unknown>", "What is 3 plus 4?"),
        (HANDOFF_TEXT, ""),
        (f"<answer>7</answer>{HANDOFF_TEXT} What is 3 plus 4?", ""),
    ],
)
def test_the_message_is_what_stands_behind_a_handoff(text: str, message: str) -> None:
    assert parse(text).message == message


@settings(deadline=None)  # a busy machine is no failure
@given(TEXTS)
def test_no_text_is_lost_or_repeated_and_no_handoff_leaks(text: str) -> None:
    pieces, parser = stream(list(text))
    assert "".join(piece.text for piece in pieces) == text
    shown = [p.text for p in pieces if p.kind in ("reasoning", "content")]
    assert not any("<unknown>" in text.lower() for text in shown)
    if not parser.answered and "think" not in text.lower():
        bare = re.compile(rf"(?<!\w){SENTENCE}", re.IGNORECASE)
        assert not any(bare.search(run) for kind, run in merged(pieces) if kind == "content")


@settings(deadline=None)  # a busy machine is no failure
@given(TEXTS, TEXTS)
def test_a_handoff_is_final(text: str, more: str) -> None:
    if parse(text).wants_cloud:
        assert parse(text + more).wants_cloud


def could_become_markup(held: str) -> bool:
    """Whether some continuation turns the held text into a hand-off or tag: tried out, not looked up."""
    marks = [HANDOFF_TEXT, "< unkown >", "</unknown >", "<think>", "</think>", "<answer>", "</answer>"]
    marks += ["\\boxed{", "\\fbox{", "\\text{", SENTENCE, "I need an external assitance", "I need external asistence"]
    squeezed = "".join(held.lower().split())
    return any("".join(mark.lower().split()).startswith(squeezed) for mark in marks)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(FRAGMENTS, max_size=10).map("".join))
def test_text_is_held_back_only_while_it_may_become_markup(text: str) -> None:
    parser = StreamParser()
    given_out = 0
    for position, char in enumerate(text, start=1):
        given_out += sum(len(piece.text) for piece in parser.feed(char))
        held = text[given_out:position]
        assert len(held) <= 120
        if held and not held.lower().startswith(("i need external as", "<unk", "</unk", "i need a", "i need n")):
            assert could_become_markup(held), held


@pytest.mark.parametrize(
    ("chunks", "first"),
    [
        (["Say hi"], "Say hi"),  # "hi" ends in i, but a sentence starts at a word
        (["a < b"], "a < b"),
        (["a <"], "a "),
        (["x <ans"], "x "),
        (["x <ant"], "x <ant"),
        (["so I"], "so "),
        (["so I "], "so "),
        (["so I think"], "so I think"),
    ],
)
def test_what_comes_out_at_once(chunks: list[str], first: str) -> None:
    parser = StreamParser()
    assert "".join(p.text for chunk in chunks for p in parser.feed(chunk)) == first


@pytest.mark.parametrize(
    "text",
    [
        HANDOFF_TEXT,
        "<think>1+2=4 no</think>" + HANDOFF_TEXT,
        "<think>1+2=4 no" + HANDOFF_TEXT,
        "<think>hm</think>\nI need external assistance.",
        "Step 6: no idea.\n\nI need external assitance",
        "I need external assistence!",
        "i NEED  external\nasistance",
        "I need an external assistance",
        "<UNKNOWN>help</UNKNOWN>",
        "< unknown > I need external assistance",
        "<unkown> please",
        "<unknow>",
        "external help </unknown>",
        "<answer></answer>" + HANDOFF_TEXT,
        "<answer> <unknown> I need external assistance </unknown></answer>",
        "<answer>I need external assistance</answer>",
        "\\boxed{I need external assistance}",
        "\\boxed{\\text{I need external assistance}}",
        "\\boxed{} is empty. I need external assistance.",
        HANDOFF_TEXT + "<answer>7</answer>",
        "<think>maybe <answer>7</answer>?</think>" + HANDOFF_TEXT,
        "maybe <answer>7</answer>?</think>" + HANDOFF_TEXT,  # <think> stood in the prompt
        "**I need external assistance**",
    ],
)
def test_handoffs(text: str) -> None:
    parsed = parse(text)
    assert parsed.wants_cloud
    assert parsed.answer == ""
    assert not parsed.answered


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>2+2</think><answer>4</answer>", "4"),
        ("<think>2+2</think>\n<ANSWER> 4 </Answer >", "4"),
        ("<answer>4", "4"),
        ("4", "4"),
        ("", ""),
        ("Step 1: so \\boxed{4}.", "Step 1: so \\boxed{4}."),
        ("<answer>4</answer>" + HANDOFF_TEXT, "4"),
        ("<answer>4</answer> I need external assistance", "4"),
        ("\\boxed{4} " + HANDOFF_TEXT, "\\boxed{4}"),
        ("<answer>Say: I need external assistance.</answer>", "Say: I need external assistance."),
        ("<answer> </answer><answer>5</answer>", "5"),
        ("<answer>4</answer><answer>5</answer>", "4"),
        ("<think>if I need external assistance I ask</think><answer>5</answer>", "5"),
        ("<think>I need external assistance", ""),
        ("<think><answer>5</answer>", ""),  # an answer in reasoning is none, for verifiers too
        ("hm <answer>3</answer> no</think><answer>5</answer>", "5"),
        ("You need external assistance", "You need external assistance"),
        ("Hi need external assistance", "Hi need external assistance"),
        ("I need external advice", "I need external advice"),
        ("the unknown is x < 3", "the unknown is x < 3"),
    ],
)
def test_answers(text: str, answer: str) -> None:
    parsed = parse(text)
    assert not parsed.wants_cloud
    assert parsed.answer == answer


def test_reasoning_and_answer_are_told_apart() -> None:
    pieces, _ = stream(["<think>2+2</think>\n<answer>4</answer>!"])
    assert merged(pieces) == [
        ("tag", "<think>"),
        ("reasoning", "2+2"),
        ("tag", "</think>"),
        ("content", "\n"),
        ("tag", "<answer>"),
        ("content", "4"),
        ("tag", "</answer>"),
        ("content", "!"),
    ]
    assert parse("hm</think><answer>4</answer>").reasoning == "hm"
    assert parse("Step 1: no. " + HANDOFF_TEXT).reasoning == "Step 1: no."


@pytest.mark.parametrize(
    ("text", "malformed"),
    [
        ("<think>a</think><answer>4</answer>", False),
        ("<think>a</think>" + HANDOFF_TEXT, False),
        ("Step 1. \\boxed{4}", False),
        ("plain", False),
        ("<think>a<answer>4</answer>", True),
        ("<answer>4", True),
        ("<answer></answer>", True),
        ("4</answer>", True),
        ("a</think><answer>4</answer>", True),
        ("<think>a</think>b</think><answer>4</answer>", True),
        ("<answer>4</answer><answer>5</answer>", True),
        ("<answer>4</answer><think>a</think>", True),
        ("<answer>4</answer>" + HANDOFF_TEXT, True),
        ("<think>a" + HANDOFF_TEXT, True),
    ],
)
def test_malformed(text: str, malformed: bool) -> None:
    assert parse(text).malformed is malformed


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "i ",
        "I need ",
        "< ",
        "<answer>",
        "<think></think>",
        "\\boxed{",
        "I need external assi",
        "a",
        "<answer> x <unk ",
    ],
)
def test_a_megabyte_takes_linear_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.process_time()
    parse(text)
    took = time.process_time() - started
    assert took < 6, f"{took:.1f} s"  # quadratic scanning takes minutes


def test_templates_offer_the_handoff_only_when_asked_to() -> None:
    for template in TEMPLATES.values():
        question = template.conversation("What is 1+1?")
        offered, alone = (template.device_messages(question, offer_handoff=offer) for offer in (True, False))
        assert HANDOFF_TEXT in offered[0].content
        assert HANDOFF_TEXT not in alone[0].content
        assert offered[1:] == alone[1:] == [Message("user", question[0].content)]


def token(text: str, p: float = 1.0, **top: float) -> Token:
    return Token(text, math.log(p), {name: math.log(q) for name, q in top.items()})


def scored(text: str, p: float, top: dict[str, float]) -> Token:
    return Token(text, math.log(p), {name: math.log(q) for name, q in top.items()})


def test_score_when_each_decision_is_one_token() -> None:
    lead = [token("<think>"), token("2+2"), token("</think>")]
    top = {HANDOFF_TEXT: 0.3, "<answer>": 0.6}
    asked = handoff_score([*lead, scored(HANDOFF_TEXT, 0.3, top)])
    answered = handoff_score([*lead, scored("<answer>", 0.6, top), token("4"), token("</answer>")])
    assert asked == pytest.approx(0.3)
    assert answered == pytest.approx(0.3)


def test_score_walks_to_the_first_token_that_tells() -> None:
    open_, top = scored("<", 0.8, {"<": 0.8, "I": 0.1, "x": 0.1}), {"answer": 0.75, "unknown": 0.25}
    answered = [open_, scored("answer", 0.75, top), token(">"), token("4")]
    asked = [open_, scored("unknown", 0.25, top), token(">"), token(" I")]
    assert handoff_score(answered) == pytest.approx(0.1 + 0.8 * 0.25)
    assert handoff_score(asked) == pytest.approx(0.1 + 0.8 * 0.25)


def test_score_counts_every_spelling_and_no_answer() -> None:
    top = {"<unknown>": 0.2, " I": 0.1, "\n<": 0.05, "<answer>": 0.5, "</think>": 0.05, "Step": 0.1}
    assert handoff_score([scored("<answer>", 0.5, top), token("4")]) == pytest.approx(0.3)


def test_score_of_a_box() -> None:
    tokens = [token("Step 1."), scored(" \\", 0.9, {"I": 0.1}), token("boxed"), token("{"), token("4")]
    assert handoff_score(tokens) == pytest.approx(0.1)


def test_score_when_the_decision_begins_inside_a_token() -> None:
    tokens = [token("hm"), scored("</think>\n<", 0.9, {"</think>\n<unknown": 0.1}), token("answer"), token(">4")]
    assert handoff_score(tokens) == pytest.approx(0.1)


def test_nothing_behind_the_decision_counts() -> None:
    late = scored("!", 0.1, {HANDOFF_TEXT: 0.9})
    tokens = [token("2"), token("</think>"), scored("<answer>", 1.0, {"I": 0.0625}), token("4"), late]
    assert handoff_score(tokens) == pytest.approx(0.0625)


def test_score_without_alternatives_or_decision() -> None:
    assert handoff_score([token("<answer>"), token("4")]) == 0.0
    assert handoff_score([token("<think>"), token("hm")]) is None
    assert handoff_score([token(" ")]) is None
    assert handoff_score([]) is None


def test_a_text_without_tags_is_scored_where_its_answer_begins() -> None:
    """A model that writes answers in no tag has them begin with its first word, so that `<` opens a hand-off alone."""
    first = scored(" 4", 0.5, {" 4": 0.5, "<": 0.25, "I": 0.125})
    assert handoff_score([token(" "), first, scored(" is it", 0.5, {"<": 0.5})]) == pytest.approx(0.25)
    told = [scored("I", 0.5, {"<": 0.25}), scored(" think", 0.5, {" need": 0.25, " am": 0.25}), token(" 4")]
    assert handoff_score(told) == pytest.approx(0.25 + 0.5 * 0.25)
    assert handoff_score([token("just text")]) == 0.0
    tagged = [token("<think>"), token("2"), token("</think>"), scored("4", 0.5, {"<": 0.5})]
    assert handoff_score(tagged) is None  # there `<` is most likely <answer>


def test_chances_to_hand_off_before_the_decision_count() -> None:
    line = Token("n", math.log(0.6), {"n": math.log(0.6), HANDOFF_TEXT: math.log(0.2), "I": math.log(0.1)})
    answer = Token("<answer>", math.log(0.5), {"<answer>": math.log(0.5), HANDOFF_TEXT: math.log(0.5)})
    assert handoff_score([line, line, answer, token("4")]) == pytest.approx(1 - 0.8 * 0.8 * 0.5)
    handed = Token(HANDOFF_TEXT, math.log(0.5), {HANDOFF_TEXT: math.log(0.5), "<answer>": math.log(0.5)})
    assert handoff_score([line, handed]) == pytest.approx(1 - 0.8 * 0.5)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.tuples(FRAGMENTS, st.floats(-5, 0), st.dictionaries(FRAGMENTS, st.floats(-5, 0), max_size=3))))
def test_score_is_a_probability_for_any_tokens(parts: list[tuple[str, float, dict[str, float]]]) -> None:
    tokens = [Token(*part) for part in parts]
    score = handoff_score(tokens)
    assert score is None or 0.0 <= score <= 1.0
    text = "".join(token.text for token in tokens)
    parser, parsed = StreamParser(), parse(text)
    is_bare = text.strip() and all(piece.kind == "content" for piece in [*parser.feed(text), *parser.close()])
    assert (score is None) == (not parsed.wants_cloud and not parsed.answered and not is_bare)


def test_the_users_system_prompt_joins_the_devices() -> None:
    question = [Message("system", "be brief"), Message("user", "2+2")]
    system, user = TEMPLATES["think"].device_messages(question)
    assert system.content.endswith("\n\nbe brief") and system.content.startswith(TEMPLATES["think"].system)
    assert user == question[1]


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.01, "one"),
        (0.1, "ten"),
        (0.13, "thirteen"),
        (0.3, "thirty"),
        (0.6, "sixty"),
        (0.99, "ninety-nine"),
        (1.0, "a hundred"),
    ],
)
def test_a_wanted_share_is_said_in_words_beside_the_offer(share: float, said: str) -> None:
    template = TEMPLATES["think"]
    question = template.conversation("q")
    sentence = f"You can ask for external assistance for {said} of a hundred problems."
    assert share_sentence(share) == sentence
    assert template.device_messages(question, share=share)[0].content == f"{template.system} {template.help} {sentence}"
    forced = template.device_messages(question, share=share, offer_handoff=False)
    assert forced == template.device_messages(question, offer_handoff=False)


def test_no_two_shares_are_said_alike() -> None:
    assert len({share_sentence(percent / 100) for percent in range(101)}) == 101


def test_an_attempt_goes_into_the_last_user_turn_in_either_form() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "2+2"}]}
    plain, raw = (with_attempt([Message("user", "2+2", form)], "4?")[0] for form in (None, parts))
    assert plain.content == raw.content and plain.content.startswith("2+2\n\n")
    assert raw.raw is not None and raw.raw["content"][0] == parts["content"][0]
    assert "<attempt>\n4?\n</attempt>" in raw.raw["content"][1]["text"]
    assert with_attempt([Message("user", "2+2")], " \n") == [Message("user", "2+2")]


def test_where_a_completion_decides() -> None:
    lead = [token("<think>"), token("hm"), token("</think>")]
    assert decides_at([*lead, token(HANDOFF_TEXT)]) == 3
    assert decides_at([*lead, token("\n"), token("<answer>"), token("4")]) == 4
    assert decides_at([token("4"), token("2")]) == 0
    assert decides_at(lead) is None
