"""Test the formats for tools through the whole application, on every database."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.engine import transaction
from schema.tables import servers
from testbed.fixtures.web import HOSTNAME, NOW, V4, V6, Ids, Public, fill, public
from testbed.fixtures.world import add_log_score, add_server
from web.caching import ERRORS, ONE_ROW, RESTING, USUAL
from web.model import epoch

DATA = "/api/data/server/scores"


@pytest.fixture
def ids(engine: Engine) -> Ids:
    return fill(engine)


@pytest.fixture
def web(engine: Engine, ids: Ids) -> Public:
    return public(engine)


def test_histories(web: Public, ids: Ids, engine: Engine) -> None:
    found = web.get(f"{DATA}/{V4}/json?monitor=nlams1-good&limit=2")
    at = epoch(NOW)
    assert found.text == (
        f'{{"history":[{{"ts":{at},"offset":-0.000266667,"step":1,"score":20,"monitor_id":{ids.good},"rtt":19.5}},'
        f'{{"ts":{at - 540},"offset":-0.000266667,"step":1,"score":20,"monitor_id":{ids.good},"rtt":19.5}}],'
        f'"monitors":[{{"id":{ids.good},"name":"nlams1-good","type":"monitor","ts":"2026-11-30T12:00:00Z",'
        f'"score":20,"status":"active","avg_rtt":19.5}}],"server":{{"ip":"{V4}"}}}}\n'
    )
    assert (found.headers["content-type"], found.headers["cache-control"]) == ("application/json", USUAL)
    log = web.get(f"/api/server/scores/{ids.server}/log?monitor=*&limit=4")
    assert log.text == (
        "ts_epoch,ts,offset,step,score,monitor_id,monitor_name,rtt,leap,error\n"
        f"{at},2026-11-30 12:00:00,,1,16.25,{ids.scorer},recentmedian,,,\n"
        f"{at},2026-11-30 12:00:00,,-4,0.333333333,{ids.odd},x<b>odd,31.234,1,"
        f'"read udp <address>->{V4}:123, ""<script>alert(1)</script><0x1B>[2J\u202egnp.exe<0x07>"""\n'
        f"{at},2026-11-30 12:00:00,,-5,-40,{ids.silent},uspao1-silent,,,\n"
        f"{at},2026-11-30 12:00:00,-0.000266667,1,20,{ids.good},nlams1-good,19.5,,\n"
    )
    assert log.headers["content-type"].startswith("text/plain") and log.headers["content-disposition"] == "inline"
    scores = web.get(f"{DATA}/{V4}/json").json()
    assert [(one["ts"], one["score"]) for one in scores["history"]] == [(at, 16.25), (at - 3600, 16.25), (at - 7200, 9)]
    assert [one["name"] for one in scores["monitors"]] == ["recentmedian"]
    _since(web, at)
    _ranges(web, at, ids)
    _limits(web)
    _monitors(web, ids, engine)


def _since(web: Public, at: int) -> None:
    def times(query: str) -> list[int]:
        return [one["ts"] for one in web.get(f"{DATA}/{V4}/json?{query}").json()["history"]]

    assert times(f"since={at - 3600}") == [at]
    assert times(f"since={at - 3601}&limit=1") == [at - 3600]
    assert times("since=0") == [at - 7200, at - 3600, at]
    assert times("since=") == [at, at - 3600, at - 7200]
    assert times(f"since={at - 540}&monitor=*") == [at] * 4
    assert times(f"since={10**17}&monitor=*") == times(f"since={at + 1000}") == []


