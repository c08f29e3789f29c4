"""Test a server's life: monitors join, leave, pause, become worse and better, and accounts change their limits.

After every event, a review is checked against all promises; without events for a while, the assignment settles, does
not recur, and starves no server.
"""

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from selector.rows import parse_address
from selector.rules.model import GlobalStatus, Monitor, Server, Skipped
from testbed.random_inputs import examples
from testbed.selection import proof
from testbed.selection.strategies import ANY_SIZE
from testbed.selection.worlds import COUNTS, LIMITS, NETS, NOW, STEPS, Scene, address_text, monitor

MOST_MONITORS = 40
ACCOUNTS = st.integers(1, 10)
"""The last one owns the server."""
CLUSTERS = st.integers(0, 60)
PLACES = st.integers(0, MOST_MONITORS)
"""Chooses one of the present monitors, whatever their number."""
MEASURED = st.tuples(st.sampled_from((*COUNTS, 30, 100)), st.sampled_from((*STEPS, 0.9, 1.0)), st.floats(1, 300))


class ServerLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.monitors: dict[int, Monitor] = {}
        self.broken: set[int] = set()
        self.limits = dict.fromkeys(range(1, 11), 2)
        self.now = NOW
        self.number = 0
        self.server = Server(id=1, address=parse_address("10.200.16.1"), account_id=10)

    # ---- events ----------------------------------------------------------------------------------------------------

    @initialize(good=st.integers(0, 25), others=st.lists(st.tuples(ACCOUNTS, CLUSTERS, MEASURED), max_size=10))
    def begin(self, good: int, others: list[tuple[int, int, tuple[int, float, float]]]) -> None:
        """Let some servers have good monitors from the beginning."""
        for number in range(good):
            self.joins(1 + number % 9, 2 * number, 0, (100, 1.0, 20.0 + number), True)
        for account, cluster, measured in others:
            self.joins(account, cluster, 0, measured, True)
        self.is_left_alone()

    @rule(account=ACCOUNTS, cluster=CLUSTERS, net=st.sampled_from(NETS), measured=MEASURED, proven=st.booleans())
    def joins(self, account: int, cluster: int, net: int, measured: tuple[int, float, float], proven: bool) -> None:
        if len(self.monitors) >= MOST_MONITORS:
            return
        self.number += 1
        self.monitors[self.number] = monitor(
            self.number,
            "candidate",
            ip=address_text(4, cluster, net, self.number),
            account_id=account,
            limit=self.limits[account],
            global_status="active" if proven else "testing",
        )
        self._measure(self.number, *measured)

    @rule(place=PLACES, status=st.sampled_from(list(GlobalStatus)))
    def changes_its_global_status(self, place: int, status: GlobalStatus) -> None:
        self._change(place, global_status=status)

    @rule(place=PLACES, gone=st.booleans())
    def goes_or_comes_back(self, place: int, gone: bool) -> None:
        self._change(place, gone=gone)

    @rule(place=PLACES, measured=MEASURED)
    def is_measured_anew(self, place: int, measured: tuple[int, float, float]) -> None:
        for number in self._chosen(place):
            self._measure(number, *measured)

    @rule(place=PLACES, cluster=CLUSTERS, net=st.sampled_from(NETS))
    def moves_to_another_network(self, place: int, cluster: int, net: int) -> None:
        self._change(place, address=parse_address(address_text(4, cluster, net, place)))

    @rule(place=PLACES)
    def moves_next_to_the_server(self, place: int) -> None:
        self._change(place, address=parse_address("10.200.16.77"))

    @rule(place=PLACES, account=ACCOUNTS)
    def changes_hands(self, place: int, account: int) -> None:
        self._change(place, account_id=account, limit=self.limits[account])

    @rule(account=ACCOUNTS, limit=st.sampled_from(LIMITS))
    def an_account_changes_its_limit(self, account: int, limit: int) -> None:
        self.limits[account] = limit
        for number, one in self.monitors.items():
            if one.account_id == account:
                self.monitors[number] = replace(one, limit=limit)

    @precondition(lambda self: len(self.broken) < 2)
    @rule(place=PLACES)
    def its_row_breaks(self, place: int) -> None:
        self.broken.update(self._chosen(place))

    @rule()
    def the_rows_are_repaired(self) -> None:
        self.broken.clear()

    @rule(place=PLACES)
    def is_removed(self, place: int) -> None:
        for number in self._chosen(place):
            del self.monitors[number]
            self.broken.discard(number)

    @rule(hours=st.sampled_from((1, 8, 120)))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    # ---- the selector's actions ------------------------------------------------------------------------------------

    @rule()
    def is_reviewed(self) -> None:
        scene = self._scene()
        proof.hold_all(scene)
        self._keep(scene.after(scene.review()))

    @rule()
    def is_left_alone(self) -> None:
        scene = self._scene()
        proof.selection_settles(scene)
        proof.selection_does_not_starve(scene)
        _, settled, _ = proof.settle(scene)
        self._keep(settled)
        proof.hold_all(self._scene())

    @invariant()
    def every_promise_holds(self) -> None:
        proof.hold_all(self._scene())

    # ---- the rows --------------------------------------------------------------------------------------------------

    def _scene(self) -> Scene:
        rows = [self._row(number, one) for number, one in self.monitors.items()]
        return Scene(self.server, tuple(rows), now=self.now)

    def _row(self, number: int, one: Monitor) -> Monitor | Skipped:
        if number not in self.broken:
            return one
        return Skipped(id=number, name=one.name, pair_status=one.pair_status, reason="broken")

    def _keep(self, scene: Scene) -> None:
        self.now = scene.now
        self.monitors.update({one.id: one for one in scene.judged})

    def _chosen(self, place: int) -> list[int]:
        ids = sorted(self.monitors)
        return [ids[place % len(ids)]] if ids else []

    def _change(self, place: int, **values: Any) -> None:
        for number in self._chosen(place):
            self.monitors[number] = replace(self.monitors[number], **values)

    def _measure(self, number: int, count: int, step: float, rtt: float) -> None:
        averages: dict[str, float | None] = {"avg_step": step, "avg_rtt_ms": rtt if step > -5 else None}
        if count == 0:
            averages = {"avg_step": None, "avg_rtt_ms": None}
        self.monitors[number] = replace(self.monitors[number], count=count, **averages)


ServerLife.TestCase.settings = examples(12, thorough=1000, stateful_step_count=60, suppress=ANY_SIZE)
TestServerLife = ServerLife.TestCase
