"""Serving recipes: what is wrong is named before anything starts, what is right is served, in real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml
from tests.gateway.live import running
from typer.testing import CliRunner

from selfroute.assemble.serving import ShareFollower, make_gateway, make_service
from selfroute.commands.main import app
from selfroute.config import STRATEGIES, parse_spec
from selfroute.config.serving import build_serve_recipe, load_serve_recipe
from selfroute.errors import ConfigError

KEYS = {"app": "0" * 64}


def write(path: Path, *rows: tuple[str, str]) -> str:
    """A recorded model: prompt, answer."""
    path.write_text("".join(json.dumps({"prompt": prompt, "text": text}) + "\n" for prompt, text in rows))
    return f"recorded:{path}"


@pytest.fixture
def recorded(tmp_path: Path) -> dict[str, Any]:
    """A recipe of two replayed models, the quickest there are to start."""
    write(tmp_path / "cloud.jsonl", ("2+2", "four"))
    return {
        "device": write(tmp_path / "device.jsonl", ("2+2", "<answer>4</answer>")),
        "cloud": f"recorded:{tmp_path}/cloud.jsonl",
        "strategy": "always_cloud",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"devise": "embedded:device"}, "unknown key 'devise'; did you mean 'device'?"),
        ({"device": "embeded:device"}, "unknown backend 'embeded'; did you mean 'embedded'?"),
        ({"strategy": "self-rout"}, "unknown strategy 'self-rout'; did you mean 'self_route'?"),
        ({"strategy": {"self_route": {"scorred": True}}}, "unknown key 'scorred'; did you mean 'scored'?"),
        ({"strategy": "self_route:fast"}, "'self_route: fast' has no option name"),
        ({"strategy": {"random_offload": {"share": 2}}}, "share: 2.0 is not in [0, 1]"),
        ({"strategy": "random_offload"}, "option 'share' is missing"),
        ({"strategy": "prompt_router"}, "strategy.prompt_router: key 'threshold' is missing; add threshold: …"),
        ({"strategy": {"mean_logprob": {"treshold": 1}}}, "unknown key 'treshold'; did you mean 'threshold'?"),
        ({"strategy": {"tfidf_ridge": {"threshold": 1, "scorer": "no.npz"}}}, "cannot read 'no.npz'"),
        ({"strategy": "always_cloud", "handoff": {"context": "attempt"}}, "makes no attempt"),
        ({"cloud": None, "strategy": "always_cloud"}, "'always_cloud' needs a cloud"),
        ({"prompt": {"template": "thnk"}}, "did you mean 'think'?"),
        ({"modes": []}, "modes: the list is empty"),
        ({"modes": ["auto", "privat"]}, "'privat' is not one of auto, device, cloud, private; did you mean 'private'?"),
        ({"limits": {"max_tokens": 0}}, "limits.max_tokens: 0 is not above 0"),
        ({"limits": {"body_byte": 1}}, "did you mean 'body_bytes'?"),
        ({"prices": {"cloud": {"prompt_usd": -1}}}, "prompt_usd: -1.0 is not a price"),
        ({"port": 70000}, "port: 70000 is not between 0 and 65535"),
        ({"host": "0.0.0.0"}, "so clients need keys"),
        ({"api_keys": {"app": "sk-plain"}}, "api_keys.app is not the SHA-256 of a key"),
        ({"cloud": {"openai": {"base_url": "https://api.example.com/v1", "model": "m"}}}, "export OPENAI_API_KEY=…"),
        ({"device": {"recorded": {"path": "nowhere.jsonl"}}}, "cannot read nowhere.jsonl"),
        # Models that load behind the open port are looked at before it opens.
        ({"device": "embedded:devise"}, "device.embedded: no embedded model 'devise'; known: device, "),
        ({"device": "llama_cpp:nowhere.gguf"}, "device.llama_cpp: GGUF file 'nowhere.gguf' cannot be read: No such"),
        ({"device": "transformers:/nowhere"}, "device.transformers: model folder '/nowhere' does not exist"),
        ({"device": {"llama_cpp": {"path": "x", "slotss": 2}}}, "device.llama_cpp: unknown key 'slotss'; did you mean"),
        ({"device": {"smollm2": {"slots": "two"}}}, "device.smollm2: slots: 'two' is not a whole number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_gateway(build_serve_recipe(values, where="serve.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devise: embedded:device", "unknown key 'devise'; did you mean 'device'?"),
        ("budget: {usd: {per_mnth: 5}}", "budget: usd: unknown key 'per_mnth'; did you mean 'per_month'?"),
        ("port: many", "port: 'many' is not a whole number"),
        ("device: smolm2", "device: unknown backend 'smolm2'; did you mean 'smollm2'?"),
        ("host: 0.0.0.0", "host: 0.0.0.0 can be reached from other machines"),
        ("prompt: {template: thnk}", "prompt.template: unknown template 'thnk'; did you mean 'think'?"),
        (
            "strategy: {self_route: {scorred: true}}",
            "strategy.self_route: unknown key 'scorred'; did you mean 'scored'?",
        ),
        ("device: llama_cpp:nowhere.gguf", "device.llama_cpp: GGUF file 'nowhere.gguf' cannot be read"),
        ("budget: {share: 0.3, ledger: 'redis:redis://127.0.0.1:9'}", "Redis at redis://127.0.0.1:9 does not answer"),
        (
            "cloud: {openai: {base_url: https://x.example/v1, model: m, api_key_env: NO_KEY_HERE}}",
            "export NO_KEY_HERE=…",
        ),
    ],
)
@pytest.mark.parametrize("command", ["serve", "ask"])
def test_the_file_that_is_wrong_is_named_in_one_line(tmp_path: Path, command: str, text: str, message: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    arguments = ["serve", str(file)] if command == "serve" else ["ask", "x", "--config", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {file}: ") and message in line


def test_a_key_value_never_shows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_gateway(build_serve_recipe({"api_keys": {"app": "sk-secret"}}, where="x"))
    assert "sk-secret" not in str(caught.value)


def test_the_default_is_the_embedded_pair_with_its_own_prompt() -> None:
    service = make_service(load_serve_recipe(None))
    assert [guard.name for _, guard in service.guards()] == ["embedded:device-gapg", "embedded:cloud"]
    assert (service.wrap, service.strip_cloud_tags, service.strategy.name) == (True, True, "self_route")
    assert service.last_turn
    assert not any(guard.is_loaded for _, guard in service.guards())


def test_options_reach_the_pair(recorded: dict[str, Any]) -> None:
    values = {**recorded, "strategy": {"self_route": {"scored": False}}, "handoff": {"context": "attempt"},
              "prices": {"cloud": {"completion_usd": 8}}, "modes": ["auto", "private"]}  # fmt: skip
    gateway = make_gateway(build_serve_recipe(values, where="x"))
    service = gateway.service
    assert (service.strategy.scored, service.strategy.context, service.prices.cloud.completion_usd) == (
        False,
        "attempt",
        8,
    )
    assert (service.wrap, service.strip_cloud_tags, service.modes) == (False, False, {"auto", "private"})
    assert not service.last_turn


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of fitted scores: one that reads questions, one that reads answers too."""
    from selfroute.train.fit.scorer import Examples, fit_scorer

    questions, answers = [f"add {n}" for n in range(20)], [f"it is {n}" for n in range(20)]
    examples = Examples.of(questions, [n % 2 == 0 for n in range(20)], [True] * 20, answers)
    files = {}
    for reads, name in (("question", "tfidf_ridge"), ("answer", "quality_gap")):
        file = tmp_path_factory.mktemp("scorers") / f"{name}.npz"
        fit_scorer(name, examples, seed=0).save(file)
        files[reads] = str(file)
    return files


