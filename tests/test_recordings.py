"""Recordings of other projects: what is read, what is refused with file and row, and how it is replayed."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from selfroute.backends.base import complete
from selfroute.backends.recorded import RecordedBackend
from selfroute.errors import ConfigError, TaskError
from selfroute.grading import judge
from selfroute.prompts import TEMPLATES
from selfroute.recordings import format_of, models_in, read_answers, shifted, unrecorded_text
from selfroute.tasks.recorded import Recorded
from selfroute.types import Sampling

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
ROUTELLM = 'prompt,weak,strong,weak_response,strong_response\n"1+1\n=",True,True,2,2.\n2+2,False,True,5,4\n'


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def zeroeval(number: int, answer: str, *, question: str | None = None, gold: str = "# 4") -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "question": f"What is {number}?" if question is None else question,
        "gold": gold,
        "model": "m",
        "output": json.dumps({"reasoning": "so", "answer": answer}),
    }


def test_routellm_with_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(ROUTELLM, encoding="utf-8")
    assert models_in(path) == ["weak", "strong"]
    weak = read_answers(path, model="weak")
    assert [(a.prompt, a.text, a.correct) for a in weak] == [("1+1\n=", "2", True), ("2+2", "5", False)]
    assert weak[1].where == f"{path}:4"


def test_routellm_with_verdicts_alone_gives_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "mmlu_a.csv").write_text("prompt,weak,strong\nx,True,False\nx,False,False\n", encoding="utf-8")
    (tmp_path / "mmlu_b.csv").write_text("prompt,weak,strong\ny,False,True\n", encoding="utf-8")
    weak = read_answers(tmp_path, model="weak")
    assert {a.text for a in weak} == {unrecorded_text("weak")}
    assert [a.prompt for a in weak] == ["x", "x ", "y"]
    assert len({a.id for a in weak}) == 3


def test_zeroeval_and_gzip(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for number in range(3):
            file.write(json.dumps(zeroeval(number, "4", question="")) + "\n")
    answers = read_answers(path)
    assert format_of(path) == "zeroeval"
    assert [(a.id, a.gold, a.model) for a in answers] == [(f"q{n}", "4", "m") for n in range(3)]
    assert [a.prompt for a in answers] == ["", " ", "  "]


def test_gsm8k_solutions(tmp_path: Path) -> None:
    row = {
        "question": "How many?",
        "ground_truth": "two\nA: 2",
        "small": {"is_correct": False, "solution": "A: 3"},
        "large": {"is_correct": True, "solution": "A: 2"},
    }
    path = lines(tmp_path / "s.jsonl", row)
    (large,) = read_answers(path, model="large")
    assert (large.gold, large.text, large.correct) == ("2", "A: 2", True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "prompt,weak\nx,maybe\n", r"a\.csv:2: 'maybe' under 'weak' is not True, False or"),
        ("a.csv", "prompt,weak\nx\n", r"a\.csv:2: 1 cells under 2 columns"),
        ("a.csv", "question,weak\n", r"a\.csv:1 has the columns question"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.jsonl", '{"output": 3}\n', r"a\.jsonl:1: 'output' is '3', not text"),
        (
            "a.jsonl",
            '{"output": "x", "id": 1}\n{"output": "y", "id": 1}\n',
            r"a\.jsonl:2: id '1' stands at .*a\.jsonl:1",
        ),
        ("a.jsonl", '{"output": "x"}\n[]\n', r"a\.jsonl:2: a list, not an object"),
        ("a.jsonl", '{"output": "x"}\n{"out\n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", '{"text": "x"}\n', r"a\.jsonl:1: 'prompt' is 'None'"),
        ("a.jsonl", '{"prompt": "x", "text": "y", "usd": NaN}\n', r"a\.jsonl:1: 'usd' is 'nan', not a number"),
        (
            "a.jsonl",
            '{"small": {"is_correct": 2, "solution": ""}, "question": ""}\n',
            r"'small.is_correct' is '2', not tr",
        ),
        (
            "a.jsonl",
            '{"prompt": "x", "text": "y", "correct": "yes"}\n',
            r"'correct' is 'yes', not true, false or a num",
        ),
        ("a.csv", "prompt,weak\nx,1.5\n", r"a\.csv:2: '1.5' under 'weak' is not True, False or a number"),
        ("a.jsonl.gz", "no gzip", r"cannot read after line 0"),
        ("a.csv", "prompt,weak,strong\nx,True,True\n", "say which with model"),
    ],
)
def test_bad_files_are_named_with_row_and_fix(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_answers(path)


def test_a_model_may_be_named_in_part(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(ROUTELLM, encoding="utf-8")
    assert read_answers(path, model="STRO")[0].model == "strong"
    with pytest.raises(ConfigError, match="is none of weak, strong"):
        read_answers(path, model="gpt")


async def test_a_prompt_is_replayed_under_any_system_prompt(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(ROUTELLM, encoding="utf-8")
    backend = RecordedBackend("weak", path, model="weak")
    template = TEMPLATES["plain"]
    asked = template.device_messages(template.conversation("2+2"), offer_handoff=False)
    assert (await complete(backend, asked, Sampling())).text == "5"


async def test_what_an_answer_cost_is_replayed(tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", {"prompt": "p", "text": "t", "seconds": 2.0, "usd": 0.25})
    answer = await complete(RecordedBackend("own", path), TEMPLATES["plain"].conversation("p"), Sampling())
    assert (answer.text, answer.seconds, answer.usd) == ("t", 2.0, 0.25)


# --- as a task ---------------------------------------------------------------------------------------------------


def test_recorded_verdicts_judge_recorded_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(ROUTELLM, encoding="utf-8")
    task = Recorded(answers=[{"path": str(path), "model": "weak"}, {"path": str(path), "model": "strong"}])
    second = task.rows("test")[1]
    assert (judge(task, second, "5")[0], judge(task, second, "4")[0], judge(task, second, "else")[0]) == (
        False, True, False,
    )  # fmt: skip
    with pytest.raises(TaskError, match="no gold answers"):
        task.gold_completion(second)


def test_recorded_grades_between_right_and_wrong(tmp_path: Path) -> None:
    own = [{"prompt": f"{grade}?", "text": f"{grade}!", "correct": grade} for grade in (0, 0.25, 0.5, 1, True)]
    path = lines(tmp_path / "own.jsonl", *own)
    answers = read_answers(path)
    assert [answer.correct for answer in answers] == [0.0, 0.25, 0.5, 1.0, True]
    assert [type(answer.correct) for answer in answers] == [float] * 4 + [bool]
    task = Recorded(answers=[path])
    verdicts = [task.verify(row, answer.text) for row, answer in zip(task.rows("test"), answers, strict=True)]
    assert [verdict.correct for verdict in verdicts] == [False, False, True, True, True]
    assert verdicts[1].reason == "recorded with a grade of 0.25"
    table = tmp_path / "a.csv"
    table.write_text("prompt,weak\nx,0.75\ny,false\n", encoding="utf-8")
    assert [answer.correct for answer in read_answers(table)] == [0.75, False]


@pytest.mark.parametrize("verifier", ["exact", "json", "numeric"])
def test_golds_with_quotes_pass_their_verifier(tmp_path: Path, verifier: str) -> None:
    gold = "5" if verifier == "numeric" else 'say "5"'
    path = lines(tmp_path / "own.jsonl", {"prompt": "p", "text": "t", "gold": gold})
    task = Recorded(answers=[path], verifier=verifier)
    (row,) = task.rows("test")
    assert task.verify(row, task.gold_completion(row)).correct


def test_zeroeval_is_judged_by_its_answer_key(tmp_path: Path) -> None:
    task = Recorded(answers=[lines(tmp_path / "a.jsonl", zeroeval(1, "4.0"), zeroeval(2, "5"))])
    first, second = task.rows("test")
    assert task.verify(first, zeroeval(1, "4.0")["output"]).correct
    assert not task.verify(second, zeroeval(2, "5")["output"]).correct
    assert not task.verify(second, "The answer is 4").correct
    assert task.verify(first, task.gold_completion(first)).correct


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([zeroeval(1, "4")], r"b\.jsonl:1 is the last of 1 answers, and .*a\.jsonl:2 has no partner"),
        ([zeroeval(1, "4"), zeroeval(3, "4")], r"b\.jsonl:2: id 'q3' where .*a\.jsonl:2 has 'q2'"),
        ([zeroeval(1, "4"), zeroeval(2, "4", question="else")], r"b\.jsonl:2: prompt 'else' where"),
        ([zeroeval(1, "4"), zeroeval(2, "4", gold="5")], r"b\.jsonl:2: gold '5' where .*a\.jsonl:2 has '4'"),
    ],
)
def test_recordings_of_different_sets(tmp_path: Path, other: list[Any], message: str) -> None:
    one = lines(tmp_path / "a.jsonl", zeroeval(1, "4"), zeroeval(2, "4"))
    with pytest.raises(ConfigError, match=message):
        Recorded(answers=[one, lines(tmp_path / "b.jsonl", *other)])


def test_a_row_without_gold(tmp_path: Path) -> None:
    row = zeroeval(1, "4")
    del row["gold"]
    with pytest.raises(TaskError, match=r"a\.jsonl:1: neither a verdict nor a gold answer; add 'gold'"):
        Recorded(answers=[lines(tmp_path / "a.jsonl", row)])


# --- as files are written elsewhere


OWN = [{"id": str(i), "prompt": f"What is {i}?", "text": f"<answer>{i}</answer>", "gold": str(i)} for i in range(3)]


def as_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("rows", [OWN, [zeroeval(i, str(i)) for i in range(3)]], ids=["selfroute", "zeroeval"])
@pytest.mark.parametrize(
    ("name", "spelt"),
    [
        ("a.jsonl", lambda rows: as_lines(rows).encode("utf-8-sig")),
        ("a.jsonl", lambda rows: as_lines(rows).encode("utf-16")),
        ("a.jsonl", lambda rows: as_lines(rows).replace("\n", "\r\n").encode()),
        ("a.json", lambda rows: json.dumps(rows).encode()),
        ("a.json", lambda rows: json.dumps(rows, indent=2).encode("utf-8-sig")),
        ("a.json", lambda rows: json.dumps(rows, indent=2).encode("utf-16")),
        ("a.jsonl.gz", lambda rows: gzip.compress(as_lines(rows).encode())),
        ("a.json.gz", lambda rows: gzip.compress(json.dumps(rows).encode("utf-8-sig"))),
    ],
    ids=["mark", "utf-16", "crlf", "array", "indented array", "utf-16 array", "packed", "packed array"],
)
async def test_a_file_is_read_as_it_comes(tmp_path: Path, rows: list[Any], name: str, spelt: Any) -> None:
    path = tmp_path / name
    path.write_bytes(spelt(rows))
    plain = read_answers(lines(tmp_path / "plain.jsonl", *rows))
    assert [(one.prompt, one.text, one.gold) for one in read_answers(path)] == [
        (one.prompt, one.text, one.gold) for one in plain
    ]
    backend = RecordedBackend("mine", path)
    for one in plain:
        found = await complete(backend, TEMPLATES["plain"].conversation(one.prompt), Sampling())
        assert found.text == one.text


def test_prompts_to_leave_out_are_read_with_a_mark(tmp_path: Path) -> None:
    one = lines(tmp_path / "a.jsonl", *OWN)
    (tmp_path / "out.json").write_bytes(json.dumps([{"prompt": "What is 1?"}]).encode("utf-8-sig"))
    rows = Recorded(answers=[one], exclude=tmp_path / "out.json").rows("test")
    assert [row.question for row in rows] == ["What is 0?", "What is 2?"]


@pytest.mark.parametrize("end", ["", " ", "\n", "  \n", "\t"])
@pytest.mark.parametrize("asked", ["", " ", "\n\n"])
async def test_a_prompt_is_found_whatever_spaces_it_ends_in(tmp_path: Path, end: str, asked: str) -> None:
    rows = [{"prompt": f"What is {i}?{end}", "text": str(i)} for i in range(3)]
    for path in (lines(tmp_path / "own.jsonl", *rows), tmp_path / "theirs.jsonl"):
        if path.name == "theirs.jsonl":
            lines(path, *[zeroeval(i, str(i), question=row["prompt"]) for i, row in enumerate(rows)])
        backend = RecordedBackend("mine", path)
        answer = await complete(backend, TEMPLATES["plain"].conversation(f"What is 1?{asked}"), Sampling())
        assert "1" in answer.text


async def test_equal_prompts_keep_their_own_answers(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *[zeroeval(i, str(i), question="Same?\n") for i in range(3)])
    task, backend = Recorded(answers=[path]), RecordedBackend("m", path)
    texts = [
        (await complete(backend, TEMPLATES["plain"].conversation(row.question), Sampling())).text
        for row in task.rows("test")
    ]
    assert [json.loads(text)["answer"] for text in texts] == ["0", "1", "2"]


def test_recordings_whose_prompts_differ_in_spaces_alone_are_of_one_set(tmp_path: Path) -> None:
    one = lines(tmp_path / "a.jsonl", zeroeval(1, "4", question="Why?"))
    other = lines(tmp_path / "b.jsonl", zeroeval(1, "4", question="Why?\n"))
    assert len(Recorded(answers=[one, other]).rows("test")) == 1


# --- shifted by a row


def answers(count: int, by: int = 0, start: int = 0, rate: float = 0.6) -> list[dict[str, Any]]:
    """Rows of a model that is right at a rate; from `start` on, each has the answer of the row `by` places behind."""
    rng = random.Random(3)
    said = [str(i % 7 if rng.random() < rate else 99) for i in range(count + 2)]
    return [
        zeroeval(i, said[i + (by if i >= start else 0)], question=f"What is {i}?", gold=str(i % 7))
        for i in range(count)
    ]


@pytest.mark.parametrize(("by", "start"), [(1, 0), (-1, 1), (1, 60), (-1, 40)])
def test_answers_that_are_shifted_by_a_row_are_named(tmp_path: Path, by: int, start: int) -> None:
    path = lines(tmp_path / "a.jsonl", *answers(120, by, start))
    with pytest.raises(
        ConfigError, match=r"the answers of 'm' are right for the prompts of the row (behind|before) th"
    ):
        Recorded(answers=[path])


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("golds", [1, 2, 4, 1000])
def test_answers_that_are_where_they_belong_are_let_be(rate: float, golds: int) -> None:
    """Also where golds repeat, and a model is worse than chance."""
    rng = random.Random(5)
    for _ in range(50):
        gold = [rng.randrange(golds) for _ in range(150)]
        said = [one if rng.random() < rate else rng.randrange(golds) for one in gold]
        assert shifted(lambda one, other, gold=gold, said=said: said[one] == gold[other], 150) == 0


# --- RouterArena


def cached(number: int, model: str, score: float, *, answer: str | None = "so \\boxed{4}") -> dict[str, Any]:
    return {
        "global_index": f"AIME_{number}",
        "question": f"Please solve {number}.",
        "llm_selected": model,
        "generated_answer": answer,
        "token_usage": {"input_tokens": 92, "output_tokens": 217, "total_tokens": 309},
        "success": answer is not None,
        "provider": "p",
        "error": None,
        "evaluation_result": {"ground_truth": "4", "score": score, "metric": "math_metric", "inference_cost": 9.6e-05},
    }


def routed(number: int, model: str, accuracy: float) -> dict[str, Any]:
    made = {"generated_answer": f"{model} says {number}", "success": True, "token_usage": {"input_tokens": 3}}
    return {
        "global index": f"AIME_{number}",
        "prompt": f"Please solve {number}.",
        "prediction": model,
        "generated_result": made,
        "cost": 2e-4,
        "accuracy": accuracy,
    }


def test_routerarenas_cached_results(tmp_path: Path) -> None:
    path = lines(tmp_path / "gemini.jsonl", cached(1, "gemini", 1.0), cached(2, "gemini", 0.25),
                 cached(3, "gemini", 0.0, answer=None))  # fmt: skip
    assert format_of(path) == "routerarena"
    one, two = read_answers(path)
    assert (one.id, one.model, one.correct, one.gold, one.usd) == ("AIME_1", "gemini", 1.0, "4", 9.6e-05)
    assert one.usage is not None and (one.usage.prompt_tokens, one.usage.completion_tokens) == (92, 217)
    task = Recorded(answers=[path])
    assert [judge(task, row, answer.text)[0] for row, answer in zip(task.rows("test"), (one, two), strict=True)] == [
        True, 0.25,
    ]  # fmt: skip


def test_of_more_than_two_models_two_are_chosen(tmp_path: Path) -> None:
    """Each file has some of the prompts, in its own order."""
    models = {"small": [1, 2, 3, 4], "large": [4, 2, 1], "other": [9]}
    for name, numbers in models.items():
        rows = [cached(i, name, float(name == "large"), answer=f"{name} {i}") for i in numbers]
        lines(tmp_path / f"{name}.jsonl", *rows)
    assert models_in(tmp_path) == ["large", "other", "small"]
    with pytest.raises(ConfigError, match="holds answers of large, other, small; say which with model: NAME"):
        read_answers(tmp_path)
    task = Recorded(answers=[{"path": str(tmp_path), "model": name} for name in ("small", "large")])
    rows = task.rows("test")
    assert [row.id for row in rows] == ["AIME_1", "AIME_2", "AIME_4"]
    assert [judge(task, rows[0], text)[0] for text in ("small 1", "large 1")] == [False, True]
    with pytest.raises(ConfigError, match="no prompt was answered by all of these models; choose others"):
        Recorded(answers=[{"path": str(tmp_path), "model": name} for name in ("small", "other")])


async def test_routerarenas_predictions(tmp_path: Path) -> None:
    path = tmp_path / "router.json"
    waiting = {**routed(3, "small", 0.0), "generated_result": None, "cost": None, "accuracy": None}
    path.write_text(json.dumps([routed(1, "small", 0.0), routed(2, "large", 1.0), waiting]), encoding="utf-8")
    assert models_in(path) == ["small", "large"]
    (one,) = read_answers(path, model="large")
    assert (one.id, one.correct, one.usd, one.text) == ("AIME_2", 1.0, 2e-4, "large says 2")
    answer = await complete(RecordedBackend("large", path, model="large"), TEMPLATES["plain"].conversation(one.prompt),
                            Sampling())  # fmt: skip
    assert answer.text == one.text and answer.usd == one.usd


def test_an_empty_split(tmp_path: Path) -> None:
    task = Recorded(answers=[lines(tmp_path / "a.jsonl", zeroeval(1, "4"))])
    with pytest.raises(ConfigError, match="split 'train' is empty; set test_share below 1, or folds=5"):
        task.rows("train")


def test_splits_share_no_prompt(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *(zeroeval(n, "4") for n in range(200)))
    task = Recorded(answers=[path], test_share=0.3)
    train, test = ({row.id for row in task.rows(split)} for split in ("train", "test"))
    assert train & test == set()
    assert len(train | test) == 200
    assert 30 < len(test) < 90


# --- the real files: BENCHMARKS section 1 --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "exclude", "expected"),
    [
        pytest.param(
            [{"path": "routellm/gsm8k_responses.csv", "model": m} for m in ("mixtral", "gpt-4")],
            "routellm/gsm8k_contaminated_prompts.jsonl",
            (1307, 0.6373, 0.8577, 0.9296, 5e-5),
            id="routellm-gsm8k",
        ),
        pytest.param(
            [{"path": "routellm/mmlu", "model": m} for m in ("mixtral", "gpt-4")],
            "routellm/mmlu_contaminated_prompts.jsonl",
            (14037, 0.6809, 0.8059, 0.8587, 5e-5),
            id="routellm-mmlu",
        ),
        pytest.param(
            [{"path": f"zeroeval/gsm/{m}.jsonl.gz"} for m in ("Qwen2-7B-Instruct", "gpt-4o-2024-08-06")],
            None,
            (1319, 0.801, 0.962, 0.973, 0.005),
            id="zeroeval-gsm8k",
        ),
        pytest.param(
            [{"path": f"zeroeval/math-l5/Qwen2.5-{m}-Instruct.jsonl.gz"} for m in ("3B", "72B")],
            None,
            (721, 0.286, 0.603, 0.645, 0.005),
            id="zeroeval-math",
        ),
        pytest.param(
            [{"path": "gsm8k/example_model_solutions.jsonl", "model": m} for m in ("6b_verif", "175b_fine")],
            None,
            (1319, 0.390, 0.347, 0.5, 0.1),
            id="trap",
        ),
    ],
)
@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_the_accuracies_of_published_recordings(
    answers: list[dict[str, str]], exclude: str | None, expected: tuple[float, ...]
) -> None:
    sources = [dict(answer, path=str(DATA / answer["path"])) for answer in answers]
    task = Recorded(answers=sources, exclude=None if exclude is None else DATA / exclude)
    rows = task.rows("test")
    n, *accuracies, slack = expected
    assert len(rows) == n
    texts = [{a.id: a.text for a in read_answers(source["path"], model=source.get("model"))} for source in sources]
    right = [[task.verify(row, side[row.id]).correct for row in rows] for side in texts]
    either = sum(a or b for a, b in zip(*right, strict=True)) / n
    found = [sum(side) / n for side in right] + [either]
    assert found == pytest.approx(accuracies, abs=slack)
