"""Several clouds behind the gateway: who is asked, what is told of it, what is learnt, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from tests.gateway.live import EASY, HARD, TEMPLATE, Live, ask, gateway
from tests.gateway.several import COSTS, NAMES, World, chat

from selfroute.backends.clouds import DEVICE, About, width
from selfroute.bandits.log import read_log
from selfroute.budget.journal import MemoryJournal
from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, WindowLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.budget.pacing import DualPrice
from selfroute.gateway.access import Access, hash_key
from selfroute.gateway.service import Switch
from selfroute.gateway.verifier import KnownQuestions
from selfroute.strategies.bandit_router import BanditRouter
from selfroute.strategies.self_route import SelfRoute
from selfroute.tasks.base import Row
from selfroute.types import Message, Sampling


def feedback(live: Live, **body: Any) -> httpx.Response:
    key = body.pop("key", None)
    headers = {"Authorization": f"Bearer {key}"} if key else None
    return httpx.post(f"{live.url}/v1/feedback", json=body, headers=headers, timeout=30)


def decisions(lines: Sequence[str], tmp_path: Path) -> list[Any]:
    file = tmp_path / "log.jsonl"
    file.write_text("".join(line + "\n" for line in lines))
    return read_log(file)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def live(world: World) -> Iterator[Live]:
    with gateway(world.service()) as running:
        yield running


# --- who is asked --------------------------------------------------------------------------------------------------


def test_an_answer_names_its_cloud_its_price_and_how_likely_it_was(live: Live, world: World, tmp_path: Path) -> None:
    for _ in range(12):
        body = chat(live)
        name = body["selfroute"]["cloud"]["model"]
        assert body["choices"][0]["message"]["content"] == f"I am {name}"
        expected = COSTS[name].completion_usd * body["usage"]["completion_tokens"] / 1e6
        assert body["selfroute"]["cost_usd"] == pytest.approx(expected)
        assert 0.05 / 3 - 1e-9 <= body["selfroute"]["propensity"] <= 1
    logged = decisions(world.lines, tmp_path)
    assert [len(one.arms) for one in logged] == [3] * 12
    assert all(one.cost_usd is not None and one.outcome.latency_s is not None for one in logged)


def test_one_cloud_is_as_it_was(tmp_path: Path) -> None:
    with gateway() as live:
        body = chat(live)
        assert body["selfroute"]["cloud"]["model"] == "large"
        assert "propensity" not in body["selfroute"]
        refused = feedback(live, trace_id="x", score=1)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")


def test_the_strategy_says_whether_and_the_policy_which(world: World) -> None:
    with gateway(world.service(strategy=SelfRoute())) as live:
        assert chat(live, EASY)["selfroute"]["source"] == "device"
        assert world.lines == []
        body = chat(live, HARD)
        assert (body["selfroute"]["source"], body["selfroute"]["reason"]) == ("cloud", "hand-off")
        context = json.loads(world.lines[0])["features"]
        assert context[0] == 1.0 and len(context) == width(())


def test_a_request_goes_where_it_can_be_answered(world: World) -> None:
    world.says["small"]._lacks = frozenset({"tools"})
    clouds = {"middle": {"context_tokens": 100}, "large": {"tags": frozenset({"eu"})}}
    with gateway(world.service(clouds=clouds)) as live:
        tools = [{"type": "function", "function": {"name": "f"}}]
        assert {chat(live, tools=tools)["selfroute"]["cloud"]["model"] for _ in range(12)} <= {"middle", "large"}
        assert {chat(live, "x" * 4000, tools=tools)["selfroute"]["cloud"]["model"] for _ in range(4)} == {"large"}
        assert chat(live, headers={"x-selfroute-tags": "eu"})["selfroute"]["cloud"]["model"] == "large"
        assert chat(live, headers={"x-selfroute-tags": "middle"})["selfroute"]["cloud"]["model"] == "middle"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"x-selfroute-tags": "us"}, "x-selfroute-tags: 'us' is no tag of a cloud; there are large, middle, small"),
        ({"x-selfroute-task": "code"}, "x-selfroute-task: 'code' is not one of none; the configuration names them"),
    ],
)
def test_what_no_cloud_has_is_refused_in_one_line(live: Live, headers: dict[str, str], message: str) -> None:
    response = httpx.post(f"{live.url}/v1/chat/completions", json=ask(HARD), headers=headers)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_a_cloud_that_fails_is_left_alone_and_the_others_answer(world: World) -> None:
    for name in ("small", "middle"):
        world.says[name].down = True
    with gateway(world.service(rule={"trials": 0, "floor": 1.0})) as live:
        sources = [chat(live)["selfroute"]["source"] for _ in range(40)]
        assert sources[-5:] == ["cloud"] * 5
        assert all(world.says[name].calls == 2 for name in ("small", "middle"))  # then their breakers are open
        known = httpx.post(f"{live.url}/v1/route", json=ask(HARD)).json()["candidates"]
        assert [one["name"] for one in known if one["excluded"] is None] == ["large"]
        assert "rests: failed 2 times in a row" in known[0]["excluded"]
        assert httpx.get(f"{live.url}/readyz").status_code == 200
        world.says["large"].down = True
        chat(live)
        chat(live)
        body = chat(live)
        assert (body["selfroute"]["source"], body["selfroute"]["reason"]) == ("device", "cloud-error")
        assert "no cloud can be asked now" in body["selfroute"]["error"]


def test_a_failure_teaches_and_a_wrong_request_does_not(world: World) -> None:
    world.says["large"].down = True
    service = world.service(policy="ucb", rule={"trials": 0})
    with gateway(service) as live:
        chat(live, headers={"x-selfroute-tags": "large"})
        chat(live, headers={"x-selfroute-tags": "small"})
        arms = {one["name"]: one for one in _status(live)["arms"]}
    assert arms["large"]["quality"] == 0.0
    assert arms["small"]["quality"] is None  # nobody has judged it


def _status(live: Live) -> dict[str, Any]:
    import time

    time.sleep(0.1)  # two looks into the journal
    clouds: dict[str, Any] = httpx.get(f"{live.url}/status.json").json()["clouds"]
    return clouds


def test_a_budget_that_is_too_small_for_one_asks_another(world: World) -> None:
    usd = WindowLimit(unit="usd", window="total", cap=0.01)
    budget = LedgerBudget(Limits(windows=(usd,)), MemoryLedger())
    with gateway(world.service(budget=budget, rule={"trials": 0, "floor": 1.0})) as live:
        # 500 tokens of the large one may cost 0.02, of the others 0.002 and less.
        names = [chat(live, max_tokens=500)["selfroute"] for _ in range(30)]
        asked = [about["cloud"]["model"] for about in names if about["source"] == "cloud"]
        refused = [about for about in names if about["source"] == "device"]
        assert "large" not in asked and len(asked) >= 28
        assert all(about["budget"]["limit"] == "usd_total" for about in refused)
        route = httpx.post(f"{live.url}/v1/route", json=ask(HARD, max_tokens=500)).json()["candidates"]
        assert route[2]["excluded"] == "the budget has no room for it"


def test_the_default_answers_while_the_policy_is_watched(tmp_path: Path) -> None:
    world = World(mode="observe", default="middle", explore=0.2)
    with gateway(world.service()) as live:
        asked = [chat(live)["selfroute"]["cloud"]["model"] for _ in range(60)]
        assert asked.count("middle") > 40
        assert set(asked) > {"middle"}
        line = json.loads(world.lines[0])
        assert set(line["would"]) == set(NAMES) and sum(line["would"].values()) == pytest.approx(1.0)
        assert line["least"] == pytest.approx(0.2 / 3)
        live.app._set(Switch("act", frozen=True))
        status = _status(live)
        assert (status["mode"], status["frozen"]) == ("act", True)
        chat(live)
        assert "would" not in json.loads(world.lines[-2])
    assert len(decisions(world.lines, tmp_path)) == 61


def test_a_frozen_policy_learns_nothing(world: World) -> None:
    service = world.service()
    with gateway(service) as live:
        live.app._set(Switch("act", frozen=True))
        trace = chat(live, headers={"x-selfroute-tags": "small"})["selfroute"]["trace_id"]
        assert feedback(live, trace_id=trace, score=1).json()["status"] == "learnt"
        assert {one["name"]: one["quality"] for one in _status(live)["arms"]}["small"] is None


# --- conversations -------------------------------------------------------------------------------------------------


def test_a_conversation_stays_with_its_cloud(world: World) -> None:
    with gateway(world.service(rule={"trials": 0, "floor": 1.0})) as live:
        for number in range(6):
            first = {"role": "user", "content": f"hard question {number}"}
            body = httpx.post(f"{live.url}/v1/chat/completions", json={"messages": [first]}).json()
            name = body["selfroute"]["cloud"]["model"]
            _status(live)
            said = {"role": "assistant", "content": body["choices"][0]["message"]["content"]}
            turns = [first, said, {"role": "user", "content": "and hard again"}]
            body = httpx.post(f"{live.url}/v1/chat/completions", json={"messages": turns}).json()
            assert body["selfroute"]["cloud"]["model"] == name
            assert body["selfroute"]["propensity"] == 1.0
            assert json.loads(world.lines[-2])["forced"]


def test_a_session_key_names_a_conversation(world: World) -> None:
    with gateway(world.service(rule={"trials": 0, "floor": 1.0})) as live:
        for fields, headers in (({}, {"x-selfroute-session": "one"}), ({"prompt_cache_key": "two"}, None)):
            name = chat(live, headers=headers, **fields)["selfroute"]["cloud"]["model"]
            _status(live)
            for _ in range(6):
                assert chat(live, "hard, and other", headers=headers, **fields)["selfroute"]["cloud"]["model"] == name


def test_a_conversation_leaves_a_cloud_that_cannot_answer(world: World) -> None:
    with gateway(world.service(rule={"trials": 0, "floor": 1.0})) as live:
        headers = {"x-selfroute-session": "one"}
        name = chat(live, headers=headers)["selfroute"]["cloud"]["model"]
        _status(live)
        other = next(each for each in NAMES if each != name)
        body = chat(live, headers={**headers, "x-selfroute-tags": other})
        assert body["selfroute"]["cloud"]["model"] == other


# --- the device as one more arm ------------------------------------------------------------------------------------


def test_the_device_is_one_more_arm(world: World, tmp_path: Path) -> None:
    with gateway(world.service(strategy=BanditRouter(), rule={"trials": 1, "floor": 1.0})) as live:
        bodies = [chat(live)["selfroute"] for _ in range(30)]
        assert {body["source"] for body in bodies} == {"device", "cloud"}
        kept = next(body for body in bodies if body["source"] == "device")
        assert (kept["reason"], kept["propensity"]) == ("routed", 0.25)
        assert feedback(live, trace_id=kept["trace_id"], score=1).json()["cloud"] == DEVICE
        assert {one["name"] for one in _status(live)["arms"]} == {DEVICE, *NAMES}
        route = httpx.post(f"{live.url}/v1/route", json=ask(HARD)).json()
        assert [one["name"] for one in route["candidates"]] == [DEVICE, *NAMES]
    assert {one.choice.arm for one in decisions(world.lines, tmp_path)} == {DEVICE, *NAMES}


# --- feedback ------------------------------------------------------------------------------------------------------


def test_feedback_is_learnt_once(live: Live, world: World, tmp_path: Path) -> None:
    body = chat(live, headers={"x-selfroute-tags": "large"})
    trace = body["selfroute"]["trace_id"]
    told = feedback(live, trace_id=trace, score=0.8, source="verifier")
    assert (told.status_code, told.json()) == (
        200,
        {"object": "selfroute.feedback", "trace_id": trace, "status": "learnt", "cloud": "large"},
    )
    again = feedback(live, trace_id=trace, score=0.8, source="verifier")
    assert (again.status_code, again.json()["status"]) == (200, "repeated")
    other = feedback(live, trace_id=trace, score=0.1, source="user")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "feedback_conflict")
    assert {one["name"]: one["quality"] for one in _status(live)["arms"]}["large"] == pytest.approx(0.8)
    (logged,) = decisions(world.lines, tmp_path)
    assert logged.outcome.quality == 0.8
    text = httpx.get(f"{live.url}/metrics").text
    assert 'selfroute_feedback_total{source="verifier",verdict="learnt"} 1.0' in text
    assert 'selfroute_feedback_total{source="user",verdict="differs"} 1.0' in text
    assert 'selfroute_clouds_calls_total{cloud="large",part="answer"} 1.0' in text
    assert 'selfroute_clouds_quality{cloud="large"} 0.8' in text


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({"trace_id": "t", "score": 1.5}, 400, "invalid_value", "score: 1.5 is outside [0, 1]; give 0 for useless"),
        ({"trace_id": "t", "score": -0.1}, 400, "invalid_value", "score: -0.1 is outside [0, 1]"),
        ({"trace_id": "t", "score": "good"}, 400, "invalid_value", "score: must be a number from 0"),
        ({"trace_id": "t", "score": True}, 400, "invalid_value", "score: must be a number from 0"),
        ({"trace_id": "t"}, 400, "invalid_value", "score: must be a number"),
        ({"score": 1}, 400, "invalid_value", "trace_id: must be the id of an answer's trace"),
        ({"trace_id": "t", "score": 1, "source": "boss"}, 400, "invalid_value", "source: must be one of verifier"),
        ({"trace_id": "t", "score": 1, "text": "nice"}, 400, "invalid_value", "text: is no field of feedback"),
        ({"trace_id": "never", "score": 1}, 404, "trace_unknown", "'never' names no answer of a cloud"),
    ],
)  # fmt: skip
def test_wrong_feedback_is_told_so_in_one_line(
    live: Live, body: dict[str, Any], status: int, code: str, message: str
) -> None:
    response = feedback(live, **body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert message in error["message"] and "\n" not in error["message"]


def test_feedback_is_bound_to_the_key_that_asked(world: World) -> None:
    access = Access({"one": hash_key("sr-one"), "other": hash_key("sr-other")})
    with gateway(world.service(), access=access) as live:
        body = chat(live, headers={"Authorization": "Bearer sr-one"})
        trace = body["selfroute"]["trace_id"]
        assert feedback(live, trace_id=trace, score=1, key="sr-other").status_code == 404
        assert feedback(live, trace_id=trace, score=1).status_code == 401
        assert feedback(live, trace_id=trace, score=1, key="sr-one").json()["status"] == "learnt"


def test_feedback_expires_and_has_a_rate(world: World) -> None:
    service = world.service()
    assert service.learning is not None
    service.learning._lifetime_s = 0.05
    with gateway(service, feedback_per_minute=3) as live:
        trace = chat(live)["selfroute"]["trace_id"]
        _status(live)
        late = feedback(live, trace_id=trace, score=1)
        assert (late.status_code, late.json()["error"]["code"]) == (410, "trace_expired")
        codes = [feedback(live, trace_id=trace, score=1).status_code for _ in range(4)]
        assert codes == [410, 410, 429, 429]


def test_answers_that_nobody_chose_take_no_feedback(world: World) -> None:
    with gateway(world.service(strategy=SelfRoute())) as live:
        trace = chat(live, EASY)["selfroute"]["trace_id"]
        assert feedback(live, trace_id=trace, score=1).status_code == 404


def test_what_waits_for_feedback_holds_no_text(world: World) -> None:
    journal = MemoryJournal()
    with gateway(world.service(journal=journal)) as live:
        chat(live, "hard words that nobody else may read")
        _status(live)
    kept = json.dumps([journal._lines, [list(one) for one in journal._waiting.values()], world.lines])
    assert len(journal._waiting) == 1
    assert not any(word in kept for word in ("words", "nobody", "I am"))


class Names:
    """A task whose right answer is a cloud's introduction."""

    name, template = "names", "think"

    def rows(self, split: str) -> list[Row]:
        return [Row("1", HARD, "large")]

    def verify(self, row: Row, completion: str) -> float:
        return float(row.gold in completion)

    def gold_completion(self, row: Row) -> str:
        return f"I am {row.gold}"


