"""Test payloads: a round trip, old and new versions together, and hostile bytes."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema import messages
from schema.asyncapi import examples
from schema.messages import (
    Ack,
    AdHocRequest,
    Assignment,
    Batch,
    BatchCommitted,
    BatchRefused,
    ControlAnswer,
    ControlCommand,
    Message,
    MonitorConfig,
    ProtocolConfig,
    ProtocolState,
    Rejection,
    Result,
    RevokeTokens,
    SpoolState,
    Status,
    Undecodable,
    assignment_set_hash,
    decode,
    decode_status,
    encode,
)

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
TS = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ALL_MESSAGES = [value for value in vars(messages).values() if isinstance(value, type) and issubclass(value, Message)]

# ---- round trips ---------------------------------------------------------------------------------------------------

text = st.text(st.characters(codec="utf-8"), max_size=30)
times = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC))
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
ids = st.integers(0, 2**63)
statuses = st.sampled_from(get_args(messages.MonitorStatus))
protocols = st.sampled_from(["v4", "v6"])

results = st.builds(
    Result,
    server_id=ids,
    ip=text,
    ts=times,
    offset=numbers,
    rtt=numbers,
    stratum=st.none() | ids,
    leap=st.none() | st.integers(0, 3),
    error=st.none() | text,
    no_response=st.booleans(),
    root_delay=numbers,
    root_dispersion=numbers,
    reference_id=st.none() | text,
    sent=ids,
    received=ids,
)
assignments = st.builds(
    Assignment,
    server_id=st.integers(1, 50),
    ip=st.sampled_from(["192.0.2.1", "2001:db8::1"]),
    status=st.sampled_from(["candidate", "testing", "active"]),
    interval=st.sampled_from([2.0, 540.0, 2700.0]),
    port=st.integers(1, 65535),
)
configs = st.builds(
    ProtocolConfig,
    status=statuses,
    ip=st.none() | text,
    nat_ip=st.none() | text,
    samples=st.integers(1, 10),
    base_checks=st.lists(text, max_size=3),
)
states = st.builds(ProtocolState, status=statuses, probing=st.booleans(), assignments=ids, assignments_hash=text)
payloads: dict[Any, st.SearchStrategy[Any]] = {
    Batch: st.builds(Batch, id=st.just(ULID), version=text, results=st.lists(results, max_size=3)),
    Ack: st.builds(BatchRefused, batch=text, reason=text)
    | st.builds(
        BatchCommitted,
        batch=text,
        stored=ids,
        rejected=st.lists(st.builds(Rejection, index=ids, server_id=ids, reason=text), max_size=3),
    ),
    Assignment: assignments,
    MonitorConfig: st.builds(MonitorConfig, protocols=st.dictionaries(protocols, configs)),
    Status: st.builds(
        Status,
        online=st.booleans(),
        ts=st.none() | times,
        version=text,
        protocols=st.dictionaries(protocols, states),
        spool=st.builds(SpoolState, batches=ids, bytes=ids, dropped_results=ids, set_aside=ids),
    ),
    ControlCommand: st.builds(ControlCommand, command=text, server_id=st.none() | ids, level=st.none()),
    RevokeTokens: st.builds(RevokeTokens, name=text, issued_until=ids),
}


@given(st.sampled_from(list(payloads)).flatmap(lambda of: st.tuples(st.just(of), payloads[of])))
def test_decoding_restores_the_encoded_message(sent: tuple[Any, Message]) -> None:
    message_type, message = sent
    assert decode(encode(message), message_type) == message


def test_times_are_rfc_3339_in_utc_with_microseconds() -> None:
    result = Result(server_id=1, ip="192.0.2.1", ts=TS)
    assert json.loads(encode(result))["ts"] == "2026-01-02T03:04:05.678901Z"
    elsewhere = encode(result).replace(b"03:04:05.678901Z", b"05:04:05.678901+02:00")
    assert decode(elsewhere, Result).ts == TS


def test_ack_contains_its_outcome() -> None:
    assert json.loads(encode(BatchCommitted(batch=ULID, stored=3)))["outcome"] == "committed"
    assert json.loads(encode(BatchRefused(batch=ULID, reason="why")))["outcome"] == "refused"
    assert isinstance(decode(b'{"outcome":"refused","batch":"a","reason":"b"}', Ack), BatchRefused)


def test_messages_are_immutable() -> None:
    with pytest.raises(AttributeError):
        ControlCommand(command="ping").command = "stop"  # type: ignore[misc]


# ---- old and new versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message_type", ALL_MESSAGES, ids=lambda t: t.__name__)
def test_message_types_allow_unknown_fields_and_are_frozen(message_type: Any) -> None:
    config = message_type.__struct_config__
    assert not config.forbid_unknown_fields
    assert config.frozen


def test_unknown_fields_are_ignored_at_every_depth() -> None:
    payload = {"id": ULID, "version": "9", "new": {"a": [1]}, "results": [result_fields() | {"newer": None}]}
    assert decode(json.dumps(payload).encode(), Batch).results[0].server_id == 1


def test_missing_optional_fields_have_defaults() -> None:
    assert decode(b'{"online":false}', Status) == Status(online=False)
    assert decode(json.dumps(result_fields()).encode(), Result).offset is None


def result_fields() -> dict[str, Any]:
    return {"server_id": 1, "ip": "192.0.2.1", "ts": "2026-01-02T03:04:05Z"}


# ---- wrong and hostile payloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("server_id", "1"),
        ("server_id", 1.5),
        ("server_id", None),
        ("ip", 7),
        ("ts", "2026-01-02T03:04:05"),  # without a time zone
        ("ts", "yesterday"),
        ("ts", 1767323045),
        ("offset", "0.1"),
        ("offset", True),
        ("no_response", 0),
        ("stratum", "2"),
    ],
)
def test_wrong_types_are_refused_with_their_path(field: str, value: Any) -> None:
    batch = {"id": ULID, "version": "1", "results": [result_fields() | {field: value}]}
    with pytest.raises(Undecodable, match=rf"at `\$\.results\[0\]\.{field}`"):
        decode(json.dumps(batch).encode(), Batch)


EXTREMES = (
    "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00Z",
    "0001-12-31T23:59:59.999999-23:59",
    "9999-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999-23:59",
)


def time_fields(message_type: Any) -> list[str]:
    """Return the encoded names of a message's fields that contain a time, optional or not."""
    found = msgspec.inspect.type_info(message_type)
    assert isinstance(found, msgspec.inspect.StructType)
    return [field.encode_name for field in found.fields if "DateTimeType" in repr(field.type)]


