"""Sessions behind a link: the same answers, and every byte of them counted."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from selfroute.backends.base import capability, complete
from selfroute.backends.linked import Endpoint, Linked
from selfroute.backends.sessions import Judge, Look, Session, Sessions
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import BackendError, UnsupportedByBackend
from selfroute.network.link import Network
from selfroute.types import Message, Sampling

HELLO = [Message("user", "hello")]
SAMPLING = Sampling(max_tokens=40)
LENGTH = struct.Struct("<I")


@pytest.fixture(scope="module")
def tiny(tiny_model: Any, tiny_tokenizer: Any) -> Iterator[TransformersBackend]:
    with TransformersBackend("tiny", tiny_model, tiny_tokenizer, max_batch=8) as made:
        yield made


async def alternate(session: Session) -> tuple[list[int], list[float | None]]:
    """Write, read what was written elsewhere, be judged, forget, write on."""
    await session.write(3)
    await session.read([5, 6])
    await session.write(2)
    views = await session.read([7, 8, 9], every=True)
    await session.drop(2)
    await session.drop(1)
    await session.read([4])
    await session.write(4)
    return list(session.ids), [view.given for view in views]


async def test_it_writes_and_judges_as_the_model_in_this_process(tiny: TransformersBackend) -> None:
    near, far = capability(tiny, Sessions).session(HELLO, SAMPLING), Linked(tiny).session(HELLO, SAMPLING)
    ids, given = await alternate(near)
    assert await alternate(far) == (ids, pytest.approx(given, abs=1e-5))
    assert far.used.prompt_tokens == near.used.prompt_tokens and far.used.layer_tokens == near.used.layer_tokens
    assert far.used.completion_tokens == near.used.completion_tokens == 9
    assert (near.used.round_trips, far.used.round_trips) == (0, 4)
    await near.close()
    await far.close()
    assert far.used.round_trips == 4, "what was used is known when it is over"


class Proxy:
    """Passes bytes on between two ends on loopback and counts them."""

    def __init__(self, port: int) -> None:
        self.port, self.up, self.down = port, 0, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(self._pass(reader, far_writer, "up"), self._pass(far_reader, writer, "down"))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        while data := await reader.read(1 << 16):
            setattr(self, way, getattr(self, way) + len(data))
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def listening(serve: Any) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def take(reader: asyncio.StreamReader) -> bytes:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return await reader.readexactly(length)


async def test_what_it_counts_is_what_a_proxy_on_loopback_sees(tiny: TransformersBackend) -> None:
    endpoint = Endpoint(tiny)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                said = await endpoint.answer(await take(reader))
                writer.write(LENGTH.pack(len(said)) + said)
        except asyncio.IncompleteReadError:
            writer.close()

    async with listening(answer) as far:
        proxy = Proxy(far)
        async with listening(proxy.serve) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)

            async def carry(data: bytes) -> bytes:
                writer.write(LENGTH.pack(len(data)) + data)
                return await take(reader)

            session = Linked(tiny, carry=carry).session(HELLO, SAMPLING)
            plain = capability(tiny, Sessions).session(HELLO, SAMPLING)
            assert (await alternate(session))[0] == (await alternate(plain))[0]
            used, frames = session.used, session.used.round_trips * LENGTH.size
            writer.close()
            await endpoint.close(1)
            await plain.close()
            await asyncio.sleep(0.05)
    assert (proxy.up, proxy.down) == (used.up_bytes + frames, used.down_bytes + frames)


async def test_only_what_is_new_is_sent(tiny: TransformersBackend) -> None:
    session = Linked(tiny).session(HELLO, SAMPLING)
    sizes, before = [], 0
    for _ in range(4):
        await session.read([5])
        await session.write(1)
        sizes.append(session.used.up_bytes - before)
        before = session.used.up_bytes
    assert sizes[0] > sizes[1] == sizes[2] == sizes[3] < 20
    await session.close()


async def test_a_link_that_is_stated_makes_it_wait(tiny: TransformersBackend) -> None:
    session = Linked(tiny, network=Network(rtt_s=0.2)).session(HELLO, SAMPLING)
    began = asyncio.get_running_loop().time()
    await session.write(1)
    assert asyncio.get_running_loop().time() - began >= 0.2
    await session.close()


async def test_it_ends_at_a_mark_as_the_model_in_this_process(tiny: TransformersBackend) -> None:
    near, far = capability(tiny, Sessions).session(HELLO, SAMPLING), Linked(tiny).session(HELLO, SAMPLING)
    whole = [token.token_id for token in await near.write(12)]
    speller = tiny.speller()
    speller.extend(whole)
    mark = speller.take(last=True)[0][5:7]
    await near.drop(12)
    ours = [token.token_id for token in await near.write(12, until=("", mark))]
    theirs = [token.token_id for token in await far.write(12, until=("", mark))]
    assert theirs == ours and 0 < len(ours) < 12
    await near.close()
    await far.close()


async def test_it_is_the_model_in_all_else(tiny: TransformersBackend) -> None:
    linked = Linked(tiny)
    assert (linked.name, linked.identity, linked.vocabulary) == ("tiny", tiny.identity, tiny.vocabulary)
    assert linked.gives == tiny.gives - {"judge"}
    ours, theirs = await complete(linked, HELLO, SAMPLING), await complete(tiny, HELLO, SAMPLING)
    assert ours.text == theirs.text and ours.usage.down_bytes == len(ours.text.encode())
    assert ours.usage.round_trips == 1 and 0 < ours.usage.up_bytes < 80
    beside = linked.session(HELLO, SAMPLING, look=Look(top=1))
    assert (await beside.write(1))[0].view is not None and beside.used.up_bytes == 0
    await beside.close()
    behind = linked.session(HELLO, SAMPLING)
    with pytest.raises(UnsupportedByBackend, match="judges none"):
        await behind.write(3, judge=Judge(lambda written: [1.0], 0.5))
    with pytest.raises(BackendError, match="no session 9"):
        await Endpoint(tiny).answer(b"\x09\0\0\0" + b"\0" * 11)
    with pytest.raises(BackendError, match="not an ask"):
        await Endpoint(tiny).answer(b"hello")
