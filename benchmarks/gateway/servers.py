"""Servers of the gateway's benchmarks: the stub, a gateway in front of it, and one question to either."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

HERE = Path(__file__).resolve().parent
STUB = [sys.executable, "-m", "uvicorn", "upstream:app", "--no-access-log", "--log-level", "warning", "--port"]
WORDS = {"plain": 1, "stream": 33}
_number = itertools.count()


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        start_s: from the start of its process to its first answer.
    """

    process: psutil.Process
    url: str
    start_s: float


def ours(folder: Path, upstream: str, port: int) -> list[str]:
    side = {"openai": {"base_url": f"{upstream}/v1", "model": "stub", "api_key_env": None, "concurrency": 256}}
    recipe: dict[str, Any] = {"device": side, "cloud": side, "strategy": "always_cloud", "port": port}
    recipe["prices"] = {"cloud": {"prompt_usd": 1, "completion_usd": 2}}
    recipe["budget"] = {"calls": {"total": 10**9}, "ledger": {"sqlite": str(folder / "budget.sqlite")}}
    (folder / "serve.yaml").write_text(json.dumps(recipe))
    return [sys.executable, "-m", "selfroute.commands.main", "serve", str(folder / "serve.yaml")]


@contextmanager
def process(command: Callable[[int], list[str]], cwd: Path | None = None) -> Iterator[Server]:
    """A server on a free port, once it answers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    began = time.perf_counter()
    log = tempfile.TemporaryFile()  # noqa: SIM115
    running = subprocess.Popen(
        command(port), cwd=cwd, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        asyncio.run(until_it_answers(url, running, log))
        yield Server(psutil.Process(running.pid), url, time.perf_counter() - began)
    finally:
        running.terminate()
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            running.kill()


async def until_it_answers(url: str, running: subprocess.Popen[bytes], log: Any) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(6000):
            if running.poll() is not None:
                log.seek(0)
                raise SystemExit(f"a server ended before it answered:\n{log.read().decode()[-2000:]}")
            try:
                if await ask(session, url, "plain"):
                    return
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.02)
    raise SystemExit("a server did not answer in time")


async def ask(session: aiohttp.ClientSession, url: str, kind: str) -> tuple[float, float] | None:
    """One request; seconds to the first bytes and to the end, None if it was refused."""
    body = {"model": "stub", "max_tokens": WORDS[kind], "stream": kind == "stream",
            "messages": [{"role": "user", "content": f"question {next(_number)} of the benchmark"}]}  # fmt: skip
    began = time.perf_counter()
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            return None
        await response.content.readany()
        first = time.perf_counter() - began
        await response.content.read()
    return first, time.perf_counter() - began
