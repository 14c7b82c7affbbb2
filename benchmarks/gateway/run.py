"""What the gateway costs: beside a direct call and LiteLLM's proxy, against one stub upstream, in one run.

    python benchmarks/gateway/run.py                 # everything; LiteLLM goes into a venv of its own, once
    python benchmarks/gateway/run.py --no-litellm    # ours and the direct call alone
    python benchmarks/gateway/run.py --memory 50000  # also: does memory stay flat?

The stub answers at once with as many words as `max_tokens` says: 1 for a plain request, 33 for a stream, which makes
35 events. selfroute asks its upstream for a stream in both cases, since only a stream says what was used when a client
leaves. The client is an aiohttp closed loop in this process with a new prompt for every request; every gateway is a
process of its own. selfroute runs `always_cloud` with a SQLite budget, prices, metrics and records on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from servers import HERE, STUB, WORDS, Server, ask, ours, process

LITELLM = "litellm[proxy]==1.106.2"


@dataclass
class Row:
    """One gateway's numbers.

    Attributes:
        p50_ms, p95_ms: of a plain request, one at a time.
        per_s: plain requests per second at 16 at once.
        stream_p50_ms, first_p50_ms: of a stream, one at a time: all of it, and its first event.
        streams_per_s: streams per second at 16 at once.
        start_s: from the start of the process to its first answer.
        memory_mb: resident, after the run.
    """

    name: str
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    per_s: float = 0.0
    stream_p50_ms: float = 0.0
    first_p50_ms: float = 0.0
    streams_per_s: float = 0.0
    start_s: float = 0.0
    memory_mb: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each load phase")
    parser.add_argument("--no-litellm", action="store_true", help="leave LiteLLM's proxy out")
    parser.add_argument("--venv", type=Path, default=HERE / ".litellm", help="LiteLLM's own environment")
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="requests of the memory test")
    parser.add_argument("--out", type=Path, help="JSON file of the rows")
    arguments = parser.parse_args()
    litellm = None if arguments.no_litellm else install_litellm(arguments.venv)
    with tempfile.TemporaryDirectory() as folder:
        rows, memory = measure(Path(folder), arguments.seconds, litellm, arguments.memory)
    show(rows)
    if memory:
        print(f"memory over {arguments.memory} requests, MB: " + ", ".join(f"{mb:.1f}" for mb in memory))
    if arguments.out:
        arguments.out.write_text(json.dumps({"rows": [asdict(row) for row in rows], "memory_mb": memory}, indent=1))


def measure(folder: Path, seconds: float, litellm: Path | None, memory: int) -> tuple[list[Row], list[float]]:
    with process(lambda port: [*STUB, str(port)], cwd=HERE) as stub:
        rows = [asyncio.run(load("direct", stub, seconds))]
        with process(lambda port: ours(folder, stub.url, port)) as gateway:
            rows.append(asyncio.run(load("selfroute", gateway, seconds)))
            grown = asyncio.run(grow(gateway, memory)) if memory else []
        if litellm is not None:
            with process(lambda port: theirs(folder, litellm, stub.url, port)) as proxy:
                rows.append(asyncio.run(load("LiteLLM", proxy, seconds)))
    return rows, grown


def theirs(folder: Path, venv: Path, upstream: str, port: int) -> list[str]:
    model = {
        "model_name": "stub",
        "litellm_params": {"model": "openai/stub", "api_base": f"{upstream}/v1", "api_key": "x"},
    }
    # It does not start without a key of its own; ours has none to check either.
    settings = {"dangerously_permit_weak_or_unset_master_key": True}
    (folder / "litellm.yaml").write_text(json.dumps({"model_list": [model], "general_settings": settings}))
    return [str(venv / "bin" / "litellm"), "--config", str(folder / "litellm.yaml"), "--port", str(port),
            "--host", "127.0.0.1", "--num_workers", "1"]  # fmt: skip


def install_litellm(venv: Path) -> Path:
    if not (venv / "bin" / "litellm").exists():
        print(f"installing {LITELLM} into {venv} (once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "python"), "-m", "pip", "install", "-q", LITELLM], check=True)
    return venv


async def load(name: str, server: Server, seconds: float) -> Row:
    row, url = Row(name, start_s=server.start_s), server.url
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        for kind in WORDS:  # warm up
            await phase(session, url, kind, 4, 1.0)
        plain = await phase(session, url, "plain", 1, seconds)
        ends = sorted(end for _, end in plain)
        row.p50_ms, row.p95_ms = 1000 * statistics.median(ends), 1000 * ends[int(0.95 * len(ends))]
        row.per_s = len(await phase(session, url, "plain", 16, seconds)) / seconds
        streams = await phase(session, url, "stream", 1, seconds)
        row.stream_p50_ms = 1000 * statistics.median(end for _, end in streams)
        row.first_p50_ms = 1000 * statistics.median(first for first, _ in streams)
        row.streams_per_s = len(await phase(session, url, "stream", 16, seconds)) / seconds
    row.memory_mb = resident_mb(server.process)
    return row


async def phase(session: aiohttp.ClientSession, url: str, kind: str, at_once: int, seconds: float) -> list[Any]:
    """A closed loop of `at_once` clients; the times of all answers."""
    end = time.perf_counter() + seconds
    times: list[tuple[float, float]] = []

    async def client() -> None:
        while time.perf_counter() < end:
            answer = await ask(session, url, kind)
            if answer is None:
                raise SystemExit(f"{url} refused a request")
            times.append(answer)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return times


async def grow(server: Server, requests: int) -> list[float]:
    """Resident memory after each tenth of so many requests, half of them streams."""
    async with aiohttp.ClientSession() as session:
        seen = [resident_mb(server.process)]
        for _ in range(10):
            kinds = iter(["plain", "stream"] * (requests // 20))

            async def client(kinds: Iterator[str] = kinds) -> None:
                for kind in kinds:
                    await ask(session, server.url, kind)

            await asyncio.gather(*(client() for _ in range(16)))
            seen.append(resident_mb(server.process))
    return seen


def resident_mb(running: psutil.Process) -> float:
    """Of a process and its children."""
    return sum(p.memory_info().rss for p in (running, *running.children(recursive=True))) / 2**20


def show(rows: list[Row]) -> None:
    head = "p50 ms", "p95 ms", "req/s at 16", "stream p50 ms", "first event", "streams/s at 16", "start s", "MB"
    print("| gateway | " + " | ".join(head) + " |\n|---|" + "---|" * len(head))
    for row in rows:
        numbers = (row.p50_ms, row.p95_ms, row.per_s, row.stream_p50_ms, row.first_p50_ms, row.streams_per_s,
                   row.start_s, row.memory_mb)  # fmt: skip
        print(f"| {row.name} | " + " | ".join(f"{n:.2f}" if n < 100 else f"{n:.0f}" for n in numbers) + " |")
    print(f"added by selfroute, one at a time: {rows[1].p50_ms - rows[0].p50_ms:.2f} ms p50")


if __name__ == "__main__":
    main()