def with_times() -> dict[type[Message], Message]:
    """Return an example of each message that has a time itself, not only in a nested message."""
    said = {type(value): value for value in vars(examples).values() if isinstance(value, Message)}
    return {kind: said[kind] for kind in ALL_MESSAGES if kind is not Message and "ts" in kind.__struct_fields__}


def test_every_message_with_a_time_is_covered() -> None:
    holding = {kind for kind in ALL_MESSAGES if time_fields(kind)}
    assert {Result, Status, messages.OlderStatus, messages.ResultStored, messages.ScoreComputed} <= holding
    # The others have a time in a nested message only.
    assert holding - set(with_times()) <= {Batch, messages.AdHocAnswer}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("message_type", with_times(), ids=lambda t: t.__name__)
def test_times_at_either_end_of_the_calendar_are_refused(message_type: type[Message], extreme: str) -> None:
    """Conversion to UTC would overflow, and so would arithmetic."""
    good = json.loads(encode(with_times()[message_type]))
    [name] = [name for name in good if name in ("ts", "UpdatedMQ")]
    with pytest.raises(Undecodable, match="year") as refusal:
        decode(json.dumps(good | {name: extreme}).encode(), message_type)
    assert extreme not in str(refusal.value)


@pytest.mark.parametrize("edge", ["0002-01-01T00:00:00+23:59", "9998-12-31T23:59:59.999999-23:59"])
@pytest.mark.parametrize("message_type", with_times(), ids=lambda t: t.__name__)
def test_arithmetic_with_any_other_time_does_not_overflow(message_type: type[Message], edge: str) -> None:
    good = json.loads(encode(with_times()[message_type]))
    [name] = [name for name in good if name in ("ts", "UpdatedMQ")]
    decoded: Any = decode(json.dumps(good | {name: edge}).encode(), message_type)
    assert decoded.ts.astimezone(UTC).utcoffset() == timedelta(0)
    assert decoded.ts + timedelta(days=1) > decoded.ts - timedelta(days=1)


