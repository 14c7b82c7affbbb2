"""Keys, origins, limits, headers of the page, and a log that keeps secrets."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.gateway.live import CLOUD_TEXT, EASY, HARD, Live, ask, gateway, service

from selfroute.gateway.access import Access, hash_key, is_loopback, new_key
from selfroute.gateway.request import Limits


def test_each_client_has_its_own_key() -> None:
    keys = {name: new_key() for name in ("ann", "bob")}
    access = Access({name: hash_key(key) for name, key in keys.items()})
    with gateway(access=access) as live:
        for key in keys.values():
            with live.client(key) as client:
                assert client.chat.completions.create(**ask(EASY)).choices
        for wrong in ("sr-wrong", keys["ann"][:-1], hash_key(keys["ann"]), "ü"):
            answer = httpx.get(f"{live.url}/v1/models", headers={b"Authorization": f"Bearer {wrong}".encode()})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        for path in ("/v1/models", "/metrics", "/status.json"):
            assert httpx.get(live.url + path).status_code == 401
        assert httpx.get(f"{live.url}/v1/models", headers={"Authorization": keys["ann"]}).status_code == 401
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert httpx.get(live.url + path).status_code == 200
        assert access.client(f"Bearer {keys['bob']}") == "bob"


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from selfroute.gateway import access as module

    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    access = Access({str(number): hash_key(str(number)) for number in range(5)})
    assert access.client("Bearer 0") == "0"
    assert len(compared) == 5


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://app.example.com"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
    ],
)
def test_web_pages_of_others_are_kept_out(headers: dict[str, str], status: int) -> None:
    access = Access(local_only=True, origins=["https://app.example.com"])
    with gateway(access=access) as live:
        answer = httpx.post(f"{live.url}/v1/chat/completions", json=ask(EASY), headers=headers)
        own = httpx.get(f"{live.url}/status.json", headers={"Origin": live.url})
    assert answer.status_code == status and own.status_code == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.5", False), ("example.com", False)],
)  # fmt: skip
def test_what_is_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_a_body_that_is_too_large_is_refused_declared_or_not() -> None:
    with gateway(limits=Limits(body_bytes=1000)) as live, httpx.Client(base_url=live.url) as client:
        body = json.dumps(ask("x" * 2000)).encode()
        declared = client.post("/v1/chat/completions", content=body)
        chunked = client.post("/v1/chat/completions", content=iter([body[:900], body[900:]]))
        fine = client.post("/v1/chat/completions", json=ask(EASY))
    assert (declared.status_code, chunked.status_code, fine.status_code) == (413, 413, 200)
    assert declared.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"null", b'{"messages": NaN}', b"\xff\xfe", b'{"a":' * 100_000, b"[" * 100_000,
     b'{"messages":[{"role":"user","content":"\\ud800"}]}', b'{"n":' + b"9" * 5000 + b"}", b"\x00"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/route"])
def test_a_body_that_is_no_json_object(pair: Live, path: str, body: bytes) -> None:
    answer = httpx.post(pair.url + path, content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_addresses_and_methods_that_are_not_there(pair: Live) -> None:
    missing = httpx.get(f"{pair.url}/v1/nowhere")
    wrong = httpx.get(f"{pair.url}/v1/chat/completions")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert httpx.head(f"{pair.url}/healthz").status_code == 200


def test_the_page_lets_nothing_else_run(pair: Live) -> None:
    page = httpx.get(pair.url)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in page.text and "https://" not in page.text


@pytest.mark.parametrize("asked", [False, True])
def test_words_and_keys_reach_the_log_only_when_asked(asked: bool, caplog: pytest.LogCaptureFixture) -> None:
    key = new_key()

    def broken(messages: Any, sampling: Any) -> str:
        raise ValueError(f"cannot read {messages[-1].content}")

    caplog.set_level(logging.INFO, "selfroute.gateway")  # a server of an earlier test may have made it quiet
    access = Access({"ann": hash_key(key)})
    for made, question in ((service(), f"{HARD} planted-prompt"), (service(broken), "planted-prompt")):
        with gateway(made, access=access, log_content=asked) as live, live.client(key) as client:
            for streamed in (False, True):
                try:
                    answer = client.chat.completions.create(**ask(question), stream=streamed)
                    list(answer) if streamed else None
                except openai.InternalServerError as error:
                    assert "planted" not in str(error)
    said = caplog.text
    assert "hand-off" in said and "ValueError at " in said
    assert key not in said
    assert ("planted-prompt" in said, CLOUD_TEXT in said) == (asked, asked)


def test_metrics_count_what_was_answered() -> None:
    with gateway() as live, live.client() as client:
        for question in (EASY, HARD):
            client.chat.completions.create(**ask(question))
            client.post("/route", cast_to=object, body=ask(question))
        text = httpx.get(f"{live.url}/metrics").text
    assert 'selfroute_requests_total{mode="auto",reason="hand-off",source="cloud",status="200"} 1.0' in text
    assert 'selfroute_decisions_total{mode="auto",reason="hand-off",source="cloud",status="200"} 1.0' in text
    up = 'backend_up{model="large",side="cloud"} 1.0'
    for name in ("selfroute_handoffs_total 1.0", "selfroute_cloud_calls_total 1.0", up):
        assert name in text
    assert "question" not in text


def test_metrics_hold_what_the_cloud_alone_would_have_cost() -> None:
    with gateway() as live, live.client() as client:
        for question in (EASY, HARD):
            client.chat.completions.create(**ask(question))
        shown = re.findall(r"^selfroute_(\w+)_usd_total (\S+)$", httpx.get(f"{live.url}/metrics").text, re.MULTILINE)
        saved = httpx.get(f"{live.url}/status.json").json()["total"]
    usd = {name: float(value) for name, value in shown}
    assert usd["cloud_alone"] == pytest.approx(saved["cloud_alone_usd"])
    assert usd["cloud_alone"] - usd["cost"] == pytest.approx(saved["saved_usd"])
    assert usd["cloud_alone"] > usd["cost"] / 2 > 0
