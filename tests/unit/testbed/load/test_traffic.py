"""Test the messages of simulated monitors, their order, and the record of them."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from ingest.messages import Submission, UndecodableMessage, read_results
from ingest.validate import impossible, server_refused
from runtime.mqtt.session import Incoming
from schema.limits import SPOOL_AGE
from schema.messages import BatchCommitted
from testbed.load.record import Record, Sent, histories, read_lines
from testbed.load.rota import Rota
from testbed.load.spec import LoadSpec, Member, Shares, SpecError, Target, read_spec, write_spec
from testbed.load.traffic import make_batch, pick_kind

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
TARGETS = [Target(number, f"192.0.2.{number}", 10.0) for number in range(1, 41)]


def decoded(payload: bytes, batch_id: str) -> Submission | UndecodableMessage:
    return read_results("m.test.mon.example", "v4", Incoming("t", payload, correlation=batch_id.encode()), NOW)


def test_plain_batch_is_accepted_by_ingest() -> None:
    made = make_batch(TARGETS, "plain", NOW, random.Random(1))
    found = decoded(made.payload, made.id)
    assert isinstance(found, Submission)
    assert found.batch.results == list(made.results)
    assert [result.server_id for result in made.results] == [target.server_id for target in TARGETS]
    assert all(impossible(result, NOW) is None for result in made.results)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("delay", [timedelta(0), timedelta(minutes=2), SPOOL_AGE - timedelta(hours=1)])
def test_bad_results_are_rejected_for_the_expected_reason(seed: int, delay: timedelta) -> None:
    """The reasons do not depend on when the batch arrives."""
    made = make_batch(TARGETS, "bad", NOW, random.Random(seed))
    assert 1 <= len(made.expected) <= 3
    known = {target.server_id: target.ip for target in TARGETS}
    reasons = {
        index: reason
        for index, result in enumerate(made.results)
        if (reason := impossible(result, NOW + delay) or server_refused(result, known.get(result.server_id)))
    }
    assert reasons == dict(made.expected)


@pytest.mark.parametrize("seed", range(30))
def test_malformed_batch_is_undecodable(seed: int) -> None:
    made = make_batch(TARGETS, "malformed", NOW, random.Random(seed))
    found = decoded(made.payload, made.id)
    assert isinstance(found, UndecodableMessage)
    assert found.batch == made.id, "its sender can be answered"


@pytest.mark.parametrize("seed", range(30))
def test_late_results_are_expected_to_count(seed: int) -> None:
    made = make_batch(TARGETS, "late", NOW, random.Random(seed))
    assert all(NOW - SPOOL_AGE < result.ts < NOW - timedelta(seconds=59) for result in made.results)
    assert made.expected == {}


def test_results_with_an_answer_are_all_different() -> None:
    rng = random.Random(1)
    results = [result for _ in range(50) for result in make_batch(TARGETS, "plain", NOW, rng).results]
    answered = [(result.server_id, result.offset, result.rtt) for result in results if not result.no_response]
    assert len(set(answered)) == len(answered)


def test_kinds_of_batches_have_their_shares() -> None:
    shares = Shares(bad=0.1, late=0.2, duplicate=0.3, malformed=0.1)
    kinds = Counter(pick_kind(shares, (number + 0.5) / 1000) for number in range(1000))
    assert kinds == {"bad": 100, "late": 200, "duplicate": 300, "malformed": 100, "plain": 300}


def test_a_rota_measures_each_server_at_its_interval() -> None:
    rota = Rota([Target(1, "a", 1.0), Target(2, "b", 2.0), Target(3, "c", 4.0)])
    counts = Counter(turn.target.server_id for turn in rota.take(700))
    assert [round(counts[server_id] / 100) for server_id in (1, 2, 3)] == [4, 2, 1]
    assert rota.pace == pytest.approx(1.75)


def test_rota_follows_added_and_removed_servers() -> None:
    rota = Rota([Target(1, "a", 1.0)])
    rota.take(5)
    rota.add(Target(2, "b", 1.0))
    rota.remove(1)
    assert {turn.target.server_id for turn in rota.take(3)} == {2}
    rota.remove(2)
    assert rota.take(3) == []
    rota.add(Target(1, "a", 1.0))
    rota.add(Target(1, "a", 0.5))
    turns = rota.take(4)
    assert [turn.target.interval for turn in turns] == [0.5] * 4
    assert [later.at - earlier.at for earlier, later in pairwise(turns)] == [0.5] * 3
    rota.clear()
    assert (len(rota), rota.take(1)) == (0, [])


def test_server_added_back_at_once_is_not_measured_twice_as_often() -> None:
    rota = Rota([Target(1, "a", 1.0), Target(2, "b", 1.0)])
    rota.remove(1)
    rota.add(Target(1, "a", 1.0))
    counts = Counter(turn.target.server_id for turn in rota.take(100))
    assert abs(counts[1] - counts[2]) <= 1


def test_record_contains_the_history_of_every_batch(tmp_path: Path) -> None:
    made = [make_batch(TARGETS[:2], kind, NOW, random.Random(1)) for kind in ("plain", "bad", "malformed")]
    ack = BatchCommitted(batch=made[0].id, stored=2)
    with Record(tmp_path / "record") as record:
        for number, one in enumerate(made):
            record.sent(number, "m.test.mon.example", "v4", one)
        record.answered(5, "m.test.mon.example", "v4", ack)
        record.received(6, "m.test.mon.example", "v4", 17, "active")
    found = histories(read_lines(tmp_path / "record"))
    first, second, third = found.values()
    assert [answered.ack for answered in first.answers] == [ack]
    assert list(first.sent.results) == list(made[0].results)
    assert (second.sent.expected, second.answers) == (made[1].expected, [])
    assert (third.sent.kind, third.sent.results) == ("malformed", [])


def test_line_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "record"
    with Record(path) as record:
        record.received(6, "m.test.mon.example", "v4", 17, None)
    path.write_bytes(path.read_bytes() + b'{"type":"told","at":')
    assert [isinstance(line, Sent) for line in read_lines(path)] == [False]


def spec(**given: object) -> LoadSpec:
    base = {"env": "test", "host": "127.0.0.1", "port": 1883, "key_file": Path("key"), "record": Path("record")}
    return LoadSpec(**(base | {"members": [Member(name="m.test.mon.example", targets=TARGETS)]} | given))  # type: ignore[arg-type]


def test_specification_survives_writing_and_reading(tmp_path: Path) -> None:
    before = spec(rate=100.0, shares=Shares(bad=0.5), spools=Path("spools"))
    write_spec(tmp_path / "spec", before)
    assert read_spec(tmp_path / "spec") == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shares": Shares(bad=0.6, late=0.6)}, "shares: their sum must be at most 1"),
        ({"rate": 1.0, "outstanding": 1}, "give at most one of them"),
        ({"members": []}, "members: must have at least one entry"),
    ],
)
def test_invalid_specification_is_refused_with_the_reason(
    tmp_path: Path, given: dict[str, object], message: str
) -> None:
    write_spec(tmp_path / "spec", spec(**given))
    with pytest.raises(SpecError, match=message):
        read_spec(tmp_path / "spec")
    with pytest.raises(SpecError, match="nothing"):
        read_spec(tmp_path / "nothing")
