"""A ledger in a Redis server, shared by many hosts (extra `redis`)."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from selfroute.budget.limits import AHEAD, CALLS, REQUESTS, WHOLE, Bucket, Charge, Reply
from selfroute.errors import BudgetUnavailable, ConfigError

__all__ = ["RedisLedger"]

_REPLY_S = 60  # how long an operation's reply is kept for a client that has to ask again
_CONNECTIONS = 16  # per event loop; further operations wait for one
_KEPT_S = 86400  # how long a window that has ended can still be settled

# `selfroute.budget.limits` in Lua, atomic as every script is. An operation has a number: a client whose connection
# broke sends it again and gets the first reply, so that nothing is booked twice.
_SCRIPT = f"""
local said = redis.call('GET', KEYS[1])
if said then return cjson.decode(said) end

local function number(key) return tonumber(redis.call('GET', key) or '0') end
local function put(key, value, ends)
  redis.call('SET', key, string.format('%.0f', math.max(0, value)))
  if ends > 0 then redis.call('EXPIREAT', key, ends + {_KEPT_S}) end
end

local operation, leak, size = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local ahead, calls, requests = KEYS[2], KEYS[3], KEYS[4]
local charges = {{}}
for i = 0, (#KEYS - 4) / 2 - 1 do
  charges[i + 1] = {{
    spent = KEYS[5 + 2 * i], held = KEYS[6 + 2 * i],
    amount = tonumber(ARGV[4 + 3 * i]), other = tonumber(ARGV[5 + 3 * i]), ends = tonumber(ARGV[6 + 3 * i]),
  }}
end

local reply = {{1}}
if leak >= 0 and (operation == 'count' or operation == 'reserve') then
  put(requests, number(requests) + 1, 0)
  put(ahead, number(ahead) - leak, 0)
end
if operation == 'reserve' then
  local taken = {{}}
  for i, charge in ipairs(charges) do
    taken[i] = number(charge.spent) + number(charge.held)
    if taken[i] + charge.amount > charge.other then reply[1] = 0 end
  end
  if leak >= 0 and number(ahead) + {WHOLE} > size then reply[1] = 0 end
  if reply[1] == 1 then
    for _, charge in ipairs(charges) do put(charge.held, number(charge.held) + charge.amount, charge.ends) end
    if leak >= 0 then
      put(ahead, number(ahead) + {WHOLE}, 0)
      put(calls, number(calls) + 1, 0)
    end
  end
  reply[2], reply[3] = number(calls), number(requests)
  for i, value in ipairs(taken) do reply[i + 3] = value end
elseif operation == 'settle' or operation == 'release' then
  for _, charge in ipairs(charges) do
    put(charge.spent, number(charge.spent) + charge.other, charge.ends)
    put(charge.held, number(charge.held) - charge.amount, charge.ends)
  end
  if operation == 'release' and leak >= 0 then
    put(ahead, number(ahead) - {WHOLE}, 0)
    put(calls, number(calls) - 1, 0)
  end
end
redis.call('SET', KEYS[1], cjson.encode(reply), 'EX', {_REPLY_S})
return reply
"""


class RedisLedger:
    """Counters in a Redis server; see `selfroute.budget.ledger.Ledger`.

    Args:
        url: e.g. `redis://127.0.0.1:6379/0`, without a password; by default what `url_env` holds.
        url_env: the environment variable with the whole address, password included.
        scope: keeps apart budgets that share the server.
        timeout_s: seconds for connecting and for each answer.

    Raises:
        ConfigError: no address, a password in the configuration, or no Redis server that answers.
    """

    def __init__(
        self, url: str | None = None, *, url_env: str = "REDIS_URL", scope: str = "default", timeout_s: float = 2.0
    ) -> None:
        import redis

        self._url = _address(url, url_env)
        self.scope = scope
        self.timeout_s = timeout_s
        self._clients: dict[asyncio.AbstractEventLoop, Any] = {}
        self._error = redis.RedisError
        try:
            with redis.Redis.from_url(
                self._url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=None
            ) as client:
                client.ping()
        except (redis.RedisError, OSError, ValueError) as error:
            raise ConfigError(
                f"Redis at {self.place} does not answer: {_one_line(error)}; start it, or give its address: "
                "ledger: redis:redis://HOST:6379"
            ) from None

    @property
    def place(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __repr__(self) -> str:
        return f"RedisLedger({self.place!r}, scope={self.scope!r})"

    async def count(self, bucket: Bucket) -> None:
        await self._run("count", (), (), bucket)

    async def reserve(self, charges: Sequence[Charge], bucket: Bucket | None) -> Reply:
        granted, calls, requests, *taken = await self._run("reserve", charges, [c.cap for c in charges], bucket)
        if bucket is None:
            calls = requests = 0
        return Reply(granted == 1, tuple(taken), calls, requests)

    async def settle(self, charges: Sequence[Charge], used: Sequence[int]) -> None:
        await self._run("settle", charges, used, None)

    async def release(self, charges: Sequence[Charge], bucket: Bucket | None) -> None:
        await self._run("release", charges, [0] * len(charges), bucket)

    async def read(self, keys: Sequence[str]) -> list[int]:
        try:
            values = await self._client().mget([self._key(key) for key in keys])
        except (self._error, OSError) as error:
            raise self._lost(error) from error
        return [int(value or 0) for value in values]

    async def aclose(self) -> None:
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def _run(
        self, operation: str, charges: Sequence[Charge], others: Sequence[int], bucket: Bucket | None
    ) -> list[int]:
        keys = [f"reply.{uuid.uuid4().hex}", AHEAD, CALLS, REQUESTS]
        arguments: list[str | int] = [operation, *((-1, 0) if bucket is None else (bucket.leak, bucket.size))]
        for charge, other in zip(charges, others, strict=True):
            keys += [charge.spent, charge.held]
            arguments += [charge.amount, other, charge.ends or 0]
        script = self._client().register_script(_SCRIPT)
        try:
            reply: list[int] = await script(keys=[self._key(key) for key in keys], args=arguments)
        except (self._error, OSError) as error:
            raise self._lost(error) from error
        return reply

    def _key(self, key: str) -> str:
        # The braces put all keys of a budget on one node of a cluster.
        return f"selfroute:{{{self.scope}}}:{key}"

    def _client(self) -> Any:
        import redis.asyncio
        from redis.asyncio.retry import Retry
        from redis.backoff import ExponentialBackoff

        loop = asyncio.get_running_loop()
        for ended in [other for other in self._clients if other.is_closed()]:
            del self._clients[ended]
        if loop not in self._clients:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                self._url,
                max_connections=_CONNECTIONS,
                timeout=None,
                socket_connect_timeout=self.timeout_s,
                socket_timeout=self.timeout_s,
                # Safe, since an operation that is sent again is not booked again.
                retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 3),
            )
            self._clients[loop] = redis.asyncio.Redis.from_pool(pool)
        return self._clients[loop]

    def _lost(self, error: Exception) -> BudgetUnavailable:
        return BudgetUnavailable(f"budget ledger {self.place}: {_one_line(error)}; check the Redis server")


def _address(url: str | None, url_env: str) -> str:
    found = url or os.environ.get(url_env, "").strip()
    if not found:
        raise ConfigError(f"no address of a Redis server; write ledger: redis:redis://HOST:6379, or export {url_env}=…")
    if url is not None and "@" in urlsplit(url).netloc:
        raise ConfigError(f"the Redis address holds a password; export {url_env}=… and leave the address out")
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