def _ranges(web: Public, at: int, ids: Ids) -> None:
    route = f"/api/v2/server/scores/{V4}/json"
    series = web.get(f"{route}?from={at - 540}&to={at}").json()
    assert [one["tags"]["monitor_id"] for one in series] == [
        str(number) for number in sorted((ids.scorer, ids.good, ids.silent, ids.odd))
    ]
    good = next(one for one in series if one["target"] == "monitor{name=nlams1-good}")
    assert good["values"] == [[(at - 540) * 1000, 20, 19.5, -0.000266667], [at * 1000, 20, 19.5, -0.000266667]]
    one = web.get(f"{route}?from=-3d&monitor=recentmedian&maxDataPoints=2").json()
    assert [[value[1] for value in series["values"]] for series in one] == [[9, 16.25]]
    assert web.get(f"{route}?from=1&to=9").text == "[]\n"
    for query in ("from=-91d", "to=x", "from=5&to=5", "maxDataPoints=0"):
        refused = web.get(f"{route}?{query}")
        assert (refused.status_code, list(refused.json())) == (400, ["message"])


def _limits(web: Public) -> None:
    assert len(web.get(f"{DATA}/{V4}/json?monitor=*&limit=10000").json()["history"]) == 36
    for limit, rows in (("-1", 1), ("0", 1), ("x", 36), ("99999999999999999999999", 36), ("2", 2), ("", 36)):
        assert len(web.get(f"{DATA}/{V4}/json?monitor=*&limit={limit}").json()["history"]) == rows


def _monitors(web: Public, ids: Ids, engine: Engine) -> None:
    for which in (str(ids.good), "NLAMS1-good"):
        assert web.get(f"{DATA}/{V4}/json?monitor={which}").json()["monitors"][0]["id"] == ids.good
    for which in ("none", "9999", "99999999999", "settings-v4", "nlams1", "nlams1-goo_", "%25", "a%20b"):
        missing = web.get(f"{DATA}/{V4}/json?monitor={which}")
        assert (missing.status_code, missing.json()) == (404, {"message": "monitor not found"}), which
    listed = web.get(f"/scores/{V4}/monitors").json()["monitors"]
    assert [list(one) for one in listed] == [["id", "score", "name", "ts", "status", "type"]] * 4
    assert [(one["name"], one["type"]) for one in listed] == [
        *(("recentmedian", "score"), ("nlams1-good", "monitor"), ("uspao1-silent", "monitor"), ("x<b>odd", "monitor"))
    ]
    # The monitor of the server's own protocol, though it has no pair.
    six = web.get(f"{DATA}/{V6}/json?monitor=nlams1-good").json()
    assert six["history"] == six["monitors"] == []


def test_how_a_server_may_be_written(web: Public, ids: Ids, engine: Engine) -> None:
    for text in (V4, f"::ffff:{V4}", str(ids.server), f"%20{V4}"):
        assert web.get(f"{DATA}/{text}/json").status_code == 200, text
    for text in ("192.0.2.8", "192.0.2.007", f"{V6}%25eth0", "999999", "%3Cscript%3E", HOSTNAME, "-1"):
        missing = web.get(f"{DATA}/{text}/json")
        assert (missing.status_code, missing.json()) == (404, {"message": "server not found"}), text
    assert web.get(f"/scores/{V4}").status_code == 200
    for text, place in (
        (str(ids.server), f"/scores/{V4}"),
        (f"::ffff:{V4}", f"/scores/{V4}"),
        ("2001:DB8:0:0::7", f"/scores/{V6}"),
        ("NTP.example.NET.", f"/scores/{V4}"),
    ):
        moved = web.get(f"/scores/{text}")
        assert (moved.status_code, moved.headers["location"]) == (301, place)
        assert web.get(f"/s/{text}").headers["location"] == place
    moved = web.get(f"/scores/{V4.replace('.', '%2E')}/log?limit=5&monitor=*")
    assert (moved.status_code, moved.headers["location"]) == (301, f"{DATA}/{V4}/log?limit=5&monitor=*")
    transaction(engine, lambda c: c.execute(sa.update(servers).values(hostname=HOSTNAME)))
    both = web.get(f"/scores/{HOSTNAME}")
    assert (both.status_code, both.headers["location"]) == (302, f"/?q={HOSTNAME}")
    assert all(ip in web.get(f"/?q={HOSTNAME}").text for ip in (f'"/scores/{V4}"', f'"/scores/{V6}"'))
    gone = NOW.date() - timedelta(days=31)
    transaction(engine, lambda c: c.execute(sa.update(servers).values(deletion_on=gone)))
    for path in (f"{DATA}/{V4}/json", f"/scores/{V4}", f"/scores/{HOSTNAME}", f"/s/{ids.server}"):
        assert web.get(path).status_code == 404


