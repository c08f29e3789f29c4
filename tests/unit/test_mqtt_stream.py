"""Packets over a stream: whole however it is cut, sent together, and at the worst there is an end."""

import asyncio
from collections.abc import Callable, Sequence

import mqtt5
import pytest
from fixtures.wire import Wire
from hypothesis import given
from hypothesis import strategies as st

from runtime.mqtt_stream import Malformed, PacketStream


class End:
    """A stream on a wire, what came out of it and how it ended."""

    def __init__(self, take: Callable[["End", mqtt5.Packet], None] = lambda end, packet: None) -> None:
        self.packets: list[mqtt5.Packet] = []
        self.ends: list[Exception | None] = []
        self.wire = Wire()

        def taken(packet: mqtt5.Packet) -> None:
            self.packets.append(packet)
            take(self, packet)

        self.stream = PacketStream(taken, self.ends.append)
        self.stream.connection_made(self.wire)

    def receive(self, data: bytes, pieces: Sequence[int] = ()) -> None:
        """As asyncio does it: into the buffer that there is, as long as the transport is open."""
        cuts = iter(pieces)
        while data and not self.wire.closing:
            room = self.stream.get_buffer(-1)
            size = min(next(cuts, len(data)), len(room), len(data))
            room[:size] = data[:size]
            self.stream.buffer_updated(size)
            data = data[size:]
        if self.wire.closing:
            self.stream.connection_lost(None)


def message(payload: bytes) -> bytes:
    return mqtt5.PublishPacket("a/b", payload).write()


def payloads(packets: Sequence[mqtt5.Packet]) -> list[bytes]:
    return [packet.payload for packet in packets if isinstance(packet, mqtt5.PublishPacket)]


@given(
    sizes=st.lists(st.one_of(st.integers(0, 300), st.integers(0, 300_000)), max_size=6),
    pieces=st.lists(st.integers(1, 100_000), max_size=50),
)
def test_however_the_stream_is_cut_packets_arrive_whole_and_in_order(sizes: list[int], pieces: list[int]) -> None:
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]

    async def run() -> End:
        end = End()
        end.receive(b"".join(map(message, sent)), pieces)
        return end

    end = asyncio.run(run())
    assert payloads(end.packets) == sent
    assert not end.wire.closing


@given(data=st.binary(max_size=200), begin=st.sampled_from([b"", b"\x20\x03\x00\x00\x00", message(b"x")]))
def test_whatever_comes_the_worst_is_an_end(data: bytes, begin: bytes) -> None:
    async def run() -> End:
        end = End()
        end.receive(begin + data)
        return end

    end = asyncio.run(run())
    assert len(end.ends) == end.wire.closing
    assert all(isinstance(error, Malformed) for error in end.ends)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # told besides the panic
async def test_text_that_is_none_is_an_end_too() -> None:
    end = End()
    end.receive(b"\x30\x08\x00\x02\xff\xfe\x00abc")
    assert [type(error) for error in end.ends] == [Malformed]


async def test_what_is_taken_may_end_the_connection_and_nothing_follows() -> None:
    end = End(lambda end, packet: end.stream.abort())
    end.receive(message(b"1") + message(b"2"))
    assert payloads(end.packets) == [b"1"]
    assert end.ends == [None]


async def test_all_packets_of_a_moment_are_sent_together() -> None:
    end = End()
    for packet in (b"one", b"two", b"three"):
        end.stream.send(packet)
    assert end.wire.written == []
    await asyncio.sleep(0)
    end.stream.send(b"four")
    await asyncio.sleep(0)
    assert end.wire.written == [b"onetwothree", b"four"]


async def test_closing_sends_what_there_is_and_afterwards_nothing_is_sent() -> None:
    end = End()
    end.stream.send(b"last")
    end.stream.close()
    end.stream.send(b"late")
    await asyncio.sleep(0)
    assert end.wire.written == [b"last"]
    assert end.wire.closing


async def test_memory_for_a_large_packet_is_given_back() -> None:
    end = End()
    before = len(end.stream.get_buffer(-1))
    end.receive(message(bytes(1_000_000)))
    assert len(end.stream.get_buffer(-1)) == before
