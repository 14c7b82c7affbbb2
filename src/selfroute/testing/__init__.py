"""Whether a backend, a task or a strategy of your own keeps its contract: call these from your tests.

::

    from selfroute.testing import check_backend, check_environment, check_sessions, check_strategy, check_task

    async def test_my_backend():
        await check_backend(MyBackend)

    async def test_the_sessions_of_my_backend():
        await check_sessions(MyBackend)

    def test_my_task():
        check_task(MyTask())

    def test_the_environments_of_my_task():
        check_environment(lambda: MyTask().environment(row))

    async def test_my_strategy():
        await check_strategy(MyStrategy)

What fails is an `AssertionError` that says in words what the contract is. No test framework is needed.
"""

from __future__ import annotations

from selfroute.testing.backends import BACKEND_CASES, CONVERSATIONS, EMPTY, SHORT, check_backend
from selfroute.testing.environments import check_environment
from selfroute.testing.sessions import SESSION_CASES, check_sessions
from selfroute.testing.strategies import STRATEGY_CASES, Pair, RecordingBudget, check_strategy
from selfroute.testing.tasks import check_task

__all__ = [
    "BACKEND_CASES",
    "CONVERSATIONS",
    "EMPTY",
    "SESSION_CASES",
    "SHORT",
    "STRATEGY_CASES",
    "Pair",
    "RecordingBudget",
    "check_backend",
    "check_environment",
    "check_sessions",
    "check_strategy",
    "check_task",
]
