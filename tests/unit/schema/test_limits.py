"""Test the limits on which agents and servers of different versions must agree: a change here changes the contract."""

from datetime import UTC, datetime, timedelta

from schema import limits
from schema.messages import Batch, Result, encode


def test_times_and_sizes_are_those_of_the_contract() -> None:
    assert timedelta(days=3) == limits.SPOOL_AGE
    assert timedelta(seconds=60) == limits.CLOCK_AHEAD
    assert timedelta(days=7) == limits.REJECTED_MEMORY
    assert timedelta(seconds=30) == limits.WILL_DELAY
    assert timedelta(minutes=5) == limits.STATUS_REFRESH
    assert timedelta(hours=24) == limits.STATUS_EXPIRY
    assert timedelta(minutes=15) == limits.MONITOR_GONE
    assert limits.MAX_BATCH_RESULTS == 1_000
    assert limits.MAX_PAYLOAD_BYTES == 524_288
    assert limits.MAX_REJECTED_PAYLOAD == 65_536


def test_a_batch_is_remembered_a_day_longer_than_an_agent_keeps_it() -> None:
    """A batch that was forgotten earlier could be stored twice."""
    assert timedelta(days=4) == limits.BATCH_MEMORY


def test_the_largest_batch_of_an_agent_fits_into_a_payload() -> None:
    result = Result(
        server_id=2**32 - 1,
        ip="2001:db8:1234:5678:9abc:def0:1234:5678",
        ts=datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        offset=-1234567890.1234567,
        rtt=2.9999999999999996,
        stratum=16,
        leap=3,
        error="network: no route to host, or something else as long",
        no_response=False,
        root_delay=65535.99998474121,
        root_dispersion=65535.99998474121,
        reference_id="255.255.255.255",
        sent=10,
        received=10,
    )
    assert len(encode(Batch(id="0" * 26, version="x" * 100, results=[result] * 1_000))) < 524_288
