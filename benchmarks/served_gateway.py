"""A gateway in a process of its own, as somebody runs it: `selfroute serve FILE`, for benchmarks that ask it."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

READY_S = 120.0


@contextmanager
def served(recipe: Mapping[str, Any], file: Path, port: int) -> Iterator[str]:
    """The gateway, ready; its address.

    Args:
        recipe: of `selfroute serve`.
        file: where it is written.
    """
    file.write_text(yaml.safe_dump({**recipe, "port": port}), encoding="utf-8")
    command = [sys.executable, "-m", "selfroute.commands.main", "serve", str(file)]
    gateway = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(gateway, f"http://127.0.0.1:{port}/healthz")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        gateway.terminate()
        gateway.wait()


def wait_for(gateway: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            if gateway.poll() is not None:
                raise SystemExit("the gateway ended; its own words are above") from None
            time.sleep(0.5)
        else:
            return
    raise SystemExit("the gateway did not answer within two minutes")
