"""What several clouds cost a request: a gateway with five beside one with a single cloud, in one run.

Both ask the same stub, answer plain requests one at a time, and take turns, a second each; both have a SQLite budget,
prices and metrics, and the one with five logs its decisions. A seed is one round of both, in processes of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
from cells import Cell

TURNS = 8
CLOUDS = 5
_BENCH = Path(__file__).resolve().parents[1] / "gateway"


def cells() -> Mapping[str, Cell]:
    return {"five beside one": one_round}


def one_round(seed: int) -> dict[str, float]:
    """p50 in ms and processor time per request in ms, of both."""
    bench = _bench()
    command = [sys.executable, "-m", "uvicorn", "upstream:app", "--no-access-log", "--log-level", "warning"]
    with (
        tempfile.TemporaryDirectory() as folder,
        bench.process("stub", lambda port: [*command, "--port", str(port)], cwd=_BENCH) as (_, stub),
        bench.process("one", lambda port: _serve(Path(folder), stub, port, 1)) as (one, one_url),
        bench.process("five", lambda port: _serve(Path(folder), stub, port, CLOUDS)) as (five, five_url),
    ):
        gateways = {"one": (one.process, one_url), "five": (five.process, five_url)}
        return asyncio.run(_take_turns(bench, gateways, first=seed % 2))


async def _take_turns(bench: ModuleType, gateways: Mapping[str, tuple[Any, str]], *, first: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in gateways}
    used = dict.fromkeys(gateways, 0.0)
    async with aiohttp.ClientSession() as session:
        for _, url in gateways.values():
            await bench.phase(session, url, "plain", 1, 1.0)  # warm up
        for turn in range(2 * TURNS):
            name = list(gateways)[(turn + first) % 2]
            process, url = gateways[name]
            before = sum(process.cpu_times()[:2])
            times[name] += [end for _, end in await bench.phase(session, url, "plain", 1, 1.0)]
            used[name] += sum(process.cpu_times()[:2]) - before
    found = {f"{name}_p50_ms": 1000 * statistics.median(times[name]) for name in gateways}
    return found | {f"{name}_cpu_ms": 1000 * used[name] / len(times[name]) for name in gateways}


def _serve(folder: Path, stub: str, port: int, clouds: int) -> list[str]:
    side = {"openai": {"base_url": f"{stub}/v1", "model": "stub", "api_key_env": None, "concurrency": 256}}
    prices = {"prompt_usd": 1, "completion_usd": 2}
    store = {"sqlite": str(folder / f"{clouds}.sqlite")}
    recipe: dict[str, Any] = {"device": side, "strategy": "always_cloud", "port": port}
    recipe["budget"] = {"calls": {"total": 10**9}, "ledger": store}
    if clouds == 1:
        recipe |= {"cloud": side, "prices": {"cloud": prices}}
    else:
        recipe["clouds"] = [{"name": f"cloud {n}", "model": side, "prices": prices} for n in range(clouds)]
        log = str(folder / "decisions.jsonl")
        recipe["choose"] = {"mode": "act", "usd_per_request": 0.001, "latency_weight": 0.01, "log": log}
    path = folder / f"{clouds}.yaml"
    path.write_text(json.dumps(recipe))
    return [sys.executable, "-m", "selfroute.commands.main", "serve", str(path)]


def _bench() -> ModuleType:
    """The benchmark of the gateway, whose file has the name of another here."""
    spec = importlib.util.spec_from_file_location("gateway_run", _BENCH / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gateway_run"] = module
    spec.loader.exec_module(module)
    return module
