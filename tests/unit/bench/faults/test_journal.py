"""Test an agent's journal of its batches, and that every kill point still exists in the programs."""

from datetime import UTC, datetime

import msgspec
import pytest

from bench.faults.journal import Answered, Began, Leaving, Line, Stored, Storing, read_lines
from bench.faults.plan import POINTS
from bench.faults.points import place
from schema.messages import Batch, BatchCommitted, Result, encode

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def batch_id(number: int) -> str:
    return f"{number:026d}"


def storing(number: int, batch: int, results: int = 1) -> Storing:
    held = [Result(server_id=server, ip="192.0.2.1", ts=NOW) for server in range(1, results + 1)]
    payload = encode(Batch(id=batch_id(batch), version="1", results=held))
    return Storing(number, batch_id(batch), msgspec.Raw(payload))


def told(*lines: Line) -> list[tuple[int, bool, str | None]]:
    return [(story.process, story.stored, story.left) for story in read_lines(lines).stories]


def test_journal_follows_a_batch_from_spool_to_acknowledgement() -> None:
    ack = BatchCommitted(batch=batch_id(7), stored=1)
    tale = read_lines([Began(1), storing(1, 7), Stored(1), Answered(ack), Leaving(1, "acknowledged")])
    (story,) = tale.stories
    assert (story.batch.id, story.stored, story.answers, story.left) == (batch_id(7), True, [ack], "acknowledged")
    assert tale.kept_by_last_process() == 1


def test_batch_unfinished_when_its_process_ended_counts_as_not_stored() -> None:
    assert told(Began(1), storing(1, 7), Began(2), storing(1, 8), Stored(1)) == [(1, False, None), (2, True, None)]


def test_only_the_first_departure_of_a_batch_counts() -> None:
    lines = [Began(1), storing(1, 7), Stored(1), Leaving(1, "acknowledged"), Leaving(1, "withdrawn")]
    assert told(*lines) == [(1, True, "acknowledged")]


def test_only_results_of_the_last_process_count_as_kept() -> None:
    lines: list[Line] = [Began(1), storing(1, 7, 5), Stored(1)]
    assert read_lines(lines).kept_by_last_process() == 5
    lines.append(Began(2))
    assert read_lines(lines).kept_by_last_process() == 0, "it has measured nothing yet"
    lines += [storing(2, 8, 3), Stored(2), storing(3, 9, 2), Stored(3), Leaving(3, "withdrawn")]
    assert read_lines(lines).kept_by_last_process() == 3


@pytest.mark.parametrize("point", POINTS)
def test_every_kill_point_is_a_function_of_its_program(point: str) -> None:
    owner, name, when = place(point)
    assert callable(getattr(owner, name))
    assert when in ("before", "after")
