"""Test exchanges over real sockets: recognition of the answer, and accuracy of its times."""

import asyncio
import os
import random
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.ntp import udp
from agent.ntp.kernel_stamps import FreeBsdStamps, KernelStamps
from agent.ntp.measurement import Sample, best
from agent.ntp.probe import Source, exchange
from agent.ntp.targets import Target
from testbed.fixtures.hosts import needs_ipv6
from testbed.ntp.server import Fleet
from testbed.ntp.spec import Behaviour, ServerSpec
from testbed.waiting import wait_until

HOME = Source(None)


def place(spec: ServerSpec) -> Target:
    return Target(spec.address, spec.port, "v6" if ":" in spec.address else "v4")


async def ask_well(**spec: Any) -> Sample:
    """Return the best of five samples, as an agent does: a busy machine may delay one of the packets of an exchange."""
    async with Fleet([ServerSpec(**{"address": "127.42.0.1", "port": 0, **spec})]) as fleet:
        return best([await exchange(place(fleet.specs[0]), HOME, 3.0) for _ in range(5)])


async def ask(timeout: float = 3.0, source: Source = HOME, **spec: Any) -> Sample:
    async with Fleet([ServerSpec(**{"address": "127.42.0.1", "port": 0, **spec})]) as fleet:
        return await exchange(place(fleet.specs[0]), source, timeout)


@pytest.mark.parametrize("address", ["127.42.0.1", pytest.param("::1", marks=needs_ipv6)])
@pytest.mark.parametrize("offset", [0.0, 0.4, -5.0, 86400.0 * 200])
async def test_offset_and_rtt_are_measured_accurately(address: str, offset: float) -> None:
    sample = await ask_well(address=address, offset=offset, delay=0.01)
    assert sample.offset == pytest.approx(offset, abs=0.0005)
    assert sample.rtt == pytest.approx(0.02, abs=0.0005)
    assert sample.kernel_stamps or sys.platform != "linux"
    assert abs(sample.sent_at / 1e9 - time.time()) < 5


@pytest.mark.parametrize(
    ("behaviour", "counted"),
    [
        (Behaviour.SHORT, "short"),
        (Behaviour.WRONG_MODE, "mode"),
        (Behaviour.WRONG_ORIGIN, "origin"),
        (Behaviour.FORGED_KISS, "origin"),
    ],
)
async def test_packets_that_are_not_the_answer_are_counted_and_ignored(behaviour: Behaviour, counted: str) -> None:
    sample = await ask_well(behaviour=behaviour, then_answer=True, offset=0.1)
    assert sample.error is None
    assert sample.offset == pytest.approx(0.1, abs=0.0005)
    assert getattr(sample.ignored, counted) == 1
    alone = await ask(behaviour=behaviour, timeout=0.2)
    assert (alone.reply, alone.network_error, getattr(alone.ignored, counted)) == (None, None, 1)


async def test_answer_from_another_port_is_ignored() -> None:
    sample = await ask(behaviour=Behaviour.WRONG_SOURCE, timeout=0.2)
    assert sample.reply is None
    assert (await ask(behaviour=Behaviour.WRONG_SOURCE, then_answer=True)).reply is not None