def test_a_verifier_judges_the_questions_that_it_knows(world: World, tmp_path: Path) -> None:
    verifier = KnownQuestions(Names(), Names().rows("test"), TEMPLATE)
    with gateway(world.service(rule={"trials": 0, "floor": 1.0}), verifier=verifier) as live:
        for name in NAMES:
            chat(live, headers={"x-selfroute-tags": name})
        unknown = chat(live, "hard, and not known")["selfroute"]["trace_id"]
        _status(live)
        qualities = {one["name"]: one["quality"] for one in _status(live)["arms"]}
        assert qualities == {"small": 0.0, "middle": 0.0, "large": 1.0}
        assert feedback(live, trace_id=unknown, score=1).json()["status"] == "learnt"
    assert [one.outcome.quality for one in decisions(world.lines, tmp_path)] == [0.0, 0.0, 1.0, 1.0]


# --- what is known beforehand --------------------------------------------------------------------------------------


def test_a_dry_run_shows_all_candidates_and_changes_nothing(live: Live, world: World) -> None:
    body = httpx.post(f"{live.url}/v1/route", json=ask(HARD)).json()
    assert [one["name"] for one in body["candidates"]] == list(NAMES)
    assert sum(one["chance"] for one in body["candidates"]) == pytest.approx(1.0)
    assert body["candidates"][2]["usd"] > body["candidates"][0]["usd"] > 0
    assert body["model"] in NAMES
    assert world.lines == [] and sum(says.calls for says in world.says.values()) == 0
    assert _status(live)["arms"][0]["share"] == 0.0


