"""Test requests: which answers count, when the wait ends, and the error when the broker cannot be reached."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from runtime.mqtt.request import RequestClient, RequestFailed, new_key
from runtime.mqtt.session import Incoming, NotConnected, PublishRefused
from runtime.mqtt.types import BrokerAddress, Identity

ANSWERS, LONG = "/test/answers/me/1", 600.0
OURS, MISSING, FOREIGN = "ours", None, b"foreign"


def new_client(
    monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, bytes, Any], error: Exception | None = None
) -> RequestClient:
    """Return a client whose request is answered with these topics, payloads and correlation data."""
    client = RequestClient(BrokerAddress("::1", 1), Identity("me", "me"), lambda: "token", answers="/test/answers/me/+")

    async def publish(topic: str, payload: bytes, *, response_topic: str, correlation: bytes, timeout: float) -> None:
        assert (topic, payload, response_topic, timeout) == ("to", b"request", ANSWERS, 10.0)
        if error is not None:
            raise error
        for answer_topic, said, sent in answers:
            client._on_message(Incoming(answer_topic, said, correlation=correlation if sent == OURS else sent))

    monkeypatch.setattr(client.session, "publish", publish)
    return client


async def request(client: RequestClient, timeout: float, limit: int | None) -> Sequence[bytes]:
    async with asyncio.timeout(60):
        return await client.request("to", b"request", ANSWERS, timeout=timeout, limit=limit)


async def test_all_answers_before_the_timeout_are_collected_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    client = new_client(monkeypatch, *((ANSWERS, said, OURS) for said in (b"1", b"2", b"3")))
    assert await request(client, 0.01, None) == [b"1", b"2", b"3"]


async def test_wait_ends_when_the_limit_of_answers_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    client = new_client(monkeypatch, *((ANSWERS, said, OURS) for said in (b"1", b"2", b"3")))
    assert await request(client, LONG, 2) == [b"1", b"2"]


async def test_fewer_answers_than_the_limit_are_returned_at_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await request(new_client(monkeypatch, (ANSWERS, b"1", OURS)), 0.01, 2) == [b"1"]


async def test_no_answer_yields_an_empty_result(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await request(new_client(monkeypatch), 0.01, None) == []
    assert await new_client(monkeypatch).request_one("to", b"request", ANSWERS, timeout=0.01) is None


async def test_answers_are_matched_by_topic_and_correlation_data(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [("/test/answers/me/2", b"of another request", OURS), (ANSWERS, b"foreign", FOREIGN)]
    client = new_client(monkeypatch, *others, (ANSWERS, b"without", MISSING), (ANSWERS, b"with", OURS))
    assert await request(client, LONG, 2) == [b"without", b"with"]


async def test_concurrent_requests_get_their_own_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    client = new_client(monkeypatch)

    async def publish(topic: str, payload: bytes, *, response_topic: str, correlation: bytes, timeout: float) -> None:
        reply = Incoming(response_topic, payload, correlation=correlation)
        asyncio.get_running_loop().call_soon(client._on_message, reply)

    monkeypatch.setattr(client.session, "publish", publish)
    asked = [client.request_one("to", b"%d" % n, f"/test/answers/me/{new_key()}", timeout=LONG) for n in range(9)]
    async with asyncio.timeout(60):
        assert await asyncio.gather(*asked) == [b"%d" % n for n in range(9)]
    assert client._waiting == {}, "what has ended is forgotten"


@pytest.mark.parametrize("error", [NotConnected("not connected to there"), PublishRefused("not allowed")])
async def test_unsent_request_fails_with_one_readable_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    client = new_client(monkeypatch, error=error)
    with pytest.raises(RequestFailed, match=f"^broker: {error}$"):
        await request(client, LONG, 1)
    assert client._waiting == {}