# ---- status of current and former agents ---------------------------------------------------------------------------


def older(online: bool, updated: str = "2026-01-02T04:04:05+01:00", version: str = "v4.1.5") -> bytes:
    """Return the status message of a former agent."""
    said = {"Version": version, "GitRev": "c06769b6", "BuildTime": "2026-04-29T10:13:20Z"}
    return json.dumps({"Online": online, "Version": said, "UpdatedMQ": updated}).encode()


def test_status_of_a_former_agent_is_decoded() -> None:
    written = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert decode_status(older(True)) == Status(online=True, ts=written, version="v4.1.5")
    assert decode_status(b'{"Online":true}') == Status(online=True)


def test_last_will_of_a_former_agent_has_no_time() -> None:
    """The time in the payload is that of the agent's start."""
    assert decode_status(older(False)) == Status(online=False, version="v4.1.5")


def test_current_status_is_decoded_unchanged() -> None:
    assert decode_status(encode(examples.STATUS)) == examples.STATUS


@pytest.mark.parametrize(
    "payload", [older(True, updated="0001-01-01T00:00:00+23:59"), b"{}", b"null", b'{"Online":"yes"}', b"{"]
)
def test_status_of_neither_kind_is_refused(payload: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_status(payload)


@pytest.mark.parametrize(
    ("version", "kept"),
    [
        ("4.1.5/c06769b (2026)", "4.1.5/c06769b (2026)"),
        ("1.0-\N{BUG}", "1.0-?"),
        ("1\x1b[31m\n\x00\x7f\x85é", "1?[31m?????"),
        ("x" * 5_000, "x" * 100),
        ("", ""),
    ],
)
def test_version_is_reduced_to_short_printable_ascii(version: str, kept: str) -> None:
    assert messages.plain_version(version) == kept
    assert decode_status(encode(Status(online=True, version=version))).version == kept
    assert decode_status(older(True, version=version)).version == kept


@pytest.mark.parametrize(
    ("payload", "message_type"),
    [
        (b'{"interval":0,"server_id":1,"ip":"192.0.2.1","status":"active"}', Assignment),
        (b'{"interval":9,"server_id":1,"ip":"192.0.2.1","status":"paused"}', Assignment),
        (b'{"interval":9,"server_id":1,"ip":"192.0.2.1","status":"active","port":65536}', Assignment),
        (b'{"protocols":{"v5":{"status":"active"}}}', MonitorConfig),
        (b'{"protocols":{"v4":{"status":"active","samples":0}}}', MonitorConfig),
        (b'{"log_level":"loud"}', MonitorConfig),
        (b'{"id":"../../etc"}', AdHocRequest),
        (b'{"id":"a\\n"}', AdHocRequest),
        (b'{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV\\n","version":"","results":[]}', Batch),
        (b'{"id":"01arz3ndektsv4rrffq69g5fav","version":"","results":[]}', Batch),
        (b'{"outcome":"lost","batch":"a"}', Ack),
        (b'{"command":"log-level","level":"LOUD"}', ControlCommand),
        (b"", Status),
        (b"null", Status),
        (b"[]", Status),
        (b"{", Status),
        (b"\xef\xbb\xbf{}", Status),
        (b'{"online":NaN}', Status),
        (b'{"online":true,"version":"\xff"}', Status),
        (b'{"online":true,"version":"\\ud800"}', Status),
        (b"[" * 100_000, Status),
        (b'{"a":' * 100_000, Status),
        (b'{"ok":true,"service":"a","command":"b","details":{"a":' + b"9" * 10_000 + b"}}", ControlAnswer),
    ],
)
def test_invalid_payloads_are_refused_with_a_short_message(payload: bytes, message_type: Any) -> None:
    with pytest.raises(Undecodable) as refusal:
        decode(payload, message_type)
    assert 0 < len(str(refusal.value)) < 200


def test_deeply_nested_unknown_field_is_refused_or_ignored() -> None:
    """Refused where the interpreter limits the depth; ignored from Python 3.14 on, where it limits the stack."""
    payload = b'{"online":true,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with suppress(Undecodable):
        assert decode(payload, Status) == Status(online=True)


@pytest.mark.parametrize(
    ("payload", "message_type"),
    [
        (b'{"outcome":"%s","batch":"a"}', Ack),
        (b'{"protocols":{"%s":{"status":"active"}}}', MonitorConfig),
        (b'{"command":"log-level","level":"%s"}', ControlCommand),
        (b'{"id":"/%s"}', AdHocRequest),
    ],
)
def test_error_never_quotes_the_payload(payload: bytes, message_type: Any) -> None:
    for value in (b"secret", b"se'cret", b"\\nERROR: secret", b"secret" * 1_000, b"`secret`"):
        with pytest.raises(Undecodable) as refusal:
            decode(payload % value, message_type)
        assert "cret" not in str(refusal.value)
        assert refusal.value.__cause__ is None, "a traceback would show it"


@given(st.binary() | st.text().map(str.encode), st.sampled_from([*ALL_MESSAGES, Ack]))
def test_random_bytes_are_a_message_or_undecodable(payload: bytes, message_type: Any) -> None:
    with suppress(Undecodable):
        decode(payload, message_type)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(ULID),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data(), st.sampled_from([t for t in ALL_MESSAGES if t.__struct_fields__]))
