"""The server knows no recipe: it is handed what makes an application, and runs it here or in worker processes."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.live import service

from selfroute.backends.base import Backend
from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable, ConfigError, SelfRouteError
from selfroute.gateway import server
from selfroute.gateway.app import Gateway
from selfroute.gateway.guard import Guard


def make(**options: Any) -> Gateway:
    return Gateway(service(), **options)


def note(file: Path, **options: Any) -> Gateway:
    """Leaves a line with the process that made an application."""
    with file.open("a") as lines:
        lines.write(f"{os.getpid()}\n")
    return make(**options)


def refuse(message: str, **options: Any) -> Gateway:
    raise ConfigError(message)


def fail(**options: Any) -> Gateway:
    raise BackendUnavailable("m: no route\nto host", backend="m")


def die(**options: Any) -> Gateway:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def serve(made: server.Make, *, workers: int = 1, ready: Callable[[str], object] = lambda address: None) -> None:
    server.serve(made, host="127.0.0.1", port=0, workers=workers, shutdown_s=5, quiet=True, ready=ready)


def connected(address: str) -> socket.socket:
    """A connection made as soon as the address is said, by a caller who does not try twice."""
    return socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))


def test_one_application_answers_at_once_until_a_signal() -> None:
    seen: list[int] = []

    def ask(early: socket.socket) -> None:
        with early:
            early.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            seen.append(int(early.recv(4096).split()[1]))
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    serve(make, ready=lambda address: threading.Thread(target=ask, args=[connected(address)]).start())
    assert seen == [200]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_does_not_wait_for_a_model_that_loads() -> None:
    loaded = threading.Event()

    def slow() -> Backend:
        loaded.wait(30)
        return FunctionBackend("m", lambda messages, sampling: "4")

    def made(**options: Any) -> Gateway:
        return Gateway(replace(service(), device=Guard("m", slow)), **options)

    started = time.monotonic()
    serve(made, ready=lambda address: threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start())
    assert time.monotonic() - started < 15
    loaded.set()


def test_a_model_that_cannot_be_loaded_ends_the_server() -> None:
    def missing() -> Any:
        raise BackendUnavailable("m: no weights", backend="m")

    def made(**options: Any) -> Gateway:
        return Gateway(replace(service(), device=Guard("m", missing)), **options)

    with pytest.raises(BackendUnavailable, match="no weights"):
        serve(made)


def test_a_port_in_use_is_said_before_anything_is_made() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use"):
            server.serve(die, host="127.0.0.1", port=port, shutdown_s=1, quiet=True, ready=print)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (partial(refuse, "serve.yaml: device:\n 'x' is no model"), r"^serve\.yaml: device: 'x' is no model$"),
        (fail, r"^a worker cannot start: to host$"),
        (die, r"^a worker cannot start: .*terminated abruptly"),
    ],
)
def test_workers_are_not_started_where_one_could_not(made: server.Make, message: str) -> None:
    with pytest.raises(SelfRouteError, match=message) as caught:
        serve(made, workers=2)
    assert isinstance(caught.value, ConfigError) == ("serve" in message)
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_each_worker_makes_its_own_application(tmp_path: Path) -> None:
    file = tmp_path / "made"

    def stop() -> None:
        deadline = time.monotonic() + 60
        while len(lines()) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # a worker that is told to stop while it starts is started again
        os.kill(os.getpid(), signal.SIGTERM)

    def lines() -> list[str]:
        return file.read_text().splitlines() if file.exists() else []

    def ready(address: str) -> None:
        connected(address).close()
        threading.Thread(target=stop).start()

    serve(partial(note, file), workers=2, ready=ready)
    assert len(set(lines())) == 3  # one looked whether it works, two serve
    assert str(os.getpid()) not in lines()
