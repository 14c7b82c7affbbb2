"""GSM8K, MATH and your own files: read from local copies of every usual shape, and refused in one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError, TaskError
from selfroute.tasks.base import Row, Task
from selfroute.tasks.check import check, failures
from selfroute.tasks.data import fraction
from selfroute.tasks.gsm8k import GSM8K
from selfroute.tasks.hendrycks_math import HendrycksMath
from selfroute.tasks.jsonl import JsonLines
from selfroute.verify.verifiers import VERIFIERS, numeric

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_gsm8k = pytest.mark.skipif(not (SHARED / "gsm8k").is_dir(), reason="needs ../shared/data/gsm8k")
needs_zeroeval = pytest.mark.skipif(not (SHARED / "zeroeval").is_dir(), reason="needs ../shared/data/zeroeval")

Rows = Sequence[dict[str, Any]]


def write(file: Path, rows: Rows) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def gsm8k_rows(count: int, start: int = 0) -> Rows:
    return [
        {
            "question": f"What is {n} plus 1,000?",
            "answer": f"{n}+1000=<<{n}+1000={n + 1000}>>{n + 1000}\n#### {n + 1000:,}",
        }
        for n in range(start, start + count)
    ]


def math_rows(count: int) -> Rows:
    return [
        {
            "problem": f"Halve {n}.",
            "level": f"Level {n % 5 + 1}",
            "type": "Algebra",
            "solution": f"First \\boxed{{{n}}}, so $\\boxed{{\\frac{{{n}}}{{2}}}}$.",
        }
        for n in range(count)
    ]


# --- GSM8K -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["train.jsonl", "main/train-00000-of-00001.parquet", "data/train.jsonl", "train.parquet", "copy/train.jsonl"],
)
def test_gsm8k_reads_every_usual_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, gsm8k_rows(200))
    write(tmp_path / name.replace("train", "test"), gsm8k_rows(20, 1000))
    task = GSM8K(path=tmp_path, validation_share=0.2)
    train, validation, test = (list(task.rows(split)) for split in ("train", "validation", "test"))
    assert len(test) == 20
    assert len(train) + len(validation) == 200
    assert 20 <= len(validation) <= 60
    assert not {row.question for row in train} & {row.question for row in validation}
    assert test[0].question == "What is 1000 plus 1,000?"
    assert test[0].gold == "2000"
    assert task.gold_completion(test[0]) == "1000+1000=2000\n\\boxed{2000}"
    assert [failures(task, split) for split in ("train", "validation", "test")] == [[], [], []]


def test_the_hold_out_is_seeded_and_ignores_order(tmp_path: Path) -> None:
    rows = gsm8k_rows(100)
    write(tmp_path / "a" / "train.jsonl", rows)
    write(tmp_path / "b" / "train.jsonl", list(reversed(rows)))

    def held_out(folder: str, seed: int) -> set[str]:
        return {row.question for row in GSM8K(path=tmp_path / folder, seed=seed).rows("validation")}

    assert held_out("a", 0) == held_out("a", 0) == held_out("b", 0)
    assert held_out("a", 0) != held_out("a", 1)


def test_a_validation_file_replaces_the_hold_out(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", gsm8k_rows(50))
    write(tmp_path / "validation.jsonl", gsm8k_rows(5, 100))
    task = GSM8K(path=tmp_path)
    assert (len(task.rows("train")), len(task.rows("validation"))) == (50, 5)


def test_one_file_is_divided_among_the_splits(tmp_path: Path) -> None:
    task = GSM8K(path=write(tmp_path / "all.jsonl", gsm8k_rows(300)))
    parts = [{row.id for row in task.rows(split)} for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 300
    assert 200 < len(parts[0]) < 290


def test_ids_are_unique_and_stable_and_limit_takes_the_first(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", gsm8k_rows(10)).parent
    assert [row.id for row in GSM8K(path=path).rows("test")] == [f"test-{n}" for n in range(1, 11)]
    assert GSM8K(path=path, limit=3).rows("test") == GSM8K(path=path).rows("test")[:3]


def test_gsm8k_from_the_data_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "gsm8k" / "test.jsonl", gsm8k_rows(4))
    monkeypatch.setenv("SELFROUTE_DATA_DIR", str(tmp_path))
    assert len(GSM8K().rows("test")) == 4


def test_without_network_and_path_both_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.delenv("SELFROUTE_DATA_DIR", raising=False)
    with pytest.raises(ConfigError, match=r"openai/gsm8k.*path=.*test\.jsonl.*SELFROUTE_DATA_DIR") as caught:
        GSM8K().rows("test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [GSM8K, HendrycksMath])
def test_a_repository_of_the_hub_is_read_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[GSM8K] | type[HendrycksMath]
) -> None:
    """A folder with a repository's name and configurations is what `datasets` takes for the repository."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    source = kind(limit=3).source
    assert source.repository is not None
    rows = gsm8k_rows(10) if kind is GSM8K else math_rows(10)
    for split in ("train", "test"):
        write(tmp_path / source.repository / "files" / f"{split}.parquet", rows)
    (tmp_path / source.repository / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {source.config}\n  data_files:\n"
        "  - {split: train, path: files/train.parquet}\n  - {split: test, path: files/test.parquet}\n---\n"
    )
    task = kind(limit=3)
    first = next(iter(task.rows("test")))
    assert len(list(task.rows("test"))) == 3
    assert first.id == "test-1" and first.question
    assert task.verify(first, f"<answer>\\boxed{{{first.gold}}}</answer>").correct
    assert list(task.rows("train"))


