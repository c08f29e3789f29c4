"""Compare the simulated servers' packets with ntplib, an independent implementation."""

import struct

import ntplib
import pytest

from testbed.ntp.packets import Header, pack_header, pack_timestamp, parse_request, short_format, timestamp

NS = 1_000_000_000


def client_packet(version: int = 4, mode: int = 3, transmit: int = 0x1122334455667788, poll: int = 6) -> bytes:
    return struct.pack("!BBbb36xQ", version << 3 | mode, 0, poll, 0, transmit)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_request_is_parsed(version: int) -> None:
    request = parse_request(client_packet(version))
    assert request is not None
    assert (request.version, request.poll, request.transmit) == (version, 6, 0x1122334455667788)


def test_bytes_after_the_header_are_ignored() -> None:
    assert parse_request(client_packet() + bytes(20)) is not None


@pytest.mark.parametrize(
    "data", [b"", client_packet()[:-1], client_packet(version=0), client_packet(version=5), client_packet(mode=4)]
)
def test_invalid_requests_are_ignored(data: bytes) -> None:
    assert parse_request(data) is None


@pytest.mark.parametrize(
    ("unix_ns", "expected"),
    [
        (0, 2_208_988_800 << 32),
        (NS // 2, (2_208_988_800 << 32) + (1 << 31)),
        (-2_208_988_800 * NS, 0),
        ((2**32 - 2_208_988_800) * NS, 0),  # 2036-02-07, the next era
        ((2**32 - 2_208_988_800) * NS - 1, 0xFFFF_FFFF_FFFF_FFFB),
    ],
)
def test_unix_time_is_converted_to_ntp_timestamps(unix_ns: int, expected: int) -> None:
    assert timestamp(unix_ns) == expected
    assert pack_timestamp(unix_ns) == expected.to_bytes(8, "big")


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 0), (1.0, 65536), (0.5, 32768), (70000.0, 0xFFFF_FFFF)])
def test_seconds_are_converted_to_the_short_format(seconds: float, expected: int) -> None:
    assert short_format(seconds) == expected


def test_ntplib_parses_our_reply() -> None:
    header = Header(
        leap=1,
        version=4,
        mode=4,
        stratum=3,
        poll=6,
        root_delay=0.25,
        root_dispersion=0.125,
        reference_id=b"\xc0\x00\x02\x01",
        reference=timestamp(1_700_000_000 * NS),
        origin=timestamp(1_700_000_001 * NS),
        receive=timestamp(1_700_000_002 * NS),
    )
    stats = ntplib.NTPStats()
    stats.from_data(pack_header(header) + pack_timestamp(1_700_000_003 * NS))
    assert (stats.leap, stats.version, stats.mode, stats.stratum, stats.poll) == (1, 4, 4, 3, 6)
    assert (stats.root_delay, stats.root_dispersion, stats.ref_id) == (0.25, 0.125, 0xC0000201)
    assert (stats.ref_time, stats.recv_time, stats.tx_time) == (1_700_000_000, 1_700_000_002, 1_700_000_003)
    assert ntplib.ntp_to_system_time(stats.orig_timestamp) == 1_700_000_001
