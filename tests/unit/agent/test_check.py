"""Test ``ntppool-agent check``: addresses and host names, each reported separately, in words and as JSON."""

import asyncio
import json
import socket
from typing import Any

import pytest

from agent import check as check_module
from agent.check import Checked, check, check_arguments
from agent.ntp.measurement import Sample
from agent.ntp.targets import Target, TargetRefused, TargetRules
from runtime.printable import printable_json
from schema.names import IpVersion

RULES = TargetRules("devel", allow_private=True)
BOTH: tuple[IpVersion, ...] = ("v4", "v6")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Map names to their addresses; no probe is answered."""
    names: dict[str, Any] = {}

    async def resolve(self: object, host: str, port: int, **given: object) -> list[Any]:
        assert given == {"type": socket.SOCK_DGRAM}
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in ip], socket.SOCK_DGRAM, 17, "", (ip, port)) for ip in names[host]]

    async def probe(target: Target, source: object, samples: int) -> list[Sample]:
        return [Sample(sent_at=0)] * samples

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    monkeypatch.setattr(check_module, "probe", probe)
    return names


async def lines(*asked: str, protocols: tuple[IpVersion, ...] = BOTH, rules: TargetRules = RULES) -> list[str]:
    told: list[Checked] = []
    found = await check(asked, rules, protocols, 2, told.append)
    assert sorted(map(Checked.line, told)) == sorted(map(Checked.line, found))
    return [checked.line() for checked in found]


async def test_every_address_of_a_name_is_checked(network: dict[str, Any]) -> None:
    network["time.example"] = ["192.0.2.7", "2001:db8::7", "192.0.2.7"]
    assert await lines("time.example", "192.0.2.8") == [
        "time.example 192.0.2.7: no response, 0 of 2 samples answered",
        "time.example 2001:db8::7: no response, 0 of 2 samples answered",
        "192.0.2.8: no response, 0 of 2 samples answered",
    ]
    assert await lines("time.example", protocols=("v6",)) == [
        "time.example 2001:db8::7: no response, 0 of 2 samples answered"
    ]


async def test_failures_are_reported_and_do_not_stop_other_checks(network: dict[str, Any]) -> None:
    network |= {"v4.example": ["192.0.2.7"], "inside.example": ["10.0.0.1", "8.8.8.8"]}
    assert await lines("nowhere.example", "v4.example", protocols=("v6",)) == [
        "nowhere.example: cannot be resolved: Name or service not known",
        "v4.example: has no address of IPv6",
    ]
    assert await lines("inside.example", rules=TargetRules("prod")) == [
        "inside.example: 10.0.0.1 is not a public address: a private address",
        "inside.example 8.8.8.8: no response, 0 of 2 samples answered",
    ]


async def test_name_may_have_a_port_and_only_16_addresses_are_checked(network: dict[str, Any]) -> None:
    network["big.example"] = [f"192.0.2.{number}" for number in range(200)]
    found = await lines("big.example:1123")
    assert len(found) == 16
    assert found[1] == "big.example:1123 192.0.2.1:1123: no response, 0 of 2 samples answered"


async def test_json_contains_the_result_or_the_error(network: dict[str, Any]) -> None:
    network["time.example"] = ["192.0.2.7"]
    found = await check(["time.example", "nowhere.example"], RULES, BOTH, 2)
    first, second = json.loads(printable_json([checked.as_dict() for checked in found]))
    assert (first["asked"], first["ip"], first["port"], first["good"]) == ("time.example", "192.0.2.7", 123, False)
    assert (first["no_response"], first["sent"], first["received"], first["offset"]) == (True, 2, 0, None)
    assert "server_id" not in first
    assert second == {
        "asked": "nowhere.example",
        "good": False,
        "error": "cannot be resolved: Name or service not known",
    }


@pytest.mark.parametrize(
    "text", ["time.example", "localhost", "a_b.example.", "xn--bcher-kva.example:123", "192.0.2.7"]
)
def test_addresses_and_host_names_are_accepted(text: str) -> None:
    check_arguments([text], RULES)


@pytest.mark.parametrize(
    "text", ["8.8.8.8.8", "", "a..b", "-a.example", "time.example:0", "time.example:65536", "a b", "x\x1b[2J", "a" * 64]
)
def test_other_arguments_are_refused_before_any_lookup(text: str) -> None:
    with pytest.raises(TargetRefused, match=r"neither an IP address nor a host name|must be an address"):
        check_arguments(["192.0.2.7", text], RULES)


def test_an_address_that_may_not_be_probed_is_refused() -> None:
    with pytest.raises(TargetRefused, match="loopback"):
        check_arguments(["127.0.0.1"], TargetRules("prod"))
