"""How well private values are found, and what redaction costs the gateway.

    python benchmarks/privacy/run.py find     # recall and precision by kind and country; needs the package faker
    python benchmarks/privacy/run.py serve    # requests per second with and without, interleaved

`find` is read on seed 1; the detectors were written without it, against seed 0. `serve` sends bodies of 1 kB to two
gateways of one stub upstream, without findings and with ten.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from corpus import LOCALES, sentences

from selfroute.privacy.base import find
from selfroute.privacy.numbers import Numbers
from selfroute.privacy.patterns import Patterns

sys.path.append(str(Path(__file__).resolve().parents[1] / "gateway"))
import servers

_FINDINGS = (
    "Write to a.b@example.com and c.d@example.org, call +49 171 2345678 or (415) 555-2671, card 4111 1111 1111 1111, "
    "IBAN DE89 3704 0044 0532 0130 00, SSN 536-90-4399, key sk-abcdefghijklmnop1234, host 10.0.0.12, for Anna Müller. "
)
_PROSE = "Please turn the notes below into a short and polite letter that asks for an answer by the end of next week. "
_number = itertools.count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("find", "serve"))
    parser.add_argument("--count", type=int, default=200, help="sentences of each kind and country")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.what == "find":
        show_found(arguments.count, arguments.seed)
    else:
        show_served(arguments.rounds)


# --- find -----------------------------------------------------------------------------------------------------------


def show_found(count: int, seed: int) -> None:
    detectors = (Patterns(), Numbers(list(LOCALES)))
    whole, part, wanted, wrong = Counter[Any](), Counter[Any](), Counter[Any](), Counter[Any]()
    plain = 0
    for region in LOCALES:
        for sentence in sentences(region, count, seed):
            spans = find(sentence.text, detectors)
            if sentence.kind is None:
                plain += 1
                wrong.update(span.kind for span in spans)
                continue
            start = sentence.text.index(sentence.value)
            end = start + len(sentence.value)
            wanted[sentence.kind, region] += 1
            # A value is found if nothing of it that tells would be sent, under whatever kind.
            covered = sum(max(0, min(span.end, end) - max(span.start, start)) for span in spans)
            whole[sentence.kind, region] += covered >= 0.9 * len(sentence.value)
            part[sentence.kind, region] += covered > 0
    print(f"n = {sum(wanted.values())} values, {plain} sentences without; seed {seed}\n")
    print("| kind | " + " | ".join(LOCALES) + " | all | in part | wrong in plain sentences |")
    print("|---" * (len(LOCALES) + 4) + "|")
    for kind in dict.fromkeys(kind for kind, _ in wanted):
        cells = [f"{100 * whole[kind, r] / wanted[kind, r]:.1f}" for r in LOCALES]
        total = sum(wanted[kind, r] for r in LOCALES)
        mean, some = (100 * sum(c[kind, r] for r in LOCALES) / total for c in (whole, part))
        print(f"| {kind} | {' | '.join(cells)} | {mean:.1f} | {some:.1f} | {wrong[kind]} of {plain} |")
    others = {kind: times for kind, times in wrong.items() if kind not in {k for k, _ in wanted}}
    print(f"\nother kinds in plain sentences: {others or 'none'}")


# --- serve ----------------------------------------------------------------------------------------------------------


def show_served(rounds: int) -> None:
    """Requests per second, and processor time of the gateway per request; a round asks every pair in turn."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stub = stack.enter_context(servers.process(lambda port: [*servers.STUB, str(port)], cwd=servers.HERE))
        made = {}
        for name in ("without", "with"):
            (folder / name).mkdir()
            made[name] = stack.enter_context(
                servers.process(lambda port, n=name: _gateway(folder / n, stub.url, port, n))
            )
        took: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for body in ("no findings", "ten findings"):
                for name, server in made.items():
                    took.setdefault((body, name), []).append(asyncio.run(_took(server, _text(body))))
        memory = {name: server.process.memory_info().rss / 1e6 for name, server in made.items()}
    for body in ("no findings", "ten findings"):
        pairs = list(zip(took[body, "without"], took[body, "with"], strict=True))
        walls, cpus = ([without[i] / with_[i] for without, with_ in pairs] for i in (0, 1))
        print(f"{body}, of the requests/s without redaction: {_spread(walls)}; by processor time: {_spread(cpus)}")
    print(", ".join(f"{name} redaction {mb:.1f} MB" for name, mb in memory.items()))


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)})"


def _gateway(folder: Path, upstream: str, port: int, name: str) -> list[str]:
    made = servers.ours(folder, upstream, port)
    if name == "with":
        recipe = json.loads((folder / "serve.yaml").read_text())
        recipe["privacy"] = {"names": ["Anna Müller"]}
        (folder / "serve.yaml").write_text(json.dumps(recipe))
    return made


def _text(body: str) -> str:
    head = _FINDINGS if body == "ten findings" else ""
    return (head + _PROSE * 10)[:1000]


async def _took(server: servers.Server, text: str, count: int = 400, at_once: int = 16) -> tuple[float, float]:
    """Seconds for some requests, and the gateway's processor seconds."""
    left = iter(range(count))
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def client() -> None:
            for _ in left:
                messages = [{"role": "user", "content": f"{text} {next(_number)}x"}]
                body = {"model": "stub", "max_tokens": 1, "messages": messages}
                async with http.post(f"{server.url}/v1/chat/completions", json=body) as answer:
                    assert answer.status == 200, await answer.text()

        began, busy = loop.time(), _busy(server.process)
        await asyncio.gather(*(client() for _ in range(at_once)))
        return loop.time() - began, _busy(server.process) - busy


def _busy(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
