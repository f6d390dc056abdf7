"""The application as a whole: its schema."""

import pytest
from starlette.testclient import TestClient


@pytest.fixture
def client(make_app):
    with TestClient(make_app(), base_url="http://localhost") as client:
        yield client


def test_the_schema_has_examples_and_errors(client):
    schema = client.get("/openapi.json").json()
    assert schema["components"]["schemas"]["AbsorbRequest"]["properties"]["text"]["anyOf"]
    assert set(schema["paths"]) >= {"/v1/chat/completions", "/v1/memories/{memory_id}/absorb"}
    for path in schema["paths"].values():
        for operation in path.values():
            error = operation["responses"]["429"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/ErrorBody"}
