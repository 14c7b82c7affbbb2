"""Answers end where each version of HTTP says that they do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from tests.gateway.live import EASY, Slow, ask, running, service

from selfroute.gateway.access import Access
from selfroute.gateway.app import Gateway

PROTOCOL = "selfroute.gateway.framing:Protocol"  # as `selfroute serve` takes it
TEXT = "one two three"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    slow = Slow("small", f"<answer>{TEXT}</answer>")
    with running(Gateway(service(slow, None), access=Access(local_only=True)), http=PROTOCOL) as url:
        yield int(url.rpartition(":")[2])


def exchange(port: int, *pieces: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """Status line, headers and body, read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
        data = b""
        while block := sock.recv(65536):
            data += block
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = dict(line.decode().lower().split(": ", 1) for line in lines)
    return status, headers, body


def question(version: str, *, stream: bool, extra: str = "") -> bytes:
    body = json.dumps(ask(EASY, stream=stream)).encode()
    head = f"POST /v1/chat/completions HTTP/{version}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def said(body: bytes) -> str:
    events = [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


@pytest.mark.parametrize("connection", ["", "Connection: keep-alive\r\n", "Connection: close\r\n"])
def test_a_stream_over_http_1_0_has_no_chunks_and_ends_with_its_connection(port: int, connection: str) -> None:
    status, headers, body = exchange(port, question("1.0", stream=True, extra=connection))
    assert status.endswith(b" 200 OK") and headers["connection"] == "close" and "transfer-encoding" not in headers
    assert body.startswith(b"data: ") and body.endswith(b"data: [DONE]\n\n") and said(body).strip() == TEXT


@pytest.mark.parametrize("connection", ["", "Connection: keep-alive\r\n"])
def test_a_whole_answer_over_http_1_0_has_its_length(port: int, connection: str) -> None:
    _, headers, body = exchange(port, question("1.0", stream=False, extra=connection))
    assert headers["connection"] == "close" and int(headers["content-length"]) == len(body)
    assert json.loads(body)["choices"][0]["message"]["content"].strip() == TEXT


def test_http_1_0_needs_no_host(port: int) -> None:
    status, _, body = exchange(port, b"GET /v1/models HTTP/1.0\r\n\r\n")
    assert status.endswith(b" 200 OK") and json.loads(body)["object"] == "list"
    status, _, _ = exchange(port, b"GET /v1/models HTTP/1.0\r\nHost: elsewhere.example\r\n\r\n")
    assert status.endswith(b" 403 Forbidden")


@pytest.mark.parametrize("cut", [1, 10, 30, 34, 60])
def test_a_request_in_pieces_is_one(port: int, cut: int) -> None:
    for version in ("1.0", "1.1"):
        data = question(version, stream=True, extra="Host: localhost\r\nConnection: close\r\n")
        _, headers, body = exchange(port, data[:cut], data[cut:])
        assert ("transfer-encoding" in headers) == (version == "1.1")
        assert TEXT.split()[0].encode() in body


def test_two_requests_of_one_connection_are_answered_in_order(port: int) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    second = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    _, _, rest = exchange(port, b"\r\n" + first + second)
    assert rest.startswith(b'{"status":"ok"}HTTP/1.1 200 OK') and b'"object":"list"' in rest


def test_what_is_no_request_is_refused(port: int) -> None:
    status, _, _ = exchange(port, b"hello\r\n\r\n")
    assert status.endswith(b" 400 Bad Request")
