"""The guard around all tests holds: nothing leaves this machine, and no key comes in."""

import os
import socket

import pytest


def test_an_outside_address_is_refused():
    with socket.socket() as outside, pytest.raises(RuntimeError, match=r"192\.0\.2\.1"):
        outside.settimeout(0.1)
        outside.connect(("192.0.2.1", 80))


def test_an_outside_name_is_not_looked_up():
    with pytest.raises(RuntimeError, match=r"example\.com"):
        socket.getaddrinfo("example.com", 80)


def test_this_machine_is_reachable():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 1) as client:
        assert client.getpeername() == server.getsockname()


def test_no_key_comes_in():
    assert "OPENAI_API_KEY" not in os.environ
