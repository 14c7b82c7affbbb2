"""A ledger in a Redis server, shared by many hosts (extra `redis`).

What each open lease holds stands beside the counters, under the owner that it belongs to: one ledger of one process. An
owner with open leases is heard of at least every few seconds. Once it has been silent for too long, whoever needs room
gives back what it had reserved and not sent. If it was only slow, it learns of that when it wants to send.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from selfroute.budget.limits import AHEAD, CALLS, REQUESTS, WHOLE, Bucket, Charge, Hold, Reply
from selfroute.errors import BudgetUnavailable, ConfigError

__all__ = ["RedisLedger", "address_of", "check_server", "lost", "place_of"]

_REPLY_S = 60  # how long an operation's reply is kept for a client that has to ask again
_CONNECTIONS = 16  # per event loop; further operations wait for one
_KEPT_S = 86400  # how long a window that has ended can still be spent in
_LOOK_S = 1.0  # at least, between two looks for owners that have died
_BEATS = 4  # how often an owner says that it lives, in the time after which it is taken for dead

# `selfroute.budget.limits` in Lua, atomic as every script is. An operation has a number: a client whose connection
# broke sends it again and gets the first reply, so that nothing is booked twice. Amounts in a lease are texts, as cjson
# writes no more than 14 digits. All keys have the prefix, and with it the node of a cluster, in common.
_SCRIPT = f"""
local said = redis.call('GET', KEYS[1])
if said then return cjson.decode(said) end

