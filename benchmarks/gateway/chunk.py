"""Where the time of a streamed chunk goes in the gateway: processor time by stage, of this source tree or of several.

    python benchmarks/gateway/chunk.py                          # this tree
    python benchmarks/gateway/chunk.py before=../old/src now=src   # side by side

A gateway answers streams of 33 words and streams of one. What the former take more, divided by 32, is a chunk's. It is
read twice: the process's own account (user and system time), and under cProfile with the thread's processor time as its
clock, by function. A profile makes short functions dearer than they are, so its stages are scaled to the account.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pstats
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil
from servers import HERE, STUB, ours, process

WORDS = (33, 1)
# What a file's functions do, by the first part of its path that fits; what is written in C counts for its caller.
STAGES = {
    "aiohttp/": "the upstream's bytes read",
    "backends/sse.py": "bytes to events",
    "json/decoder.py": "an event's JSON read",
    "json/__init__.py": "an event's JSON read",
    "backends/": "an event to a piece",
    "gateway/guard.py": "a piece through guard, strategy, budget, account",
    "strategies/": "a piece through guard, strategy, budget, account",
    "gateway/service.py": "a piece through guard, strategy, budget, account",
    "gateway/exchange.py": "a piece through guard, strategy, budget, account",
    "selfroute/types.py": "a piece through guard, strategy, budget, account",
    "budget/": "a piece through guard, strategy, budget, account",
    "gateway/chat.py": "a piece's JSON written",
    "json/encoder.py": "a piece's JSON written",
    "gateway/": "sent to the client",
    "uvicorn/": "sent to the client",
}
OTHER = "event loop and the rest"
RUNNER = """
import cProfile, sys, time
sys.argv = ["selfroute", "serve", sys.argv[1]]
try:
    from selfroute.commands.main import main
except ModuleNotFoundError:
    from selfroute.cli import main
profile = cProfile.Profile(time.thread_time)
try:
    profile.runcall(main)
except SystemExit:
    pass
finally:
    profile.dump_stats(sys.argv[2] + ".prof")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", metavar="NAME=SRC", help="source trees; this one without")
    parser.add_argument("--streams", type=int, default=1500, help="of each length and round")
    parser.add_argument("--rounds", type=int, default=5, help="of the process's account, trees taking turns")
    arguments = parser.parse_args()
    trees = dict(tree.split("=", 1) for tree in arguments.trees) or {"now": str(HERE.parents[1] / "src")}
    accounts: dict[str, list[float]] = {name: [] for name in trees}
    with process(lambda port: [*STUB, str(port)], cwd=HERE) as stub:
        for _ in range(arguments.rounds):
            for name, source in trees.items():
                accounts[name].append(account(source, stub.url, arguments.streams))
        stages = {name: profiled(source, stub.url, arguments.streams) for name, source in trees.items()}
    show(accounts, stages)


def account(source: str, upstream: str, streams: int) -> float:
    """Microseconds of the gateway's processor time per chunk."""
    with tempfile.TemporaryDirectory() as folder, gateway(source, upstream, Path(folder), []) as (url, running):
        spent = [spend(url, words, streams, running) for words in WORDS]
    return 1e6 * (spent[0] - spent[1]) / streams / (WORDS[0] - WORDS[1])


def spend(url: str, words: int, streams: int, running: psutil.Process) -> float:
    asyncio.run(burst(url, words, streams // 10))
    before = sum(running.cpu_times()[:2])
    asyncio.run(burst(url, words, streams))
    return sum(running.cpu_times()[:2]) - before


def profiled(source: str, upstream: str, streams: int) -> Counter[str]:
    """Seconds by stage that long streams take more than short ones."""
    found = []
    for words in WORDS:
        with tempfile.TemporaryDirectory() as folder:
            with gateway(source, upstream, Path(folder), ["-c", RUNNER]) as (url, _):
                asyncio.run(burst(url, words, streams))
            found.append(by_stage(f"{folder}/serve.yaml.prof"))
    long, short = found
    long.subtract(short)
    return long


def by_stage(file: str) -> Counter[str]:
    """Own seconds of every function, under its file's stage."""
    spent: Counter[str] = Counter()
    for (place, _, _), (_, _, own, _, callers) in pstats.Stats(file).stats.items():  # type: ignore[attr-defined]
        if place == "~":  # written in C
            for (caller, _, _), (_, _, of_it, _) in callers.items():
                spent[stage(caller)] += of_it
        else:
            spent[stage(place)] += own
    return spent


def stage(place: str) -> str:
    path = place.replace(os.sep, "/")
    ours = "selfroute/" in path and "site-packages" not in path
    for part, name in STAGES.items():
        if part in path and (ours or "/" not in part.rstrip("/") or part.startswith("json")):
            return name
    return OTHER


@contextmanager
def gateway(source: str, upstream: str, folder: Path, runner: Sequence[str]) -> Iterator[tuple[str, psutil.Process]]:
    """A gateway of a source tree: its address and process; with a runner it writes a profile beside its recipe."""
    recipe = str(folder / "serve.yaml")

    def command(port: int) -> list[str]:
        plain = ours(folder, upstream, port)
        if not (Path(source) / "selfroute" / "commands").is_dir():  # a tree of before
            plain[plain.index("selfroute.commands.main")] = "selfroute.cli"
        return [sys.executable, *runner, recipe] if runner else plain

    os.environ["PYTHONPATH"] = source
    try:
        with process(command) as server:
            yield server.url, server.process
    finally:
        del os.environ["PYTHONPATH"]


async def burst(url: str, words: int, streams: int) -> None:
    """So many streams, 16 at once."""
    left = iter(range(streams))
    async with aiohttp.ClientSession() as session:

        async def client() -> None:
            for number in left:
                message = {"role": "user", "content": f"{words} words, number {number}"}
                body = {"model": "stub", "max_tokens": words, "stream": True, "messages": [message]}
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    if response.status != 200:
                        raise SystemExit(f"{url} refused a request: {await response.text()}")
                    await response.content.read()

        await asyncio.gather(*(client() for _ in range(16)))


def show(accounts: dict[str, list[float]], stages: dict[str, Counter[str]]) -> None:
    print("| µs of the processor per chunk | " + " | ".join(accounts) + " |\n|---|" + "---|" * len(accounts))
    totals = {name: statistics.median(found) for name, found in accounts.items()}
    for stage_name in dict.fromkeys([*STAGES.values(), OTHER]):
        parts = [totals[name] * max(0.0, found[stage_name]) / found.total() for name, found in stages.items()]
        print(f"| {stage_name} | " + " | ".join(f"{part:.1f}" for part in parts) + " |")
    spread = (f"{totals[name]:.1f} ({min(found):.1f} to {max(found):.1f})" for name, found in accounts.items())
    print("| **all** | " + " | ".join(spread) + " |")


if __name__ == "__main__":
    main()
