"""Test the fleet over real sockets: a client's measurements agree with the spec."""

import asyncio
import contextlib
import os
import socket
import statistics
import struct
import time
from collections.abc import AsyncIterator, Iterator

import ntplib
import pytest

from testbed.fixtures.hosts import needs_ipv6
from testbed.fixtures.ntp import quick_sample
from testbed.ntp import server as server_module
from testbed.ntp.answers import Reply
from testbed.ntp.server import Fleet, FleetError
from testbed.ntp.spec import Behaviour, ServerSpec
from testbed.waiting import PATIENCE, wait_until

SO_TIMESTAMPNS = 35
SILENCE = 0.15
"""Seconds without an answer that count as no answer; the servers here answer within milliseconds."""


class Client:
    """Client of one server that uses receive timestamps from the kernel and computes with ntplib."""

    def __init__(self, spec: ServerSpec) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in spec.address else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.target = (spec.address, spec.port)
        self.cookie = b""
        self.received: asyncio.Queue[tuple[bytes, float, tuple[str, int]]] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(self.sock, self.read)

    def read(self) -> None:
        data, ancillary, _, source = self.sock.recvmsg(512, socket.CMSG_SPACE(16))
        seconds, ns = struct.unpack("@ll", ancillary[0][2])
        self.received.put_nowait((data, seconds + ns / 1e9, source[:2]))

    def send(self) -> None:
        self.cookie = os.urandom(8)
        self.sent = time.time()
        self.sock.sendto(bytes([4 << 3 | 3]) + bytes(39) + self.cookie, self.target)

    async def answer(self, timeout: float = PATIENCE) -> tuple[bytes, float, tuple[str, int]]:
        async with asyncio.timeout(timeout):
            return await self.received.get()

    async def measure(self) -> ntplib.NTPStats:
        self.send()
        data, arrived, _ = await self.answer()
        assert data[24:32] == self.cookie
        stats = ntplib.NTPStats()
        stats.from_data(data)
        stats.orig_timestamp = ntplib.system_to_ntp_time(self.sent)
        stats.dest_timestamp = ntplib.system_to_ntp_time(arrived)
        return stats

    async def silence(self) -> bool:
        self.send()
        with contextlib.suppress(TimeoutError):
            await self.answer(SILENCE)
            return False
        return True


@contextlib.contextmanager
def client(spec: ServerSpec) -> Iterator[Client]:
    made = Client(spec)
    try:
        yield made
    finally:
        asyncio.get_running_loop().remove_reader(made.sock)
        made.sock.close()


@contextlib.asynccontextmanager
async def one(**fields: object) -> AsyncIterator[tuple[Fleet, ServerSpec, Client]]:
    spec = ServerSpec(**{"address": "127.77.1.1", "port": 0} | fields)  # type: ignore[arg-type]
    async with Fleet([spec]) as fleet:
        with client(fleet.specs[0]) as made:
            yield fleet, fleet.specs[0], made


@pytest.mark.parametrize(
    ("fields", "offset", "delay"),
    [
        ({}, 0.0, 0.0),
        ({"offset": -0.008}, -0.008, 0.0),
        ({"offset": 0.012, "delay": 0.01}, 0.012, 0.02),
        ({"offset": 0.4, "delay": 0.004, "asymmetry": 0.006}, 0.403, 0.014),
        ({"offset": 5.0, "delay": 0.003, "asymmetry": -0.002}, 4.999, 0.004),
        ({"offset": 0.001, "delay": 0.002, "jitter": 20e-6}, 0.001, 0.00403),
        pytest.param({"address": "::1", "offset": 0.25}, 0.25, 0.0, marks=needs_ipv6),
    ],
)
async def test_client_measures_the_offset_and_delay_of_the_spec(
    fields: dict[str, object], offset: float, delay: float
) -> None:
    async with one(**fields) as (_, _, asking):
        measured = [await asking.measure() for _ in range(15)]
    assert statistics.median(stats.offset for stats in measured) == pytest.approx(offset, abs=100e-6)
    # A busy machine prolongs a round trip, and never shortens it.
    assert min(stats.delay for stats in measured) == pytest.approx(delay, abs=300e-6)


