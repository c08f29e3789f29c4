"""Make a simulated monitor's messages: pure functions from targets and random numbers to results and batches.

Every result has a different random offset and round-trip time, so that the ledger's rows can be distinguished.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from agent.delivery.ulid import new_ulid
from ingest import validate
from schema.limits import CLOCK_AHEAD, SPOOL_AGE
from schema.messages import Batch, Result, encode
from testbed.load.spec import Shares, Target

VERSION: Final = "bench/1"

Kind = Literal["plain", "bad", "late", "duplicate", "malformed"]

_LATEST: Final = SPOOL_AGE - timedelta(hours=1)
"""Maximum age of a late result; an older one could be too old on arrival."""

_NO_SERVER: Final = 4_000_000_000
"""An id that no server has."""


@dataclass(frozen=True, slots=True)
class Made:
    """A batch, and its expected outcome."""

    id: str
    kind: Kind
    payload: bytes
    results: Sequence[Result] = ()
    """Empty for a malformed batch."""
    expected: Mapping[int, str] = field(default_factory=dict)
    """For each result that must be rejected, the reason."""


def pick_kind(shares: Shares, draw: float) -> Kind:
    """Return the kind of a batch for this number of [0, 1)."""
    for kind, share in (
        ("bad", shares.bad),
        ("late", shares.late),
        ("duplicate", shares.duplicate),
        ("malformed", shares.malformed),
    ):
        if draw < share:
            return kind  # type: ignore[return-value]  # the loop's literals are joined to str
        draw -= share
    return "plain"


def make_batch(
    targets: Sequence[Target], kind: Kind, now: datetime, rng: random.Random, times: Sequence[datetime] | None = None
) -> Made:
    """Make a batch of one result per target, measured at ``times``, or within the last second before ``now``."""
    batch_id = new_ulid(int(now.timestamp() * 1e9))
    age = rng.uniform(60.0, _LATEST.total_seconds()) if kind == "late" else 0.0
    measured = times or [now - timedelta(seconds=rng.random()) for _ in targets]
    results = [measure(target, ts - timedelta(seconds=age), rng) for target, ts in zip(targets, measured, strict=True)]
    expected: dict[int, str] = {}
    if kind == "bad":
        for index in rng.sample(range(len(results)), min(len(results), rng.randint(1, 3))):
            spoil, reason = rng.choice(_SPOILED)
            results[index] = msgspec.structs.replace(results[index], **spoil(now))
            expected[index] = reason
    payload = encode(Batch(id=batch_id, version=VERSION, results=results))
    if kind == "malformed":
        return Made(batch_id, kind, rng.choice(_TORN)(payload))
    return Made(batch_id, kind, payload, results, expected)


def measure(target: Target, ts: datetime, rng: random.Random) -> Result:
    """Make one result of ``target``. Most servers are good; a server's behaviour depends on its id alone."""
    character = target.server_id % 20
    if character == 0 and rng.random() < 0.5:
        return Result(server_id=target.server_id, ip=target.ip, ts=ts, no_response=True, sent=1)
    offset, stratum, error = rng.gauss(0.0, 0.002), 2, None
    if character == 1:
        offset += 0.4
    elif character == 2:
        stratum, error = 16, "bad stratum 16"
    return Result(
        server_id=target.server_id,
        ip=target.ip,
        ts=ts,
        offset=offset,
        rtt=rng.uniform(0.001, 0.3),
        stratum=stratum,
        leap=0,
        error=error,
        root_delay=0.01,
        root_dispersion=0.001,
        reference_id="GPS",
        sent=1,
        received=1,
    )


Spoil = Callable[[datetime], dict[str, Any]]

_SPOILED: Final[tuple[tuple[Spoil, str], ...]] = (
    (lambda now: {"server_id": _NO_SERVER}, validate.UNKNOWN_SERVER),
    (lambda now: {"server_id": -1}, validate.UNKNOWN_SERVER),
    (lambda now: {"ip": "192.0.2.77"}, validate.OTHER_ADDRESS),
    # Even if the batch arrives as late as possible.
    (lambda now: {"ts": now + SPOOL_AGE + 2 * CLOCK_AHEAD}, validate.IN_THE_FUTURE),
    (lambda now: {"ts": now - SPOOL_AGE - timedelta(hours=1)}, validate.TOO_OLD),
    (lambda now: {"ts": datetime(1900, 1, 1, tzinfo=UTC)}, validate.TOO_OLD),
    (lambda now: {"offset": 1e300}, validate.IMPOSSIBLE_OFFSET),
    (lambda now: {"rtt": -1e11}, validate.IMPOSSIBLE_RTT),
    (lambda now: {"stratum": 256}, validate.IMPOSSIBLE_STRATUM),
    (lambda now: {"leap": 4}, validate.IMPOSSIBLE_LEAP),
    (lambda now: {"sent": 1, "received": 2}, validate.IMPOSSIBLE_SAMPLES),
)
"""Functions that make a result implausible, with the expected reason for rejection."""

_TORN: Final[tuple[Callable[[bytes], bytes], ...]] = (
    lambda payload: payload[: len(payload) // 2],
    lambda payload: payload.replace(b'"ts":"', b'"ts":"yesterday '),
    lambda payload: payload.replace(b'"server_id":', b'"server_id":"x","former":'),
    lambda payload: b"\xff" + payload,
    lambda payload: b"[" * 5_000,
    lambda payload: b"null",
    lambda payload: b"",
)
"""Functions that make a payload undecodable."""