local ahead, calls, requests, owners = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local operation, leak, size, prefix, owner = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local silence, lease, in_air, look = ARGV[6], ARGV[7], ARGV[8] == '1', ARGV[9] == '1'
local charges = {{}}
for i = 0, (#KEYS - 5) / 2 - 1 do
  charges[i + 1] = {{
    spent = KEYS[6 + 2 * i], held = KEYS[7 + 2 * i], amount = tonumber(ARGV[10 + 4 * i]),
    other = tonumber(ARGV[11 + 4 * i]), left = ARGV[12 + 4 * i], ends = tonumber(ARGV[13 + 4 * i]),
  }}
end

local function number(key) return tonumber(redis.call('GET', key) or '0') end
local function put(key, value, ends)
  redis.call('SET', key, string.format('%.0f', math.max(0, value)))
  if ends > 0 then redis.call('EXPIREAT', key, ends + {_KEPT_S}) end
end
local function lower(key, by)
  by = math.min(tonumber(by), number(key))
  if by > 0 then redis.call('DECRBY', key, string.format('%.0f', by)) end
end
local function leave_share()
  lower(ahead, {WHOLE})
  lower(calls, 1)
end

local function leases_of(name) return prefix .. 'leases.' .. name end
local function alive_key(name) return prefix .. 'alive.' .. name end
local function write_lease(record)
  redis.call('HSET', leases_of(owner), lease, cjson.encode(record))
end
local function read_lease()
  local found = redis.call('HGET', leases_of(owner), lease)
  return found and cjson.decode(found)
end
local function live()
  redis.call('SADD', owners, owner)
  redis.call('SET', alive_key(owner), 1, 'PX', silence)
  redis.call('PERSIST', leases_of(owner))
end

local function bury(name)
  local key = leases_of(name)
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local record = cjson.decode(all[i + 1])
    if not record.sent then
      for held, amount in pairs(record.held) do lower(held, amount) end
      if record.share then leave_share() end
      redis.call('HDEL', key, all[i])
    end
  end
  redis.call('SREM', owners, name)
  redis.call('EXPIRE', key, {_KEPT_S})
end
local function reclaim()
  for _, name in ipairs(redis.call('SMEMBERS', owners)) do
    if name ~= owner and redis.call('EXISTS', alive_key(name)) == 0 then bury(name) end
  end
end

local function admit()
  local reply = {{1, number(calls), number(requests)}}
  for i, charge in ipairs(charges) do
    local held = number(charge.held)
    reply[2 * i + 2], reply[2 * i + 3] = number(charge.spent) + held, held
    if reply[2 * i + 2] + charge.amount > charge.other then reply[1] = 0 end
  end
  if leak >= 0 and number(ahead) + {WHOLE} > size then reply[1] = 0 end
  if reply[1] == 0 then return reply end
  local held = {{}}
  for _, charge in ipairs(charges) do
    put(charge.held, number(charge.held) + charge.amount, charge.ends)
    held[charge.held] = charge.left
  end
  if leak >= 0 then
    put(ahead, number(ahead) + {WHOLE}, 0)
    put(calls, number(calls) + 1, 0)
    reply[2] = number(calls)
  end
  write_lease({{sent = false, share = leak >= 0, held = held}})
  live()
  return reply
end

local function spend(record)
  local over, held = true, {{}}
  for _, charge in ipairs(charges) do
    put(charge.spent, number(charge.spent) + charge.other, charge.ends)
    if record then put(charge.held, number(charge.held) - charge.amount + tonumber(charge.left), charge.ends) end
    held[charge.held] = charge.left
    over = over and tonumber(charge.left) == 0
  end
  if not record then return end
  if not over then return write_lease({{sent = in_air, share = false, held = held}}) end
  redis.call('HDEL', leases_of(owner), lease)
  if redis.call('EXISTS', leases_of(owner)) == 0 then redis.call('SREM', owners, owner) end
end

if redis.call('EXISTS', leases_of(owner)) == 1 then live() end  -- whatever it says, it lives
local reply = {{1}}
if leak >= 0 and (operation == 'count' or operation == 'reserve') then
  put(requests, number(requests) + 1, 0)
  put(ahead, number(ahead) - leak, 0)
end
if operation == 'reserve' then
  reply = admit()
  if reply[1] == 0 and look then
    reclaim()
    reply = admit()
  end
elseif operation == 'sent' then
  local record = read_lease()
  if record then
    record.sent = true
    write_lease(record)
  else reply[1] = 0 end
elseif operation == 'spend' then
  spend(read_lease())
elseif operation == 'close' then
  local record = read_lease()
  spend(record)
  if record and record.share then leave_share() end
elseif operation == 'look' then reclaim() end
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
        silence_s: seconds without a word from a process after which others take back what it has reserved and not sent.

    Raises:
        ConfigError: no address, a password in the configuration, no Redis server that answers, or a silence of 0.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        url_env: str = "REDIS_URL",
        scope: str = "default",
        timeout_s: float = 2.0,
        silence_s: float = 15.0,
    ) -> None:
        import redis

        if not silence_s > 0:
            raise ConfigError(f"silence_s: {silence_s:g} is not above 0; 15 lets a process be silent for 15 s")

        self._url = address_of(url, url_env)
        self.scope = scope
        self.timeout_s = timeout_s
        self.silence_s = silence_s
        self._owner = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._looked = -math.inf
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._error = redis.RedisError
        check_server(self._url, timeout_s)

    @property
    def place(self) -> str:
        """The address without user and password."""
        return place_of(self._url)

    def __repr__(self) -> str:
        return f"RedisLedger({self.place!r}, scope={self.scope!r})"

    async def count(self, bucket: Bucket) -> None:
        await self._run("count", bucket=bucket)

    async def reserve(self, charges: Sequence[Charge], bucket: Bucket | None) -> Reply:
        number, look = next(self._numbers), self._may_look()
        caps = [charge.cap for charge in charges]
        reply = await self._run("reserve", number, charges, caps, charges, bucket=bucket, look=look)
        granted, calls, requests, *amounts = reply
        if granted:
            self._live_for(number)
        elif look:
            self._looked = time.monotonic()
        if bucket is None:
            calls = requests = 0
        return Reply(granted == 1, tuple(amounts[::2]), tuple(amounts[1::2]), calls, requests, number)

    async def sent(self, hold: Hold) -> None:
        (known,) = await self._run("sent", hold.number)
        if not known:
            raise BudgetUnavailable(
                f"budget ledger {self.place}: this process was silent for over {self.silence_s:g} s, and what it had "
                "reserved was given back; raise silence_s"
            )

    async def spend(self, hold: Hold, left: Hold, used: Sequence[int], *, in_air: bool) -> None:
        await self._run("spend", hold.number, hold.charges, used, left.charges, in_air=in_air)
        if left.is_over:
            self._link().leases.discard(hold.number)

    async def close(self, hold: Hold) -> None:
        await self._run("close", hold.number, hold.charges, [0] * len(hold.charges), hold.nothing().charges)
        self._link().leases.discard(hold.number)

    async def read(self, keys: Sequence[str]) -> list[int]:
        if self._may_look():
            await self._run("look")
            self._looked = time.monotonic()
        try:
            values = await self._link().client.mget([self._key(key) for key in keys])
        except (self._error, OSError) as error:
            raise self._lost(error) from error
        return [int(value or 0) for value in values]

    async def aclose(self) -> None:
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None:
            if link.living is not None:
                link.living.cancel()
                await asyncio.wait([link.living])
            await link.client.aclose()

    def _may_look(self) -> bool:
        return time.monotonic() - self._looked >= _LOOK_S

    def _live_for(self, number: int) -> None:
        """Say that this owner lives, for as long as this lease is open."""
        link = self._link()
        link.leases.add(number)
        if link.living is None or link.living.done():
            link.living = asyncio.ensure_future(self._live(link))

    async def _live(self, link: _Link) -> None:
        while link.leases:
            await asyncio.sleep(self.silence_s / _BEATS)
            with suppress(BudgetUnavailable):
                await self._run("live")

    async def _run(
        self,
        operation: str,
        number: int = 0,
        charges: Sequence[Charge] = (),
        others: Sequence[int] = (),
        left: Sequence[Charge] = (),
        *,
        bucket: Bucket | None = None,
        in_air: bool = False,
        look: bool = False,
    ) -> list[int]:
        keys = [f"reply.{uuid.uuid4().hex}", AHEAD, CALLS, REQUESTS, "owners"]
        leak, size = (-1, 0) if bucket is None else (bucket.leak, bucket.size)
        silence_ms = math.ceil(self.silence_s * 1000)
        arguments: list[str | int] = [operation, leak, size, self._key(""), self._owner, silence_ms, number]
        arguments += [int(in_air), int(look)]
        for charge, other, rest in zip(charges, others, left, strict=True):
            keys += [charge.spent, charge.held]
            arguments += [charge.amount, other, rest.amount, charge.ends or 0]
        link = self._link()
        # To its end, whatever becomes of the request: a command that is cancelled may keep its connection for good.
        task = asyncio.ensure_future(self._ask(link, [self._key(key) for key in keys], arguments))
        link.asking.add(task)
        task.add_done_callback(link.asking.discard)
        return await asyncio.shield(task)

    async def _ask(self, link: _Link, keys: Sequence[str], arguments: Sequence[str | int]) -> list[int]:
        try:
            reply: list[int] = await link.client.register_script(_SCRIPT)(keys=keys, args=arguments)
        except (self._error, OSError) as error:
            raise self._lost(error) from error
        return reply

    def _key(self, key: str) -> str:
        # The braces put all keys of a budget on one node of a cluster.
        return f"selfroute:{{{self.scope}}}:{key}"

    def _link(self) -> _Link:
        loop = asyncio.get_running_loop()
        for ended in [other for other in self._links if other.is_closed()]:
            del self._links[ended]
        if loop not in self._links:
            self._links[loop] = _Link(self._client())
        return self._links[loop]

    def _client(self) -> Any:
        import redis.asyncio
        from redis.asyncio.retry import Retry
        from redis.backoff import ExponentialBackoff

        pool = redis.asyncio.BlockingConnectionPool.from_url(
            self._url,
            max_connections=_CONNECTIONS,
            timeout=None,
            socket_connect_timeout=self.timeout_s,
            socket_timeout=self.timeout_s,
            # Safe, since an operation that is sent again is not booked again.
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 3),
        )
        return redis.asyncio.Redis.from_pool(pool)

    def _lost(self, error: Exception) -> BudgetUnavailable:
        return lost(self.place, error)


