"""Test the demo's summary in figures and words, and its table of the current state."""

import io
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from testbed.demo.accounting import Account, Replay
from testbed.demo.findings import Findings
from testbed.demo.ledger import ServerState, State
from testbed.demo.summary import End, Summary, summarize
from testbed.demo.table import heading, state_line, state_table
from testbed.demo.verdict import in_words
from testbed.process import Death
from testbed.world import World, make_world

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


def replay_of(results: int = 12) -> Replay:
    """Return a replay with results of the world's first servers."""
    replay = Replay()
    replay.servers = set(range(1, results + 1))
    for server_id in replay.servers:
        replay.offsets[server_id].append(0.2)
    return replay


def without_time(*server_ids: int) -> Replay:
    replay = replay_of()
    for server_id in server_ids:
        del replay.offsets[server_id]
    return replay


def ended(**given: Any) -> End:
    return End(**({"seconds": 120.04, "deaths": (), "hung": (), "rested": True} | given))


def summary_of(
    *, replay: Replay | None = None, state: State = STATE, account: Account = GOOD, world: World = WORLD, **end: Any
) -> Summary:
    return summarize(world, state, replay or replay_of(), account, Findings(), ended(**end))


def scores(*values: float | None) -> State:
    """Return the state with these scores of the first servers."""
    servers = list(STATE.servers)
    for n, value in enumerate(values):
        servers[n] = replace(servers[n], score=value)
    return replace(STATE, servers=tuple(servers))


def test_summary_of_a_good_run() -> None:
    replay = without_time(2, 6, 11)
    replay.offsets[2] = deque([0.3, 0.1, 0.2])
    summary = summary_of(replay=replay, state=scores(19.5))
    assert (summary.good, summary.problems, summary.seconds) == (True, [], 120.0)
    first, second = summary.servers[:2]
    assert (first.server, first.true_offset, first.median_offset) == ("127.20.0.1:11123", 0.0, 0.2)
    assert (first.handed_out, first.why_not, second.handed_out) == (True, None, False)
    assert (second.median_offset, second.active, second.testing, second.may_serve) == (0.2, 7, 1, 8)
    silent = msgspec.json.decode(msgspec.json.encode(summary))["servers"][5]
    assert (silent["what"], silent["true_offset"], silent["median_offset"]) == ("silent", None, None)


DEAD = Death("scorer", "ended with exit code 1", Path("log"), "why")
WAITING = replace(GOOD, waiting=376)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"hung": ("agent a",)}, "agent a did not end in order and was killed"),
        ({"deaths": (DEAD,), "rested": None}, "scorer ended with exit code 1"),
        ({"rested": False}, "some results did not reach the ledger, or were not scored, in time"),
        ({"account": WAITING}, "376 batches are still in the agents' spools"),
        ({"account": replace(GOOD, reasons=("2 are gone",))}, "2 are gone"),
        ({"replay": replay_of(11)}, "no results: 127.20.11.1 (1 of 12 servers)"),
        ({"replay": without_time(1, 6, 11)}, "no time, although the server sends it: 127.20.0.1 (1 of 12 servers)"),
        ({"state": scores(1.0, None)}, "no score: 127.20.1.1 (1 of 12 servers)"),
        (
            {"replay": replay_of(0)},
            "no results: 127.20.0.1, 127.20.1.1, 127.20.2.1 and 9 more (12 of 12 servers)",
        ),
    ],
)
def test_summary_of_a_failed_run_names_the_problem(given: dict[str, Any], problem: str) -> None:
    summary = summary_of(**given)
    assert (summary.good, summary.problems) == (False, [problem])
    assert " ".join(in_words(summary).split()).startswith(f"The demo FAILED: - {problem} ")


def test_server_without_eligible_monitors_needs_no_results() -> None:
    world = make_world(2, 9, 11123)
    assert [server.what for server in world.servers if not world.may_serve(server)] == ["good, monitor's account"]
    servers = tuple(replace(server, score=None if server.id == 8 else -1.0) for server in STATE.servers[:8])
    last = replace(STATE.servers[8], ip=world.servers[8].ip)
    state = replace(STATE, servers=(*servers, last))
    replay = replay_of(9)
    replay.servers.discard(8)
    summary = summary_of(world=world, state=state, replay=replay)
    assert summary.problems == []
    assert summary.servers[7].why_not == "every monitor shares its account or network"


def test_the_verdict_in_words_fits_80_columns_and_names_every_server() -> None:
    for summary in (
        summary_of(state=scores(19.5, 9.4)),
        summary_of(replay=replay_of(0), account=replace(WAITING, reasons=("x " * 70,))),
    ):
        text = in_words(summary)
        assert max(len(line) for line in text.splitlines()) <= 80
        for server in WORLD.servers:
            assert sum(line.startswith(f"  {server.ip} ") for line in text.splitlines()) == 1
    assert "\n  127.20.0.1        19.5  yes\n" in in_words(summary_of(state=scores(19.5)))
    assert "1 of 12 servers are handed out to clients. The score must be above 10:" in in_words(
        summary_of(state=scores(19.5, 10.0))
    )


@pytest.mark.parametrize(("seconds", "said"), [(3.0, True), (14.9, True), (15.0, False)])
def test_short_run_gets_a_hint_to_run_longer(seconds: float, said: bool) -> None:
    short = summary_of(seconds=seconds, state=scores(None))
    assert ("Every server has a score after about 15 s; run the demo longer." in in_words(short)) is said


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(state_table(WORLD, STATE, heading(STATE, 60.0, 120.0)))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 + 12, "a heading, the columns, and a line for each server"
    assert "…" not in out.getvalue()
    assert lines[5].split() == ["127.20.3.1", "off", "by", "5", "s", "+5000.000", "+5000.000", "-99.9", "7", "1", "0"]
    assert "60 of 120 s" in lines[0]


def test_without_a_terminal_the_state_is_one_line() -> None:
    assert state_line(STATE, 61.2).startswith(
        "61 s, 4601 results, 155 status changes; score(active+testing): -99.9(7+1) "
    )
