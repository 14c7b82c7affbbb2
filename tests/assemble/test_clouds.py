"""Recipes of several clouds: what is wrong is named before anything starts, what is right is served by replicas too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml
from tests.gateway.live import running

from selfroute.assemble.serving import SwitchFollower, make_gateway
from selfroute.bandits.log import read_log
from selfroute.config.serving import build_serve_recipe
from selfroute.errors import ConfigError
from selfroute.gateway.service import Switch
from selfroute.prices import Price

QUESTIONS = [f"question {number}" for number in range(30)]


def write(path: Path, text: str) -> str:
    """A recorded model that gives one answer to all questions."""
    path.write_text("".join(json.dumps({"prompt": question, "text": text}) + "\n" for question in QUESTIONS))
    return f"recorded:{path}"


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return {
        "device": write(tmp_path / "device.jsonl", "<answer>device</answer>"),
        "clouds": [
            {"name": name, "model": write(tmp_path / f"{name}.jsonl", name), "prices": {"completion_usd": usd}}
            for name, usd in (("small", 1.0), ("middle", 4.0), ("large", 40.0))
        ],
        "strategy": "always_cloud",
        "choose": {"mode": "act", "state": f"sqlite:{tmp_path}/state.sqlite", "policy": {"thompson": {"trials": 2}}},
    }


def put(recipe: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The recipe with one nested key replaced."""
    *path, last = key.split(".")
    inner: Any = recipe
    for part in path:
        inner = inner[int(part)] if isinstance(inner, list) else inner.setdefault(part, {})
    inner[last] = value
    return recipe


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("cloud", "embedded:cloud", "clouds: there is a cloud beside them; move it into the list, or leave it out"),
        ("clouds.1.name", "small", "clouds: two are named 'small'; give each a name of its own"),
        ("clouds.1.name", "device", "clouds: 'device' is the device's name; give the cloud another one"),
        ("clouds.1.modle", "x", "clouds[1]: unknown key 'modle'; did you mean 'model'?"),
        ("clouds.1.context_tokens", 0, "clouds[1]: context_tokens: 0 is not at least 1"),
        ("clouds.1.model", "recorded:nowhere.jsonl", "cannot read nowhere.jsonl"),
        ("choose.policy", "thomson", "choose.policy: unknown policy 'thomson'; did you mean 'thompson'?"),
        ("choose.policy", {"ucb": {"alfa": 1}}, "choose.policy.ucb: unknown key 'alfa'; did you mean 'alpha'?"),
        ("choose.policy", "fixed:huge", "fixed.arm: 'huge' is not one of small, middle, large"),
        ("choose.mode", "look", "choose: mode: 'look' is not one of observe, act"),
        ("choose.default", "huge", "default: 'huge' is not one of small, middle, large; name one of them"),
        ("choose.explore", 2, "choose: explore: 2 is not between 0 and 1"),
        ("choose.state", "sqlit", "choose.state: unknown ledger 'sqlit'; did you mean 'sqlite'?"),
        ("choose.state", "redis:redis://127.0.0.1:9", "Redis at redis://127.0.0.1:9 does not answer"),
        ("choose.log", "/proc/nowhere/log.jsonl", "choose.log: '/proc/nowhere/log.jsonl' cannot be written"),
        ("feedback.weights", {"boss": 1}, "feedback.weights: unknown source 'boss'; known: verifier, user, failure"),
        ("feedback.weights", {"user": 0}, "feedback: weights.user: 0 is not above 0"),
        ("feedback.task", "gsm9k", "feedback.task: unknown task 'gsm9k'; did you mean 'gsm8k'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_one_line(recipe: dict[str, Any], key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_gateway(build_serve_recipe(put(recipe, key, value), where="x"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_one_of_several_is_no_choice(recipe: dict[str, Any]) -> None:
    recipe["clouds"] = recipe["clouds"][:1]
    with pytest.raises(ConfigError, match="clouds: one is no choice; name two or more, or write cloud: …"):
        make_gateway(build_serve_recipe(recipe, where="x"))


@pytest.mark.parametrize(
    ("key", "value", "counts"),
    [("budget", {"usd": {"per_day": 5}}, "budget.usd"), ("choose.usd_per_request", 0.01, "choose.usd_per_request")],
)
def test_who_counts_money_knows_every_price(recipe: dict[str, Any], key: str, value: Any, counts: str) -> None:
    del recipe["clouds"][1]["prices"]
    with pytest.raises(ConfigError, match=f"clouds: 'middle' has no prices, and {counts} counts money; add prices: …"):
        build_serve_recipe(put(recipe, key, value), where="x")


def test_two_prices_of_money_are_one_too_many(recipe: dict[str, Any]) -> None:
    recipe["choose"] |= {"usd_per_request": 0.01, "price_weight": 50}
    with pytest.raises(ConfigError, match="two prices of money; give one of them"):
        build_serve_recipe(recipe, where="x")


def test_a_bandit_router_needs_several(recipe: dict[str, Any]) -> None:
    recipe |= {"cloud": recipe["clouds"][0]["model"], "strategy": "bandit_router"}
    del recipe["clouds"]
    with pytest.raises(ConfigError, match="strategy: 'bandit_router' chooses among several clouds; write clouds:"):
        make_gateway(build_serve_recipe(recipe, where="x"))


def ask(url: str, question: str = QUESTIONS[0], **headers: str) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": question}]}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)
    response.raise_for_status()
    about: dict[str, Any] = response.json()["selfroute"]
    return about


def arms(url: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in httpx.get(f"{url}/status.json").json()["clouds"]["arms"]}


def test_a_recipe_is_served_and_goes_on_after_a_restart(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["choose"]["log"] = str(tmp_path / "log" / "decisions.jsonl")
    for turn in range(2):
        gateway = make_gateway(build_serve_recipe(recipe, where="x"))
        with running(gateway) as url:
            names = [ask(url)["cloud"]["model"] for _ in range(6)]
            if turn == 0:  # every new cloud has its trials first
                assert sorted(names) == sorted(["small", "middle", "large"] * 2)
                trace = ask(url, **{"x-selfroute-tags": "large"})["trace_id"]
                body = {"trace_id": trace, "score": 1.0, "source": "verifier"}
                assert httpx.post(f"{url}/v1/feedback", json=body).json()["status"] == "learnt"
            assert arms(url)["large"]["quality"] == 1.0
    assert len(read_log(tmp_path / "log" / "decisions.jsonl")) == 13


def test_a_new_cloud_is_tried_and_what_is_known_of_the_others_stays(recipe: dict[str, Any], tmp_path: Path) -> None:
    with running(make_gateway(build_serve_recipe(recipe, where="x"))) as url:
        for _ in range(6):
            trace = ask(url)["trace_id"]
            httpx.post(f"{url}/v1/feedback", json={"trace_id": trace, "score": 1.0})
    recipe["clouds"].append({"name": "new", "model": write(tmp_path / "new.jsonl", "new")})
    del recipe["clouds"][0]
    with running(make_gateway(build_serve_recipe(recipe, where="x"))) as url:
        assert arms(url)["middle"]["quality"] == 1.0
        assert [ask(url)["cloud"]["model"] for _ in range(2)] == ["new", "new"]


def test_the_switches_follow_the_file(recipe: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(recipe))
    follower = SwitchFollower(file)
    assert follower() is None
    file.write_text(yaml.safe_dump(put(recipe, "choose.frozen", True)))
    prices = {cloud["name"]: Price(**cloud["prices"]) for cloud in recipe["clouds"]}
    assert follower() == Switch("act", frozen=True, prices=tuple(prices.items()))
    assert follower() is None
    gateway = make_gateway(build_serve_recipe(recipe, where="x"))
    file.write_text(yaml.safe_dump(put(recipe, "clouds.0.prices", {"completion_usd": 90.0})))
    switch = follower()
    assert switch is not None
    gateway._set(switch)
    clouds = gateway.service.clouds
    assert clouds is not None
    assert clouds.estimates()[0].usd == pytest.approx(256 * 90 / 1e6)
    assert clouds.beliefs.frozen


@contextmanager
def served(file: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`selfroute serve` in processes of its own; gives its address."""
    command = [sys.executable, "-m", "selfroute.commands.main", "serve", str(file), "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving http"), line + process.stderr.read()
        yield line.split()[1].removesuffix("/v1"), process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


def until_ready(url: str) -> None:
    for _ in range(200):
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("not ready")


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_workers_and_replicas_believe_the_same(
    recipe: dict[str, Any], tmp_path: Path, store: str, request: pytest.FixtureRequest
) -> None:
    if store == "redis":
        recipe["choose"]["state"] = f"redis:{request.getfixturevalue('redis_server').url}"
    recipe["choose"]["log"] = str(tmp_path / "decisions.jsonl")
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(recipe))
    with served(file, "--workers", "2") as (one, _), served(file) as (other, process):
        until_ready(one)
        until_ready(other)
        for number in range(40):
            about = ask((one, other)[number % 2])
            right = float(about["cloud"]["model"] == "middle")
            body = {"trace_id": about["trace_id"], "score": right, "source": "verifier"}
            # Told to another process than the one that answered.
            told = httpx.post(f"{(other, one)[number % 2]}/v1/feedback", json=body, timeout=30)
            assert told.json().get("status") == "learnt", told.text
        last = ask(other)["trace_id"]
        time.sleep(1)
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.5)
        # What the killed one had said is known, and it can be judged.
        body = {"trace_id": last, "score": 1.0}
        assert httpx.post(f"{one}/v1/feedback", json=body, timeout=30).json()["status"] == "learnt"
        seen = [arms(one) for _ in range(8)]  # of either worker
        assert all(each == seen[0] for each in seen)
        assert seen[0]["middle"]["quality"] > 0.9 and seen[0]["small"]["quality"] < 0.5
    logged = read_log(tmp_path / "decisions.jsonl")
    assert len(logged) == 41 and all(one.outcome.quality is not None for one in logged)
