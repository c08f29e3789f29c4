"""Test the texts of the command line and of the metrics, and the refusal of invalid certificates."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.certificate import CertificateError, valid_until
from agent.inspection import Inspection
from agent.metrics import AgentCounters, prometheus_text
from agent.ntp.measurement import Measurement, Sample
from agent.ntp.packet import Reply
from agent.ntp.targets import Target
from agent.ntp.timestamps import Timestamp
from agent.renewal_file import Outcome
from agent.status_file import AgentReport
from agent.wording import check_line, status_lines
from schema.messages import ProtocolState, Result, SpoolState, Status

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def report(**fields: object) -> AgentReport:
    status = Status(
        online=True,
        version="0.1.0",
        protocols={"v4": ProtocolState(status="active", probing=True, assignments=3, assignments_hash="")},
        spool=SpoolState(batches=2, bytes=900, dropped_results=4, set_aside=1),
    )
    result = Result(server_id=7, ip="192.0.2.7", ts=NOW, no_response=True)
    values = {
        "name": "a.test.mon.example",
        "env": "test",
        "pid": 5,
        "written": NOW - timedelta(seconds=9),
        "started": NOW,
        "broker": "mqtts://b:8883",
        "connected": True,
        "status": status,
        "last_results": [result],
        **fields,
    }
    return AgentReport(**values)  # type: ignore[arg-type]


def found(**fields: object) -> Inspection:
    values = {"path": "/var/lib/ntppool-agent/test", "env": "test", "name": "a.test.mon.example", "set_up": True}
    return Inspection(**{**values, **fields})  # type: ignore[arg-type]


def said(inspection: Inspection, now: datetime = NOW) -> str:
    return "\n".join(status_lines(inspection, now))


def test_status_of_a_running_agent() -> None:
    running = found(report=report(), process=5)
    assert list(status_lines(running, NOW)) == [
        "state        /var/lib/ntppool-agent/test",
        "monitor      a.test.mon.example",
        "daemon       running as process 5, version 0.1.0, reported 9 s ago",
        "broker       mqtts://b:8883, connected",
        "IPv4         active, probing; 3 servers assigned",
        "spool        2 batches, 900 bytes; 4 results dropped, 1 batches refused, 0 torn",
        "certificate  none",
        "last results",
        "  2026-01-01 12:00:00  server 7 (192.0.2.7): no response",
    ]
    assert running.healthy(NOW)


def test_status_names_every_problem() -> None:
    state = ProtocolState(
        status="paused", probing=False, assignments=0, assignments_hash="", why_not="status is paused"
    )
    made = report(
        connected=False,
        disconnected_because="refused",
        last_results=[],
        probes_unsent=7,
        results_unproven=9,
        status=Status(online=True, protocols={"v6": state}),
        troubles=["spool: No space left on device"],
    )
    text = said(found(report=made, certificate="EXPIRED on 2025-01-01"), NOW + timedelta(hours=5))
    for words in (
        "not running; the report below is from 5 h ago. Start it, for example with: systemctl start ntppool-agent@test",
        "not connected (refused)",
        "EXPIRED",
        "IPv6         paused, not probing: status is paused",
        "trouble      spool: No space left on device",
        "last results none",
        "network      7 probes could not be sent; 9 results of silent servers discarded while no server answered",
    ):
        assert words in text


@pytest.mark.parametrize(
    "fields",
    [
        {"process": None},
        {"report": None},
        {"report": report(connected=False)},
        {"report": report(troubles=["spool"])},
        {"troubles": ("token: is missing",)},
        {"report": report(written=NOW - timedelta(seconds=91))},
    ],
    ids=str,
)
def test_agent_with_any_problem_is_not_healthy(fields: dict[str, object]) -> None:
    assert not found(**{"report": report(), "process": 5, **fields}).healthy(NOW)


def test_stale_report_is_described_as_a_hanging_agent() -> None:
    text = said(found(report=report(written=NOW - timedelta(seconds=91)), process=5))
    assert "process 5 last reported 91 s ago: it hangs, or cannot" in text
    assert "running as" not in text


def test_status_without_a_report_gives_the_reason() -> None:
    assert "has never run here: start it, for example with: systemctl start ntppool-agent@test" in said(found())
    assert "started; no report yet" in said(found(process=7))
    missing = found(set_up=False, name=None)
    assert said(missing).startswith("monitor      not set up for test: run 'ntppool-agent --env test setup' as root\n")
    waits = report(waiting_for="state.json: is missing")
    waiting = said(found(set_up=False, name=None, process=5, report=waits))
    assert waiting.startswith("monitor      not set up for test: run ") and waiting.count("monitor ") == 1
    assert "--state-dir" in said(missing)
    assert "set up here: prod, devel; use --env prod" in said(found(set_up=False, others=("prod", "devel")))
    assert "only ntppool-agent may read it: use sudo" in said(found(closed_by="ntppool-agent"))


def test_measurement_is_described_in_one_line() -> None:
    reply = Reply(1, 4, 2, 0.5, 0.25, b"\xc0\x00\x02\x01", b"", Timestamp(1), Timestamp(1))
    sample = Sample(sent_at=0, reply=reply, measurement=Measurement(-0.0123456, 0.1))
    assert check_line(Target("192.0.2.7", 123, "v4"), [sample, Sample(sent_at=0)]) == (
        "192.0.2.7: offset -12.346 ms, rtt 100.000 ms, stratum 2, leap 1, reference 192.0.2.1, "
        "root distance 550.000 ms, 1 of 2 samples answered"
    )
    kiss = Sample(sent_at=0, reply=Reply(3, 4, 0, 0, 0, b"RATE", b"", Timestamp(0), Timestamp(0)))
    assert "error RATE, no offset" in check_line(Target("192.0.2.7", 123, "v4"), [kiss])
    refused = Sample(sent_at=0, network_error="connection refused")
    assert (
        check_line(Target("::1", 5, "v6"), [refused]) == "[::1]:5: network: connection refused, 0 of 1 samples answered"
    )


def test_metrics_are_prometheus_text() -> None:
    text = prometheus_text(
        AgentCounters(probes=3), {"connected": 1, 'probing{protocol="v4"}': 0, 'probing{protocol="v6"}': 1}
    )
    assert "# TYPE ntppool_agent_probes_total counter\nntppool_agent_probes_total 3\n" in text
    assert text.count("# TYPE ntppool_agent_probing gauge") == 1
    assert text.endswith('ntppool_agent_probing{protocol="v6"} 1\n')


@given(st.binary(max_size=200))
def test_invalid_certificates_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("c") / "cert.pem"
    for text in (content, b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"):
        path.write_bytes(text)
        with pytest.raises(CertificateError, match="cert"):
            valid_until(path)


def test_status_shows_the_api_the_token_and_where_the_settings_are_from() -> None:
    outcome = Outcome(at=NOW - timedelta(minutes=3), kind="ok", clock="this host's clock is 24h behind the API's")
    made = found(
        report=report(settings_file="/etc/default/ntppool-agent", settings_stamp=(1, 2)),
        process=5,
        api="https://api.example",
        registered=("IPv4 192.0.2.1 testing", "IPv6 2001:db8::1 pending"),
        renewal=outcome,
        token="valid until 2026-01-01 18:00 UTC",
    )
    lines = list(status_lines(made, NOW))
    for line in (
        "settings     as in /etc/default/ntppool-agent and the environment when the agent was started",
        "api          https://api.example, asked 3 min ago: all is well",
        "clock        this host's clock is 24h behind the API's",
        "registered   IPv4 192.0.2.1 testing; IPv6 2001:db8::1 pending",
        "token        valid until 2026-01-01 18:00 UTC",
    ):
        assert line in lines
    changed = msgspec.structs.replace(made, settings_changed=True)
    assert "applies after: systemctl restart ntppool-agent@test" in said(changed)
    assert "applies after" not in said(msgspec.structs.replace(changed, process=None)), "the next start reads it"
    refused = msgspec.structs.replace(made, renewal=msgspec.structs.replace(outcome, kind="refused", text="the key"))
    assert "asked 3 min ago: the key" in said(refused)


def test_status_of_a_host_that_waits_for_the_api() -> None:
    waiting = found(name=None, api="https://api.example", process=5, report=report(waiting_for="a token"))
    text = said(waiting)
    assert "monitor      not named by the API yet" in text and "https://api.example, not asked yet" in text
    assert text.endswith("waiting      not probing: a token")
    assert "monitor      unknown" in said(found(name=None)), "a state.json that cannot be read"


def test_what_the_pool_has_yet_to_do_is_said_once_and_is_no_trouble() -> None:
    why = "the pool gives this monitor no token: it waits for its approval"
    last = Outcome(at=NOW, kind="waiting", text=why)
    text = said(found(name=None, api="https://api.example", process=5, report=report(waiting_for=why), renewal=last))
    assert text.count("approval") == 1 and "trouble" not in text
    assert text.endswith(f"waiting      not probing: {why}; asks the API again within a minute")


@pytest.mark.parametrize(("lasts", "healthy"), [(timedelta(hours=2), True), (timedelta(minutes=50), False)])
def test_api_that_is_away_is_no_trouble_while_token_and_certificate_last(lasts: timedelta, healthy: bool) -> None:
    last = Outcome(at=NOW, kind="unreachable", text="https://api.example: Connection refused")
    away = found(report=report(), process=5, api="https://api.example", renewal=last, ends=NOW + lasts)
    assert "Connection refused; the agent works on with what it has, and asks again within 15 min" in said(away)
    assert away.healthy(NOW) is healthy
    ended = msgspec.structs.replace(away, ends=NOW)
    assert not ended.healthy(NOW) and "keeps its results until it can log in" in said(ended)
    assert not msgspec.structs.replace(away, ends=None).healthy(NOW)
    assert "works on" not in said(msgspec.structs.replace(away, process=None)), "nothing does"


def test_missing_token_is_not_called_well() -> None:
    last = Outcome(at=NOW, kind="ok")
    lost = found(report=report(), process=5, api="https://api.example", renewal=last, missing=("token", "cert.pem"))
    text = said(lost)
    assert "all is well" not in text and not lost.healthy(NOW)
    assert "token        token missing; the agent fetches it from the API" in text
    assert "certificate  cert.pem missing; the agent fetches it from the API" in text


def test_facts_of_a_daemon_that_has_ended_are_marked_as_of_their_time() -> None:
    lines = list(status_lines(found(report=report(), process=None), NOW))
    assert "daemon       not running; the report below is from 9 s ago. If it was not stopped, systemd" in "\n".join(
        lines
    )
    for name in ("broker", "IPv4"):
        assert [line.endswith("(as of 11:59:51 UTC)") for line in lines if line.startswith(name)] == [True]


def test_api_of_the_settings_is_compared_with_the_one_in_use() -> None:
    made = found(report=report(settings_file="/d", settings_stamp=(1,)), process=5, settings_differ="MONITOR_API is b")
    assert "settings     MONITOR_API is b" in said(made) and "settings     as in" not in said(made)
    assert "settings     MONITOR_API is b" in said(found(settings_differ="MONITOR_API is b"))
