"""Test the formats for monitoring systems."""

import json
from datetime import datetime

from prometheus_client.parser import text_string_to_metric_families

from web.formats.tools import check_json, check_line, metrics_text
from web.model import Monitor, Server
from web.store.history import Sums
from web.verdict import Check

NOW = datetime(2026, 11, 30, 12)
SERVER = Server(1, "192.0.2.7", "v4", None, True, 10_000, 19.5, NOW, NOW, None)
ODD = 'od"d\\\n'
MONITORS = [
    Monitor(1, "recentmedian", "score", "active", 19.5, NOW),
    Monitor(2, ODD, "monitor", "active", 20.0, NOW),
    Monitor(3, "new", "monitor", "candidate", 0.0, None),
]


def test_check() -> None:
    found = Check("bad", "score 5.0, threshold 10; 2 of 3 monitors see trouble", 5.0, 10.0, 2, 3)
    assert check_line(SERVER, found) == b"BAD 192.0.2.7: score 5.0, threshold 10; 2 of 3 monitors see trouble\n"
    assert json.loads(check_json(SERVER, found)) == {
        "state": "bad",
        "message": found.sentence,
        "ip": "192.0.2.7",
        "score": 5,
        "threshold": 10,
        "monitors_agree": 2,
        "monitors": 3,
    }


def test_metrics_are_read_by_prometheus() -> None:
    text = metrics_text(SERVER, MONITORS, {2: Sums(10, 5, 20_000.0), 3: Sums(0, 0, None)}, 24).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, sample.labels.get("monitor")): sample.value for sample in samples}
    assert {sample.labels["server"] for sample in samples} == {"192.0.2.7"}
    assert found == {
        ("ntppool_server_score", None): 19.5,
        ("ntppool_server_in_pool", None): 1.0,
        ("ntppool_server_score_timestamp_seconds", None): 1_796_040_000.0,
        ("ntppool_server_monitor_score", ODD): 20.0,
        ("ntppool_server_monitor_score", "new"): 0.0,
        ("ntppool_server_monitor_results", ODD): 10.0,
        ("ntppool_server_monitor_results", "new"): 0.0,
        ("ntppool_server_monitor_lost_ratio", ODD): 0.5,
        ("ntppool_server_monitor_rtt_seconds", ODD): 0.02,
    }
