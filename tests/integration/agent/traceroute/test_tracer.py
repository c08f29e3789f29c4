"""Test tracing with programs that are hostile or without rights, and with the real one across a chain of networks."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.ntp.targets import Target
from agent.traceroute import gate, tracer
from agent.traceroute.tracer import CannotTrace, Useless, trace
from testbed.paths import CHECKOUT

TARGET = Target("9.9.9.9", 123, "v4")
MODERN = "Modern traceroute for Linux, version 2.1.2"
NO_RIGHTS = "You do not have enough privileges to use this traceroute method.\nsocket: Operation not permitted"


class Host:
    """A host whose program ``traceroute`` is a shell script, to which ``$method`` is known."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls = directory / "calls"

    def install(self, script: str, *, version: str = MODERN, name: str = "traceroute") -> None:
        """Install it with the part of the script that traces."""
        program = self.directory / name
        program.write_text(
            f"""#!/bin/sh
            if [ "$1" = --version ]; then echo "{version}"; exit; fi
            echo "$*" >>{self.calls}
            case "$*" in *" -I "*|*icmp*) method=icmp ;; *" -T "*|*tcp*) method=tcp ;; *) method=udp ;; esac
            {script}
            """
        )
        program.chmod(0o755)

    def asked(self) -> list[str]:
        """Return the arguments of each call."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gate, "_MORE_DIRECTORIES", ())
    return Host(tmp_path)


async def test_methods_are_tried_until_the_address_has_answered(host: Host) -> None:
    host.install(
        """case $method in
        udp) echo ' 1  192.0.2.1  1.0 ms *'; echo ' 2  * *' ;;
        icmp) echo ' 1  192.0.2.1  1.0 ms *'; echo ' 2  9.9.9.9  2.5 ms  2.4 ms' ;;
        esac"""
    )
    udp, icmp = await trace(TARGET, "192.0.2.77")
    assert (udp.method, len(udp.hops), udp.tried, udp.reached) == ("udp", 1, 2, False)
    assert (icmp.method, len(icmp.hops), icmp.tried, icmp.reached) == ("icmp", 2, 2, True)
    assert host.asked() == [
        "-n -q 2 -m 30 -w 1.5 -z 20 -U -p 123 -s 192.0.2.77 9.9.9.9",
        "-n -q 2 -m 30 -w 1.5 -z 20 -I -s 192.0.2.77 9.9.9.9",
    ]


async def test_methods_that_fail_do_not_hide_those_that_do_not(host: Host) -> None:
    host.install(f"case $method in tcp) echo ' 1  192.0.2.1  1 ms' ;; icmp) echo '{NO_RIGHTS}' >&2 ;; *) yes ;; esac")
    [tcp] = await trace(TARGET, None)
    assert (tcp.method, len(host.asked())) == ("tcp", 3)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'connect: Network is unreachable' >&2; exit 1", "udp: connect: Network is unreachable; icmp: connect"),
        ("yes", "udp: wrote more than 16384 bytes; icmp: wrote"),
        ("printf ' 1  192.0.2.1  1 ms\\n 2  \\033[2J\\n'", "udp: line 2 is not that of a route; icmp: line 2"),
        ("head -c 9000 /dev/urandom", "udp: line 1 is not that of a route"),
        ("head -c 300 /dev/zero | tr '\\0' x >&2", f"udp: {'x' * 200}; icmp"),
        ("exit 0", "udp: found nothing; icmp: found nothing; tcp: found nothing"),
    ],
)
async def test_hostile_output_is_an_error(host: Host, script: str, words: str) -> None:
    host.install(f"PATH=/usr/bin:/bin; {script}")
    with pytest.raises(CannotTrace) as caught:
        await trace(TARGET, None)
    assert str(caught.value).startswith(words) and not isinstance(caught.value, Useless)


async def test_a_program_that_hangs_is_ended_with_what_it_found(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "EACH_WITHIN", 0.3)
    host.install("echo ' 1  192.0.2.1  1 ms'; printf ' 2  192.0'; exec /bin/sleep 1000")
    for one in await trace(TARGET, None):
        assert (len(one.hops), one.tried, one.error) == (1, 1, "stopped after 0 s")


async def test_all_methods_together_have_an_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "WITHIN", tracer._LEAST + 0.3)
    monkeypatch.setattr(tracer, "EACH_WITHIN", 0.4)
    host.install("echo ' 1  *'; exec /bin/sleep 1000")
    assert [one.method for one in await trace(TARGET, None)] == ["udp"]


async def test_a_program_without_rights_is_useless(host: Host) -> None:
    host.install(f"echo '{NO_RIGHTS}' >&2; exit 1", version="BusyBox v1.35.0")
    with pytest.raises(Useless, match="lacks the rights of root"):
        await trace(TARGET, None)
    assert len(host.asked()) == 2


@pytest.mark.parametrize(("version", "words"), [("something 1.0", "is an unknown program"), ("", "is an unknown")])
async def test_an_unknown_program_is_not_used(host: Host, version: str, words: str) -> None:
    host.install("echo ' 1  192.0.2.1  1 ms'", version=version)
    with pytest.raises(CannotTrace, match=words):
        await trace(TARGET, None)
    assert host.asked() == []


async def test_a_host_without_a_program_says_so(host: Host) -> None:
    with pytest.raises(CannotTrace, match=r"^this host has no program traceroute$"):
        await trace(TARGET, None)


async def test_freebsd_has_another_program_for_ipv6(host: Host) -> None:
    v6 = Target("2620:fe::fe", 123, "v6")
    host.install("exit 1", version="Version 1.4a12+FreeBSD")
    with pytest.raises(CannotTrace, match="no program for IPv6"):
        await trace(v6, None)
    host.install("echo ' 1  2620:fe::fe  1.5 ms'", name="traceroute6")
    [one] = await trace(v6, None)
    assert one.reached and host.asked() == ["-n -q 1 -m 30 -w 2 -U -p 123 2620:fe::fe"]
    host.install("exit 1", version="traceroute (GNU inetutils) 2.4")
    with pytest.raises(CannotTrace, match="knows no IPv6"):
        await trace(v6, None)


# ---- the real program ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain() -> dict[str, Any]:
    """What an agent without rights finds behind two routers."""
    for program in ("traceroute", "ip", "nsenter", "setpriv"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "testbed.fixtures.chain"], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def addresses(one: dict[str, Any]) -> list[set[str]]:
    return [{answer["ip"] for answer in hop["answers"] if answer} for hop in one["hops"]]


@pytest.mark.parametrize(
    ("ipv", "route"),
    [
        ("v4", ["198.51.100.2", "198.51.101.2", "198.51.102.2"]),
        ("v6", ["2001:db8:1::2", "2001:db8:2::2", "2001:db8:3::2"]),
    ],
)
def test_a_route_is_found_without_rights(chain: dict[str, Any], ipv: str, route: list[str]) -> None:
    [udp] = chain[f"closed {ipv}"]
    assert (udp["method"], udp["reached"], udp["tried"], udp["error"]) == ("udp", True, 3, None)
    assert addresses(udp) == [{ip} for ip in route]
    assert all(0 < answer["rtt"] < 8 for hop in udp["hops"] for answer in hop["answers"] if answer)


def test_a_router_that_refuses_is_named_with_the_reason(chain: dict[str, Any]) -> None:
    udp = chain["prohibited"][0]
    assert (udp["reached"], addresses(udp)) == (False, [{"198.51.100.2"}, {"198.51.101.2"}])
    assert {answer["note"] for answer in udp["hops"][1]["answers"] if answer} == {"!X"}


def test_a_broken_hop_is_where_the_answers_end(chain: dict[str, Any]) -> None:
    udp = chain["broken"][0]
    assert (addresses(udp), udp["reached"]) == ([{"198.51.100.2"}], False)
    assert udp["tried"] > 2 and udp["error"] == "stopped after 2 s"


def test_an_ntp_server_is_silent_for_udp_and_reached_by_icmp(chain: dict[str, Any]) -> None:
    udp, *others = chain["listening"]
    assert (udp["method"], udp["reached"], len(udp["hops"])) == ("udp", False, 2)
    assert [(one["method"], one["reached"]) for one in others] == [("icmp", True)]
    assert addresses(others[0]) == [{"198.51.100.2"}, {"198.51.101.2"}, {"198.51.102.2"}]
