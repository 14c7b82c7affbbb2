"""What holds for every test: no outside network, no keys, one thread."""

from __future__ import annotations

import os

# Before anything imports numpy or torch: they read these once, and two busy threads are slower than one here.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import ipaddress
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from tests.redis_server import RedisServer

# A deadline per example measures the machine, not the code; tests that are about time set one of their own.
settings.register_profile("selfroute", deadline=None)
settings.load_profile("selfroute")

PROVIDER_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN")


class OutsideNetworkBlocked(RuntimeError):
    """A test tried to leave this machine."""


def is_local(host: object) -> bool:
    """Whether a host of an address is this machine; names other than localhost are not looked up."""
    if host in (None, "", b"", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def is_address(host: object) -> bool:
    try:
        ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return False
    return True


def guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            raise OutsideNetworkBlocked(f"a test tried to connect to {address[0]}; start a server on 127.0.0.1 instead")
        return connect(self, address)

    return call


@pytest.fixture(autouse=True)
def no_outside_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting to, or looking up, any host but this one raises."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_local(host) and not is_address(host):
            raise OutsideNetworkBlocked(f"a test tried to look up {host}; start a server on 127.0.0.1 instead")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the developer's shell must not change what a test shows."""
    for name in PROVIDER_KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Keeps torch on one thread in the tests that load it, without loading it."""
    limit_torch()
    yield
    limit_torch()


def limit_torch() -> None:
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)


@pytest.fixture(scope="session")
def redis_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; apt-get install redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(redis_session: RedisServer) -> RedisServer:
    """The server, running and empty."""
    import redis

    if redis_session.process is None:
        redis_session.start()
    with redis.Redis.from_url(redis_session.url) as client:
        for _ in range(100):
            try:
                client.flushall()
                return redis_session
            except redis.BusyLoadingError:
                time.sleep(0.05)
    raise RuntimeError("redis-server does not come up")
