"""Test packets: requests, and the handling of any possible answer."""

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ntp.measurement import drops_offset, judge
from agent.ntp.packet import Reply, kiss_code, parse, reference_text, request


def packet(
    *,
    leap: int = 0,
    mode: int = 4,
    stratum: int = 2,
    reference: bytes = b"\xc0\x00\x02\x01",
    origin: bytes = b"cookie!!",
    received: int = 1 << 40,
    transmitted: int = 1 << 41,
    root_delay: int = 0x8000,
    root_dispersion: int = 0x4000,
) -> bytes:
    head = struct.pack(
        "!BBBbII4sQ", leap << 6 | 4 << 3 | mode, stratum, 6, -20, root_delay, root_dispersion, reference, 0
    )
    return head + origin + struct.pack("!QQ", received, transmitted)


def reply(**fields: Any) -> Reply:
    parsed = parse(packet(**fields))
    assert parsed is not None
    return parsed


def test_request_contains_only_version_mode_and_cookie() -> None:
    assert request(b"\x01" * 8) == b"\x23" + bytes(39) + b"\x01" * 8


def test_reply_is_parsed_without_losing_a_bit() -> None:
    read = reply(leap=1, received=0xFFFF_FFFF_FFFF_FFFF, transmitted=0x0123_4567_89AB_CDEF)
    assert (read.leap, read.mode, read.stratum, read.origin) == (1, 4, 2, b"cookie!!")
    assert (read.root_delay, read.root_dispersion) == (0.5, 0.25)
    assert (read.received, read.transmitted) == (0xFFFF_FFFF_FFFF_FFFF, 0x0123_4567_89AB_CDEF)


@given(st.binary(max_size=600))
def test_any_bytes_are_parsed_and_judged_or_refused(data: bytes) -> None:
    read = parse(data)
    assert (read is None) == (len(data) < 48)
    if read is not None:
        error = judge(read)
        assert error is None or error.isprintable()
        assert reference_text(read).isprintable()


@given(st.binary(min_size=48, max_size=48), st.binary(max_size=100))
def test_bytes_after_the_header_are_ignored(header: bytes, rest: bytes) -> None:
    assert parse(header + rest) == parse(header)


@pytest.mark.parametrize(
    ("stratum", "reference", "verdict"),
    [
        (1, b"GPS\0", None),
        (10, b"\x7f\0\0\1", None),
        (11, b"\x7f\0\0\1", "bad stratum 11"),
        (16, b"INIT", "bad stratum 16"),
        (255, b"\0\0\0\0", "bad stratum 255"),
        (0, b"RATE", "RATE"),
        (0, b"DENY", "DENY"),
        (0, b"RSTR", "RSTR"),
        (0, b"NTSN", "NTSN"),
        (0, b"\0\0\0\0", "bad stratum 0"),
        (0, b"a\nb\0", "bad stratum 0"),
        (0, b"rate", "bad stratum 0"),
        (0, b"\xff\xfe\xfd\xfc", "bad stratum 0"),
    ],
)
def test_stratum_and_kiss_code_determine_the_verdict(stratum: int, reference: bytes, verdict: str | None) -> None:
    assert judge(reply(stratum=stratum, reference=reference)) == verdict


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"leap": 0}, None),
        ({"leap": 1}, None),
        ({"leap": 2}, None),
        ({"leap": 3}, "not synchronised"),
        ({"root_delay": 6.0}, None),
        ({"root_dispersion": 3.0}, None),
        ({"root_delay": 2.0, "root_dispersion": 2.0}, None),
        ({"root_delay": 2.5, "root_dispersion": 2.0}, "root distance 3.2 s"),
        ({"root_delay": 6.5}, "root distance 3.2 s"),
        ({"root_dispersion": 16.0}, "root distance 16.0 s"),
        ({"root_delay": 65535.0, "root_dispersion": 65535.0}, "root distance 98302.5 s"),
        ({"leap": 3, "root_dispersion": 16.0}, "not synchronised"),
        ({"leap": 3, "stratum": 16}, "bad stratum 16"),
        ({"leap": 3, "stratum": 0, "reference": b"RATE"}, "RATE"),
    ],
)
def test_leap_and_root_distance_determine_the_verdict(fields: dict[str, Any], verdict: str | None) -> None:
    lost = {"root_delay": 0.0, "root_dispersion": 0.0, **fields}
    assert judge(msgspec.structs.replace(reply(), **lost)) == verdict


def test_only_stratum_0_has_kiss_codes() -> None:
    assert kiss_code(reply(stratum=1, reference=b"RATE")) is None


def test_only_a_rate_limit_drops_the_offset() -> None:
    assert drops_offset("RATE")
    assert not any(
        map(drops_offset, ("DENY", "RSTR", "bad stratum 16", "not synchronised", "root distance 3.1 s", None))
    )


@pytest.mark.parametrize(
    ("stratum", "reference", "text"),
    [
        (1, b"GPS\0", "GPS"),
        (1, b"\x01\x02\x03\x04", "01020304"),
        (2, b"\xc0\x00\x02\x01", "192.0.2.1"),
        (0, b"RATE", "RATE"),
    ],
)
def test_reference_id_is_shown_in_readable_form(stratum: int, reference: bytes, text: str) -> None:
    assert reference_text(reply(stratum=stratum, reference=reference)) == text
