"""A running `selfroute serve` in front of a server that is well-behaved, and one that is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.clients.upstream import Upstream, upstream

ROOT = Path(__file__).resolve().parents[2]
# What clients would fetch or send by themselves.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "DO_NOT_TRACK": "1",
    "OPENAI_API_KEY": "none",
}


@dataclass(frozen=True)
class House:
    """A gateway and the server behind it."""

    address: str
    upstream: Upstream

    @property
    def url(self) -> str:
        return f"{self.address}/v1"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, no_keys: None, tmp_path: Path) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    for name in ("DSPY_CACHEDIR", "DSP_CACHEDIR", "LLM_USER_PATH"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with _house(tmp_path_factory.mktemp("usual"), odd=False) as house:
        yield house


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with _house(tmp_path_factory.mktemp("odd"), odd=True) as house:
        yield house


@pytest.fixture(params=["usual", "odd"])
def house(request: pytest.FixtureRequest) -> House:
    found: House = request.getfixturevalue(request.param)
    return found


@contextmanager
def _house(folder: Path, *, odd: bool) -> Iterator[House]:
    with upstream(odd=odd) as server:
        side = {"openai": {"base_url": server.url, "model": "m", "api_key_env": None}}
        (folder / "serve.yaml").write_text(json.dumps({"device": side, "cloud": side, "port": 0}))
        command = [sys.executable, "-m", "selfroute.commands.main", "serve", str(folder / "serve.yaml")]
        home = {"XDG_STATE_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | home, stdout=log, stderr=log)
            try:
                yield House(_address(process, folder / "log"), server)
            finally:
                process.terminate()
                process.wait(30)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it serves, once it says so."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"serving (http://127\.0\.0\.1:\d+)", log.read_text()):
            return found.group(1)
        time.sleep(0.05)
    raise AssertionError(f"selfroute serve did not start: {log.read_text()}")
