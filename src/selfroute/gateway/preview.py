"""What the cloud would get of a request, without asking it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfroute.backends.redacted import Departure, encoded
from selfroute.errors import PrivacyRefused
from selfroute.gateway.errors import ApiError
from selfroute.gateway.request import ChatRequest
from selfroute.gateway.service import Mode, Service
from selfroute.privacy.base import KINDS
from selfroute.privacy.redaction import Redacted
from selfroute.privacy.table import Table
from selfroute.types import Message, Sampling

__all__ = ["preview"]


async def preview(service: Service, request: ChatRequest, mode: Mode) -> dict[str, Any]:
    """The body that would be sent, byte for byte, and what stands for what in it; nothing is sent or spent.

    It is that of a request whose cloud sees the conversation alone; a hand-off that passes on the device's attempt
    appends it. Where the device writes the question, it is asked to. Of several clouds it is the first one's.

    Raises:
        ApiError: there is no cloud.
        BackendUnavailable: its model is still loading, or a device that is to write the question.
    """
    told: dict[str, Any] = {"object": "selfroute.preview", "body": None, "placeholders": [], "refused": None}
    if service.cloud is None:
        raise ApiError("mode_not_allowed", "this gateway has no cloud, so nothing leaves")
    if mode in ("device", "private"):
        return {**told, "refused": f"mode {mode}: nothing leaves the device"}
    for side, guard in service.guards():
        if side == "cloud":
            await guard.ready()
    asked = await service.question(request)
    if asked is None:
        return {**told, "refused": "the device answers, or wrote no message for the cloud: nothing leaves it"}
    try:
        leaving = _leaving(service, *asked)
    except PrivacyRefused as refusal:
        return {**told, "refused": str(refusal)}
    table = leaving.request.table
    kinds = list(table.items())
    placeholders = [
        {"placeholder": mark, "value": value, "kind": kind, "why": KINDS[kind]}
        for mark, (kind, value) in zip(table.values, kinds, strict=True)
    ]
    return {**told, "body": leaving.body.decode(), "placeholders": placeholders}


def _leaving(service: Service, messages: Sequence[Message], sampling: Sampling) -> Departure:
    if door := service.door():
        return door.depart(messages, sampling)
    cloud = next(guard for side, guard in service.guards() if side == "cloud")
    return Departure(Redacted(messages, sampling, Table()), encoded(cloud, messages, sampling))
