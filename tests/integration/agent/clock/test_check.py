"""Test base checks by address and by name over real sockets: the servers that they reach, and their results."""

import asyncio
import socket
from typing import Any

import pytest

from agent.clock.check import BaseChecks, Checked, base_checks, check_clock
from agent.metrics import AgentCounters
from agent.ntp.probe import Source
from agent.ntp.resolver import Resolver
from agent.ntp.targets import TargetRules
from schema.names import IpVersion
from testbed.fixtures.hosts import needs_ipv6
from testbed.fixtures.measuring import Measuring, place
from testbed.ntp.server import Fleet
from testbed.ntp.spec import Behaviour, ServerSpec
from testbed.waiting import wait_until

DEVEL = TargetRules("devel", allow_private=True)
PROD = TargetRules("prod")


class Names:
    """A resolver with a table of names that a test can change."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {name.replace("_", "."): ips for name, ips in names.items()}
        self.asked = 0

    def getaddrinfo(self, host: bytes, port: None, family: int, kind: int) -> list[Any]:
        self.asked += 1
        wanted = self.names.get(host.decode(), [])
        found = [ip for ip in wanted if (":" in ip) == (family == socket.AF_INET6)]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, kind, 17, "", (ip, 0)) for ip in found]


async def ask(checks: BaseChecks, names: Names) -> Checked:
    return await check_clock(checks, Source(None), AgentCounters(), Resolver(names.getaddrinfo))


async def ask_well(checks: BaseChecks, names: Names) -> Checked:
    """Repeat the check until the clock is good, since a busy machine may delay a packet of an exchange."""
    async with asyncio.timeout(20):
        while not (checked := await ask(checks, names)).verdict.good:
            pass
        return checked


def servers(*specs: dict[str, Any], port: int) -> list[ServerSpec]:
    return [ServerSpec(**{"port": port, **spec}) for spec in specs]


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.46.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(("ipv", "address"), [("v4", "127.46.0.1"), pytest.param("v6", "::1", marks=needs_ipv6)])
async def test_name_resolves_to_addresses_of_the_protocol_only(port: int, ipv: IpVersion, address: str) -> None:
    names = Names(time_example=["127.46.0.1", "::1"])
    async with Fleet(servers({"address": address}, port=port)):
        checked = await ask_well(base_checks([f"time.example:{port}"], 1, DEVEL, ipv), names)
    assert [name for name, _ in checked.results] == [f"time.example:{port} ({address})"]
    assert checked.answered_at is not None


async def test_samples_of_base_checks_are_counted_like_all_others(port: int) -> None:
    counters = AgentCounters()
    specs = servers({"address": "127.46.0.1"}, {"address": "127.46.0.2", "behaviour": Behaviour.SILENT}, port=port)
    async with Fleet(specs) as fleet:
        checks = base_checks([place(spec) for spec in fleet.specs], 1, DEVEL, "v4")
        await check_clock(checks, Source(None), counters, Resolver())
    assert (counters.samples_sent, counters.samples_received) == (2, 1)


async def test_name_with_several_addresses_has_one_vote_by_the_first_working_one(port: int) -> None:
    names = Names(time_example=["127.46.0.1", "127.46.0.2", "127.46.0.3"])
    specs = servers(
        {"address": "127.46.0.1", "behaviour": Behaviour.SILENT},
        {"address": "127.46.0.2", "offset": 0.5},
        {"address": "127.46.0.3"},
        port=port,
    )
    async with Fleet(specs) as fleet:
        checks = base_checks([f"time.example:{port}"], 1, DEVEL, "v4")
        checked = await ask(checks, names)
        assert f"failed at 1 of 1: time.example:{port} (127.46.0.2) offset +" in checked.verdict.reason
        assert len(checked.results) == 1, "also an address with a better answer has no voice of its own"
        fleet.replace(specs[1], leap=3)
        checked = await ask_well(checks, names)
        assert checked.results[0][1].ip == "127.46.0.3", "one that works before one that does not"
        fleet.replace(specs[2], behaviour=Behaviour.SILENT)
        assert "not synchronised" in (await ask(checks, names)).verdict.reason
        for spec in specs:
            fleet.replace(spec, behaviour=Behaviour.SILENT)
        checked = await ask(checks, names)
    assert not checked.verdict.good and checked.answered_at is None


async def test_a_name_is_looked_up_again_for_every_check(port: int) -> None:
    names = Names(time_example=["127.46.0.1"])
    async with Fleet(servers({"address": "127.46.0.1"}, {"address": "127.46.0.2", "offset": 1.0}, port=port)):
        checks = base_checks([f"time.example:{port}"], 1, DEVEL, "v4")
        await ask_well(checks, names)
        names.names["time.example"] = ["127.46.0.2"]
        assert not (await ask(checks, names)).verdict.good
        names.names["time.example"] = []
        checked = await ask(checks, names)
    assert checked.verdict.reason.endswith(f"failed at 1 of 1: time.example:{port} has no IPv4 address")


async def test_server_listed_twice_has_one_vote(port: int) -> None:
    names = Names(a_example=["127.46.0.1"], b_example=["127.46.0.1", "127.46.0.2"], c_example=["127.46.0.2"])
    entries = [f"127.46.0.1:{port}", f"a.example:{port}", f"A.EXAMPLE:{port}", f"b.example:{port}", f"c.example:{port}"]
    async with Fleet(servers({"address": "127.46.0.1"}, {"address": "127.46.0.2"}, port=port)):
        checked = await ask(base_checks(entries, 1, DEVEL, "v4"), names)
    assert [name for name, _ in checked.results] == [f"127.46.0.1:{port}", f"b.example:{port} (127.46.0.2)"]


async def test_names_that_resolve_to_non_public_addresses_are_refused() -> None:
    names = Names(time_example=["10.0.0.1", "127.0.0.1"], six_example=["fec0::1", "64:ff9b::a00:1"])
    checked = await ask(base_checks(["time.example"], 1, PROD, "v4"), names)
    assert "time.example: 127.0.0.1 is not a public address" in checked.verdict.reason
    checked = await ask(base_checks(["six.example"], 1, PROD, "v6"), names)
    assert "six.example: 64:ff9b::a00:1 is not a public address" in checked.verdict.reason
    assert (checked.results, checked.answered_at) == ([], None)


@pytest.mark.parametrize(
    "entry",
    ["127.1", "8.8", "0x7f.1", "1", "a b", "-a.example", "a..example", "exämple.org", "a.example:124", "a/b", "*", "%"],
)
async def test_entry_that_is_neither_address_nor_name_is_refused(entry: str) -> None:
    names = Names()
    checked = await ask(base_checks([entry], 1, PROD, "v4"), names)
    assert not checked.verdict.good and len(checked.refused) == 1
    assert names.asked == 0


async def test_only_an_answer_to_the_first_request_proves_a_working_network(port: int) -> None:
    """A network that recovers during the check was down before."""
    async with Fleet(servers({"address": "127.46.0.1", "behaviour": Behaviour.SILENT}, port=port)) as fleet:
        spec = fleet.specs[0]
        asked = asyncio.create_task(ask(base_checks([place(spec)], 2, DEVEL, "v4"), Names()))
        await wait_until(lambda: fleet.counts(spec).requests)
        fleet.replace(spec, behaviour=Behaviour.NORMAL)
        checked = await asked
    assert [result.received for _, result in checked.results] == [1]
    assert checked.answered_at is None


async def test_agent_probes_with_a_base_check_by_name(tmp_path: Any, port: int) -> None:
    names = Names(time_example=["127.46.0.9", "127.46.0.1"])
    async with Fleet(servers({"address": "127.46.0.1"}, {"address": "127.46.0.2"}, port=port)) as fleet:
        measuring = Measuring(tmp_path, resolver=Resolver(names.getaddrinfo))
        measuring.configure(f"time.example:{port}")
        measuring.assign(s1=fleet.specs[1])
        async with measuring.at_work():
            await measuring.until(lambda: measuring.results)
    assert measuring.results[0].error is None
