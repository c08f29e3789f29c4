"""Feeds every parser that meets strangers with inputs that are almost right, and holds it to its word.

A parser's word: it returns, or raises the one error that its docstring names; and what it says of a wrong input never
repeats a secret. Inputs are real ones with a few mistakes in them, seeded, so that a finding can be had again. The
parsers in C have coverage-guided fuzzers of their own beside their sources; ``scripts/fuzz`` runs both.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.measure import measure
from agent.packet import SIZE, parse, request
from agent.sample import Sample, to_result
from agent.settings import ConfigurationError, read_defaults
from agent.state import State, StateDirectory, StateError
from agent.timestamps import from_unix_ns
from bench.figure import Figure, report
from ingest.check import impossible
from ingest.decode import Submission, read_results, read_status
from runtime.broker_types import Incoming
from runtime.dsn import InvalidDsn, parse_dsn
from runtime.token_life import seconds_to_renewal
from schema import messages
from schema.names import InvalidName, check_monitor_name
from schema.topics import Topics
from scorer.steps import next_score, step

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_TOPICS: Final = Topics("test")
_NAME: Final = "nlams1-x.test.mon.example"
_SECRET: Final = "S3cretPassw0rd"  # noqa: S105  # what must not come back in a message

_FRAGMENTS: Final = (
    *(
        b"null",
        b"true",
        b"NaN",
        b"-",
        b"1e999",
        b"-0.0",
        b"18446744073709551616",
        b"0.1e-400",
        b"\x00",
        b"\xff",
        b"\r\n",
    ),
    *(
        b'"',
        b"\\u0000",
        b"\\ud800",
        b"{",
        b"}",
        b"[",
        b"]",
        b"[" * 1500,
        b",",
        b":",
        b"/",
        b"+",
        b"#",
        b"$share/",
        b"%",
    ),
    *(b"@", b"(", b")", b"tcp(", b"unix(", b"?", b"&", b"=", b"://", b"'", b"1970-01-01T00:00:00Z", b"9999-12-31"),
)


class Broken(AssertionError):
    """A parser did not keep its word."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser, real inputs of it, and what feeds it one input (raising anything means: it broke its word)."""

    name: str
    samples: tuple[bytes, ...]
    feed: Callable[[bytes], None]


def targets(directory: Path) -> tuple[Target, ...]:
    """All of them. ``directory`` is for those that read files."""
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
    )


def mutated(rng: random.Random, samples: Sequence[bytes]) -> bytes:
    """One of ``samples`` with up to six mistakes in it."""
    data = bytearray(rng.choice(samples))
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(_FRAGMENTS)
            case 3:
                del data[at : at + rng.randint(1, 8)]
            case 4:
                data[at:at] = data[max(0, at - rng.randint(1, 40)) : at]
            case 5:
                del data[at:]
            case _:
                other = rng.choice(samples)
                data[at:] = other[rng.randint(0, len(other)) :]
    return bytes(data)


def fuzz(target: Target, inputs: int, seed: int) -> Figure:
    """Feeds ``target`` with so many inputs.

    Raises:
        Broken: it broke its word; the cause says how, the message has the input.
    """
    rng = random.Random(f"{seed} {target.name}")
    began = time.monotonic()
    for number in range(inputs):
        data = mutated(rng, target.samples)
        try:
            target.feed(data)
        except Exception as error:
            raise Broken(f"{target.name}, input {number} of seed {seed}: {data!r}: {error!r}") from error
    seconds = time.monotonic() - began
    return Figure(f"fuzz {target.name}", inputs, "inputs", conditions={"seed": seed, "seconds": round(seconds, 1)})


# ---- payloads ------------------------------------------------------------------------------------------------------

_TYPES: Final[tuple[Any, ...]] = (
    *(messages.Batch, messages.Ack, messages.Assignment, messages.MonitorConfig, messages.Status),
    *(messages.AdHocRequest, messages.AdHocAnswer, messages.ControlCommand, messages.ControlAnswer),
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
    read_status(_NAME, message, NOW)
    read = read_results(_NAME, "v4", Incoming("t", data), NOW)
    if isinstance(read, Submission):
        for result in read.batch.results:
            if impossible(result, NOW) is None and not -1000 < next_score(0.0, step(result)) <= 20:
                raise Broken("a score that cannot be")


# ---- the agent's files and packets ---------------------------------------------------------------------------------


def _replies() -> tuple[bytes, ...]:
    good = bytes([0x24, 2, 6, 0xE9]) + bytes(8) + b"GPS\0" + bytes(range(1, 33))
    kiss = bytes([0xE4, 0, 6, 0xE9]) + bytes(8) + b"RATE" + bytes(range(1, 33))
    return good, kiss, request(b"cookie!!"), good + bytes(20)


def _feed_reply(data: bytes) -> None:
    reply = parse(data)
    if (reply is None) != (len(data) < SIZE):
        raise Broken("a packet is one when it is long enough")
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
            raise Broken("no state, and no complaint")

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
            raise Broken("taking a topic apart and building it again changed it")
    try:
        if set(check_monitor_name(text)) & set("+#/\0\n"):
            raise Broken("a name with a character that no topic level may have")
    except InvalidName:
        return


def _tokens() -> tuple[bytes, ...]:
    # {"alg":"HS384"} and {"iat":1,"exp":21600,"sub":"x"}
    return (b"eyJhbGciOiJIUzM4NCJ9.eyJpYXQiOjEsImV4cCI6MjE2MDAsInN1YiI6IngifQ.c2ln", b"x.y.z", b"")


def _feed_token(data: bytes) -> None:
    if not seconds_to_renewal(data.decode("utf-8", "replace")) >= 1.0:
        raise Broken("a token that is renewed without a pause")


# --------------------------------------------------------------------------------------------------------------------


def fuzz_all(argv: Sequence[str] | None = None) -> int:
    """Fuzzes; returns 1 when a parser broke its word."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Feeds every parser with almost right inputs.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs for each parser (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="what the inputs are made from (default: %(default)s)")
    parser.add_argument("--only", help="the name of one parser")
    given = parser.parse_args(argv)
    # In memory where there is such a place: some parsers read files, a million times.
    memory = Path("/dev/shm")  # noqa: S108  # the directory below is our own
    with tempfile.TemporaryDirectory(prefix="ntpfuzz-", dir=memory if memory.is_dir() else None) as directory:
        chosen = [t for t in targets(Path(directory)) if given.only in (None, t.name)]
        if not chosen:
            parser.error(f"--only {given.only}: no parser is called so")
        return max(report(figure) for figure in _figures(chosen, given.inputs, given.seed))


def _figures(chosen: Sequence[Target], inputs: int, seed: int) -> Iterator[Figure]:
    for target in chosen:
        yield fuzz(target, inputs, seed)


if __name__ == "__main__":
    raise SystemExit(fuzz_all())