async def test_packet_received_before_the_socket_was_connected_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between bind and connect, the kernel queues packets from any source."""
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bind = udp.UdpSocket._bind

    def bind_and_receive(self: udp.UdpSocket, source: str) -> None:
        bind(self, source)
        stranger.sendto(b"x" * 48, self._socket.getsockname())

    monkeypatch.setattr(udp.UdpSocket, "_bind", bind_and_receive)
    with stranger:
        sample = await ask(source=Source("127.0.0.9"))
    assert sample.reply is not None
    assert sample.ignored.source == 1


async def test_kiss_codes_and_bad_strata_are_reported_with_the_measurement() -> None:
    kiss = await ask(kiss="DENY")
    assert (kiss.error, kiss.kissed) == ("DENY", True)
    rate = await ask(kiss="RATE")
    assert (rate.error, rate.offset, rate.rtt is not None) == ("RATE", None, True)
    high = await ask_well(stratum=16, offset=0.1)
    assert high.error == "bad stratum 16"
    assert high.offset == pytest.approx(0.1, abs=0.0005)


async def test_answer_without_a_transmit_time_yields_no_offset() -> None:
    sample = await ask(behaviour=Behaviour.ZERO_TRANSMIT)
    assert sample.reply is not None
    assert (sample.offset, sample.rtt, sample.error) == (None, None, None)


async def test_unsynchronised_or_distant_server_is_measured_with_an_error() -> None:
    lost = await ask_well(leap=3, offset=0.1)
    assert lost.error == "not synchronised"
    assert lost.offset == pytest.approx(0.1, abs=0.0005)
    far = await ask_well(root_delay=1.0, root_dispersion=16.0)
    assert far.error == "root distance 16.5 s"


@pytest.mark.parametrize("hold", [1.0, -1.0])
async def test_impossible_timestamps_count_only_without_a_plausible_sample(hold: float) -> None:
    wrong = await ask_well(hold=hold)
    assert wrong.offset == pytest.approx(hold / 2, abs=0.0005)
    async with Fleet([ServerSpec(address="127.42.0.1", port=0, delay=0.01)]) as fleet:
        samples = []
        for said in (hold, 0.0, 0.0, 0.0, 0.0, 0.0, hold):
            fleet.replace(fleet.specs[0], hold=said)
            samples.append(await exchange(place(fleet.specs[0]), HOME))
    mixed = best(samples)
    assert mixed.offset == pytest.approx(0, abs=0.0005)
    assert mixed.rtt == pytest.approx(0.02, abs=0.0005)


async def test_duplicate_answer_is_harmless() -> None:
    assert (await ask(behaviour=Behaviour.DUPLICATE)).reply is not None


async def test_silent_server_times_out() -> None:
    began = time.monotonic()
    sample = await ask(behaviour=Behaviour.SILENT, timeout=0.3)
    assert 0.29 < time.monotonic() - began < 1.5
    assert (sample.reply, sample.error) == (None, None)


async def test_closed_port_is_reported_at_once_as_a_network_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.42.0.2", 0))
        port = closed.getsockname()[1]
    began = time.monotonic()
    sample = await exchange(Target("127.42.0.2", port, "v4"), HOME)
    assert sample.error == "network: connection refused"
    assert time.monotonic() - began < 1


async def test_an_unreachable_network_is_a_network_error() -> None:
    sample = await exchange(Target("2001:db8::1", 123, "v6"), Source("::1"), 0.2)
    assert sample.reply is None
    assert sample.error is None or sample.error.startswith("network: ")


async def test_too_many_open_files_are_attributed_to_this_host() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        sample = await exchange(Target("127.42.0.1", 123, "v4"), HOME)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (sample.error, sample.ours) == ("network: too many open files", True)


async def test_source_address_is_the_given_one_or_the_kernels_choice() -> None:
    heard: list[str] = []

    class Listener(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
            heard.append(address[0])

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Listener, local_addr=("127.42.0.3", 0))
    target = Target("127.42.0.3", transport.get_extra_info("sockname")[1], "v4")
    ours, foreign = Source("127.0.77.7"), Source("192.0.2.99")
    await exchange(target, ours, 0.1)
    await exchange(target, foreign, 0.1)
    transport.close()
    await asyncio.sleep(0)
    assert heard[0] == "127.0.77.7" and heard[1].startswith("127.")
    assert (ours.foreign, foreign.foreign) == (False, True)


@contextmanager
def hostile_server(seed: int) -> Iterator[int]:
    """Answer every request with a hundred random packets, some of them nearly right, and then with the right one."""
    noise = random.Random(seed)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.42.0.4", 0))
    server.settimeout(5)

    def answer() -> None:
        request, client = server.recvfrom(512)
        right = bytes([0x24, 2]) + bytes(22) + request[40:48] + bytes([1]) * 16
        for _ in range(100):
            kind = noise.randrange(3)
            junk = noise.randbytes(noise.randrange(600)) if kind == 0 else bytearray(right)
            if kind == 1:
                junk[noise.randrange(24, 32)] ^= 1 + noise.randrange(255)  # type: ignore[index]
            elif kind == 2:
                junk[0] = 0x20 | noise.choice([0, 1, 2, 3, 5, 6, 7])  # type: ignore[index]
            server.sendto(junk, client)
        server.sendto(right, client)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        thread.join()
        server.close()


@pytest.mark.parametrize("seed", range(5))
async def test_right_packet_is_found_in_a_flood_of_wrong_ones(seed: int) -> None:
    with hostile_server(seed) as port:
        sample = await exchange(Target("127.42.0.4", port, "v4"), HOME)
    assert sample.reply is not None and sample.reply.stratum == 2
    assert sample.ignored.short + sample.ignored.mode + sample.ignored.origin == 100


async def test_answer_in_time_counts_even_if_the_process_was_stopped() -> None:
    """A process that was stopped beyond the deadline finds both the answer and the expired deadline."""
    samples: list[Sample] = []
    async with Fleet([ServerSpec(address="127.42.0.5", port=0)]) as fleet:
        for number in range(1, 6):
            asked = asyncio.create_task(exchange(place(fleet.specs[0]), HOME, 0.2))
            while fleet.counts(fleet.specs[0]).replies < number:
                await asyncio.sleep(0)
            assert not asked.done() or asked.result().reply is not None
            time.sleep(0.4)
            samples.append(await asked)
            assert samples[-1].reply is not None
    rtt = best(samples).rtt  # a busy machine may have delayed the others
    assert rtt is not None and rtt < 0.01, "its time is when it came, not when we looked"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's transmit stamps are Linux's")
async def test_interruptions_while_sending_or_receiving_do_not_shift_the_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = time.time_ns
    late = SimpleNamespace(time_ns=lambda: (real(), time.sleep(0.02))[0])
    monkeypatch.setattr(udp, "time", late)  # the client's clock only, not that of the simulated server
    sample = await ask_well(offset=0.1)
    assert sample.offset == pytest.approx(0.1, abs=0.002)
    assert sample.rtt is not None and sample.rtt < 0.004


async def test_own_timestamps_replace_missing_kernel_ones_and_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "STAMPS", KernelStamps())
    sample = await ask_well(offset=0.1)
    assert not sample.kernel_stamps
    assert sample.offset == pytest.approx(0.1, abs=0.01)


class FreeBsdLayouts(FreeBsdStamps):
    """FreeBSD's requests and layouts, by the numbers under which Linux has the same ones."""

    SO_TIMESTAMP = SCM_TIMESTAMP = 29
    SO_TS_CLOCK = SCM_REALTIME = 35