@dataclass(slots=True)
class _Link:
    """What belongs to one event loop: connections, open leases, operations under way, and what says that it lives."""

    client: Any
    leases: set[int] = field(default_factory=set)
    asking: set[asyncio.Future[list[int]]] = field(default_factory=set)
    living: asyncio.Task[None] | None = None


def address_of(url: str | None, url_env: str) -> str:
    """The address of a Redis server.

    Raises:
        ConfigError: there is none, or it holds a password.
    """
    found = url or os.environ.get(url_env, "").strip()
    if not found:
        raise ConfigError(f"no address of a Redis server; write ledger: redis:redis://HOST:6379, or export {url_env}=…")
    if url is not None and "@" in urlsplit(url).netloc:
        raise ConfigError(f"the Redis address holds a password; export {url_env}=… and leave the address out")
    return found


def place_of(url: str) -> str:
    """An address without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def check_server(url: str, timeout_s: float) -> None:
    """See that a Redis server answers.

    Raises:
        ConfigError: it does not.
    """
    import redis

    try:
        with redis.Redis.from_url(
            url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=None
        ) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise ConfigError(
            f"Redis at {place_of(url)} does not answer: {_one_line(error)}; start it, or give its address: "
            "ledger: redis:redis://HOST:6379"
        ) from None


def lost(place: str, error: Exception) -> BudgetUnavailable:
    """A server that was there answers no more."""
    return BudgetUnavailable(f"budget ledger {place}: {_one_line(error)}; check the Redis server")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
