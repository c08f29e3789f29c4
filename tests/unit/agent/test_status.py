"""Test the status, report and metrics of an agent, which combine both protocols."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from agent.daemon_settings import DaemonSettings
from agent.metrics import AgentCounters
from agent.status import LAST_RESULTS, metrics, online_status, report, summary, waiting_report
from schema.messages import ProtocolState, Result

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SETTINGS = DaemonSettings(env="prod", state_base="/x", defaults_file="/etc/d", defaults_stamp=(1, 2))


class Spool:
    """A spool with the given number of batches and the given counts."""

    def __init__(self, batches: int, dropped: int, set_aside: int, torn: int) -> None:
        self._batches = batches
        self.bytes = 100 * batches
        self.counters = SimpleNamespace(dropped_results=dropped, set_aside=set_aside, torn=torn)

    def __len__(self) -> int:
        return self._batches


def protocol(
    ages: Sequence[int] = (),
    *,
    configured: bool = True,
    why_not: str | None = None,
    spool: Spool | None = None,
    troubles: tuple[str | None, str | None] = (None, None),
    offset: float | None = None,
) -> Any:
    """A protocol whose prober has results of these ages, in seconds."""
    state = ProtocolState(
        status="active", probing=why_not is None, assignments=2, assignments_hash="0" * 32, why_not=why_not
    )
    prober = SimpleNamespace(
        state=lambda: state if configured else None,
        why_not=why_not,
        used=configured,
        clock=SimpleNamespace(offset=offset),
        assignments=[1, 2],
        last_results=[Result(server_id=age, ts=NOW - timedelta(seconds=age), ip="9.9.9.9") for age in ages],
    )
    batcher, sender = (SimpleNamespace(trouble=trouble) for trouble in troubles)
    return SimpleNamespace(
        prober=prober, spool=Spool(0, 0, 0, 0) if spool is None else spool, batcher=batcher, sender=sender
    )


def reported(v4: Any, v6: Any, *, lost: str | None = None, troubles: Sequence[str] = ()) -> Any:
    counters = AgentCounters(probes_unsent=3, results_unproven=4)
    lines = {"v4": v4, "v6": v6}
    return report("a.example", "prod", NOW, "mqtt.example:8883", lost, lines, counters, troubles, SETTINGS)


def test_status_sums_the_spools_and_omits_unconfigured_protocols() -> None:
    lines = {"v4": protocol(spool=Spool(2, 30, 4, 0)), "v6": protocol(configured=False, spool=Spool(5, 600, 7, 0))}
    status = online_status(cast(Any, lines))
    assert status.online and list(status.protocols) == ["v4"]
    spool = status.spool
    assert (spool.batches, spool.bytes, spool.dropped_results, spool.set_aside) == (7, 700, 630, 11)


def test_the_report_has_the_newest_results_of_both_protocols_first() -> None:
    found = reported(protocol([1, 3, 5, 7, 9, 11]), protocol([0, 2, 4, 6, 8, 10]))
    assert [result.server_id for result in found.last_results] == list(range(LAST_RESULTS))


def test_report_names_each_problem_once_and_those_of_files_first() -> None:
    v4 = protocol(troubles=("the disk is full", None), spool=Spool(0, 0, 0, 2))
    v6 = protocol(troubles=("the disk is full", "a batch cannot be read"), spool=Spool(0, 0, 0, 3))
    found = reported(v4, v6, troubles=["the token has expired"])
    assert found.troubles == ["the token has expired", "the disk is full", "a batch cannot be read"]
    assert (found.set_aside_torn, found.probes_unsent, found.results_unproven) == (5, 3, 4)


def test_report_contains_the_reason_for_a_missing_connection() -> None:
    assert reported(protocol(), protocol()).connected
    found = reported(protocol(), protocol(), lost="the broker refused us")
    assert (found.connected, found.disconnected_because) == (False, "the broker refused us")


def test_report_says_where_the_settings_are_from() -> None:
    for found in (reported(protocol(), protocol()), waiting_report(SETTINGS, NOW, "setup")):
        assert (found.settings_file, found.settings_stamp) == ("/etc/d", (1, 2))


def test_summary_has_all_on_one_line() -> None:
    assert summary(waiting_report(SETTINGS, NOW, "setup")) == "waiting, not probing: setup"
    found = reported(protocol(), protocol(why_not="status is paused"), lost="refused")
    assert summary(found) == (
        "a.example: IPv4: probing 2 servers; IPv6: not probing, status is paused; "
        "not connected to mqtt.example:8883 (refused)"
    )
    assert summary(reported(protocol(configured=False), protocol(configured=False))) == (
        "a.example: not configured by the pool yet"
    )


def test_metrics_are_labelled_by_protocol() -> None:
    lines = {"v4": protocol(spool=Spool(2, 0, 0, 1), offset=-0.0012), "v6": protocol(why_not="status is paused")}
    text = metrics(cast(Any, lines), AgentCounters(), connected=False)
    for line in (
        "connected 0",
        'probing{protocol="v4"} 1',
        'probing{protocol="v6"} 0',
        'assignments{protocol="v4"} 2',
        'clock_offset_seconds{protocol="v4"} -0.0012',
        'spool_batches{protocol="v4"} 2',
        'spool_bytes{protocol="v4"} 200',
        'spool_torn_batches{protocol="v4"} 1',
        'spool_torn_batches{protocol="v6"} 0',
    ):
        assert f"ntppool_agent_{line}\n" in text


def test_a_protocol_that_the_monitor_does_not_have_is_not_one_that_does_not_probe() -> None:
    lines = {"v4": protocol(), "v6": protocol(configured=False, why_not="not configured by the pool")}
    text = metrics(cast(Any, lines), AgentCounters(), connected=True)
    assert 'ntppool_agent_probing{protocol="v4"} 1\n' in text
    for name in ("probing", "assignments", "clock_offset_seconds"):
        assert f'ntppool_agent_{name}{{protocol="v6"}}' not in text
    assert 'ntppool_agent_spool_batches{protocol="v6"} 0\n' in text, "it may have results from before"
