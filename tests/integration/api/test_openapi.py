"""Test that the API keeps to its OpenAPI description, with random requests that do and do not fit it.

``API_FUZZ_EXAMPLES`` is the number of random requests per route and kind. They run in this process.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy.engine import URL

from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from runtime.http.asgi import Receive, Scope, Send
from testbed.fixtures.api import ACCESS, CERTIFICATE, CONFIG, REGISTRATION, TOKEN, V4, Api, add_host, make_api
from testbed.fixtures.certificates import request_pem

EXAMPLES = int(os.environ.get("API_FUZZ_EXAMPLES") or "10")
ROUTES = {
    "/": "get",
    "/monitor/api/ca.pem": "get",
    "/monitor/api/crl.pem": "get",
    REGISTRATION: "post",
    CONFIG: "get",
    TOKEN: "post",
    CERTIFICATE: "post",
    ACCESS: "post",
}
WITH_KEY = {CONFIG, TOKEN, CERTIFICATE, ACCESS}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

PEM = "application/x-pem-file"
REQUEST = request_pem(ec.generate_private_key(ec.SECP256R1())).encode()


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

    schemathesis.openapi.media_type(PEM, st.just(REQUEST) | st.binary(max_size=200))
    return schemathesis.openapi.from_asgi("/openapi.json", from_a_public_address)


KINDS = [
    *((path, GenerationMode.POSITIVE) for path in ROUTES),
    # The others take nothing that could be wrong.
    *((path, GenerationMode.NEGATIVE) for path in ROUTES if path in WITH_KEY | {REGISTRATION}),
]


@pytest.mark.parametrize(("path", "mode"), KINDS)
def test_answers_are_as_described(described: Any, key: str, path: str, mode: GenerationMode) -> None:
    operation = described[path][ROUTES[path].upper()]
    checks = [*CHECKS, *([ignored_auth] if path in WITH_KEY else [])]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def fits(case: Any) -> None:
        case.call_and_validate(checks=checks, headers={"Authorization": f"Bearer {key}"})

    fits()


def test_every_route_for_machines_is_described(described: Any) -> None:
    paths = described.raw_schema["paths"]
    assert {path: list(methods) for path, methods in paths.items()} == {
        path: [method] for path, method in ROUTES.items()
    }
    assert set(paths[CONFIG]["get"]["responses"]) == {"200", "304", "400", "401", "403", "408", "413", "503"}
    for path, method in ROUTES.items():
        for status, answer in paths[path][method]["responses"].items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["text/plain"], "agents print a refusal"
        assert paths[path][method].get("security") == ([{"apiKey": []}] if path in WITH_KEY else None) or (
            path == REGISTRATION
        )
