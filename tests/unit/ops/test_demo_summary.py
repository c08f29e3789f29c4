"""The last line of the demo, and the table before it."""

import io
from collections import deque
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from ops.demo.accounting import Account, Replay
from ops.demo.ledger import ServerState, State
from ops.demo.operator import results_in
from ops.demo.process import Death
from ops.demo.summary import End, summarize
from ops.demo.table import heading, state_line, state_table
from ops.demo.world import make_world

WORLD = make_world(8, 12, 11123)
STATE = State(
    committed=4601,
    changes=155,
    servers=tuple(
        ServerState(id=n, ip=s.ip, score=-99.9, measured=s.true_offset, active=7, testing=1, candidate=0, paused=0)
        for n, s in enumerate(WORLD.servers, start=1)
    ),
)
GOOD = Account(committed=4601, lost=0, duplicated=0, rejected=0, waiting=0, unscored=0, reasons=())


def test_a_good_end() -> None:
    replay = Replay()
    replay.offsets[1] = deque([0.3, 0.1, 0.2])
    summary = summarize(WORLD, STATE, replay, GOOD, End(120.04, (), ()))
    assert (summary.good, summary.problems, summary.seconds) == (True, [], 120.0)
    first, second = summary.servers[:2]
    assert (first.server, first.true_offset, first.median_offset) == ("127.20.0.1:11123", 0.0, 0.2)
    assert (second.median_offset, second.active, second.testing, second.may_serve) == (None, 7, 1, 8)
    assert msgspec.json.decode(msgspec.json.encode(summary))["servers"][5]["true_offset"] is None


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (End(1.0, (), ("agent a",)), "agent a did not end when asked to"),
        (End(1.0, (Death("scorer", "ended with exit code 1", Path("log"), "why"),), ()), "scorer ended with"),
    ],
)
def test_a_bad_end_says_why(end: End, problem: str) -> None:
    summary = summarize(WORLD, STATE, Replay(), GOOD, end)
    assert not summary.good
    assert any(text.startswith(problem) for text in summary.problems)


def test_what_the_account_finds_is_a_bad_end() -> None:
    bad = Account(committed=1, lost=2, duplicated=0, rejected=0, waiting=0, unscored=0, reasons=("2 are gone",))
    summary = summarize(WORLD, STATE, Replay(), bad, End(1.0, (), ()))
    assert (summary.good, summary.lost, summary.problems) == (False, 2, ["2 are gone"])


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(state_table(WORLD, STATE, heading(STATE, 60.0, 120.0)))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 + 12, "a heading, the columns, and a line for each server"
    assert "…" not in out.getvalue()
    assert lines[5].split() == ["127.20.3.1", "off", "by", "5", "s", "+5000.000", "+5000.000", "-99.9", "7", "1", "0"]
    assert "60 of 120 s" in lines[0]


def test_without_a_terminal_the_state_is_one_line() -> None:
    assert state_line(STATE, 61.2).startswith("61 s, 4601 results, 155 moves; score(active+testing): -99.9(7+1) ")


def test_results_are_probes_that_were_not_discarded() -> None:
    text = "# TYPE x counter\nntppool_agent_probes_total 12\nntppool_agent_probes_discarded_total 2\n"
    assert results_in(text) == 10
    assert results_in("") is None
