"""Counts and times for operators; nobody's text, ids or names."""

import logging

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest
from starlette.testclient import TestClient

from templora_memory.errors import InvalidSetting
from templora_memory.server import make_observers
from templora_memory.server.metrics import ObserverGroup, OpenTelemetryObserver, PrometheusObserver

NAME, SECRET = "zanzibar", "Quetzalcoatl keeps bees."


def use(app):
    """Something of everything, failures included."""
    with TestClient(app, base_url="http://localhost") as client:
        client.post(f"/v1/memories/{NAME}/absorb?wait=20", json={"text": SECRET})
        asked = {"model": f"fake:{NAME}", "messages": [{"role": "user", "content": SECRET}]}
        assert client.post("/v1/chat/completions", json=asked).is_success
        assert client.post("/v1/chat/completions", json={**asked, "stream": True}).is_success
        client.get(f"/v1/memories/{NAME}-not")
        client.get(f"/{NAME}")
        client.request("ZANZIBAR", "/healthz")


def test_metrics_count_without_telling_what(make_app):
    metrics = PrometheusObserver()
    use(make_app(observer=metrics))
    told = generate_latest(metrics.registry).decode()
    assert 'route="/v1/chat/completions",status="200"' in told
    assert 'method="GET",route="/v1/memories/{memory_id}",status="404"' in told
    assert 'method="other"' in told
    assert "templora_reply_seconds_count 2.0" in told
    assert "templora_prompt_tokens_total 12.0" in told
    for secret in (NAME, "Quetzalcoatl"):
        assert secret.lower() not in told.lower()


def test_traces_have_spans_without_text(make_app):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = OpenTelemetryObserver()
    traces._tracer = provider.get_tracer("test")
    use(make_app(observer=ObserverGroup([traces])))
    spans = exporter.get_finished_spans()
    names = [span.name for span in spans]
    assert names.count("reply") == 2
    assert "POST /v1/memories/{memory_id}/absorb" in names
    (whole, _) = [span for span in spans if span.name == "reply"]
    assert whole.attributes["gen_ai.usage.input_tokens"] == 6
    assert whole.end_time > whole.start_time
    told = "".join(span.to_json() for span in spans)
    for secret in (NAME, "Quetzalcoatl"):
        assert secret.lower() not in told.lower()


def test_the_log_tells_routes_not_paths(make_app, caplog):
    caplog.set_level(logging.INFO, "templora_memory.server")
    use(make_app())
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "POST /v1/memories/{memory_id}/absorb 202" in told
    assert NAME not in told
    assert "Quetzalcoatl" not in told


@pytest.mark.enable_socket
def test_metrics_have_a_port_of_their_own():
    found = make_observers(metrics_port=0, traces=False)
    metrics = found._observers[0]
    found.on_request(method="GET", route="/x", status=200, seconds=0.1)
    with httpx.Client() as client:
        told = client.get(f"http://127.0.0.1:{metrics.port}/metrics").text
    assert 'route="/x"' in told
    with pytest.raises(InvalidSetting, match=f"Metrics cannot listen on port {metrics.port}"):
        make_observers(metrics_port=metrics.port, traces=False)
    metrics.stop()


def test_nobody_listens_unless_asked():
    assert make_observers(metrics_port=None, traces=False)._observers == ()


def test_jobs_that_run_and_wait_are_gauges(make_app, slow, until):
    observer = PrometheusObserver()
    backend = slow(learning=60)
    app = make_app(backend, observer=observer)

    def count(state):
        return observer.registry.get_sample_value("templora_jobs", {"state": state})

    with TestClient(app, base_url="http://localhost") as client:
        for number in range(3):
            client.post("/v1/memories/ada/absorb", json={"text": f"Text number {number}."})
        until(lambda: (count("running"), count("waiting")) == (1, 2))
        backend.go_on.set()
        until(lambda: (count("running"), count("waiting")) == (0, 0))
