"""Counts and times of a server's work, for Prometheus and OpenTelemetry; never text, ids or names.

Prometheus (extra ``metrics``) and OpenTelemetry (extra ``traces``) are two observers; each library
is imported only where it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from templora_memory.domain.results import Reply
from templora_memory.errors import InvalidSetting


class Observer(Protocol):
    """A listener to every request and reply. Its methods must be quick and must not raise."""

    def on_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Record a request that ended; `route` is its pattern, without the ids in it."""
        ...

    def on_reply(self, reply: Reply, *, first_piece_seconds: float, seconds: float) -> None:
        """Record a finished reply: the time to its first piece of text, and the time in all."""
        ...

    def on_jobs(self, *, running: int, waiting: int) -> None:
        """Record how many absorbs run and wait, of all keys together; called every second."""
        ...


class ObserverGroup:
    """Several observers as one; also none.

    Args:
        observers: those that are called, in this order.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def on_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Pass a request on to each."""
        for observer in self._observers:
            observer.on_request(method=method, route=route, status=status, seconds=seconds)

    def on_reply(self, reply: Reply, *, first_piece_seconds: float, seconds: float) -> None:
        """Pass a reply on to each."""
        for observer in self._observers:
            observer.on_reply(reply, first_piece_seconds=first_piece_seconds, seconds=seconds)

    def on_jobs(self, *, running: int, waiting: int) -> None:
        """Pass the counts on to each."""
        for observer in self._observers:
            observer.on_jobs(running=running, waiting=waiting)


def make_observers(*, metrics_port: int | None, traces: bool) -> ObserverGroup:
    """Make the observers that are asked for.

    Args:
        metrics_port: port for Prometheus, which reads ``http://127.0.0.1:PORT/metrics``. It is
            not the server's own, so that no key sees what others do. None: no metrics.
        traces: OpenTelemetry spans, exported as the application or the environment has set up.

    Raises:
        InvalidSetting: the extra is not installed, or the port cannot be bound.
    """
    observers: list[Observer] = []
    if metrics_port is not None:
        prometheus = PrometheusObserver()
        prometheus.listen(metrics_port)
        observers.append(prometheus)
    if traces:
        observers.append(OpenTelemetryObserver())
    return ObserverGroup(observers)


class PrometheusObserver:
    """Counters and histograms of Prometheus, in a registry of their own.

    Raises:
        InvalidSetting: the extra ``metrics`` is not installed.
    """

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus  # noqa: PLC0415  # an extra
        except ModuleNotFoundError as error:
            raise _missing("prometheus_client", "metrics") from error
        self._start_http_server = prometheus.start_http_server
        self._stop: Callable[[], None] = lambda: None
        self.port = 0
        self.registry = prometheus.CollectorRegistry()
        self._request_seconds = prometheus.Histogram(
            "templora_request_seconds",
            "Time of a request",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._first_piece_seconds = prometheus.Histogram(
            "templora_first_piece_seconds", "Time to a reply's first text", registry=self.registry
        )
        self._reply_seconds = prometheus.Histogram(
            "templora_reply_seconds", "Time of a reply", registry=self.registry
        )
        self._prompt_tokens = prometheus.Counter(
            "templora_prompt_tokens", "Tokens the model was shown", registry=self.registry
        )
        self._completion_tokens = prometheus.Counter(
            "templora_completion_tokens", "Tokens the model made", registry=self.registry
        )
        self._absorbed_tokens = prometheus.Histogram(
            "templora_absorbed_tokens",
            "Tokens in weights instead of the prompt, of each reply",
            buckets=[10**n for n in range(8)],
            registry=self.registry,
        )
        self._jobs = prometheus.Gauge(
            "templora_jobs", "Absorbs that run and wait", ("state",), registry=self.registry
        )

    def listen(self, port: int) -> None:
        """Serve the metrics on a port of this machine; 0 takes a free one, which is in `port`.

        Raises:
            InvalidSetting: the port cannot be bound.
        """
        try:
            server, thread = self._start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except (OSError, OverflowError) as error:
            raise InvalidSetting(f"Metrics cannot listen on port {port}: {error}.") from error
        self.port = server.server_port

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._stop = stop

    def stop(self) -> None:
        """Close the port."""
        self._stop()

    def on_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Add a request to its histogram."""
        self._request_seconds.labels(method, route, str(status)).observe(seconds)

    def on_reply(self, reply: Reply, *, first_piece_seconds: float, seconds: float) -> None:
        """Add a reply to the histograms and counters."""
        self._first_piece_seconds.observe(first_piece_seconds)
        self._reply_seconds.observe(seconds)
        self._prompt_tokens.inc(reply.prompt_tokens)
        self._completion_tokens.inc(reply.completion_tokens)
        self._absorbed_tokens.observe(reply.absorbed_tokens)

    def on_jobs(self, *, running: int, waiting: int) -> None:
        """Set the gauges."""
        self._jobs.labels("running").set(running)
        self._jobs.labels("waiting").set(waiting)


class OpenTelemetryObserver:
    """A span for every request and every reply, made when it has ended.

    Raises:
        InvalidSetting: the extra ``traces`` is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415  # an extra
        except ModuleNotFoundError as error:
            raise _missing("opentelemetry", "traces") from error
        self._tracer = trace.get_tracer("templora_memory.server")

    def on_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Make the span of a request."""
        self._make_span(
            f"{method} {route}",
            seconds,
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
            },
        )

    def on_reply(self, reply: Reply, *, first_piece_seconds: float, seconds: float) -> None:
        """Make the span of a reply."""
        self._make_span(
            "reply",
            seconds,
            {
                "gen_ai.usage.input_tokens": reply.prompt_tokens,
                "gen_ai.usage.output_tokens": reply.completion_tokens,
                "templora.absorbed_tokens": reply.absorbed_tokens,
                "templora.first_piece_seconds": first_piece_seconds,
                "templora.finish_reason": reply.finish_reason,
            },
        )

    def on_jobs(self, *, running: int, waiting: int) -> None:
        """Make nothing: a count is no span."""

    def _make_span(
        self, name: str, seconds: float, attributes: dict[str, str | int | float]
    ) -> None:
        end = time.time_ns()
        span = self._tracer.start_span(
            name, start_time=end - round(seconds * 1e9), attributes=attributes
        )
        span.end(end)


def _missing(package: str, extra: str) -> InvalidSetting:
    return InvalidSetting(
        f"This needs {package}, which is not installed: pip install 'templora-memory[{extra}]'."
    )
