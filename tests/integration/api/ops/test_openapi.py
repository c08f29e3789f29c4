"""Test that operators' routes keep to their OpenAPI description, with random requests that do and do not fit it.

``API_FUZZ_EXAMPLES`` is the number of random requests per route and kind. They run in this process, and every agent
answers at once.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy.engine import URL

from api.ops.limits import PerMinute
from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from runtime.http.asgi import Receive, Scope, Send
from runtime.mqtt.types import Incoming, Subscription
from schema.messages import AdHocAnswer, AdHocRequest, decode, encode
from testbed.fixtures.ops import TOPICS, Ops, add_agent, make_ops, measured, traced

EXAMPLES = int(os.environ.get("API_FUZZ_EXAMPLES") or "10")
ROUTES = [
    ("/ops/monitors/online", "get"),
    ("/ops/monitors/discovery", "get"),
    ("/ops/monitors/metrics", "get"),
    ("/ops/check/ntp/{ip}", "post"),
    ("/ops/check/traceroute/{ip}", "post"),
    ("/ops/check/traceroute/{ip}", "get"),
]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    ignored_auth,
]


class EveryoneAnswers:
    """A session whose agents answer at once."""

    def __init__(self) -> None:
        self._answers: Subscription | None = None

    async def wait_ready(self) -> None:
        """Be ready."""

    @asynccontextmanager
    async def watching(self, subscription: Subscription) -> AsyncIterator["asyncio.Future[None]"]:
        """Deliver to this subscription."""
        self._answers = subscription
        yield asyncio.get_running_loop().create_future()

    async def publish(self, topic: str, payload: bytes, *, qos: int) -> None:
        """Answer."""
        request, address = decode(payload, AdHocRequest), TOPICS.parse(topic)
        assert address is not None and self._answers is not None
        if address.rest == "metrics":
            answer = encode(AdHocAnswer(id=request.id, metrics="ntppool_agent_probes_total 1\n"))
        else:
            answer = traced(request) if address.rest == "traceroute" else measured(request)
        self._answers.handler(Incoming(TOPICS.data(address.name, request.id), answer))


@pytest.fixture(scope="module")
def ops() -> Iterator[Ops]:
    with tempfile.TemporaryDirectory() as directory:
        engine = open_database(URL.create("sqlite", database=f"{directory}/ledger.db"))
        upgrade(engine)
        made = make_ops(engine, Path(directory), EveryoneAnswers())
        object.__setattr__(made.desk, "begun", PerMinute(10**9, lambda: 0.0))
        for name in ("a", "nlams1-a"):
            add_agent(engine, name, ["v4", "v6"], traceroute=True)
        yield made
        engine.dispose()


@pytest.fixture(scope="module")
def described(ops: Ops) -> Any:
    peers = (f"8.8.{number >> 8}.{number & 255}" for number in range(2**16))

    async def from_another_network_each_time(scope: Scope, receive: Receive, send: Send) -> None:
        """Keep requests without a key from counting as failed logins of one network."""
        if scope["type"] == "http":
            scope["client"] = (next(peers), 50_000)
        await ops.api.edge(scope, receive, send)

    return schemathesis.openapi.from_asgi("/openapi.json", from_another_network_each_time)


KINDS = [
    *((path, method, GenerationMode.POSITIVE) for path, method in ROUTES),
    *(
        (path, method, GenerationMode.NEGATIVE)
        for path, method in ROUTES
        if path == "/ops/monitors/metrics" or path.startswith("/ops/check")
    ),
]


@pytest.mark.parametrize(("path", "method", "mode"), KINDS)
def test_answers_are_as_described(described: Any, ops: Ops, path: str, method: str, mode: GenerationMode) -> None:
    operation = described[path][method.upper()]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def fits(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {ops.key}"})

    fits()


async def test_described_requests_are_answered(ops: Ops) -> None:
    assert (await ops.check(ip="2001:4860:4860::8844"))[-1] == {"asked": 2, "measured": 2}
    assert (await ops.check(kind="traceroute"))[-1] == {"asked": 2, "traced": 2, "kept": 0}
    answer = await ops.ask("GET", "/ops/monitors/metrics?name=nlams1-a")
    assert answer.text == "ntppool_agent_probes_total 1\n"


def test_every_route_is_described_and_needs_the_key_of_an_operator(described: Any) -> None:
    paths = {path: found for path, found in described.raw_schema["paths"].items() if path.startswith("/ops")}
    assert sorted((path, method) for path, methods in paths.items() for method in methods) == sorted(ROUTES)
    for path, method in ROUTES:
        operation = paths[path][method]
        assert operation["security"] == [{"operatorKey": []}]
        assert {"401", "403", "429"} < set(operation["responses"]) and "422" not in operation["responses"]
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["text/plain"]
