"""How answers are framed: HTTP/1.0 knows no chunks, and nginx speaks it to its upstreams if nobody says otherwise."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Protocol"]

_MOST_LINE_BYTES = 1 << 16


class Protocol(HttpToolsProtocol):
    """uvicorn's fast protocol, which writes every stream in chunks; connections of HTTP/1.0 go to its careful one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._first: bytes | None = b""  # what has come of the first line, None once it is known

    def data_received(self, data: bytes) -> None:
        if self._first is None:
            super().data_received(data)
            return
        self._first += data
        line, end, _ = self._first.lstrip(b"\r\n").partition(b"\n")
        if not end and len(line) < _MOST_LINE_BYTES:
            return
        data, self._first = self._first, None
        if line.rstrip().endswith(b" HTTP/1.0"):
            self._hand_over(data)
        else:
            super().data_received(data)

    def _hand_over(self, data: bytes) -> None:
        self.connections.discard(self)
        careful = H11Protocol(
            config=self.config, server_state=self.server_state, app_state=self.app_state, _loop=self.loop
        )
        careful.connection_made(self.transport)
        self.transport.set_protocol(careful)
        careful.data_received(data)