@pytest.fixture
def reward(tmp_path: Path) -> str:
    """What says that a folder holds a reward model; weights are read when something is first scored."""
    facts = {"selfroute": 1, "vocabulary": "of no tokenizer"}
    (tmp_path / "reward.json").write_text(json.dumps(facts), encoding="utf-8")
    return str(tmp_path)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_can_be_served(
    name: str, recorded: dict[str, Any], scorers: dict[str, str], reward: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = STRATEGIES[name]
    written = parse_spec(yaml.safe_load(entry.written), "strategy").options
    options = {option: reward if value == "FOLDER" else value for option, value in written.items()}
    if entry.fitted:
        assert entry.reads is not None
        options["scorer"] = scorers[entry.reads]
        # An encoder's score is a folder of weights, and reads questions as any other of them.
        stored = "selfroute.scores.scorers:Scorer.load"
        monkeypatch.setitem(STRATEGIES, name, replace(entry, stored=stored))
    spec = {name: options} if options else name
    if entry.several:
        cloud = recorded.pop("cloud")
        recorded["clouds"] = [{"name": "one", "model": cloud}, {"name": "other", "model": cloud}]
        recorded["choose"] = {"state": "memory"}
    gateway = make_gateway(build_serve_recipe({**recorded, "strategy": spec}, where="x"))
    strategy = gateway.service.strategy
    assert strategy.name == name


def test_a_score_of_answers_is_no_score_of_questions(recorded: dict[str, Any], scorers: dict[str, str]) -> None:
    spec = {"prompt_router": {"threshold": 0.5, "scorer": scorers["answer"]}}
    with pytest.raises(ConfigError, match=r"judges the device's answer; use it with quality_gap"):
        make_gateway(build_serve_recipe({**recorded, "strategy": spec}, where="x"))


@pytest.mark.parametrize(("threshold", "source"), [(-1e9, "cloud"), (float("inf"), "device")])
def test_a_fitted_cascade_decides_by_its_score(
    recorded: dict[str, Any], scorers: dict[str, str], threshold: Any, source: str
) -> None:
    spec = {"quality_gap": {"threshold": threshold, "scorer": scorers["answer"]}}
    app = make_gateway(build_serve_recipe({**recorded, "strategy": spec}, where="x"))
    with running(app) as url:
        answer = ask(url)["selfroute"]
    assert (answer["source"], answer["strategy"]) == (source, "quality_gap")
    assert isinstance(answer["score"], float)


def test_without_a_cloud_the_device_is_alone(recorded: dict[str, Any]) -> None:
    service = make_service(build_serve_recipe({"device": recorded["device"], "cloud": None}, where="x"))
    assert service.cloud is None and service.strategy.name == "always_device"


# --- processes of their own ------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `selfroute` command that serves; gives the process and its address."""
    command = [sys.executable, "-m", "selfroute.commands.main", *arguments, "--port", "0"]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert running.stderr is not None
    try:
        line = running.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + running.stderr.read()
        yield running, found[0]
    finally:
        running.terminate()
        running.wait(30)
        running.stderr.close()


def ask(url: str, question: str = "2+2", **options: Any) -> dict[str, Any]:
    body = {"model": "x", "messages": [{"role": "user", "content": question}]}
    deadline = time.monotonic() + 30
    while True:
        try:
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30, **options)
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def recipe_file(folder: Path, values: dict[str, Any]) -> str:
    path = folder / "serve.yaml"
    path.write_text(json.dumps(values))
    return str(path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serve_answers_and_ends_in_good_order(tmp_path: Path, recorded: dict[str, Any], number: int, code: int) -> None:
    with process("serve", recipe_file(tmp_path, recorded)) as (running, url):
        answer = ask(url)
        assert (answer["choices"][0]["message"]["content"], answer["selfroute"]["source"]) == ("four", "cloud")
        running.send_signal(number)
        assert running.wait(20) == code


def test_workers_share_the_port_the_metrics_and_the_records(tmp_path: Path, recorded: dict[str, Any]) -> None:
    with process("serve", recipe_file(tmp_path, recorded), "--workers", "2") as (running, url):
        for _ in range(30):
            ask(url)  # a connection each, so that both workers get some
        metrics = httpx.get(f"{url}/metrics").text
        status = httpx.get(f"{url}/status.json").json()
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    (line,) = [line for line in metrics.splitlines() if line.startswith("selfroute_requests_total")]
    assert line.endswith(" 30.0")
    assert len(status["requests"]) == 30 and status["share"]["realised"] == 1.0


def test_the_pair_runs_as_two_processes(tmp_path: Path, recorded: dict[str, Any]) -> None:
    backend = json.dumps({"recorded": {"path": f"{tmp_path}/cloud.jsonl"}})
    with process("cloud", "--backend", backend) as (_, cloud):
        values = {**recorded, "cloud": {"openai": {"base_url": f"{cloud}/v1", "model": "m", "api_key_env": None}}}
        with process("serve", recipe_file(tmp_path, values)) as (_, url):
            answer = ask(url)
    assert (answer["choices"][0]["message"]["content"], answer["selfroute"]["source"]) == ("four", "cloud")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "selfroute.commands.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_port_in_use_is_one_line(tmp_path: Path, recorded: dict[str, Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve", recipe_file(tmp_path, recorded), "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: port {port} on 127.0.0.1 is in use; choose another with --port, or 0 for any\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, recorded: dict[str, Any], workers: str) -> None:
    values = {**recorded, "device": f"transformers:{tmp_path}/nothing"}
    done = run("serve", recipe_file(tmp_path, values), "--port", "0", "--workers", workers)
    assert done.returncode == 2
    wrong = f"device.transformers: model folder '{tmp_path}/nothing' does not exist; check the path"
    assert done.stderr == f"error: {tmp_path}/serve.yaml: {wrong}\n"


def test_check_loads_and_stops(tmp_path: Path, recorded: dict[str, Any]) -> None:
    done = run("serve", recipe_file(tmp_path, recorded), "--check")
    assert done.returncode == 0
    assert done.stderr.splitlines()[:1] == [f"device {recorded['device']}: recorded answers, not asked"]
    assert done.stderr.splitlines()[2:] == [
        "ready: the configuration is right, every model answers, and the budget lets calls pass",
        f"next: selfroute serve {tmp_path / 'serve.yaml'}",
    ]


def test_serving_loads_no_torch(tmp_path: Path, recorded: dict[str, Any]) -> None:
    code = (
        "import sys; from pathlib import Path; from selfroute.config.serving import load_serve_recipe; "
        "from selfroute.assemble.serving import make_gateway; "
        f"make_gateway(load_serve_recipe(Path({recipe_file(tmp_path, recorded)!r}))); "
        "print({'torch', 'transformers', 'fastapi', 'pydantic', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- another share while it runs


def shared(file: Path, share: float, more: str = "") -> None:
    file.write_text(f"strategy: {{self_route: {{told_share: 0.3}}}}\nbudget: {{share: {share}}}\n{more}")
    os.utime(file, ns=(time.time_ns(), time.time_ns()))


def test_another_share_in_the_file_is_found_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "serve.yaml"
    shared(file, 0.3)
    follow = ShareFollower(file)
    assert follow() is None
    shared(file, 0.1)
    assert [follow(), follow()] == [0.1, None]
    shared(file, 0.1, "temperature: 0.5\n")  # the share is as it was
    assert follow() is None
    shared(file, 7)
    assert follow() is None
    assert "the call share stays as it is" in caplog.text and "share" in caplog.text
    file.unlink()
    assert follow() is None
    shared(file, 0.2)
    assert follow() == 0.2


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    shared(file, 0.3)
    follow = ShareFollower(file, ["budget.share=0.4"])
    shared(file, 0.1)
    assert follow() is None


def test_a_running_gateway_takes_another_share(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    shared(file, 0.3)
    gateway = make_gateway(load_serve_recipe(file, [f"budget.ledger=sqlite:{tmp_path}/budget.sqlite"]))
    gateway.retarget(0.1)
    assert gateway.share == 0.1
    assert gateway.service.strategy.told_share == 0.1
    budget: Any = gateway.service.budget
    assert (budget.controller.share, budget.budget.limits.share.share) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("budget", "limits", "expected"),
    [
        (None, {}, None),
        ({"calls": {"per_day": 9}}, {}, None),
        ({"share": 0.3}, {}, None),
        ({"usd": {"per_day": 1}}, {}, 4096),
        ({"tokens": {"per_hour": 90000}}, {}, 4096),
        ({"tokens": {"per_hour": 90000}}, {"default_tokens": 9000}, 9000),
        ({"tokens": {"per_hour": 90000}}, {"max_tokens": 512}, 512),
    ],
)
def test_where_tokens_count_every_call_has_a_limit(
    recorded: dict[str, Any], budget: dict[str, Any] | None, limits: dict[str, Any], expected: int | None
) -> None:
    more = {} if budget is None else {"budget": {**budget, "ledger": "memory"}}
    recipe = build_serve_recipe(
        {**recorded, **more, "limits": limits, "prices": {"cloud": {"completion_usd": 1}}}, where="serve"
    )
    assert make_gateway(recipe).limits.default_tokens == expected


def test_further_names_of_this_machine_are_listed(recorded: dict[str, Any]) -> None:
    recipe = build_serve_recipe({**recorded, "hosts": ["host.docker.internal"]}, where="serve")
    with running(make_gateway(recipe)) as url:
        for host, status in (("host.docker.internal:8000", 200), ("evil.example", 403)):
            assert httpx.get(f"{url}/v1/models", headers={"Host": host}).status_code == status
