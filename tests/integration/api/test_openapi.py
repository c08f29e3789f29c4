"""Test that the API keeps to its OpenAPI description, with random requests that do and do not fit it.

``API_FUZZ_EXAMPLES`` is the number of random requests per route. They run in this process.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from sqlalchemy.engine import URL

from api.edge import Receive, Scope, Send
from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from testbed.fixtures.api import ACCESS, CERTIFICATE, CONFIG, REGISTRATION, TOKEN, V4, Api, add_host, make_api

EXAMPLES = int(os.environ.get("API_FUZZ_EXAMPLES") or "15")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
    ignored_auth,
]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with tempfile.TemporaryDirectory() as directory:
        engine = open_database(URL.create("sqlite", database=f"{directory}/ledger.db"))
        upgrade(engine)
        yield make_api(engine, Path(directory))
        engine.dispose()


@pytest.fixture(scope="module")
def key(api: Api) -> str:
    return add_host(api, "nlams1-a").key.clear


@pytest.fixture(scope="module")
def described(api: Api) -> Any:
    async def from_a_public_address(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["client"] = (V4, 50_000)
        await api.edge(scope, receive, send)

    return schemathesis.openapi.from_asgi("/openapi.json", from_a_public_address)


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: Any, key: str) -> None:
    case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {key}"})


def test_every_route_for_machines_is_described(described: Any) -> None:
    paths = set(described.raw_schema["paths"])
    public = {"/", "/monitor/api/ca.pem", "/monitor/api/crl.pem"}
    assert paths == {REGISTRATION, CONFIG, TOKEN, CERTIFICATE, ACCESS} | public
    answers = described.raw_schema["paths"][CONFIG]["get"]["responses"]
    assert {"200", "304", "400", "401", "403", "408", "413", "503"} == set(answers)
