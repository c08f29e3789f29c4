"""Test the watch: a flapping monitor makes its servers due only occasionally; invalid accounts are reported once."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime.db.system_settings import Intervals, Reviews
from selector import watch
from selector.monitors import MonitorRow, Monitors
from selector.row_warnings import RowWarnings
from selector.rows import AccountLimit, account_limit
from selector.triggers import MonitorChange
from selector.watch import Watch


class _Ledger:
    """Fake ledger that reports a change of monitor 7 at each call, unless the change is held back as flapping."""

    def __init__(self, what: tuple[str, ...]) -> None:
        self.what = what
        self.made_due = 0

    def note(
        self, _engine: object, _rows: object, _now: object, flapping: frozenset[int] = frozenset()
    ) -> list[MonitorChange]:
        if 7 in flapping and set(self.what) <= {"gone", "back"}:
            return []
        self.made_due += 1
        return [MonitorChange(7, self.what, 2700)]


def a_watch(**parts: object) -> Watch:
    names = ("worker", "review_loop", "pair_loop", "reconciler", "configs", "row_warnings", "metrics")
    return Watch(**cast(Any, dict.fromkeys(names) | parts))


@pytest.mark.parametrize(
    ("what", "most"), [(("gone",), 4), (("back",), 4), (("status",), 720), (("status", "gone"), 720)]
)
async def test_flapping_makes_servers_due_at_most_four_times_an_hour(
    what: tuple[str, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, clock = _Ledger(what), SimpleNamespace(now=1000.0)
    monkeypatch.setattr(watch, "record_monitor_changes", ledger.note)
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def in_database(work: Any) -> Any:
        await asyncio.sleep(0)
        return work()

    woken: list[None] = []
    one = a_watch(
        worker=SimpleNamespace(in_database=in_database, engine=None),
        review_loop=SimpleNamespace(wake=lambda: woken.append(None)),
        metrics=SimpleNamespace(made_due=lambda why, count: None),
    )
    for _ in range(720):  # an hour
        await one._check_monitors()
        clock.now += 5.0
    assert ledger.made_due == most
    assert len(woken) == most


async def test_account_with_an_invalid_limit_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many monitors the account has, and however often the watch checks."""
    rows = [monitor_row(number, account_limit('{"monitors_per_server_limit": -1}')) for number in (1, 2)]
    known_monitors = Monitors((*rows, monitor_row(3, account_limit(None))), {})

    async def in_database(_work: object) -> Monitors:
        return known_monitors

    one = a_watch(worker=SimpleNamespace(in_database=in_database), row_warnings=RowWarnings())
    for _ in range(3):
        with pytest.raises(AttributeError):  # the next step's parts are missing here
            await one.check()
    assert [record.getMessage() for record in caplog.records] == [
        "account 4: flag monitors_per_server_limit is -1: must be a whole number of at least 1; 2 is used"
    ]


def monitor_row(number: int, limit: AccountLimit) -> MonitorRow:
    return MonitorRow(number, f"m{number}", True, "v4", "active", None, 4, limit, "", False)


class _Marks:
    """Records which monitors are to be reconciled."""

    def __init__(self) -> None:
        self.marked: list[str] = []

    def set_monitors(self, names: set[str]) -> None: ...

    def mark(self, name: str) -> None:
        self.marked.append(name)

    def take(self) -> list[str]:
        found, self.marked = sorted(set(self.marked)), []
        return found


async def test_doubts_and_reconnections_cause_reconciliation_of_all_monitors() -> None:
    """A transaction in doubt may be committed but not published; a broker that was away may have lost messages."""
    marks, forgotten = _Marks(), []
    broker, doubts = SimpleNamespace(connections=1), SimpleNamespace(count=0)
    one = a_watch(
        worker=SimpleNamespace(broker=broker, doubts=doubts),
        reconciler=marks,
        configs=SimpleNamespace(invalidate=lambda: forgotten.append(None)),
    )
    rows = (monitor_row(1, account_limit(None)), monitor_row(2, account_limit(None)))
    before = one._monitors = Monitors(rows, {})
    everybody = sorted(before.names)
    assert everybody
    one._check_agents(before)
    assert (marks.take(), forgotten) == ([], []), "the first connection has lost nothing"
    doubts.count = 1
    one._check_agents(before)
    assert (marks.take(), forgotten) == (everybody, [])
    broker.connections = 2
    one._check_agents(before)
    assert (marks.take(), forgotten) == (everybody, [None])
    one._check_agents(before)
    assert (marks.take(), forgotten) == ([], [None])


async def test_changed_intervals_cause_reconciliation_of_all_monitors() -> None:
    marks, pool = _Marks(), SimpleNamespace(monitors=Intervals())

    async def in_database(work: Any) -> Any:
        return work()

    one = a_watch(
        worker=SimpleNamespace(in_database=in_database, pool=SimpleNamespace(get=lambda: pool)),
        reconciler=marks,
        configs=SimpleNamespace(set_wanted=lambda wanted: None),
        row_warnings=RowWarnings(),
    )
    one._monitors = Monitors((monitor_row(1, account_limit(None)),), {})
    await one._check_settings()
    assert marks.take() == [], "at first there is nothing to compare with"
    pool.monitors = Intervals(interval_active=77.0)
    await one._check_settings()
    assert marks.take() == sorted(one._monitors.names)
    await one._check_settings()
    assert marks.take() == []


async def test_reviews_scheduled_by_a_wrong_clock_become_due_now(monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = [3, 0, 0], []

    def heal(_engine: object, reviews: Reviews, _now: object) -> int:
        asked.append(reviews)
        return found[len(asked) - 1]

    monkeypatch.setattr(watch, "heal_reviews", heal)

    async def in_database(work: Any) -> Any:
        return work()

    woken: list[None] = []
    pool = SimpleNamespace(selector=Reviews(review_changed=7.0))
    one = a_watch(
        worker=SimpleNamespace(in_database=in_database, engine=None, pool=SimpleNamespace(get=lambda: pool)),
        review_loop=SimpleNamespace(wake=lambda: woken.append(None)),
    )
    for _ in range(3):
        await one.heal()
    assert asked == [pool.selector] * 3
    assert len(woken) == 1, "who is due now is reviewed now; of the others nothing is said"
