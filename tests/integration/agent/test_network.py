"""Test how an agent reports silent servers and a failing network, over real sockets."""

import asyncio
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.clock import monitor as clock_monitor
from agent.ntp import probe as exchange_module
from agent.ntp.probe import Source, exchange
from agent.ntp.targets import Target
from agent.ntp.udp import UdpSocket
from schema.names import IpVersion
from testbed.fixtures.hosts import needs_ipv6
from testbed.fixtures.measuring import Measuring, place
from testbed.ntp.server import Fleet
from testbed.ntp.spec import Behaviour, ServerSpec
from testbed.paths import CHECKOUT

NORMAL, SILENT = Behaviour.NORMAL, Behaviour.SILENT
V4 = ("v4", "127.45.0.1")
V6 = pytest.param("v6", "::1", marks=needs_ipv6)
both = pytest.mark.parametrize(("ipv", "address"), [V4, V6])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time between clock checks, so that the tests need not wait."""
    monkeypatch.setattr(clock_monitor, "ASKED_NOT_BEFORE", 0.5)
    monkeypatch.setattr(clock_monitor, "RETRY_AFTER", 0.5)


def servers(address: str, count: int, **fields: object) -> list[ServerSpec]:
    return [ServerSpec(address=address, port=0, **fields) for _ in range(count)]  # type: ignore[arg-type]


@both
async def test_monitor_with_a_single_dead_server_reports_no_response(
    tmp_path: Path, ipv: IpVersion, address: str
) -> None:
    async with Fleet([*servers(address, 1), *servers(address, 1, behaviour=SILENT)]) as fleet:
        base, dead = fleet.specs
        measuring = Measuring(tmp_path, ipv)
        measuring.configure(place(base))
        measuring.assign(s1=dead)
        async with measuring.at_work():
            await measuring.until(lambda: len(measuring.of(1)) >= 1)
        assert all(result.no_response and result.error is None for result in measuring.results)
        assert measuring.counters.results_unproven == 0


async def test_refused_connection_is_reported_as_an_error_of_the_server(tmp_path: Path) -> None:
    """The server's host itself refuses, by ICMP, so the error concerns the server."""
    async with Fleet([*servers("127.45.0.1", 2)]) as fleet:
        base, closed = fleet.specs
        fleet.apply([base])
        measuring = Measuring(tmp_path)
        measuring.configure(place(base))
        measuring.assign(s1=closed)
        async with measuring.at_work():
            await measuring.until(lambda: measuring.of(1))
        assert {result.error for result in measuring.results} == {"network: connection refused"}
        assert measuring.counters.probes_unsent == 0


@both
async def test_no_server_is_reported_as_silent_while_none_answers(tmp_path: Path, ipv: IpVersion, address: str) -> None:
    """There is a route, but all packets are lost on the way."""
    async with Fleet(servers(address, 4)) as fleet:
        base, *others = fleet.specs
        measuring = Measuring(tmp_path, ipv)
        measuring.configure(place(base))
        measuring.assign(**{f"s{number}": spec for number, spec in enumerate(others)})
        async with measuring.at_work():
            await measuring.until(lambda: {r.server_id for r in measuring.results} == {0, 1, 2}, "at first")
            for spec in fleet.specs:
                fleet.replace(spec, behaviour=SILENT)
            await measuring.until(lambda: measuring.counters.results_unproven >= 3, "none counts")
            await measuring.until(lambda: "no answer" in (measuring.prober.why_not or ""), "it stops")
            for spec in fleet.specs[:-1]:
                fleet.replace(spec, behaviour=NORMAL)
            before = len(measuring.results)
            await measuring.until(lambda: measuring.prober.why_not is None, "the network is back")
            await measuring.until(lambda: any(r.server_id == 2 for r in measuring.results[before:]), "one stays dead")
        assert not any(result.no_response for result in measuring.results if result.server_id != 2)
        assert measuring.counters.probes_discarded >= measuring.counters.results_unproven


async def test_results_waiting_for_a_check_that_never_comes_are_dropped(tmp_path: Path) -> None:
    async with Fleet([*servers("127.45.0.1", 1), *servers("127.45.0.1", 1, behaviour=SILENT)]) as fleet:
        base, dead = fleet.specs
        measuring = Measuring(tmp_path)
        measuring.configure(place(base))
        measuring.assign(s1=dead)
        async with measuring.at_work():
            await measuring.until(lambda: measuring.prober.why_not is None)
            fleet.replace(base, behaviour=SILENT)
            await measuring.until(lambda: len(measuring.prober._silence))
            measuring.prober.configure(None)
            assert measuring.counters.results_unproven == 1
            await asyncio.wait_for(measuring.prober.decide(), 5)
        assert measuring.results == []


LOCAL = [
    *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES),
    *(errno.ENOBUFS, errno.ENOMEM, errno.EINVAL),
]


@pytest.mark.parametrize("number", LOCAL)
@pytest.mark.parametrize("method", ["__init__", "send"])
async def test_errors_while_sending_are_attributed_to_this_host(
    monkeypatch: pytest.MonkeyPatch, number: int, method: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(UdpSocket, method, fail)
    sample = await exchange(Target("127.45.0.1", 123, "v4"), Source(None), 0.1)
    assert (sample.ours, sample.reply) == (True, None)
    assert (sample.error or "").startswith("network: ")


@pytest.mark.parametrize(
    ("number", "ours"),
    [
        *((errno.ECONNREFUSED, False), (errno.EHOSTUNREACH, False), (errno.ENETUNREACH, False), (errno.EACCES, False)),
        *((errno.EPROTO, False), (errno.ENETDOWN, True), (errno.ENOBUFS, True), (errno.ENOMEM, True)),
    ],
)
async def test_errors_after_sending_are_attributed_by_error_number(
    monkeypatch: pytest.MonkeyPatch, number: int, ours: bool
) -> None:
    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(UdpSocket, "receive", fail)
    async with Fleet(servers("127.45.0.1", 1)) as fleet:
        spec = fleet.specs[0]
        sample = await exchange_module.exchange(Target(spec.address, spec.port, "v4"), Source(None), 5.0)
    assert (sample.ours, sample.reply) == (ours, None)


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
@pytest.mark.parametrize("ipv", ["v4", pytest.param("v6", marks=needs_ipv6)])
def test_no_server_is_reported_as_silent_because_the_link_is_down(tmp_path: Path, ipv: str) -> None:
    """Run in a network namespace whose only link is taken down and up again."""
    command = [sys.executable, "-m", "testbed.fixtures.link_down", ipv, str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["unsent"] >= 1, "probes were due, and could not be sent"
    assert seen["silent"] == [3], "only the server that never answers is reported as silent"
    assert "unreachable" in seen["why_not"] or "not available" in seen["why_not"]
    assert seen["discarded"] >= seen["unsent"]
    assert seen["after"] == [0, 1, 2]
