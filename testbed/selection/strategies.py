"""Generate random worlds by Hypothesis for the selector's proof; it reduces a broken promise to its smallest world."""

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from selector.rows import parse_address
from selector.rules.model import GlobalStatus, Monitor, PairStatus, Server, Skipped
from testbed import random_inputs
from testbed.selection.worlds import CHECKED, COUNTS, LIMITS, MOVED, NETS, NOW, STEPS, Scene, address_text

ANY_SIZE = [HealthCheck.data_too_large, HealthCheck.filter_too_much]


def examples(number: int) -> settings:
    """Return the settings of a test of the promises: ``number`` examples, in a thorough run 200 times as many.

    A few suffice in a normal run, to find the smallest world that breaks a promise, since
    ``test_random_worlds_keep_every_promise`` checks the promises over hundreds of reviews in a fraction of the time.
    """
    return random_inputs.examples(number, thorough=200 * number, suppress=ANY_SIZE)


@st.composite
def scenes(draw: st.DrawFn, *, broken: bool = True, paused: bool = True, at_least: int = 0) -> Scene:
    """Generate any world of 0 to 60 monitors and 1 to 10 accounts."""
    version = draw(st.sampled_from((4, 6)))
    limits = draw(st.lists(st.sampled_from(LIMITS), min_size=1, max_size=10))
    clusters = draw(st.sampled_from((1, 4, 40)))
    least = max(at_least, draw(st.sampled_from((0, 0, 10, 25, 60))))
    rows = draw(st.lists(_row(clusters, len(limits), paused), min_size=least, max_size=60))
    refused = draw(st.sets(st.integers(1, 60), max_size=2)) if broken else set()
    monitors = [_from_row(number, version, limits, row) for number, row in enumerate(rows, start=1)]
    left_out = [
        Skipped(id=one.id, name=one.name, pair_status=one.pair_status, reason="broken") if one.id in refused else one
        for one in monitors
    ]
    server = Server(
        id=1,
        address=parse_address(address_text(version, draw(st.integers(0, clusters)), 0, 251)),
        account_id=draw(st.sampled_from((None, 1, 900))),
    )
    return Scene(server, tuple(left_out))


def _row(clusters: int, accounts: int, paused: bool) -> st.SearchStrategy[tuple[Any, ...]]:
    pairs = list(PairStatus) if paused else [status for status in PairStatus if status is not PairStatus.PAUSED]
    lively = st.sampled_from((GlobalStatus.ACTIVE, GlobalStatus.ACTIVE, GlobalStatus.TESTING, *GlobalStatus))
    return st.tuples(
        st.sampled_from(pairs),
        lively,
        st.integers(0, clusters),
        st.sampled_from(NETS),
        st.integers(0, accounts),
        st.sampled_from(COUNTS),
        st.sampled_from((*STEPS[2:], *STEPS)),
        st.one_of(st.floats(0, 300), st.sampled_from((95.0, 100.0, 104.9, 105.0, 105.3))),
        st.integers(0, len(CHECKED) - 1),
        st.sampled_from((False, False, False, False, False, True)),
    )


def _from_row(number: int, version: int, limits: list[int], row: tuple[Any, ...]) -> Monitor:
    pair, globally, cluster, net, account, count, step, rtt, checked, gone = row
    return Monitor(
        id=number,
        name=f"m{number}",
        address=parse_address(address_text(version, cluster, net, number)),
        account_id=account or None,
        limit=limits[account - 1] if account else 2,
        global_status=globally,
        pair_status=pair,
        count=count,
        avg_step=step if count else None,
        avg_rtt_ms=rtt if count and step > -5 else None,
        gone=gone,
        last_constraint_check=NOW - timedelta(hours=CHECKED[checked]),
        last_move=None if number % 3 == 0 else NOW - timedelta(hours=MOVED[(number + checked) % len(MOVED)]),
        pause_reason=("excess" if checked % 2 else "constraint") if pair is PairStatus.PAUSED else None,
    )
