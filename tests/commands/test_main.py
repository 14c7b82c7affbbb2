"""The commands from the outside: exit codes, one-line errors, and what they print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from selfroute.assemble.evaluating import record_rows
from selfroute.assemble.pieces import first_rows, template_of
from selfroute.backends.function import FunctionBackend
from selfroute.backends.recorded import RecordedBackend
from selfroute.commands.main import app
from selfroute.config import Spec, make_task

SELFROUTE = Path(sys.executable).with_name("selfroute")
ROOT = Path(__file__).resolve().parents[2]
GAPG = str(ROOT / "recipes/countdown/gapg.yaml")
WARM_UP = str(ROOT / "recipes/countdown/warmup.yaml")
EVALUATE = str(ROOT / "recipes/countdown/evaluate.yaml")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "selfroute.commands.main", *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "1+1", "answer": "2"}) + "\n" + json.dumps({"question": "1+2"}) + "\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "nope.yaml"], ["recipe 'nope.yaml' does not exist"]),
        (["train", GAPG, "share=1.5"], ["share", "1.5 is not between 0 and 1"]),
        (["train", GAPG, "share=0"], ["share", "0 is not between 0 and 1"]),
        (["train", GAPG, "stpes=5"], ["unknown key 'stpes'", "did you mean 'steps'?"]),
        (["train", GAPG, "algorithm=ppo"], ["'ppo' is not one of gapg"]),
        (["train", GAPG, "reward.clod=0.2"], ["'clod'", "did you mean 'cloud'?"]),
        (["train", GAPG, "reward.cloud=2"], ["local > cloud > format", "cloud=2"]),
        (["train", GAPG, "task=countdwn"], ["unknown task 'countdwn'", "did you mean 'countdown'?"]),
        (["train", GAPG, "task.countdown.largest=3"], ["unknown key 'largest'", "did you mean 'largest_"]),
        (["train", GAPG, "model=/no/such/folder"], ["'/no/such/folder' does not exist"]),
        (["train", GAPG, f"model={ROOT / 'recipes'}"], ["recipes' is not a model folder", "config.json"]),
        (["train", WARM_UP, "traces.shown_rate=0.5"], ["traces.shown_rate: 0.5", "role=device", "take role=cloud"]),
        (
            ["train", WARM_UP, "role=cloud", "traces.told_rate=0.5"],
            ["traces.told_rate: 0.5", "role=cloud", "take role=device"],
        ),
        (
            ["train", GAPG, "cloud.openai.model=m"],
            ["'cloud' is 'embedded:cloud'", "write 'cloud={openai: {model: m}}'"],
        ),
        (["train", GAPG, "cloud={opnai: {model: m}}"], ["unknown backend 'opnai'", "did you mean 'openai'?"]),
        (["evaluate", EVALUATE, "limit=0"], ["limit", "0 is not at least 1"]),
        (["evaluate", EVALUATE, "split=tset"], ["split", "'tset'"]),
        (["evaluate", EVALUATE, "strategies=[always_clod]"], ["'always_clod'", "did you mean 'always_cloud'?"]),
        (["evaluate", EVALUATE, "strategies=[self_route]"], ["self_route", "policies"]),
        (["ask", "x", "--template", "thnk"], ["unknown template 'thnk'", "did you mean 'think'?"]),
        (["ask", "x", "--device", "recorded:nowhere.jsonl"], ["nowhere.jsonl"]),
        (["record", "countdown", "--backend", "nope:x"], ["--backend: unknown backend 'nope'"]),
        (["record", "gsm8k", "path=nowhere"], ["nowhere"]),
        (["tasks", "--check", "countdwn"], ["did you mean 'countdown'?"]),
        (["tasks", "seed=3"], ["seed=3", "--check"]),
        (["serve", "--port", "99999"], ["'--port': 99999", "see: selfroute serve --help"]),
        (["evaluate"], ["Missing argument 'RECIPE.yaml'", "see: selfroute evaluate --help"]),
        (
            ["evaluate", EVALUATE, "--engin", "ray"],
            ["No such option: --engin", "--engine", "selfroute evaluate --help"],
        ),
        (["trian"], ["No such command 'trian'", "'train'", "see: selfroute --help"]),
        (["--foo"], ["No such option: --foo", "see: selfroute --help"]),
        (["serve", "device=transformers:out/nowhere", "--check"], ["'out/nowhere' does not exist"]),
        (["train", GAPG, "model=out/nowhere"], ["'out/nowhere' does not exist"]),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.suffix != ".sqlite"], "refused before any work"


def test_a_warm_up_names_a_start_that_is_no_model(tmp_path: Path) -> None:
    (file := tmp_path / "model.gguf").write_bytes(b"GGUF")
    result = invoke("train", WARM_UP, f"start={file}", f"out={tmp_path / 'run'}")
    assert result.exit_code == 2
    assert str(file) in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_row_without_its_field_names_file_and_line(jsonl: Path) -> None:
    result = invoke("tasks", "--check", "jsonl", f"path={jsonl}", "verifier=numeric")
    assert result.exit_code == 1
    assert f"{jsonl}:2" in result.stderr
    assert "answer" in result.stderr


def test_a_mistyped_command_or_option_is_exit_2() -> None:
    assert invoke("trian").exit_code == 2
    assert "train" in invoke("trian").stderr
    assert invoke("train", GAPG, "--resum").exit_code == 2


FILES = {
    "train": [GAPG, WARM_UP],
    "evaluate": [EVALUATE, str(ROOT / "recipes/countdown/strategies.yaml")],
    "compare": [str(ROOT / "recipes/atlas/chain.yaml")],
    "serve": [str(ROOT / "recipes/serve/llama-server.yaml"), str(ROOT / "recipes/serve/two-processes.yaml")],
    "place": [str(ROOT / "recipes/placement/r1.yaml")],
    "prices": [str(ROOT / "recipes/prices.yaml")],
}
READERS = {
    "train": [["train"]],
    "evaluate": [["evaluate"]],
    "compare": [["compare"]],
    "serve": [["serve"], ["cloud", "--backend", "embedded:cloud"], ["ask", "x", "--config"], ["chat", "--config"]],
    "place": [["place"]],
}


@pytest.mark.parametrize(
    ("reader", "kind", "file"),
    [
        pytest.param(reader, kind, file, id=f"{reader[0]}-{Path(file).name}")
        for wanted, readers in READERS.items()
        for reader in readers
        for kind, files in FILES.items()
        for file in files
        if kind != wanted
    ],
)
def test_another_kind_of_recipe_is_named_as_such(reader: list[str], kind: str, file: str) -> None:
    result = invoke(*reader, file)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    names = {
        "train": "a training recipe",
        "evaluate": "an evaluation recipe",
        "compare": "a comparison",
        "serve": "a serving recipe",
        "place": "a placement recipe",
        "prices": "a price table",
    }
    assert f"{file}: this is {names[kind]}, not a" in result.stderr
    assert (
        "`prices` of a recipe" in result.stderr if kind == "prices" else f"`selfroute {kind} {file}`" in result.stderr
    )


def test_exit_codes_of_the_real_program() -> None:
    assert run("--version").stdout.strip() == version("selfroute")
    missing = run("train", "nope.yaml")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert (
        missing.stderr == "error: recipe 'nope.yaml' does not exist; `selfroute recipes` lists those that come along\n"
    )
    assert SELFROUTE.exists()


def test_a_traceback_only_where_asked() -> None:
    assert "Traceback" not in run("train", "nope.yaml").stderr
    assert "Traceback" in run("train", "nope.yaml", SELFROUTE_DEBUG="1").stderr


def test_env_shows_versions() -> None:
    output = invoke("env").stdout
    for name in ("selfroute", "python", "torch", "trl"):
        assert any(line.split()[0] == name for line in output.splitlines())
    assert version("torch") in output


@pytest.mark.parametrize("command", ["tasks", "strategies", "backends", "algorithms"])
def test_lists_name_everything_with_a_sentence(command: str) -> None:
    from selfroute import config

    result = invoke(command)
    output = result.stdout
    assert result.stderr.startswith("next: selfroute ")
    title, heads, *lines = output.splitlines()
    assert title.startswith(command.capitalize()) and heads.split()[0] == "name"
    for name, entry in getattr(config, command.upper()).items():
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert entry.described() in line and len(entry.described().split()) > 3
    if command == "backends":
        assert "embedded:device" in output


def test_tasks_check_passes_on_good_data(tmp_path: Path) -> None:
    result = invoke("tasks", "--check", "countdown", "limit=20")
    assert result.exit_code == 0
    first, judged, misses, *_ = result.stdout.splitlines()
    assert first == "countdown: all 20 gold answers of 'test' pass their verifier"
    assert judged == "answers made from them by rule, judged by countdown:"
    assert misses.split() == ["0", "of", "59", "0.0", "%", "misses:", "what", "must", "pass"]
    assert "   0 of 20       0.0 %  one digit changed" in result.stdout
    *_, tried, next_one = result.stderr.splitlines()
    assert tried == "trying other spellings 20/20"
    assert next_one == "next: selfroute record countdown limit=20 --split test --backend MODEL --out cloud.jsonl"


def test_tasks_check_shows_what_a_lenient_verifier_lets_through(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(11, 31)), encoding="utf-8")
    line = ["tasks", "--check", "jsonl", f"path={data}", f"verifier={__name__}:starts_alike", "test_share=0.9"]
    result = invoke(*line, "validation_share=0")
    assert result.exit_code == 0
    assert "judged by" in result.stdout
    assert "another row's answer" in result.stdout
    lenient = next(row for row in result.stdout.splitlines() if "another row" in row)
    assert int(lenient.split()[0]) > 5


def starts_alike(completion: str, gold: str) -> bool:
    """A verifier that a user might write and regret."""
    return gold[0] in completion


@pytest.mark.parametrize("command", ["train", "evaluate", "compare"])
def test_interrupted_says_how_to_go_on(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    line = [command, FILES[command][0], "out=elsewhere"]
    place = {
        "train": "selfroute.assemble.training",
        "evaluate": "selfroute.assemble.evaluating",
        "compare": "selfroute.assemble.comparing",
    }[command]
    monkeypatch.setattr(f"{place}.{command}_recipe", interrupt)
    monkeypatch.setattr(sys, "argv", ["selfroute", *line])
    result = invoke(*line)
    assert result.exit_code == 130
    again = " ".join(["selfroute", *line]) + (" --resume" if command == "train" else "")
    assert result.stderr.strip().endswith(f"go on with: {again}")


async def test_record_writes_answers_that_replay(tmp_path: Path) -> None:
    task = make_task(Spec("countdown"), seed=1, limit=5)
    rows = first_rows(task, "test", 5)
    out, seen = tmp_path / "answers.jsonl", []
    backend = FunctionBackend("echo", lambda messages, sampling: f"<answer>{messages[-1].content[:9]}</answer>")
    failed = await record_rows(
        backend, task, rows, out, as_device=False, concurrency=2, max_tokens=64, on_progress=lambda *at: seen.append(at)
    )
    assert failed == []
    assert seen[-1] == (5, 5)
    assert len(RecordedBackend("replay", out)) == 5


def test_record_from_the_command_line(tmp_path: Path) -> None:
    source, out = tmp_path / "source.jsonl", tmp_path / "again.jsonl"
    task = make_task(Spec("countdown"), limit=2)
    template = template_of(task)
    prompts = [template.conversation(row.question)[0].content for row in task.rows("test")]
    source.write_text("".join(json.dumps({"prompt": prompt, "text": "no"}) + "\n" for prompt in prompts))
    line = ["record", "countdown", "limit=2", "--backend", f"recorded:{source}", "--out", str(out)]
    result = invoke(*line)
    assert result.exit_code == 0, result.output
    assert f"2 of 2 answers are in {out}" in result.stdout
    again = invoke(*line)
    assert again.exit_code == 0
    assert len(out.read_text().splitlines()) == 2

    source.write_text(source.read_text().splitlines()[0] + "\n")
    out.unlink()
    partial = invoke(*line)
    assert partial.exit_code == 1
    assert "error: 1 rows got no answer" in partial.stderr


def recordings(folder: Path, limit: int) -> tuple[str, str]:
    """A device that hands off every other problem and fails it when forced, and a cloud that knows all answers."""
    from selfroute.handoff import HANDOFF_TEXT

    task = make_task(Spec("countdown"), seed=3, limit=2 * limit)
    template = template_of(task)
    device, cloud = [], []
    for number, row in enumerate([*islice(task.rows("test"), limit), *task.rows("train")]):
        conversation, gold = template.conversation(row.question), f"<think></think>{task.gold_completion(row)}"
        asks = number % 2 == 0
        own = (f"<think></think>{HANDOFF_TEXT}", "<think></think><answer>1</answer>") if asks else (gold, gold)
        for offer, text in zip((True, False), own, strict=True):
            prompt = template.device_messages(conversation, offer_handoff=offer)
            device.append({"messages": [{"role": m.role, "content": m.content} for m in prompt], "text": text})
        cloud.append({"prompt": conversation[0].content, "text": gold})
    for name, rows in (("device", device), ("cloud", cloud)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"recorded:{folder}/device.jsonl", f"recorded:{folder}/cloud.jsonl"


def test_evaluate_from_recipe_to_report(tmp_path: Path) -> None:
    device, cloud = recordings(tmp_path, 20)
    recipe, out = tmp_path / "evaluate.yaml", tmp_path / "out"
    recipe.write_text(
        f"task: countdown\ndevice: {device}\ncloud: {cloud}\npolicies: {{mine: '{device}'}}\n"
        f"strategies: [always_device, always_cloud, random_offload, prompt_router]\nrouter_rows: 40\nout: {out}\n"
    )
    line = ["evaluate", str(recipe), "seed=3", "limit=20", "share=0.5"]
    result = invoke(*line)
    assert result.exit_code == 0, result.output + str(result.exception)
    assert f"report: {out / 'report.html'}" in result.stdout.replace("\n", "")
    for step in ("preparing 81/81", "evaluating 120/120", "counting 1000/1000"):
        assert step in result.stderr
    summary = json.loads((out / "summary.json").read_text())
    mine = next(entry for entry in summary["strategies"] if entry["name"] == "mine")
    assert (summary["n"], summary["call_share_target"]) == (20, 0.5)
    assert (mine["raw_call_share"], mine["overall_accuracy"]) == (0.5, 1.0)

    assert invoke(*line, "concurrency=3").exit_code == 0, "what cannot change a result may change on the way"
    other = invoke(*line, "max_tokens=99")
    assert other.exit_code == 2, "a folder is not mixed"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_in_the_real_program_is_exit_130() -> None:
    # A shell without job control starts what runs in the background with Ctrl-C ignored, and so would its children.
    code = """