class FreeBsdMicroseconds(FreeBsdLayouts):
    """FreeBSD without a choice of clocks."""

    SO_TS_CLOCK = 0x1017  # Linux refuses it


@pytest.mark.skipif(sys.platform != "linux", reason="the numbers are Linux's")
@pytest.mark.parametrize("stamps", [FreeBsdLayouts(), FreeBsdMicroseconds()])
async def test_measurement_with_freebsd_stamps_is_accurate(
    monkeypatch: pytest.MonkeyPatch, stamps: FreeBsdStamps
) -> None:
    """Of received packets only, from a real kernel: a test of everything but FreeBSD's numbers."""
    monkeypatch.setattr(udp, "STAMPS", stamps)
    with udp.stamping():
        sample = await ask_well(offset=0.1)
    assert sample.kernel_stamps
    assert sample.offset == pytest.approx(0.1, abs=0.0005)


def read_late(monkeypatch: pytest.MonkeyPatch) -> tuple[udp.Datagram, int]:
    """Return a packet that arrived before its socket requested timestamps, and the time when reading it began."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        with monkeypatch.context() as patch:
            patch.setattr(udp, "STAMPS", KernelStamps())
            receiver = udp.UdpSocket(peer.getsockname(), None)
        with receiver:
            peer.sendto(b"x", receiver._socket.getsockname())
            udp.STAMPS.request(receiver._socket)
            began = time.time_ns()
            datagram = receiver.receive()
            assert datagram is not None
            return datagram, began


async def test_timestamp_made_on_reading_is_not_taken_for_a_kernel_timestamp(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(20):
        datagram, began = read_late(monkeypatch)
        assert datagram.by_kernel == (datagram.at < began), "of no packet is it said that it came when it was read"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the kernel stamps at once")
async def test_kernel_timestamping_stays_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    with udp.stamping():
        await wait_until(lambda: read_late(monkeypatch)[0].by_kernel, within=5)
        for _ in range(5):
            await asyncio.sleep(0.1)  # the kernel would disable timestamps within this time if no socket requested them
            assert read_late(monkeypatch)[0].by_kernel


async def test_no_file_descriptor_remains_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        await ask(timeout=0.01, behaviour=Behaviour.SILENT)
    task = asyncio.create_task(ask(behaviour=Behaviour.SILENT))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait({task})
    assert len(list(Path("/proc/self/fd").iterdir())) == before
