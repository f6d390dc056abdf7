"""What a server tells about its work: counts and times, never text, ids or names.

Prometheus (extra ``metrics``) and OpenTelemetry (extra ``traces``) are two listeners; each library
is imported only where it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from templora_memory.domain.results import Reply
from templora_memory.errors import InvalidSetting


class Observer(Protocol):
    """Is told about every request and reply. Methods must be quick and must not raise."""

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """A request ended; `route` is its pattern, without the ids in it."""
        ...

    def reply(self, reply: Reply, *, first: float, seconds: float) -> None:
        """A reply was made: `first` seconds to its first piece, `seconds` in all."""
        ...


class Observers:
    """Tells several; or nobody."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        for one in self._observers:
            one.request(method=method, route=route, status=status, seconds=seconds)

    def reply(self, reply: Reply, *, first: float, seconds: float) -> None:
        for one in self._observers:
            one.reply(reply, first=first, seconds=seconds)


def observers(*, metrics_port: int | None, traces: bool) -> Observers:
    """The listeners that are asked for.

    Args:
        metrics_port: Prometheus reads ``http://127.0.0.1:PORT/metrics``; beside the server, so
            that no key sees what others do. None: no metrics.
        traces: OpenTelemetry spans, exported as the application or the environment has set up.

    Raises:
        InvalidSetting: the extra is not installed, or the port cannot be bound.
    """
    chosen: list[Observer] = []
    if metrics_port is not None:
        metrics = Metrics()
        metrics.listen(metrics_port)
        chosen.append(metrics)
    if traces:
        chosen.append(Traces())
    return Observers(chosen)


class Metrics:
    """Counters and histograms of Prometheus, in a registry of their own."""

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus  # noqa: PLC0415  # an extra
        except ModuleNotFoundError as error:
            raise _missing("prometheus_client", "metrics") from error
        self._serve = prometheus.start_http_server
        self._stop: Callable[[], None] = lambda: None
        self.port = 0
        self.registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Histogram(
            "templora_request_seconds",
            "Time of a request",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._first = prometheus.Histogram(
            "templora_first_piece_seconds", "Time to a reply's first text", registry=self.registry
        )
        self._whole = prometheus.Histogram(
            "templora_reply_seconds", "Time of a reply", registry=self.registry
        )
        self._prompt = prometheus.Counter(
            "templora_prompt_tokens", "Tokens the model was shown", registry=self.registry
        )
        self._made = prometheus.Counter(
            "templora_completion_tokens", "Tokens the model made", registry=self.registry
        )
        self._absorbed = prometheus.Histogram(
            "templora_absorbed_tokens",
            "Tokens in weights instead of the prompt, of each reply",
            buckets=[10**n for n in range(8)],
            registry=self.registry,
        )

    def listen(self, port: int) -> None:
        """Serve the metrics on a port of this machine; 0 takes a free one, which is in `port`.

        Raises:
            InvalidSetting: the port cannot be bound.
        """
        try:
            server, thread = self._serve(port, addr="127.0.0.1", registry=self.registry)
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

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).observe(seconds)

    def reply(self, reply: Reply, *, first: float, seconds: float) -> None:
        self._first.observe(first)
        self._whole.observe(seconds)
        self._prompt.inc(reply.prompt_tokens)
        self._made.inc(reply.completion_tokens)
        self._absorbed.observe(reply.absorbed_tokens)


class Traces:
    """A span for every request and every reply, made when it has ended."""

    def __init__(self) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415  # an extra
        except ModuleNotFoundError as error:
            raise _missing("opentelemetry", "traces") from error
        self._tracer = trace.get_tracer("templora_memory.server")

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        self._span(
            f"{method} {route}",
            seconds,
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
            },
        )

    def reply(self, reply: Reply, *, first: float, seconds: float) -> None:
        self._span(
            "reply",
            seconds,
            {
                "gen_ai.usage.input_tokens": reply.prompt_tokens,
                "gen_ai.usage.output_tokens": reply.completion_tokens,
                "templora.absorbed_tokens": reply.absorbed_tokens,
                "templora.first_piece_seconds": first,
                "templora.finish_reason": reply.finish_reason,
            },
        )

    def _span(self, name: str, seconds: float, attributes: dict[str, str | int | float]) -> None:
        end = time.time_ns()
        span = self._tracer.start_span(
            name, start_time=end - round(seconds * 1e9), attributes=attributes
        )
        span.end(end)


def _missing(package: str, extra: str) -> InvalidSetting:
    return InvalidSetting(
        f"This needs {package}, which is not installed: pip install 'templora-memory[{extra}]'."
    )