import signal
import time
from selfroute.commands import main
from selfroute.tasks import check

signal.signal(signal.SIGINT, signal.default_int_handler)

def slow(*_, **__):
    print("started", flush=True)
    time.sleep(600)

check.check = slow
main.app(["tasks", "--check", "countdown"], prog_name="selfroute")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stderr == "interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="terminals")
def test_ctrl_c_at_the_prompt_of_a_chat_ends_it(tmp_path: Path) -> None:
    import pty

    (answers := tmp_path / "answers.jsonl").write_text('{"prompt": "2+2", "text": "4"}\n')
    outer, inner = pty.openpty()
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from selfroute.commands.main import main; main()"
    arguments = ["chat", "--device", f"recorded:{answers}", "--cloud", f"recorded:{answers}"]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    shown = b""
    while b"you: " not in shown:
        shown += os.read(outer, 1024)
    time.sleep(0.5)  # a signal between the prompt and the reading behind it is only seen after a line
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert os.read(outer, 1024).decode().split() == ["interrupted"]
    os.close(outer)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
@pytest.mark.parametrize(
    "arguments",
    [
        ["strategies"],
        ["env"],
        ["--help"],
        ["tasks", "--check", "countdown", "limit=5"],
        ["ask", "2+2", "--mode", "cloud"],
    ],
)
def test_a_reader_that_leaves_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    (answers := tmp_path / "answers.jsonl").write_text('{"prompt": "2+2", "text": "4"}\n')
    if arguments[0] == "ask":
        (recipe := tmp_path / "pair.yaml").write_text(f"device: recorded:{answers}\ncloud: recorded:{answers}\n")
        arguments = [*arguments, "--config", str(recipe)]
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "selfroute.commands.main", *arguments]
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writing)
    assert process.returncode == 1
    assert [line for line in process.stderr.splitlines() if "/" not in line] == []


