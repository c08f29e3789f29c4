"""Define the parsers of untrusted input, and the documented behaviour of each.

A parser returns, or raises the only error that its docstring names; its message about a wrong input never repeats a
secret.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.ntp.measurement import Sample, measure, to_result
from agent.ntp.packet import SIZE, parse, request
from agent.ntp.timestamps import from_unix_ns
from agent.settings import ConfigurationError, read_defaults
from agent.state import State, StateDirectory, StateError
from agent.traceroute.parse import NotARoute, parse_route
from api.ops.replies import MAX_ROUTE, BadAnswer, route_of
from ingest.messages import Presence, Submission, read_results, read_status
from ingest.validate import impossible
from ops.route_lines import route_lines
from runtime.db.dsn import InvalidDsn, parse_dsn
from runtime.mqtt.token_life import seconds_to_renewal
from runtime.mqtt.types import Incoming
from schema import messages
from schema.names import InvalidName, check_monitor_name
from schema.topics import Topics
from scorer.formula import next_score, step

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_TOPICS: Final = Topics("test")
_NAME: Final = "nlams1-x.test.mon.example"
_SECRET: Final = "S3cretPassw0rd"  # noqa: S105  # must not appear in a message


class Broken(AssertionError):
    """A parser violated its documentation."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser, real inputs for it, and a function that feeds it one input and raises if it violates its
    documentation."""

    name: str
    samples: tuple[bytes, ...]
    feed: Callable[[bytes], None]


def targets(directory: Path) -> tuple[Target, ...]:
    """Return all targets. ``directory`` is for those that read files."""
    return (
        Target("payloads", _payloads(), _feed_payload),
        Target("results", (_batch(),), _feed_results),
        Target("ntp-reply", _replies(), _feed_reply),
        Target("state-file", (_state(),), _state_feeder(directory)),
        Target(
            "defaults-file", (b'# x\nMONITOR_LOG_LEVEL=debug\nMONITOR_IPV6="false"\n',), _defaults_feeder(directory)
        ),
        Target("dsn", _dsns(), _feed_dsn),
        Target("names-and-topics", _topics(), _feed_topic),
        Target("token-claims", _tokens(), _feed_token),
        Target("traceroute", _routes(), _feed_route),
        Target("route-in-an-answer", (_answer_with_route(),), _feed_answer_with_route),
    )


# ---- payloads ------------------------------------------------------------------------------------------------------

_TYPES: Final[tuple[Any, ...]] = (
    *(messages.Batch, messages.Ack, messages.Assignment, messages.MonitorConfig, messages.Status),
    *(messages.AdHocRequest, messages.AdHocAnswer, messages.ControlCommand, messages.ControlAnswer),
    messages.OlderStatus,
)


def _batch() -> bytes:
    made = messages.Result(
        server_id=7, ip="192.0.2.1", ts=NOW, offset=-0.0012, rtt=0.031, stratum=2, leap=0, sent=3, received=3
    )
    return messages.encode(messages.Batch(id="01ARZ3NDEKTSV4RRFFQ69G5FAV", version="1.0", results=[made]))


def _payloads() -> tuple[bytes, ...]:
    state = messages.ProtocolState(status="active", probing=True, assignments=2, assignments_hash="00")
    made: tuple[messages.Message, ...] = (
        messages.BatchCommitted(batch="x", stored=1, rejected=[messages.Rejection(index=0, server_id=1, reason="no")]),
        messages.BatchRefused(batch="x", reason="y"),
        messages.Assignment(server_id=1, ip="192.0.2.1", status="active", interval=540.0),
        messages.MonitorConfig(protocols={"v4": messages.ProtocolConfig(status="active", base_checks=["192.0.2.2"])}),
        messages.Status(online=True, ts=NOW, version="1", protocols={"v4": state}),
        messages.OlderStatus(online=True, version=messages.OlderVersion(number="v4.1.5"), ts=NOW),
        messages.AdHocRequest(id="a1", ip="192.0.2.1"),
        messages.ControlCommand(command="log-level", level="debug"),
        messages.ControlAnswer(ok=True, service="ingest", command="ping", details={"a": [1, {}]}),
    )
    return (_batch(), *map(messages.encode, made))


def _feed_payload(data: bytes) -> None:
    for kind in _TYPES:
        try:
            message = messages.decode(data, kind)
        except messages.Undecodable:
            continue
        if isinstance(message, messages.Message) and messages.decode(messages.encode(message), kind) != message:
            raise Broken("encoding and decoding changed the message")


def _feed_results(data: bytes) -> None:
    message = Incoming(
        "t", data, correlation=data[:26], user_properties=(("traceparent", data[:55].decode("latin-1")),)
    )
    said = read_status(_NAME, message, NOW)
    if isinstance(said, Presence) and not (said.status.version.isascii() and len(said.status.version) <= 100):
        raise Broken("a version that cannot be shown to operators")
    read = read_results(_NAME, "v4", Incoming("t", data), NOW)
    if isinstance(read, Submission):
        for result in read.batch.results:
            if impossible(result, NOW) is None and not -1000 < next_score(0.0, step(result)) <= 20:
                raise Broken("an impossible score")


# ---- routes ---------------------------------------------------------------------------------------------------------


def _routes() -> tuple[bytes, ...]:
    return (
        b"traceroute to 9.9.9.9 (9.9.9.9), 30 hops max\n 1  192.0.2.1  0.048 ms *\n 2  9.9.9.9  1.5 ms !X  2 ms\n",
        b" 1  *\n  2   192.0.2.1  0.007ms  0.001ms !H \n    192.0.2.2  7.1ms\n",
    )


def _feed_route(data: bytes) -> None:
    try:
        route = parse_route(data.decode("ascii", "replace"), "9.9.9.9", complete=len(data) % 2 == 0)
    except NotARoute:
        return
    if route.tried > messages.MAX_HOPS or [hop.ttl for hop in route.hops] != list(range(1, len(route.hops) + 1)):
        raise Broken("hops that are none")


def _answer_with_route() -> bytes:
    made = messages.Result(server_id=0, ip="9.9.9.9", ts=NOW, no_response=True, sent=1)
    hop = messages.Hop(ttl=1, answers=[messages.HopAnswer(ip="192.0.2.1", rtt=0.001, note="!X"), None])
    trace = messages.Trace(method="udp", hops=[hop], tried=30, reached=False, error="stopped after 8 s")
    return messages.encode(messages.AdHocAnswer(id="a", result=made, traces=[trace]))


def _feed_answer_with_route(data: bytes) -> None:
    try:
        _, traces = route_of(data, "a", "9.9.9.9")
    except BadAnswer:
        return
    text = "\n".join(route_lines(traces))
    if len(traces) > 3 or len(text) > MAX_ROUTE:
        raise Broken("a route that is too long")


# ---- the agent's files and packets ---------------------------------------------------------------------------------


def _replies() -> tuple[bytes, ...]:
    good = bytes([0x24, 2, 6, 0xE9]) + bytes(8) + b"GPS\0" + bytes(range(1, 33))
    kiss = bytes([0xE4, 0, 6, 0xE9]) + bytes(8) + b"RATE" + bytes(range(1, 33))
    return good, kiss, request(b"cookie!!"), good + bytes(20)


def _feed_reply(data: bytes) -> None:
    reply = parse(data)
    if (reply is None) != (len(data) < SIZE):
        raise Broken("any datagram of sufficient length is a packet")
    if reply is None:
        return
    measured = measure(from_unix_ns(10**18), reply.received, reply.transmitted, from_unix_ns(10**18 + 30_000_000))
    result = to_result(1, "192.0.2.1", [Sample(sent_at=10**18, reply=reply, measurement=measured)])
    if messages.decode(messages.encode(result), messages.Result) != result:
        raise Broken("a measurement does not survive the wire")


def _state() -> bytes:
    return b'{"name": "%s", "broker": {"host": "127.0.0.1", "port": 1883, "ca_file": null}}' % _NAME.encode()


def _state_feeder(directory: Path) -> Callable[[bytes], None]:
    place = StateDirectory(directory, "test")
    place.prepare()

    def feed(data: bytes) -> None:
        place.state_file.write_bytes(data)
        try:
            state = place.read_state()
        except StateError:
            return
        if not isinstance(state, State):
            raise Broken("no state, and no warning")

    return feed


def _defaults_feeder(directory: Path) -> Callable[[bytes], None]:
    path = directory / "defaults"

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read_defaults(path, must_exist=True)
        except ConfigurationError:
            return

    return feed


# ---- texts ---------------------------------------------------------------------------------------------------------


def _dsns() -> tuple[bytes, ...]:
    secret = _SECRET.encode()
    return (
        b"mysql://user:%s@db.example:3306/pool?charset=utf8mb4" % secret,
        b"user:%s@tcp([2001:db8::1]:3306)/pool?tls=true&parseTime=true" % secret,
        b"user:%s@unix(/run/mysqld/s)/pool" % secret,
        b"sqlite:////var/lib/ledger.db",
    )


def _feed_dsn(data: bytes) -> None:
    try:
        parse_dsn(data.decode("utf-8", "surrogateescape"))
    except InvalidDsn as error:
        if _SECRET in str(error):
            raise Broken("the message repeats the password") from None


def _topics() -> tuple[bytes, ...]:
    topics = (
        _TOPICS.results(_NAME, "v4"),
        _TOPICS.assignment(_NAME, "v6", 12),
        _TOPICS.status(_NAME),
        _TOPICS.service_control("ingest"),
        _NAME,
    )
    return tuple(topic.encode() for topic in topics)


def _feed_topic(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    address = _TOPICS.parse(text)
    if address is not None and address.kind == "results":
        assert address.ipv is not None
        if _TOPICS.results(address.name, address.ipv) != text:
            raise Broken("parsing a topic and building it again changed it")
    try:
        if set(check_monitor_name(text)) & set("+#/\0\n"):
            raise Broken("a name with a character that is not allowed in a topic level")
    except InvalidName:
        return


def _tokens() -> tuple[bytes, ...]:
    # {"alg":"HS384"} and {"iat":1,"exp":21600,"sub":"x"}
    return (b"eyJhbGciOiJIUzM4NCJ9.eyJpYXQiOjEsImV4cCI6MjE2MDAsInN1YiI6IngifQ.c2ln", b"x.y.z", b"")


def _feed_token(data: bytes) -> None:
    if not seconds_to_renewal(data.decode("utf-8", "replace")) >= 1.0:
        raise Broken("a token that is renewed continuously")
