"""Layers of a model behind a `selfroute cloud --layers`, which take and give binary messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from selfroute.backends.layers import Whole
from selfroute.errors import ConfigError

__all__ = ["EndpointLayers"]

ADDRESS = "layers"  # behind the base URL


class EndpointLayers:
    """See `selfroute.backends.layers.Layered`: the layers that an endpoint holds.

    Args:
        name: of the backend.
        send: posts bytes to an address of the endpoint, and brings what comes back.
        about: asks it what it holds; None while it cannot be reached.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[str, bytes], Awaitable[bytes]],
        about: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        self.name = name
        self._send, self._about = send, about
        self._known: Mapping[str, Any] | None = None

    def tail(self, first: int) -> _Endpoint:
        """See `selfroute.backends.layers.Layered`; an endpoint that cannot be reached yet refuses later.

        Raises:
            ConfigError: it holds no layers, or others.
        """
        self._known = self._known or self._about()
        if self._known is None:
            return _Endpoint(self.name, first, None, self._send)
        held = self._known.get("layers")
        if not isinstance(held, Mapping):
            raise ConfigError(f"{self.name}: the endpoint holds no layers; start it with --layers {first}..")
        try:
            theirs, whole = int(held["first"]), Whole.of(held["whole"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.name}: the endpoint does not say what layers it holds: {error}") from None
        if theirs > first:
            raise ConfigError(
                f"{self.name}: the endpoint holds layers {theirs} to {whole.layers - 1}, and the device goes on at "
                f"{first}; start it with --layers {first}.."
            )
        return _Endpoint(self.name, first, whole, self._send)


class _Endpoint:
    """See `selfroute.backends.layers.Tail`."""

    def __init__(
        self, name: str, first: int, whole: Whole | None, send: Callable[[str, bytes], Awaitable[bytes]]
    ) -> None:
        self.name, self.first, self.whole = name, first, whole
        self._send = send

    async def carry(self, data: bytes) -> bytes:
        """See `Tail`."""
        return await self._send(ADDRESS, data)
