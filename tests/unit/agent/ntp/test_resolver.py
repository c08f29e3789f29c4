"""Test that names are resolved afresh, by few threads, and in bounded time."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.ntp import resolver as resolver_module
from agent.ntp.resolver import LookupFailed, Resolver
from testbed.waiting import wait_until


class Names:
    """A fake of the host's resolver: its ``getaddrinfo``."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str] | Exception] = {}
        self.asked: list[tuple[str, int]] = []
        self.answering = threading.Event()
        self.answering.set()

    def getaddrinfo(self, host: bytes, port: None, family: int, kind: int) -> list[Any]:
        assert isinstance(host, bytes), "a text would load the tables of international names"
        self.asked.append((host.decode(), family))
        self.answering.wait(20)
        answer = self.answers[host.decode()]
        if isinstance(answer, Exception):
            raise answer
        wanted = [ip for ip in answer if (":" in ip) == (family == socket.AF_INET6)]
        if not wanted:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, kind, 17, "", (ip, 0)) for ip in wanted]


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names()
    yield made
    made.answering.set()


def lookups() -> int:
    return sum(thread.name.startswith("look up ") for thread in threading.enumerate())


async def until_no_lookup() -> None:
    await wait_until(lambda: not lookups(), within=10)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fails(code: int, text: str = "failed") -> socket.gaierror:
    return socket.gaierror(code, text)


async def test_first_three_addresses_of_the_protocol_are_returned_in_order(names: Names) -> None:
    names.answers["time.example"] = ["192.0.2.9", "2001:db8::1", "192.0.2.1", "192.0.2.9", "192.0.2.5", "192.0.2.6"]
    resolver = Resolver(names.getaddrinfo)
    assert await resolver.addresses("time.example", "v4") == ["192.0.2.9", "192.0.2.1", "192.0.2.5"]
    assert await resolver.addresses("time.example", "v6") == ["2001:db8::1"]
    assert names.asked == [("time.example", socket.AF_INET), ("time.example", socket.AF_INET6)]


async def test_changed_addresses_are_used_at_once(names: Names) -> None:
    resolver = Resolver(names.getaddrinfo)
    for ip in ("192.0.2.1", "192.0.2.2"):
        names.answers["time.example"] = [ip]
        assert await resolver.addresses("time.example", "v4") == [ip]


@pytest.mark.parametrize("error", ["EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY"])
async def test_name_without_addresses_loses_its_former_ones(names: Names, error: str) -> None:
    resolver = Resolver(names.getaddrinfo)
    names.answers["time.example"] = ["192.0.2.1"]
    await resolver.addresses("time.example", "v4")
    names.answers["time.example"] = fails(getattr(socket, error))
    with pytest.raises(LookupFailed, match="has no IPv4 address"):
        await resolver.addresses("time.example", "v4")
    names.answers["time.example"] = fails(socket.EAI_AGAIN)
    with pytest.raises(LookupFailed, match="failed"):
        await resolver.addresses("time.example", "v4")


@pytest.mark.parametrize("error", [fails(socket.EAI_AGAIN), fails(socket.EAI_FAIL), OSError("no files")])
async def test_last_addresses_are_used_for_a_day_while_the_resolver_fails(
    names: Names, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    resolver = Resolver(names.getaddrinfo, clock)
    names.answers["time.example"] = ["192.0.2.1"]
    await resolver.addresses("time.example", "v4")
    names.answers["time.example"] = error
    names.answers["other.example"] = error
    clock.now += 86_400
    assert await resolver.addresses("time.example", "v4") == ["192.0.2.1"]
    assert "names cannot be resolved" in caplog.text
    with pytest.raises(LookupFailed):
        await resolver.addresses("other.example", "v4")
    with pytest.raises(LookupFailed):
        await resolver.addresses("time.example", "v6")
    clock.now += 1
    with pytest.raises(LookupFailed):
        await resolver.addresses("time.example", "v4")


async def test_hanging_resolver_occupies_four_threads_and_blocks_nobody(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolver_module.WITHIN == 5.0
    monkeypatch.setattr(resolver_module, "WITHIN", 0.2)
    resolver = Resolver(names.getaddrinfo)
    names.answers = {f"t{n}.example": ["192.0.2.1"] for n in range(20)}
    assert await resolver.addresses("t0.example", "v4") == ["192.0.2.1"]
    names.answering.clear()
    began = time.monotonic()
    asked = [asyncio.create_task(resolver.addresses(name, "v4")) for name in names.answers]
    await asyncio.sleep(0)
    assert time.monotonic() - began < 0.2, "asking does not block"
    said = await asyncio.gather(*asked, return_exceptions=True)
    assert said[0] == ["192.0.2.1"]
    assert {type(one) for one in said[1:]} == {LookupFailed}
    assert "did not answer within" in str(said[1])
    assert lookups() == 4
    assert len(names.asked) == 1 + 4
    names.answering.set()
    await until_no_lookup()
    assert await resolver.addresses("t7.example", "v4") == ["192.0.2.1"], "the threads are free again"


async def test_cancelled_lookup_frees_its_slot(names: Names) -> None:
    resolver = Resolver(names.getaddrinfo)
    names.answers["time.example"] = ["192.0.2.1"]
    for _ in range(3):
        names.answering.clear()
        asked = [asyncio.create_task(resolver.addresses("time.example", "v4")) for _ in range(9)]
        await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        names.answering.set()
        await until_no_lookup()
    assert await resolver.addresses("time.example", "v4") == ["192.0.2.1"]


async def test_lookup_fails_if_no_thread_can_be_started(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver(names.getaddrinfo)
    names.answers["time.example"] = ["192.0.2.1"]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(9):
            with pytest.raises(LookupFailed, match="new thread"):
                await resolver.addresses("time.example", "v4")
    assert await resolver.addresses("time.example", "v4") == ["192.0.2.1"]


async def test_number_of_remembered_names_is_bounded(names: Names) -> None:
    resolver = Resolver(names.getaddrinfo)
    for number in range(100):
        names.answers[f"t{number}.example"] = ["192.0.2.1"]
        await resolver.addresses(f"t{number}.example", "v4")
    assert len(resolver._remembered) == 64
    names.answers = dict.fromkeys(names.answers, fails(socket.EAI_AGAIN))
    assert await resolver.addresses("t99.example", "v4") == ["192.0.2.1"]
    with pytest.raises(LookupFailed):
        await resolver.addresses("t0.example", "v4")
