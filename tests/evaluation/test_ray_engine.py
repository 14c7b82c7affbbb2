from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.world import TEMPLATE, N, Numbers, large, small, world

from selfroute.backends.function import FunctionBackend
from selfroute.errors import ConfigError
from selfroute.evaluation.bench import Bench, Engine
from selfroute.evaluation.ray_engine import ray_engine
from selfroute.evaluation.records import read_records
from selfroute.evaluation.run import evaluate
from selfroute.types import Sampling

ray = pytest.importorskip("ray", reason="needs the ray extra")
pytestmark = [
    pytest.mark.slow,
    # Ray leaves its own pipes and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One local cluster for all tests; this checkout is on the workers' path, with its tests."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src")])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    yield
    ray.shutdown()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    cloud = large()
    yield Bench(entrants=world(small(), cloud), task=Numbers(), sampling=Sampling(), template=TEMPLATE, cloud=cloud,
                concurrency=8, solve_samples=2)  # fmt: skip


@asynccontextmanager
async def dead() -> AsyncIterator[Bench]:
    def fail(messages: Any, sampling: Any) -> str:
        raise ConfigError("CLOUD_API_KEY is not set")

    cloud = FunctionBackend("large", fail)
    yield Bench(entrants=world(small(), cloud), task=Numbers(), sampling=Sampling(), template=TEMPLATE, cloud=cloud)


async def run(
    out: Path, engine: Engine | None, make: Callable[[], Any] = bench, on_progress: Any = None
) -> dict[str, Any]:
    async with make() as made:
        rows = list(made.task.rows("test"))
        return await evaluate(
            made, rows, share=0.3, seed=0, out=out, engine=engine, on_progress=on_progress, resamples=20
        )


def facts(out: Path) -> list[dict[str, Any]]:
    return sorted((asdict(r) for r in read_records(out / "records.jsonl")), key=lambda r: (r["strategy"], r["id"]))


async def test_it_gives_the_same_records(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    here = await run(tmp_path / "here", None)
    there = await run(
        tmp_path / "there",
        ray_engine(bench, workers=2, rows_per_share=7),
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert facts(tmp_path / "here") == facts(tmp_path / "there")
    assert here == there
    assert steps[-1] == (7 * N, 7 * N) and steps == sorted(steps)


async def test_it_goes_on_where_the_other_engine_stopped(tmp_path: Path) -> None:
    await run(tmp_path / "whole", None)
    await run(tmp_path / "cut", None)
    path = tmp_path / "cut" / "records.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:50]))
    await run(tmp_path / "cut", ray_engine(bench, workers=2, rows_per_share=5))
    assert facts(tmp_path / "cut") == facts(tmp_path / "whole")
    assert len(path.read_text().splitlines()) == 4 * N


async def test_an_error_of_a_worker_is_one_of_this_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CLOUD_API_KEY is not set"):
        await run(tmp_path, ray_engine(dead, workers=1), dead)
    assert json.loads((tmp_path / "run.json").read_text())["identity"]["cloud"] == "large"
    assert (tmp_path / "records.jsonl").read_text() == ""