async def test_busy_server_uses_the_kernels_receive_timestamp() -> None:
    late: list[tuple[float, float]] = []
    async with one(offset=1.0) as (_, _, asking):
        for _ in range(5):
            asking.send()
            # Deliberately block the loop that server and client share: only the kernel notices the request now.
            time.sleep(0.05)
            data, arrived, _ = await asking.answer()
            stats = ntplib.NTPStats()
            stats.from_data(data)
            assert stats.tx_time - stats.recv_time >= 0.04
            late.append((abs(stats.recv_time - asking.sent - 1.0), abs(stats.tx_time - arrived - 1.0)))
    # The best of five, since a busy machine may delay this process between reading the clock and sending the packet.
    assert min(receive for receive, _ in late) < 0.01
    assert min(transmit for _, transmit in late) < 0.01


async def test_concurrent_requests_get_accurate_answers() -> None:
    specs = [ServerSpec(address=f"127.77.2.{n}", port=0, offset=n / 1000, delay=0.02) for n in range(1, 21)]
    async with Fleet(specs) as fleet:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(client(spec)) for spec in fleet.specs]
            measured = await asyncio.gather(*(asking.measure() for asking in clients))
    errors = [stats.offset - spec.offset for stats, spec in zip(measured, specs, strict=True)]
    assert statistics.median(map(abs, errors)) < 300e-6


async def test_ntplib_accepts_the_answers() -> None:
    async with one(offset=1.5, stratum=1, reference_id="GPS") as (_, spec, _):
        stats = await asyncio.to_thread(quick_sample, spec.address, spec.port, 3)
    assert stats.offset == pytest.approx(1.5, abs=0.006)
    assert (stats.stratum, stats.version, ntplib.ref_id_to_text(stats.ref_id, 1)) == (1, 3, "Global Position System")


async def test_silent_server_counts_requests_without_answering() -> None:
    async with one(behaviour=Behaviour.SILENT) as (fleet, spec, asking):
        assert await asking.silence()
        assert (fleet.counts(spec).requests, fleet.counts(spec).replies) == (1, 0)


async def test_invalid_requests_are_ignored_and_counted() -> None:
    async with one() as (fleet, spec, asking):
        asking.sock.sendto(b"hello", asking.target)
        await asking.measure()
        assert (fleet.counts(spec).ignored, fleet.counts(spec).requests) == (1, 1)


async def test_a_reply_from_another_port_comes_from_the_same_address() -> None:
    async with one(behaviour=Behaviour.WRONG_SOURCE, then_answer=True) as (_, spec, asking):
        asking.send()
        _, _, stray = await asking.answer()
        _, _, proper = await asking.answer()
    assert (stray[0], proper) == (spec.address, (spec.address, spec.port))
    assert stray[1] != spec.port


async def test_duplicate_answer_arrives_twice() -> None:
    async with one(behaviour=Behaviour.DUPLICATE) as (_, _, asking):
        asking.send()
        first, second = await asking.answer(), await asking.answer()
    assert first[0][:40] == second[0][:40]


async def test_kiss_code_reaches_the_client() -> None:
    async with one(kiss="RATE") as (_, _, asking):
        stats = await asking.measure()
    assert (stats.stratum, stats.ref_id.to_bytes(4, "big")) == (0, b"RATE")


async def test_running_server_can_become_silent_and_normal_again() -> None:
    async with one() as (fleet, spec, asking):
        await asking.measure()
        fleet.replace(spec, behaviour=Behaviour.SILENT)
        assert await asking.silence()
        fleet.replace(spec, behaviour=Behaviour.NORMAL, offset=2.0)
        offsets = [(await asking.measure()).offset for _ in range(5)]
        assert statistics.median(offsets) == pytest.approx(2.0, abs=0.01)
        assert fleet.counts(spec).requests == 7


