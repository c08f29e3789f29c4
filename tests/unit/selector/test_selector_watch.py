"""The watch lets the coming and going of one monitor make its servers due once in a quarter of an hour."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from selector import watch
from selector.due import News
from selector.watch import Watch


class _Ledger:
    """Says of monitor 7 that something changed, whenever it is asked and that is not held back."""

    def __init__(self, what: tuple[str, ...]) -> None:
        self.what = what
        self.made_due = 0

    def note(self, _engine: object, _rows: object, _now: object, flapping: frozenset[int] = frozenset()) -> list[News]:
        if 7 in flapping and set(self.what) <= {"gone", "back"}:
            return []
        self.made_due += 1
        return [News(7, self.what, 2700)]


@pytest.mark.parametrize(
    ("what", "most"), [(("gone",), 4), (("back",), 4), (("status",), 720), (("status", "gone"), 720)]
)
async def test_a_monitor_that_comes_and_goes_makes_its_servers_due_four_times_an_hour(
    what: tuple[str, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, clock = _Ledger(what), SimpleNamespace(now=1000.0)
    monkeypatch.setattr(watch, "note_monitors", ledger.note)
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def in_database(work: Any) -> Any:
        await asyncio.sleep(0)
        return work()

    woken: list[None] = []
    one = Watch(
        worker=cast(Any, SimpleNamespace(in_database=in_database, engine=None)),
        reviewing=cast(Any, SimpleNamespace(wake=lambda: woken.append(None))),
        populating=cast(Any, None),
        reconciler=cast(Any, None),
        configs=cast(Any, None),
        complaints=cast(Any, None),
        numbers=cast(Any, SimpleNamespace(made_due=lambda why, count: None)),
    )
    for _ in range(720):  # an hour
        await one._look_at_monitors()
        clock.now += 5.0
    assert ledger.made_due == most
    assert len(woken) == most
