"""A gateway on a port: the socket, worker processes, and signals. What is served comes from a function."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from selfroute.errors import ConfigError, SelfRouteError
from selfroute.gateway.activity import Activity
from selfroute.gateway.app import Gateway

__all__ = ["Make", "check", "serve"]

# Connections that may wait to be taken; what uvicorn asks for as well.
BACKLOG = 2048


class Make(Protocol):
    """Makes the application, once per process; with several workers it is pickled."""

    def __call__(
        self,
        *,
        activity: Activity | None = None,
        on_load_failure: Callable[[SelfRouteError], None] | None = None,
    ) -> Gateway: ...


def serve(
    make: Make,
    *,
    host: str,
    port: int,
    workers: int = 1,
    shutdown_s: int,
    quiet: bool,
    ready: Callable[[str], object],
) -> None:
    """Serve until a signal ends it; streams that are under way come to their end.

    Args:
        port: 0 takes a free one.
        workers: processes that share the port, each with an application of its own.
        shutdown_s: seconds that streams may go on after the signal.
        quiet: log failures alone, not every request.
        ready: called with the address once the port is open and the application made.

    Raises:
        ConfigError: `make` raises it, a model cannot be loaded, or the port is in use.
        SelfRouteError: a worker process cannot start.
    """
    with _bind(host, port) as sock:
        address = f"http://{_in_url(host)}:{sock.getsockname()[1]}"
        if workers > 1:
            _serve_many(make, sock, workers, shutdown_s, quiet, lambda: ready(address))
        else:
            _serve_one(make, sock, shutdown_s, quiet, lambda: ready(address))


def check(make: Make) -> None:
    """Make the application, load its models, and close them again."""
    app = make()

    async def load() -> None:
        try:
            await app.load()
        finally:
            await app.service.aclose()

    asyncio.run(load())


def _serve_one(make: Make, sock: socket.socket, shutdown_s: int, quiet: bool, ready: Callable[[], object]) -> None:
    _set_logs(quiet)
    failures: list[SelfRouteError] = []
    server: Any = None

    def stop(failure: SelfRouteError) -> None:
        failures.append(failure)
        server.should_exit = True

    app = make(on_load_failure=stop)
    ready()
    server = _uvicorn().Server(_config(app, shutdown_s))
    _freeze()
    with _calm_signals():
        server.run(sockets=[sock])
    if failures:
        raise failures[0]


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host.strip("[]"), port))
        # Listening from here on: who calls as soon as the address is printed waits in line, and is not refused.
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} on {host} is in use; choose another with --port, or 0 for any") from None
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}; check --host and --port") from None
    return sock


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _uvicorn() -> Any:
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise ConfigError("serving needs 'uvicorn', which is not installed; pip install 'selfroute[serve]'") from None
    return uvicorn


def _config(app: Any, shutdown_s: int, **options: Any) -> Any:
    return _uvicorn().Config(
        app,
        http="selfroute.gateway.framing:Protocol",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=shutdown_s,
        **options,
    )


def _set_logs(quiet: bool) -> None:
    """One line per failure on stderr, or one per request; the server's own notes only if something is wrong."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("selfroute.gateway").setLevel(logging.WARNING if quiet else logging.INFO)


@contextmanager
def _calm_signals() -> Iterator[None]:
    """A signal that ended the server in good order does not kill the process a second time.

    Raises:
        KeyboardInterrupt: it was Ctrl-C; raised when the server has ended.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came: list[int] = []
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in came:
        raise KeyboardInterrupt


# --- Several workers ------------------------------------------------------------------------------------------------


def _serve_many(
    make: Make, sock: socket.socket, workers: int, shutdown_s: int, quiet: bool, ready: Callable[[], object]
) -> None:
    """Worker processes over one socket; a worker that dies is replaced."""
    from uvicorn.supervisors import Multiprocess

    with tempfile.TemporaryDirectory(prefix="selfroute-") as folder:
        (Path(folder) / "metrics").mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = f"{folder}/metrics"
        try:
            _check_in_child(make)
            ready()
            app = partial(_worker, make, Path(folder), quiet)
            config = _config(app, shutdown_s, factory=True, workers=workers)
            with _calm_signals():
                Multiprocess(config, sockets=[sock]).run()
        finally:
            os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)


def _worker(make: Make, folder: Path, quiet: bool) -> Gateway:
    """The application of one worker process."""
    _set_logs(quiet)
    app = make(activity=Activity(folder))
    _freeze()
    return app


def _freeze() -> None:
    """Keep what lives as long as the process out of garbage collection, which would walk it under load."""
    gc.collect()
    gc.freeze()


def _check_in_child(make: Make) -> None:
    """Load everything once in a process of its own: a worker that cannot start would be restarted for ever."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            failure = pool.submit(_failure_of, make).result()
    except BrokenProcessPool as error:
        raise SelfRouteError(f"a worker cannot start: {error}") from None
    if failure is not None:
        raise failure


def _failure_of(make: Make) -> SelfRouteError | None:
    """What keeps a worker from starting, as an error that passes between processes."""
    try:
        check(make)
    except ConfigError as error:
        return ConfigError(" ".join(str(error).split()))
    except Exception as error:
        last = traceback.format_exception_only(error)[-1].strip().splitlines() or ["?"]
        return SelfRouteError(f"a worker cannot start: {last[-1]}")
    return None
