"""A journal in a Redis server, shared by many hosts (extra `redis`)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from selfroute.budget.journal import KEPT_LINES, Joined, Page, Settled, Waiting
from selfroute.budget.redis import address_of, check_server, lost, place_of
from selfroute.errors import BudgetUnavailable

__all__ = ["RedisJournal"]

_REPLY_S = 60  # how long a batch is remembered, so that one that is sent again is not appended again

# Lines are a list; what was cut off its head is counted in `dropped`, so that numbers stay. All of it in one step.
_EXCHANGE = f"""
local lines, dropped, records, times, said, batch = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local seen, count = tonumber(ARGV[1]), tonumber(ARGV[2])
if redis.call('SET', batch, 1, 'NX', 'EX', {_REPLY_S}) then
  for i = 1, count do redis.call('RPUSH', lines, ARGV[2 + i]) end
  for i = 3 + count, #ARGV, 3 do
    redis.call('HSET', records, ARGV[i], ARGV[i + 1])
    redis.call('ZADD', times, ARGV[i + 2], ARGV[i])
  end
end
local gone = tonumber(redis.call('GET', dropped) or '0')
local first = math.max(seen, gone) + 1
return {{first, redis.call('LRANGE', lines, first - 1 - gone, -1)}}
"""
_KEEP = f"""
local lines, dropped, records, times, said, snapshot = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local number, waiting, since = tonumber(ARGV[1]), tonumber(ARGV[3]), ARGV[4]
if number <= tonumber(redis.call('HGET', snapshot, 'number') or '0') then return end
redis.call('HSET', snapshot, 'number', number, 'state', ARGV[2])
local drop = number - {KEPT_LINES} - tonumber(redis.call('GET', dropped) or '0')
if drop > 0 then
  redis.call('LTRIM', lines, drop, -1)
  redis.call('INCRBY', dropped, drop)
end
local function forget(traces)
  for _, trace in ipairs(traces) do
    redis.call('HDEL', records, trace)
    redis.call('HDEL', said, trace)
    redis.call('ZREM', times, trace)
  end
end
forget(redis.call('ZRANGEBYSCORE', times, '-inf', '(' .. since))
local over = redis.call('ZCARD', times) - waiting
if over > 0 then forget(redis.call('ZRANGE', times, 0, over - 1)) end
"""
_SETTLE = """
local records, times, said = KEYS[1], KEYS[2], KEYS[3]
local trace, says, since = ARGV[1], ARGV[2], tonumber(ARGV[3])
local record = redis.call('HGET', records, trace)
if not record then return {} end
local before = redis.call('HGET', said, trace)
if before then return {record, before, 0} end
if tonumber(redis.call('ZSCORE', times, trace)) < since then return {record, '', 1} end
redis.call('HSET', said, trace, says)
return {record, '', 0}
"""


class RedisJournal:
    """A journal in a Redis server; see `selfroute.budget.journal.Journal`.

    Args:
        url: e.g. `redis://127.0.0.1:6379/0`, without a password; by default what `url_env` holds.
        url_env: the environment variable with the whole address, password included.
        scope: keeps apart journals that share the server.
        timeout_s: seconds for connecting and for each answer.

    Raises:
        ConfigError: no address, a password in the configuration, or no Redis server that answers.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        url_env: str = "REDIS_URL",
        scope: str = "default",
        timeout_s: float = 2.0,
    ) -> None:
        import redis

        self._url = address_of(url, url_env)
        self.scope = scope
        self.timeout_s = timeout_s
        self._error = redis.RedisError
        self._clients: dict[asyncio.AbstractEventLoop, Any] = {}
        check_server(self._url, timeout_s)

    async def join(self) -> Joined:
        client = self._client()
        try:
            replica = await client.incr(self._key("replicas"))
            number, state = await client.hmget(self._key("snapshot"), "number", "state")
        except (self._error, OSError) as error:
            raise self._lost(error) from error
        return Joined(int(replica), int(number or 0), None if state is None else state.decode())

    async def exchange(self, seen: int, lines: Sequence[str], waiting: Sequence[Waiting]) -> Page:
        keys = ["lines", "dropped", "records", "times", "said", f"batch.{uuid.uuid4().hex}"]
        kept = [value for one in waiting for value in (one.trace, one.record, repr(one.at_s))]
        first, found = await self._run(_EXCHANGE, keys, [seen, len(lines), *lines, *kept])
        return Page(int(first), [line.decode() for line in found])

    async def keep(self, number: int, state: str, *, waiting: int, since_s: float) -> None:
        keys = ["lines", "dropped", "records", "times", "said", "snapshot"]
        await self._run(_KEEP, keys, [number, state, waiting, repr(since_s)])

    async def settle(self, trace: str, said: str, *, since_s: float) -> Settled:
        found = await self._run(_SETTLE, ["records", "times", "said"], [trace, said, repr(since_s)])
        if not found:
            return Settled()
        record, before, is_over = found
        return Settled(record.decode(), before.decode() or None, bool(is_over))

    async def aclose(self) -> None:
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        call = self._client().register_script(script)
        try:
            return await call(keys=[self._key(key) for key in keys], args=list(arguments))
        except (self._error, OSError) as error:
            raise self._lost(error) from error

    def _client(self) -> Any:
        import redis.asyncio

        loop = asyncio.get_running_loop()
        for ended in [other for other in self._clients if other.is_closed()]:
            del self._clients[ended]
        if loop not in self._clients:
            self._clients[loop] = redis.asyncio.Redis.from_url(
                self._url, socket_connect_timeout=self.timeout_s, socket_timeout=self.timeout_s
            )
        return self._clients[loop]

    def _key(self, key: str) -> str:
        return f"selfroute:{{{self.scope}}}:journal.{key}"

    def _lost(self, error: Exception) -> BudgetUnavailable:
        return lost(place_of(self._url), error)
