"""Test that every route for tools keeps to its description, with random requests that do and do not fit it."""

import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy.engine import URL

from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from runtime.http.asgi import Receive, Scope, Send
from testbed.fixtures.web import SECRETS, V4, Public, fill, public

EXAMPLES = 6
ROUTES = (
    "/api/data/server/scores/{server}/{mode}",
    "/api/server/scores/{server}/{mode}",
    "/api/v2/server/scores/{server}/{mode}",
    "/scores/{server}/{mode}",
    "/api/status-check/{server}",
    "/metrics/server/{server}",
)
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
MODES = ("json", "log", "monitors")


@pytest.fixture(scope="module")
def web() -> Iterator[Public]:
    with tempfile.TemporaryDirectory() as directory:
        engine = open_database(URL.create("sqlite", database=f"{directory}/ledger.db"))
        upgrade(engine)
        fill(engine)
        yield public(engine)
        engine.dispose()


@pytest.fixture(scope="module")
def described(web: Public) -> Any:
    async def from_a_public_address(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["client"] = ("8.8.4.4", 50_000)
        await web.edge(scope, receive, send)

    return schemathesis.openapi.from_asgi("/openapi.json", from_a_public_address)


KINDS = [
    *((path, GenerationMode.POSITIVE) for path in ROUTES),
    # The others take nothing that could be wrong.
    *(
        (path, GenerationMode.NEGATIVE)
        for path in ROUTES
        if path not in ("/scores/{server}/{mode}", "/metrics/server/{server}")
    ),
]


@pytest.mark.parametrize(("path", "mode"), KINDS)
def test_answers_are_as_described(described: Any, path: str, mode: GenerationMode) -> None:
    operation = described[path]["GET"]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def fits(case: Any) -> None:
        # Half of the random requests are about a server that there is.
        if len(str(case.query)) % 2 and "server" in case.path_parameters:
            case.path_parameters |= {"server": V4}
            if "mode" in case.path_parameters:
                case.path_parameters |= {"mode": MODES[len(str(case.query)) % len(MODES)]}
        checks = [*CHECKS, *([] if "status-check" in path else [not_a_server_error])]
        answer = case.call_and_validate(checks=checks)
        assert not any(secret in answer.text for secret in SECRETS)

    fits()


def test_every_route_for_tools_is_described(described: Any) -> None:
    paths = described.raw_schema["paths"]
    assert tuple(sorted(paths)) == tuple(sorted(ROUTES))
    for path in ROUTES:
        assert list(paths[path]) == ["get"] and paths[path]["get"]["summary"]
        for status in ("400", "404", "500"):
            assert list(paths[path]["get"]["responses"][status]["content"]) == ["application/json"]
