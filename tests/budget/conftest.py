"""A Redis server for the tests, and ledgers of every kind."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selfroute.budget.ledger import Ledger
from selfroute.budget.memory import MemoryLedger
from selfroute.budget.sqlite import SQLiteLedger

LEDGERS = ("memory", "sqlite", "redis")
SHARED = ("sqlite", "redis")  # those that other processes can open


class RedisServer:
    """Debian's redis-server on a free port; what it is told to keep survives its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        kept = ["--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", *kept], stdout=subprocess.DEVNULL
        )
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.025)
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


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


@pytest.fixture
def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where a shared ledger lies, as `spender.py` takes it."""
    if kind == "redis":
        return str(request.getfixturevalue("redis_server").url)
    return str(tmp_path / "budget.sqlite")


@pytest.fixture
def open_ledger(kind: str, place: str) -> Callable[[], Ledger]:
    """Opens the ledger of a test once more; a memory ledger is the same one again."""
    memory = MemoryLedger()

    def open_one() -> Ledger:
        if kind == "memory":
            return memory
        if kind == "sqlite":
            return SQLiteLedger(Path(place))
        from selfroute.budget.redis import RedisLedger

        return RedisLedger(place)

    return open_one
