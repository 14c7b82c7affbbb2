"""What is written down of a request that has ended: for the dashboard, for its history, and for the log."""

from __future__ import annotations

from typing import Any

from selfroute.backends.redacted import RedactedBackend
from selfroute.errors import PrivacyRefused
from selfroute.gateway.errors import refusal_limit
from selfroute.gateway.exchange import Exchange
from selfroute.gateway.history import Tally
from selfroute.types import Message, Sampling

__all__ = ["CLIENT_GONE", "content_of", "reason_of", "record_of", "tally_of"]

CLIENT_GONE = 499  # status of a request whose client did not wait


def reason_of(exchange: Exchange, status_code: int) -> str:
    """Why the request ended as it did."""
    return "client-gone" if status_code == CLIENT_GONE else exchange.reason


def record_of(exchange: Exchange, status_code: int, now: float) -> dict[str, Any]:
    """The request in numbers and names, without a word of what was said.

    Args:
        now: seconds since 1970.
    """
    (dp, dc), (cp, cc) = exchange.tokens("device"), exchange.tokens("cloud")
    return {
        "at": round(now, 3),
        "id": exchange.id,
        "status": status_code,
        "source": exchange.source,
        "reason": reason_of(exchange, status_code),
        "mode": exchange.mode,
        "dry": exchange.dry,
        "cloud": exchange.used_cloud,
        "seconds": round(exchange.seconds, 4),
        "first_s": None if exchange.first_token_s is None else round(exchange.first_token_s, 4),
        "cost_usd": exchange.cost_usd,
        "device_tokens": dp + dc,
        "cloud_tokens": cp + cc,
        **({"redacted": redacted} if (redacted := exchange.redacted) else {}),
        "refused": refusal_limit(exchange.refusals[0]) if exchange.refusals else None,
    }


def tally_of(exchange: Exchange, status_code: int) -> Tally:
    """The request as the history counts it; of a decision alone, what it cost."""
    refused = len(exchange.refusals)
    if exchange.dry:
        return Tally(refused=refused, cost_usd=exchange.cost_usd)
    by_device = exchange.source == "device"
    return Tally(
        device=int(status_code == 200 and by_device),
        cloud=int(status_code == 200 and not by_device),
        failed=int(status_code not in (200, CLIENT_GONE)),
        gone=int(status_code == CLIENT_GONE),
        refused=refused,
        cost_usd=exchange.cost_usd,
        cloud_alone_usd=exchange.cloud_alone_usd,
    )


def content_of(exchange: Exchange, door: RedactedBackend | None) -> dict[str, Any]:
    """What was asked and answered, as the cloud may see it; where it may not be seen, why."""
    said = [*exchange.request.messages, Message("assistant", exchange.text[1])]
    if door is not None:
        try:
            said = list(door.redactor.redact(said, Sampling()).messages)
        except PrivacyRefused as refusal:
            return {"withheld": str(refusal)}
    *messages, answer = ({"role": m.role, "content": m.content} for m in said)
    return {"messages": messages, "answer": answer["content"]}