def test_a_dry_run_of_a_request_that_stays_shows_them_too(world: World) -> None:
    with gateway(world.service(strategy=SelfRoute())) as live:
        body = httpx.post(f"{live.url}/v1/route", json=ask(EASY)).json()
        assert (body["source"], len(body["candidates"])) == ("device", 3)


# --- learning ------------------------------------------------------------------------------------------------------


def test_it_finds_the_best_cloud_and_holds_the_money(world: World) -> None:
    """The large one is right always and costs ten times the middle one, which is right mostly."""
    quality = {"small": 0.2, "middle": 0.9, "large": 1.0}
    money = DualPrice(4e-5, rate=0.05)
    service = world.service(money=money, rule={"trials": 1})
    clouds, learning = service.clouds, service.learning
    assert clouds is not None and learning is not None

    async def run() -> list[str]:
        await learning.start()
        chosen = []
        for number in range(400):
            asking = clouds.asking(About(trace=str(number)))
            pick = asking.pick([Message("user", HARD)], Sampling(max_tokens=10))
            pick.ended(usd=COSTS[pick.arm].completion_usd * 10 / 1e6, seconds=0.1, written_tokens=10)
            await learning.judge(str(number), None, quality[pick.arm], "verifier")
            chosen.append(pick.arm)
        await learning.aclose()
        return chosen

    chosen = asyncio.run(run())
    spent = sum(COSTS[arm].completion_usd * 10 / 1e6 for arm in chosen)
    assert chosen[200:].count("middle") > 150
    assert spent / len(chosen) < 1.2 * 4e-5 * 2
