"""Who may ask: keys of clients, hashed at rest, and web pages of other origins kept out."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from selfroute.errors import ConfigError
from selfroute.gateway.errors import ApiError

__all__ = ["Access", "hash_key", "is_loopback", "new_key"]

_HASH = re.compile(r"[0-9a-f]{64}")
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def new_key() -> str:
    """A client's key: 256 random bits, so that a plain hash of it cannot be guessed back."""
    return f"sr-{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """What the config holds in place of a key: its SHA-256, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether an address to bind to can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """Checks the key of a request, and where a browser says that it comes from.

    Args:
        keys: name of a client -> SHA-256 of its key; none lets everybody in.
        local_only: answer under the names of this machine alone, as a page that lets its name point here must not
            get in (DNS rebinding).
        origins: further origins of web pages that may ask, e.g. `https://app.example.com`.
        hosts: further names under which this machine is asked, e.g. `host.docker.internal`; those of `origins` are
            known as well.

    Raises:
        ConfigError: a value is no hash.
    """

    def __init__(
        self,
        keys: Mapping[str, str] | None = None,
        *,
        local_only: bool = False,
        origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
    ) -> None:
        for name, value in (keys or {}).items():
            if not _HASH.fullmatch(value):
                # The value is not shown: it may be the key itself.
                raise ConfigError(f"api_keys.{name} is not the SHA-256 of a key; `selfroute key {name}` makes one")
        self._keys = {name: value.encode() for name, value in (keys or {}).items()}
        self._local_only = local_only
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        named = {_name(urlsplit(origin).netloc) for origin in self._origins}
        self._hosts = _LOCAL_NAMES | named | {_name(host) for host in hosts}

    @property
    def needs_key(self) -> bool:
        return bool(self._keys)

    def check_origin(self, host: str, origin: str | None) -> None:
        """Keep out web pages that the operator did not name.

        Raises:
            ApiError: the Host header or the origin is a foreign one.
        """
        # Every browser names the host; HTTP/1.0 and plain scripts need not.
        if self._local_only and host and _name(host) not in self._hosts:
            raise ApiError(
                "origin_not_allowed", "this gateway answers on this machine alone; ask for 127.0.0.1, or list the name"
            )
        if origin is not None and origin.lower() not in self._origins:
            ours = urlsplit(origin).netloc.lower() == host.lower() and host != ""
            if not ours:
                raise ApiError("origin_not_allowed", "web pages of this origin may not ask; add it to `origins`")

    def reader(self, origin: str | None) -> str | None:
        """The origin, if it is one of another web page that may ask: browsers want it named in the answer."""
        return origin if origin is not None and origin.lower() in self._origins else None

    def client(self, authorization: str | None) -> str | None:
        """The name of the client that sends this Authorization header; None where no keys are asked for.

        Raises:
            ApiError: the key is missing or unknown.
        """
        if not self._keys:
            return None
        scheme, _, key = (authorization or "").partition(" ")
        given = hash_key(key.strip()).encode()
        found = None
        for name, value in self._keys.items():  # all of them, always: the time must not tell which
            if hmac.compare_digest(given, value):
                found = name
        if found is None or scheme.lower() != "bearer":
            raise ApiError("invalid_api_key", "missing or unknown API key; send Authorization: Bearer sr-…")
        return found


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
