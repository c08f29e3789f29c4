"""Test the time that agents wait for a decision: until they receive it, or a later one about the same pair."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from bench.decisions import Decision, times
from bench.world import monitor_name
from testbed.load.record import AssignmentReceived
from testbed.stack import CannotRun

BEGAN = 1_796_000_000


def decided(*what: tuple[float, str], monitor: int = 1) -> list[Decision]:
    return [Decision(7, monitor, status, BEGAN + at) for at, status in what]


def record(path: Path, *what: tuple[float, str | None]) -> Path:
    lines = [
        AssignmentReceived(at=int((BEGAN + at) * 1e9), monitor=monitor_name(1), ipv="v4", server_id=7, status=status)
        for at, status in what
    ]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("decisions", "arrivals", "expected"),
    [
        ([(1, "testing")], [(0, "candidate"), (1.5, "testing")], [0.5]),
        ([(1, "testing"), (4, "active")], [(1.5, "testing"), (4.25, "active")], [0.5, 0.25]),
        # The first message has the same status, but was received before the decision was made.
        ([(4, "testing")], [(1.5, "testing"), (2, "candidate"), (5, "testing")], [1]),
        # Back and forth: each decision matches the next message with its status, not an earlier equal one.
        (
            [(1, "testing"), (2, "candidate"), (3, "testing")],
            [(1.5, "testing"), (2.5, "candidate"), (4, "testing")],
            [0.5, 0.5, 1],
        ),
        # One message for two decisions, as when the second is committed before the first is published.
        ([(1, "testing"), (1.25, "active")], [(1.5, "active")], [0.5, 0.25]),
        # A message that was received before a decision was made does not carry it.
        ([(1, "testing"), (2, "active")], [(1.5, "testing"), (1.75, "active"), (2.5, "active")], [0.5, 0.5]),
        ([(1, "paused")], [(1.5, None)], [0.5]),
    ],
)
def test_decision_is_known_when_it_or_a_later_one_is_received(
    tmp_path: Path, decisions: Sequence[tuple[float, str]], arrivals: Sequence[tuple[float, str]], expected: list[float]
) -> None:
    found = times(decided(*decisions), record(tmp_path / "record", *arrivals))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("arrivals", [[], [(0.5, "testing")], [(1.5, "active")], [(1.5, None)]])
def test_decision_that_is_never_received_is_an_error_with_its_history(
    tmp_path: Path, arrivals: Sequence[tuple[float, str | None]]
) -> None:
    with pytest.raises(CannotRun, match=r"monitor_id=1.*never reached its agent; decided: testing \+0.000; received:"):
        times(decided((1, "testing")), record(tmp_path / "record", *arrivals))


def test_message_to_one_monitor_does_not_count_for_another(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="monitor_id=2"):
        times([*decided((1, "testing")), *decided((1, "testing"), monitor=2)], record(tmp_path / "r", (2, "testing")))