def test_training_that_is_refused_asks_no_cloud_and_writes_nothing(tmp_path: Path) -> None:
    cloud = '{openai: {base_url: "http://127.0.0.1:9/v1", model: m, api_key_env: null, max_retries: 0}}'
    recipe = Path(__file__).parents[2] / "recipes" / "countdown" / "gapg.yaml"
    for options in (["resume=true"], ["prompts_per_step=20000"], ["lora={targets: [nowhere]}"]):
        result = invoke("train", str(recipe), f"cloud={cloud}", f"out={tmp_path / 'run'}", *options)
        assert result.exit_code == 2, result.output
        assert "does not answer" not in result.stderr
        assert not (tmp_path / "run").exists()


def test_training_with_a_cloud_that_refuses_ends_before_any_work(tmp_path: Path) -> None:
    cloud = '{openai: {base_url: "http://127.0.0.1:9/v1", model: m, api_key_env: null, max_retries: 0}}'
    recipe = Path(__file__).parents[2] / "recipes" / "countdown" / "gapg.yaml"
    result = invoke("train", str(recipe), f"cloud={cloud}", f"out={tmp_path / 'run'}")
    assert result.exit_code == 2, result.output
    announced, error = result.stderr.splitlines()
    assert announced.startswith("cloud 'm': up to 3,840 paid calls")
    assert error.startswith("error: cloud ") and "does not answer" in error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