def test_headers_of_answers_and_errors(web: Public, ids: Ids, engine: Engine) -> None:
    first = web.get(f"{DATA}/{V4}/json")
    for tag in (first.headers["etag"], f"W/{first.headers['etag']}", "*"):
        again = web.get(f"{DATA}/{V4}/json", headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert web.get(f"{DATA}/{V4}/json", headers={"If-None-Match": '"x"'}).status_code == 200
    assert web.get(f"{DATA}/{V4}/json?limit=1").headers["cache-control"] == ONE_ROW
    assert web.get(f"{DATA}/{V6}/json").headers["cache-control"] == RESTING
    for path, status, words in (
        (f"{DATA}/{V4}/xml", 404, "invalid mode"),
        (f"/scores/{V4}/xml", 404, "invalid mode"),
        (f"/api/v2/server/scores/{V4}/log", 404, "invalid mode"),
        (f"{DATA}/{V4}/json?since=now", 400, "since must be seconds since 1970, such as 1767225600"),
        ("/api/nothing", 404, "There is nothing at this address."),
        (f"/api/status-check/{V4}?threshold=x", 400, "This request is malformed."),
    ):
        refused = web.get(path)
        assert (refused.status_code, refused.headers["cache-control"]) == (status, ERRORS)
        assert refused.json() == {"message": words}
    for answer in (first, web.get("/api/nothing"), web.get("/")):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["traceparent"].startswith("00-")
        assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert web.get(f"{DATA}/{V4}/json", "POST").status_code == 405
    assert web.get(f"{DATA}/{V4}/json", "HEAD").status_code == 200


def test_the_state_of_a_server_for_monitoring_systems(web: Public, ids: Ids, engine: Engine) -> None:
    well = web.get(f"/api/status-check/{V4}")
    assert (well.status_code, well.text) == (200, f"OK {V4}: score 16.2, threshold 10; 1 of 3 monitors see trouble\n")
    bad = web.get(f"/api/status-check/{V4}?threshold=17")
    assert (bad.status_code, bad.headers["cache-control"]) == (503, "no-store")
    assert bad.text == f"BAD {V4}: score 16.2, threshold 17; 2 of 3 monitors see trouble\n"
    assert web.get(f"/api/status-check/{V4}?threshold=17&monitors=3").status_code == 200
    said = web.get(f"/api/status-check/{V4}?threshold=17", headers={"Accept": "application/json"})
    assert (said.status_code, said.json()["state"], said.json()["monitors_agree"]) == (503, "bad", 2)
    assert web.get(f"/api/status-check/{V6}").text == f"UNKNOWN {V6}: it has not been measured yet\n"
    text = web.get(f"/metrics/server/{V4}").text
    assert f'ntppool_server_monitor_lost_ratio{{server="{V4}",monitor="uspao1-silent",status="active"}} 1.0\n' in text


def test_no_limit_misses_or_repeats_a_row_of_the_same_second(engine: Engine) -> None:
    def add(connection: sa.Connection) -> tuple[int, list[int]]:
        server = add_server(connection, V4)
        return server, [add_log_score(connection, server, monitor, NOW, score=n / 7) for n, monitor in enumerate(made)]

    made = [fill(engine).good] * 5
    transaction(engine, lambda c: c.execute(sa.delete(servers).where(servers.c.ip == V4)))
    transaction(engine, add)
    rows = public(engine).get(f"{DATA}/{V4}/json?monitor=*").json()["history"]
    assert [one["score"] for one in rows] == [round(n / 7, 12) for n in (4, 3, 2, 1)] + [0]
