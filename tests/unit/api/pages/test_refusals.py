"""Test what a person sees of a request that no page has seen: refused by the edge, or by the framework."""

import asyncio
from typing import Any, cast

import httpx
import pytest
from opentelemetry.metrics import NoOpMeter

from api.app import build_api, guarded
from api.metrics import ApiMetrics
from api.pages.refusals import refusals
from api.pages.router import pages_router
from runtime.http.asgi import Receive, Scope, Send
from runtime.http.edge import MAX_BODY, Edge
from testbed.fixtures.pages import SITE, read_page, services


@pytest.fixture(scope="module")
def api() -> Edge:
    """Return the whole API; the requests of these tests reach neither ledger nor CA."""
    nothing = cast(Any, None)
    these = services(nothing, env="test")
    return guarded(build_api(these, nothing, nothing, [pages_router(these)]), these)


def send(app: Edge, method: str, path: str, body: bytes = b"") -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=SITE) as client:
            return await client.request(method, path, content=body)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("method", "path", "size", "status", "words"),
    [
        ("GET", "/logout", 0, 405, "There is no such page"),
        ("GET", "/login/elsewhere", 0, 404, "There is no such page"),
        ("PUT", "/manage/monitors/x", 0, 405, "There is no such page"),
        ("POST", "/manage/monitors/x/move", MAX_BODY + 1, 413, "This form is too large"),
    ],
)
def test_person_gets_a_page(api: Edge, method: str, path: str, size: int, status: int, words: str) -> None:
    page = read_page(send(api, method, path, b"x" * size))
    assert page.status == status and words in page.words and "/manage" in page.links
    assert "NTP Pool monitors test" in page.words, "the environment is named, as on all pages"
    if status == 405:
        assert page.answer.headers["allow"], "what the framework says to machines remains"
    if status == 413:
        assert page.answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/monitor/api/nothing", "/managers", "/favicon.ico", "/x/manage"])
def test_machine_gets_plain_text(api: Edge, path: str) -> None:
    for answer, status in ((send(api, "GET", path), 404), (send(api, "POST", path, b"x" * (MAX_BODY + 1)), 413)):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")


def test_error_beside_the_pages_becomes_a_page_without_its_text() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a secret of the request")

    def edge(**limits: Any) -> Edge:
        return Edge(broken, ApiMetrics(NoOpMeter("pages")), [], refusals=refusals("prod"), **limits)

    page = read_page(send(edge(), "GET", "/manage"))
    assert page.status == 500 and "Something went wrong" in page.words and "secret" not in page.answer.text
    busy = read_page(send(edge(within=0.05, at_once=0), "GET", "/manage"))
    assert busy.status == 503 and "overloaded; try again later" in busy.words