def test_a_gsm8k_answer_without_a_number_is_named(tmp_path: Path) -> None:
    rows = [*gsm8k_rows(2), {"question": "?", "answer": "so it is five"}]
    with pytest.raises(TaskError, match=r"test\.jsonl:3: field 'answer' must end in '#### number'"):
        GSM8K(path=write(tmp_path / "test.jsonl", rows).parent).rows("test")


@needs_gsm8k
def test_every_gold_of_gsm8k_verifies() -> None:
    task = GSM8K(path=SHARED / "gsm8k")
    assert [len(task.rows(split)) for split in ("train", "validation", "test")] == [7120, 353, 1319]
    for split in ("train", "validation", "test"):
        check(task, split)


@needs_gsm8k
def test_numeric_agrees_with_the_labels_of_written_solutions() -> None:
    """5,276 solutions of four models, judged by people's scripts: no disagreement."""
    lines = (SHARED / "gsm8k" / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    models = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"]
    disagree = [
        (row["question"], model)
        for row in rows
        for model in models
        if numeric(row[model]["solution"], row["ground_truth"].rpartition("A:")[2]).correct != row[model]["is_correct"]
    ]
    assert disagree == []


@needs_zeroeval
@pytest.mark.parametrize(
    ("model", "accuracy"),
    [("gpt-4o-2024-08-06", 0.962), ("Qwen2-7B-Instruct", 0.801), ("Meta-Llama-3.1-8B-Instruct", 0.840)],
)
def test_numeric_on_full_answers_of_models(model: str, accuracy: float) -> None:
    with gzip.open(SHARED / "zeroeval" / "gsm" / f"{model}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    correct = sum(numeric(row["output"], row["gold"].lstrip("# ")).correct for row in rows)
    assert correct / len(rows) == pytest.approx(accuracy, abs=0.005)


# --- MATH --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["{}.jsonl", "data/{}-00000-of-00001.parquet"])
def test_math_takes_the_last_box(tmp_path: Path, name: str) -> None:
    for split in ("train", "test"):
        write(tmp_path / name.format(split), math_rows(30))
    task = HendrycksMath(path=tmp_path)
    row = task.rows("test")[3]
    assert row.gold == r"\frac{3}{2}"
    assert (row.fields["level"], row.fields["subject"]) == ("Level 4", "Algebra")
    assert failures(task, "test") == []
    assert task.verify(row, "so $1.5$").correct


def test_math_in_one_folder_per_subject(tmp_path: Path) -> None:
    for subject in ("algebra", "geometry"):
        write(tmp_path / subject / "test-00000-of-00001.parquet", math_rows(5))
    assert len(HendrycksMath(path=tmp_path).rows("test")) == 10


def test_math_500_has_answers_of_its_own(tmp_path: Path) -> None:
    rows = [{"problem": "?", "answer": "(3,4)", "subject": "Geometry", "level": 2}]
    (row,) = HendrycksMath(path=write(tmp_path / "test.jsonl", rows).parent).rows("test")
    assert (row.gold, row.fields) == ("(3,4)", {"level": "2", "subject": "Geometry"})


def test_a_math_solution_without_a_box_is_named(tmp_path: Path) -> None:
    rows = [{"problem": "?", "solution": "It is 5."}]
    with pytest.raises(TaskError, match=r"test\.jsonl:1: no \\boxed"):
        HendrycksMath(path=write(tmp_path / "test.jsonl", rows).parent).rows("test")


# --- your own files ----------------------------------------------------------------------------------------------


def test_jsonl_with_fields_of_your_own(tmp_path: Path) -> None:
    rows = [{"prompt": f"Capital {n}?", "label": "Rome", "source": "quiz"} for n in range(40)]
    task = JsonLines(
        path=write(tmp_path / "quiz.jsonl", rows),
        question_field="prompt",
        answer_field="label",
        verifier="exact",
        template="think",
    )
    row = task.rows("train")[0]
    assert (row.gold, row.fields) == ("Rome", {"source": "quiz"})
    assert task.verify(row, "<think>Paris?</think><answer>Rome</answer>").correct
    check(task, "train")


@pytest.mark.parametrize(("value", "gold"), [(5, "5"), (2.5, "2.5"), (True, "true"), (" 5 ", "5")])
def test_jsonl_answers_may_be_numbers(tmp_path: Path, value: object, gold: str) -> None:
    task = JsonLines(path=write(tmp_path / "test.jsonl", [{"question": "?", "answer": value}]).parent)
    assert task.rows("test")[0].gold == gold


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "?"}', r"field 'answer' is missing; it has question"),
        ('{"question": "?", "answer": null}', r"field 'answer' is 'None'"),
        ('{"question": "?", "answer": ""}', r"field 'answer' is ''"),
        ('{"question": "?", "answer": [5]}', r"field 'answer' is '\[5\]'"),
        ('{"answer": "5"}', r"field 'question' is missing; it has answer"),
        ("{}", r"field 'question' is missing"),
        ("{question}", r"not JSON"),
        ('["question"]', r"a list, not an object"),
        ("null", r"a NoneType, not an object"),
        ("[" * 100_000, r"not JSON"),
    ],
)
@pytest.mark.parametrize("single", [True, False])
def test_a_broken_line_is_named_with_file_and_line(tmp_path: Path, line: str, message: str, single: bool) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('\n{"question": "1", "answer": 1}\n' + line + "\n", encoding="utf-8")
    task = JsonLines(path=file if single else tmp_path, validation_share=0, test_share=0)
    with pytest.raises(TaskError, match=rf"train\.jsonl:3: {message}") as caught:
        task.rows("train")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(b'\xef\xbb\xbf{"question": "?", "answer": 1}\n{"question": "\xff"}\n')
    with pytest.raises(TaskError, match=r"test\.jsonl:2: not JSON"):
        JsonLines(path=tmp_path).rows("test")


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: JsonLines(path=path / "none.jsonl"), r"jsonl: no file or folder '.*none\.jsonl'"),
    (lambda path: JsonLines(path=path, verifier="numerc"), r"unknown verifier 'numerc'; did you mean 'numeric'\?"),
    (lambda path: JsonLines(path=path, verifier="?"), r"use one of exact, numeric, choice, math"),
    (lambda path: JsonLines(path=path, validation_share=1.5), r"validation_share must be in \[0, 1\), not 1\.5"),
    (lambda path: JsonLines(path=path, validation_share=0.5, test_share=0.5), r"must be below 1"),
    (lambda path: JsonLines(path=path, limit=0), r"limit must be at least 1, not 0"),
    (lambda path: JsonLines(path=path).rows("tset"), r"unknown split 'tset' of task 'jsonl'; use one of train"),
    (lambda path: JsonLines(path=path).rows("test"), r"no test\.jsonl or test\.parquet in"),
    (
        lambda path: JsonLines(path=path / "empty" / "none.jsonl").rows("test"),
        r"split 'test' of '.*none\.jsonl' is empty",
    ),
    (lambda path: JsonLines(path=path, validation_share=0).rows("validation"), r"split 'validation' of '.*' is empty"),
    (lambda path: JsonLines(path=path / "notes.txt").rows("test"), r"give a \.jsonl, \.json or \.parquet file"),
    (lambda path: JsonLines(path=path / "bad.parquet").rows("test"), r"cannot read '.*bad\.parquet' as parquet"),
    (lambda path: GSM8K(path=path / "none"), r"gsm8k: no file or folder"),
    (lambda path: HendrycksMath(path=path, validation_share=-1), r"hendrycks_math: validation_share"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[message[:25] for _, message in REFUSED])
