"""Provide one example of every message, as seen on the wire, for the description, the documents and their tests."""

from datetime import UTC, datetime
from typing import Final

from schema.messages import (
    AdHocAnswer,
    AdHocRequest,
    Assignment,
    AssignmentChanged,
    Batch,
    BatchCommitted,
    BatchRefused,
    ControlAnswer,
    ControlCommand,
    Hop,
    HopAnswer,
    MessageRejected,
    MonitorConfig,
    OlderStatus,
    OlderVersion,
    ProtocolConfig,
    ProtocolState,
    Rejection,
    Result,
    ResultStored,
    RevokeTokens,
    ScoreComputed,
    SpoolState,
    Status,
    Trace,
)

NAME: Final = "nlams1-4xhq2c9.test.mon.example"
_BATCH: Final = "01JGN6M9Q2W3E4R5T6Y7V8H9J0"
_TS: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_WRONG_TYPE: Final = "Expected `float | null`, got `str` - at `$.results[0].offset`"

RESULT: Final = Result(
    server_id=42,
    ip="192.0.2.10",
    ts=_TS,
    offset=0.000267,
    rtt=0.012345,
    stratum=2,
    leap=0,
    root_delay=0.000641,
    root_dispersion=0.000412,
    reference_id="192.0.2.1",
    sent=3,
    received=3,
)
SILENCE: Final = Result(server_id=43, ip="192.0.2.11", ts=_TS, error="network: timed out", no_response=True, sent=3)
BATCH: Final = Batch(id=_BATCH, version="0.1.0", results=[RESULT, SILENCE])
COMMITTED: Final = BatchCommitted(
    batch=_BATCH, stored=1, rejected=[Rejection(index=1, server_id=43, reason="monitor does not belong to the server")]
)
REFUSED: Final = BatchRefused(batch=_BATCH, reason=_WRONG_TYPE)
ASSIGNMENT: Final = Assignment(server_id=42, ip="192.0.2.10", status="active", interval=540.0)
CONFIG: Final = MonitorConfig(
    protocols={
        "v4": ProtocolConfig(
            status="active", ip="198.51.100.7", base_checks=["192.0.2.53", "192.0.2.123", "203.0.113.5"]
        )
    },
    log_level="info",
)
STATUS: Final = Status(
    online=True,
    ts=_TS,
    version="0.1.0",
    protocols={
        "v4": ProtocolState(
            status="active", probing=True, assignments=1, assignments_hash="d5e3a6a43a2e22d7a0e8c3f53b1c1f0e"
        ),
        "v6": ProtocolState(
            status="paused", probing=False, assignments=0, assignments_hash="0" * 32, why_not="status is paused"
        ),
    },
    spool=SpoolState(batches=1, bytes=812),
    traceroute=True,
)
OLDER_STATUS: Final = OlderStatus(
    online=True, version=OlderVersion(number="v4.1.5"), ts=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
)
REQUEST: Final = AdHocRequest(id="a1", ip="192.0.2.10")
ANSWER: Final = AdHocAnswer(id="a1", result=RESULT)
ROUTE: Final = AdHocAnswer(
    id="a2",
    result=SILENCE,
    traces=[
        Trace(
            method="udp",
            hops=[
                Hop(
                    ttl=1,
                    answers=[HopAnswer(ip="198.51.100.1", rtt=0.000412), HopAnswer(ip="198.51.100.1", rtt=0.0004)],
                ),
                Hop(ttl=2, answers=[None, HopAnswer(ip="203.0.113.9", rtt=0.0041, note="!X")]),
            ],
            tried=2,
            reached=False,
        )
    ],
)
PAUSE: Final = ControlCommand(command="pause")
PAUSED: Final = ControlAnswer(ok=True, service=NAME, command="pause", details={"paused": True})
RESCORE: Final = ControlCommand(command="rescore", server_id=42)
RESCORED: Final = ControlAnswer(ok=True, service="scorer", command="rescore", details={"servers": 1})
REVOKE: Final = RevokeTokens(name=NAME, issued_until=1767323045)
RESULT_STORED: Final = ResultStored(
    server_id=42, monitor=NAME, ts=_TS, step=1.0, score=19.5, offset=0.000267, rtt=0.012345
)
SCORE_COMPUTED: Final = ScoreComputed(server_id=42, scorer="recentmedian", ts=_TS.replace(microsecond=0), score=19.5)
ASSIGNMENT_CHANGED: Final = AssignmentChanged(
    server_id=42, monitor=NAME, before="testing", after="active", reason="rule 3: a place is free"
)
MESSAGE_REJECTED: Final = MessageRejected(topic=f"/test/monitors/results/{NAME}/v4", reason=_WRONG_TYPE)
