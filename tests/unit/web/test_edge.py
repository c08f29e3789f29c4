"""Test what the edge makes of requests before the application sees them."""

from typing import Any

import pytest

from web.edge import normal, trace_context

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/scores/1", "/scores/1"),
        ("http://pool.example/scores/1", "/scores/1"),
        ("HTTPS://pool.example:443/", "/"),
        ("http://pool.example", "/"),
        ("/http://x/", "/http://x/"),
        ("ftp://x/y", "ftp://x/y"),
    ],
)
def test_targets_with_a_host(path: str, found: str) -> None:
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode()}
    assert normal(scope)["path"] == found and scope["path"] == path


def test_head_is_answered_as_get() -> None:
    given: dict[str, Any] = {"method": "HEAD", "path": "/"}
    assert normal(given)["method"] == "GET" and given["method"] == "HEAD", "the server library omits the body"
    assert normal({"method": "POST", "path": "/"})["method"] == "POST"


def test_an_answer_continues_the_clients_trace() -> None:
    found = trace_context([(b"traceparent", TRACE.encode())])
    assert found[:36] == TRACE[:36] and found[36:52] != TRACE[36:52] and found[-2:] == "00"


@pytest.mark.parametrize("headers", [[], [(b"traceparent", b"00-x")], [(b"traceparent", TRACE.encode())] * 2])
def test_without_a_valid_context_a_trace_begins(headers: list[tuple[bytes, bytes]]) -> None:
    found = [trace_context(headers) for _ in range(2)]
    assert found[0] != found[1] and TRACE[3:35] not in found[0] and len(found[0]) == len(TRACE)
