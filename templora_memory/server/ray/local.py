"""Ray Serve on this machine alone, for ``templora serve --ray``. Needs the extra ``ray``."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

# before Ray is imported: it reports nothing, and takes 127.0.0.1 as its address, which keeps most
# of its ports on this machine (the setting is named after the systems that have it by default)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import ray
from ray import serve

from templora_memory.errors import InvalidSetting, TemploraError
from templora_memory.server.ray.app import APP, NAMESPACE, AppSpec, application
from templora_memory.server.settings import is_loopback


def serve_with_ray(
    spec: AppSpec,
    *,
    replicas: int = 2,
    host: str = "127.0.0.1",
    port: int = 8000,
    gpus: float = 0,
    on_started: Callable[[str], None] = lambda _: None,
) -> None:
    """Start Ray on this machine and serve until told to stop (SIGINT, SIGTERM).

    Ray takes 127.0.0.1 as its address, its dashboard is off and it reports nothing. Serve 2.60
    still opens an internal port of each replica on all addresses.

    Args:
        spec: arguments of the application of every replica.
        replicas: number of replicas; each loads the model.
        host: address to bind. Other than this machine's own (loopback) ones need keys.
        port: 0 takes a free one.
        gpus: GPUs for each replica, also a part of one.
        on_started: called with the address once requests are taken.

    Raises:
        InvalidSetting: an address beyond this machine without keys, or one that cannot be bound.
        TemploraError: Ray or a replica did not start.
    """
    if spec.keys is None and not is_loopback(host):
        raise InvalidSetting(
            f"host is {host!r}, which others can reach, and there is no API key: make one with "
            "`templora key NAMESPACE --keys FILE` and start with --keys FILE, or keep to 127.0.0.1."
        )
    app = application(spec, replicas=replicas, gpus=gpus)
    port = _free_port(host, port)
    stop = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        stop.set()

    old_handlers: dict[signal.Signals, Any] = {}
    try:
        ray.init(
            address="local",
            namespace=NAMESPACE,
            include_dashboard=False,
            log_to_driver=False,
        )
        serve.start(http_options={"host": host, "port": port})
        serve.run(app, name=APP, route_prefix="/")
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which has handlers of its own
            old_handlers[number] = signal.signal(number, on_signal)
        on_started(f"http://{host}:{port}")
        stop.wait()
    except RuntimeError as error:
        raise TemploraError(f"Ray Serve did not start: {error}") from error
    finally:
        with suppress(Exception):
            serve.shutdown()
        ray.shutdown()
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        InvalidSetting: it cannot be bound.
    """
    try:
        with socket.create_server((host, port)) as bound:
            return int(bound.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise InvalidSetting(f"Cannot listen on {host!r}, port {port}: {error}.") from error
