"""Whatever the schema allows, and much that it does not: no answer is a server's fault."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode


def cases(server):
    """Each operation, with requests as the schema wants them; with a body, also others."""
    described = schemathesis.openapi.from_dict(
        httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    )
    for found in described.get_all_operations():
        operation = found.ok()
        yield operation, GenerationMode.POSITIVE
        if operation.method == "post":
            yield operation, GenerationMode.NEGATIVE


@pytest.mark.slow
@pytest.mark.enable_socket
def test_no_request_is_a_server_error(start):
    server = start()
    httpx.post(
        f"{server.url}/v1/memories/ada/absorb?wait=20", json={"text": "Ada keeps bees."}, timeout=60
    )
    seen = {}
    for operation, mode in cases(server):

        @settings(
            max_examples=10,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            found = case.call(base_url=server.url, timeout=60)
            seen.setdefault(case.operation.label, set()).add(found.status_code)
            assert found.status_code < 500, (case.as_curl_command(), found.text)
            if found.status_code >= 400:
                error = found.json()["error"]
                assert set(error) == {"message", "type", "param", "code"}
                assert error["message"]

        ask()
    assert len(seen) > 20
    assert any(status < 300 for status in set().union(*seen.values()))