def test_any_json_in_any_field_is_a_message_or_undecodable(data: st.DataObject, message_type: Any) -> None:
    fields = data.draw(st.dictionaries(st.sampled_from(message_type.__struct_encode_fields__), json_values))
    payload = json.dumps(fields).encode()  # NaN and Infinity in it are not valid JSON: hostile like the rest
    try:
        message = decode(payload, message_type)
    except Undecodable:
        return
    assert decode(encode(message), message_type) == message


# ---- the hash of a set of assignments ------------------------------------------------------------------------------


@given(st.lists(assignments, max_size=8), st.randoms())
def test_the_hash_does_not_depend_on_order(held: list[Assignment], random: Any) -> None:
    shuffled = list(held)
    random.shuffle(shuffled)
    assert assignment_set_hash(shuffled) == assignment_set_hash(held)


@given(st.lists(assignments, max_size=6), st.lists(assignments, max_size=6))
def test_different_sets_have_different_hashes(one: list[Assignment], other: list[Assignment]) -> None:
    same = sorted(map(encode, one)) == sorted(map(encode, other))
    assert (assignment_set_hash(one) == assignment_set_hash(other)) is same


@pytest.mark.parametrize(
    "change", [{"server_id": 2}, {"ip": "192.0.2.2"}, {"port": 124}, {"status": "testing"}, {"interval": 540.5}]
)
def test_every_field_of_an_assignment_changes_the_hash(change: dict[str, Any]) -> None:
    assignment = Assignment(server_id=1, ip="192.0.2.1", status="active", interval=540.0)
    assert assignment_set_hash([assignment]) != assignment_set_hash([msgspec.structs.replace(assignment, **change)])


def test_the_hash_is_the_same_in_every_version() -> None:
    """Agents and servers of different versions compare it."""
    two = [
        Assignment(server_id=1, ip="192.0.2.1", status="active", interval=540),
        Assignment(server_id=2, ip="2001:db8::1", status="candidate", interval=7200, port=1123),
    ]
    assert assignment_set_hash([]) == "0" * 32
    assert assignment_set_hash(two) == "6bff42c8768569da870c201e2f0e2a51"


def test_repeated_assignments_do_not_cancel_each_other() -> None:
    assignment = Assignment(server_id=1, ip="192.0.2.1", status="active", interval=540.0)
    assert assignment_set_hash([assignment, assignment]) != assignment_set_hash([])


def test_time_zones_other_than_utc_are_accepted() -> None:
    ts = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-5)))
    assert decode(encode(Result(server_id=1, ip="192.0.2.1", ts=ts)), Result).ts == ts