def test_bad_arguments_are_refused_in_one_line(tmp_path: Path, build: Callable[[Path], object], message: str) -> None:
    write(tmp_path / "train.jsonl", gsm8k_rows(3))
    write(tmp_path / "empty" / "none.jsonl", [])
    write(tmp_path / "notes.txt", [])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match=message) as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)


@given(st.text(), st.integers(0, 3))
def test_the_draw_is_a_fraction_of_the_text_alone(text: str, seed: int) -> None:
    assert 0 <= fraction(text, seed=seed) < 1
    assert fraction(text, seed=seed) == fraction(f" {text}\n", seed=seed)


# --- check -------------------------------------------------------------------------------------------------------


def test_check_names_the_first_broken_rows(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": "five" if n % 2 else "5"} for n in range(10)]
    task = JsonLines(path=write(tmp_path / "test.jsonl", rows).parent, verifier="numeric")
    assert [row.id for row, _ in failures(task, "test")] == [f"test-{n}" for n in (2, 4, 6, 8, 10)]
    with pytest.raises(
        TaskError, match=r"jsonl: 5 gold answers of 'test'.*test-2: gold 'five', not a number.* and 2 more"
    ):
        check(task, "test")


@pytest.mark.parametrize("verifier", [*VERIFIERS])
@pytest.mark.parametrize("template", ["think", "steps"])
def test_the_gold_of_either_template_passes_each_verifier(tmp_path: Path, verifier: str, template: str) -> None:
    if verifier == "math":
        pytest.importorskip("math_verify")
    golds = {"exact": "New York", "numeric": "1,234.5", "choice": "(C)", "math": r"\frac{1}{2}", "json": "7"}
    gold = {**golds, "output": "{'a': 1}"}[verifier]
    path = write(tmp_path / "test.jsonl", [{"question": "?", "answer": gold}]).parent
    task: Task = JsonLines(path=path, verifier=verifier, template=template)
    check(task, "test")
    assert not task.verify(Row("x", "?", gold), "I need external assistance").correct


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_arrays_and_marks_of_other_programs_are_read(tmp_path: Path, encoding: str, name: str) -> None:
    rows = [{"question": f"What is {i}?", "answer": i} for i in range(5)]
    text = json.dumps(rows, indent=1) if name == "rows.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_bytes(text.encode(encoding))
    found = JsonLines(path=tmp_path / name, validation_share=0, test_share=0).rows("train")
    assert [(row.id, row.question, row.gold) for row in found] == [
        (f"rows-{i + 1}", f"What is {i}?", str(i)) for i in range(5)
    ]
