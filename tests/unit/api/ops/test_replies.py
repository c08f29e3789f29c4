"""Test what is made of agents' answers, whoever wrote them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from agent.metrics import AgentCounters, prometheus_text
from api.ops.replies import MAX_ANSWER, MAX_METRICS, MAX_ROUTE, BadAnswer, metrics_of, result_of, route_of
from schema.messages import MAX_HOPS, AdHocAnswer, Hop, HopAnswer, Result, Trace, encode

KEY, IP = "0123456789abcdef", "8.8.4.4"
GOOD = prometheus_text(
    AgentCounters(probes=7),
    {
        "connected": 1,
        'assignments{protocol="v4"}': 3,
        "clock_offset_seconds": -1.5e-7,
        "big": 1e300,
        "no": float("nan"),
    },
)


def measured(**changed: Any) -> bytes:
    usual = {"server_id": 0, "ip": IP, "ts": datetime(2026, 11, 30, tzinfo=UTC), "offset": 0.001, "rtt": 0.02}
    fields = {**usual, "stratum": 2, "leap": 0, "sent": 3, "received": 3, **changed}
    return encode(AdHocAnswer(id=KEY, result=Result(**fields)))


def test_a_measurement_is_taken_as_it_is() -> None:
    assert result_of(measured(), KEY, IP).rtt == 0.02
    silent = {"offset": None, "rtt": None, "stratum": None, "leap": None, "error": "network: timed out", "received": 0}
    assert result_of(measured(**silent, no_response=True), KEY, IP).error == "network: timed out"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        *((b"", "invalid answer"), (b"\xff" * 99, "invalid answer"), (b"[" * MAX_ANSWER, "invalid answer")),
        *((b"null", "invalid answer"), (measured()[:-1], "invalid answer"), (b" " * (MAX_ANSWER + 1), "8193 bytes")),
        (encode(AdHocAnswer(id=KEY)), "without a result"),
        (encode(AdHocAnswer(id=KEY, metrics=GOOD)), "without a result"),
        (encode(AdHocAnswer(id=KEY, error="busy: " + "x" * 999)), "did not measure: busy: x{194}…$"),
        (measured().replace(KEY.encode(), b"another"), "another request"),
        *((measured(ip="8.8.8.8"), "address"), (measured(ip="x"), "address"), (measured(offset=-1e10), "offset")),
        *((measured(rtt=-0.1), "round-trip"), (measured(rtt=61), "round-trip"), (measured(stratum=-1), "stratum")),
        *((measured(leap=4), "leap"), (measured(received=4), "samples"), (measured(sent=2**60), "samples")),
        (measured().replace(b"0.001", b"1e999"), "invalid answer|offset"),
    ],
)
def test_what_is_no_measurement_is_refused_in_words(payload: bytes, words: str) -> None:
    with pytest.raises(BadAnswer, match=words) as caught:
        result_of(payload, KEY, IP)
    assert len(str(caught.value)) < 300


def test_an_agents_own_metrics_are_taken_as_they_are() -> None:
    assert metrics_of(encode(AdHocAnswer(id=KEY, metrics=GOOD)), KEY) == GOOD


@pytest.mark.parametrize(
    "line",
    [
        *(
            "",
            "up 1",
            "ntppool_scorer_backlog 0",
            "ntppool_agent_x 1 1700000000000",
            "ntppool_agent_x",
            "ntppool_agent_x x",
        ),
        *(
            'ntppool_agent_x{a="b",} 1',
            'ntppool_agent_x{a="b} 1',
            'ntppool_agent_x{a="\\"} 1',
            'ntppool_agent_x{a="\x1b"} 1',
        ),
        *(
            "ntppool_agent_x 1\rup 1",
            "ntppool_agent_x 1\u2028up 1",
            "# EOF",
            "# TYPE up gauge",
            "# TYPE ntppool_agent_x histogram",
        ),
        *("ntppool_agent_x 1 # {} 1", "ntppool_agent_x 1_0", "ntppool_agent_\u0661 1", "ntppool_agent_x \u0661"),
    ],
)
def test_metrics_that_are_not_an_agents_are_refused(line: str) -> None:
    for text in (f"{line}\n", f"ntppool_agent_x 1\n{line}\nntppool_agent_y 2\n"):
        with pytest.raises(BadAnswer, match=r"not an agent's \(line [12]\)$"):
            metrics_of(encode(AdHocAnswer(id=KEY, metrics=text)), KEY)


def test_metrics_have_a_maximum_size() -> None:
    lines = "ntppool_agent_x 1\n" * (MAX_METRICS // 18)
    with pytest.raises(BadAnswer, match="more than"):
        metrics_of(encode(AdHocAnswer(id=KEY, metrics=lines)), KEY)
    with pytest.raises(BadAnswer, match="refused: unknown check"):
        metrics_of(encode(AdHocAnswer(id=KEY, error="unknown check")), KEY)
    with pytest.raises(BadAnswer, match="without metrics"):
        metrics_of(measured(), KEY)


def traced(*traces: Trace, **changed: Any) -> bytes:
    usual = {"server_id": 0, "ip": IP, "ts": datetime(2026, 11, 30, tzinfo=UTC), "no_response": True, "sent": 1}
    return encode(AdHocAnswer(id=KEY, result=Result(**{**usual, **changed}), traces=list(traces)))


def route(*ips: str | None, method: Any = "udp", **changed: Any) -> Trace:
    hops = [Hop(ttl=ttl, answers=[None if ip is None else HopAnswer(ip=ip)]) for ttl, ip in enumerate(ips, 1)]
    return Trace(**{"method": method, "hops": hops, "tried": len(hops), "reached": False, **changed})


def test_a_route_is_taken_with_our_own_judgement_of_its_end() -> None:
    given = [route("192.0.2.1", None, IP), route("192.0.2.1", method="icmp", reached=True, error="x" * 999, tried=30)]
    result, traces = route_of(traced(*given), KEY, IP)
    assert result.no_response and [one.reached for one in traces] == [True, False]
    assert [len(one.hops) for one in traces] == [3, 1] and len(traces[1].error or "") < 210


FULL = [HopAnswer(ip="2001:0db8:1111:2222:3333:4444:5555:6666", rtt=0.123456, note="!X")] * 3


def test_the_longest_route_fits() -> None:
    hops = [Hop(ttl=ttl, answers=list(FULL)) for ttl in range(1, MAX_HOPS + 1)]
    whole = [route(method=method, hops=hops, tried=MAX_HOPS) for method in ("udp", "icmp", "tcp")]
    payload = traced(*whole, error="x" * 200)
    assert len(route_of(payload, KEY, IP)[1]) == 3 and len(payload) < MAX_ROUTE


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "invalid answer"),
        (b"[" * MAX_ROUTE, "invalid answer"),
        (b" " * (MAX_ROUTE + 1), "more than"),
        (encode(AdHocAnswer(id=KEY, error="busy")), "did not trace the route: busy"),
        (measured(), "without a route"),
        (traced(), "without a route"),
        (encode(AdHocAnswer(id=KEY, traces=[route("192.0.2.1")])), "without a result"),
        (encode(AdHocAnswer(id="x", traces=[route("192.0.2.1")])), "another request"),
        (traced(route("192.0.2.1"), ip="8.8.8.8"), "an impossible address"),
        (traced(route("192.0.2.1"), route("192.0.2.1")), "two routes by one method"),
        (traced(route("router.example")), "an impossible route"),
        (traced(route("fe80::1%\x1b[2J")), "an impossible route"),
        (traced(route("192.0.2.1", tried=0)), "an impossible route"),
        (traced(route(hops=[Hop(ttl=2, answers=[None])], tried=2)), "an impossible route"),
        (traced(route(hops=[Hop(ttl=1, answers=[HopAnswer(ip=IP, rtt=1e9)])], tried=1)), "an impossible route"),
        (traced(route(hops=[Hop(ttl=1, answers=[None] * 4)])), "invalid answer"),
        (traced(route(hops=[Hop(ttl=1, answers=[HopAnswer(ip=IP, note="!\x1b")])])), "invalid answer"),
        (traced(route(hops=[Hop(ttl=31, answers=[None])])), "invalid answer"),
        (traced(route(method="\x1b")), "invalid answer"),
    ],
)
def test_anything_but_a_route_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(BadAnswer, match=words):
        route_of(payload, KEY, IP)