async def test_servers_are_added_and_removed_without_disturbing_others() -> None:
    stays, goes = (ServerSpec(address=f"127.77.3.{n}", port=0) for n in (1, 2))
    async with Fleet([stays, goes]) as fleet:
        stays, goes = fleet.specs
        with client(stays) as asking, client(goes) as deserted:
            await asking.measure()
            fleet.apply([stays, ServerSpec(address="127.77.3.3", port=0)])
            assert await deserted.silence()
            await asking.measure()
            assert fleet.counts(stays).requests == 2
        with client(fleet.specs[1]) as new:
            await new.measure()


async def test_pending_replies_are_not_sent_after_the_fleet_is_closed() -> None:
    async with one(delay=0.05) as (fleet, _, asking):
        asking.send()
        counts = fleet.counts(fleet.specs[0])
        while not counts.requests:
            await asyncio.sleep(0)
        fleet.close()
        with pytest.raises(TimeoutError):
            await asking.answer(SILENCE)
        assert (counts.replies, counts.dropped) == (0, 0), "not even tried"


async def test_fleet_starts_when_the_kernel_stamps_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = server_module._arrival_ns

    def at_first_late(ancillary: list[tuple[int, int, bytes]]) -> int:
        looked.append(time.time_ns())
        return looked[-1] if len(looked) <= 5 else min(real(ancillary), looked[-1] - 1_000_000)

    monkeypatch.setattr(server_module, "_arrival_ns", at_first_late)
    async with one():
        assert len(looked) == 6


async def losses(seed: int, specs: list[ServerSpec]) -> list[int]:
    """Return how many requests the last server has answered after each request."""
    answered = []
    async with Fleet(specs, seed) as fleet:
        spec = fleet.specs[-1]
        with client(spec) as asking:
            for number in range(1, 31):
                asking.send()
                async with asyncio.timeout(PATIENCE):
                    while fleet.counts(spec).requests < number:
                        await asyncio.sleep(0)
                answered.append(fleet.counts(spec).replies)
    return answered


async def test_loss_depends_only_on_the_seed_and_the_server() -> None:
    async with one(loss=0.5) as (_, spec, _):
        lossy = spec
    other = ServerSpec(address="127.77.5.1", port=0, loss=0.5)
    first = await losses(7, [lossy])
    assert 5 < first[-1] < 25
    assert await losses(7, [lossy]) == first
    assert await losses(7, [other, lossy]) == first
    assert await losses(8, [lossy]) != first


async def test_reply_that_cannot_be_sent_is_dropped_and_counted() -> None:
    async with one() as (fleet, spec, asking):
        await asking.measure()
        nowhere = (spec.address, 0)
        server_module._send(fleet._servers[spec.address, spec.port], Reply(0, bytes(40), None), nowhere)
        assert (fleet.counts(spec).replies, fleet.counts(spec).dropped) == (1, 1)


async def test_number_of_pending_replies_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_module._MOST_PENDING == 20_000
    monkeypatch.setattr(server_module, "_MOST_PENDING", 3)
    async with one(delay=30.0) as (fleet, spec, asking):
        for _ in range(5):
            asking.send()
        await wait_until(lambda: fleet.counts(spec).requests == 5)
        assert (fleet.counts(spec).replies, fleet.counts(spec).dropped, len(fleet._pending)) == (0, 2, 3)


async def test_address_in_use_is_named_and_no_socket_is_left_open() -> None:
    free = ServerSpec(address="127.77.4.1", port=0)
    async with Fleet([free]) as fleet:
        taken = fleet.specs[0]
        other = ServerSpec(address="127.77.4.2", port=taken.port)
        with pytest.raises(FleetError, match=rf"127\.77\.4\.1 port {taken.port}: Address already in use"):
            async with Fleet([other, taken]):
                pass
        async with Fleet([other]):
            pass
