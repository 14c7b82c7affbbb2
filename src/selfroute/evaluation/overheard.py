"""What left for the cloud while a row was answered, and which of the row's private values it told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from selfroute.backends.base import Backend
from selfroute.backends.clouds import Asking, Clouds
from selfroute.backends.flight import closing
from selfroute.privacy.values import Leakage, Values, leakage
from selfroute.tasks.base import Row
from selfroute.types import Delta, Message, Sampling, Trace

__all__ = ["Overheard", "leaked", "overheard"]


class Overheard(Backend):
    """A cloud, and the texts of all that it was asked.

    Attributes:
        texts: of every message, those of requests that failed too: they had left.
    """

    inner: Backend

    def __init__(self, backend: Backend) -> None:
        self.inner = backend
        self.name = backend.name
        self.texts: list[str] = []

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Pass the answer on."""
        self.texts += [message.content for message in messages]
        async with closing(self.inner.stream(messages, sampling)) as deltas:
            async for delta in deltas:
                yield delta


def overheard(cloud: Backend | None, row: Row) -> Backend | None:
    """The cloud, listened to if the row names private values; several clouds answer by themselves.

    Raises:
        TaskError: the row's private values are no lists of texts.
    """
    if cloud is None or Values.of(row.fields) is None or isinstance(cloud, Clouds | Asking):
        return cloud
    return Overheard(cloud)


def leaked(row: Row, cloud: Backend | None, trace: Trace) -> Leakage | None:
    """What the cloud was told of a row's private values; None for a row that names none.

    A cloud that was reached another way than by requests, as where both sides write one answer, counts as told all.
    """
    values = Values.of(row.fields)
    if values is None:
        return None
    if isinstance(cloud, Overheard) and cloud.texts:
        return leakage("\n".join(cloud.texts), values)
    if trace.usage("cloud").calls or any(segment.source == "cloud" for segment in trace.segments):
        return leakage(row.question, values)
    return Leakage(leaked=0, verbatim=0, lost=0)
