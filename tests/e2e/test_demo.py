"""Test the demo as users run it: its findings, its output, and that it leaves nothing behind."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from schema.topics import Topics
from testbed.fixtures.broker import require_address
from testbed.fixtures.database import require
from testbed.fixtures.demo import alive, demo
from testbed.ports import ADDRESS_V6
from testbed.waiting import PATIENCE

UNTIL_TRUE = 120.0
"""Seconds, from when all agents are registered, until scores and pairs of a long run show the servers' true state: 24
results at intervals of two seconds, and reviews that promote two monitors at a time."""


@pytest.mark.timeout(UNTIL_TRUE + PATIENCE)
def test_demo_finds_the_true_state_of_each_server_and_loses_nothing(tmp_path: Path) -> None:
    with demo(tmp_path, "--agents", "8", "--servers", "9") as running:
        running.until_said("running; to inspect it")
        began = time.monotonic()
        again = subprocess.run(
            [sys.executable, "-P", "-m", "ops", "demo", "--dir", str(running.directory)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (again.returncode, again.stdout) == (1, "")
        assert f"another demo (process {running.process.pid}) is running in it" in again.stderr
        _the_operators_tools_work(running.directory)
        _the_traffic_can_be_watched(running.directory)
        # The deadline counts from there, as --seconds does, however long the commands took.
        left = UNTIL_TRUE - (time.monotonic() - began)
        running.until(lambda: _seems_true(running.states()), "finds out what is true", left)
        running.process.send_signal(signal.SIGINT)
        code, summary, err = running.end()
    assert summary is not None
    assert (code, summary["problems"], summary["died"]) == (0, [], []), err
    assert [summary[count] for count in ("lost", "duplicated", "rejected", "waiting", "wrong_scores")] == [0] * 5
    assert summary["committed"] > 8 * 9 * 10
    assert summary["assignment_changes"] > 8 * 7
    assert "The demo succeeded" in err
    _the_truth_was_found({server["what"] + server["server"]: server for server in summary["servers"]})


def test_demo_on_mysql_loses_nothing_and_uses_only_tls_and_ipv6_on_request(tmp_path: Path) -> None:
    """The demo at a terminal (``test_demo_verdict.py``) uses MariaDB, plain TCP and IPv4."""
    require("mysql")
    require_address(ADDRESS_V6)
    options = ["--agents", "2", "--servers", "2", "--database", "mysql", "--tls", "--ipv6"]
    with demo(tmp_path, *options) as running:
        running.until_said("running; to inspect it")
        log_file = running.directory / "logs" / "broker.log"
        for name in ("nlams1-demo1", "uspao1-demo1", "ingest", "scorer", "selector", "demo-operator"):
            running.until(lambda name=name: f" as {name}" in log_file.read_text(), f"{name} is connected")  # type: ignore[misc]
        _the_operators_tools_work(running.directory)
        running.until(lambda: len(running.states()) == 2, "both servers have a score")
        running.until(lambda: running.results() > 2 * 2, "stores results of all pairs")
        running.process.send_signal(signal.SIGINT)
        code, summary, err = running.end()
        log = log_file.read_text()
        ports = set(re.findall(r"^listener (\d+) ", (running.directory / "broker/broker.conf").read_text(), re.M))
        settings = (running.directory / "env").read_text()
    assert summary is not None
    assert (code, summary["problems"], summary["died"]) == (0, [], []), err
    assert summary["committed"] > 2 * 2
    assert not (running.directory / "database" / "s").exists(), "the server has ended"
    (port,) = re.findall(r"^export MQTT_PORT=(\d+)$", settings, re.M)
    assert ports > {port}, "there is another way, which nobody took"
    assert set(re.findall(r"^New client connected from (\S+):\d+ as", log, re.M)) == {ADDRESS_V6}
    assert set(re.findall(r"^New connection from \S+ on port (\d+)\.$", log, re.M)) == {port}


def _the_operators_tools_work(directory: Path) -> None:
    assert re.search(r"^selector/\S+: ok ", _operate(directory, "control selector status"))
    assert "nlams1-demo1.devel.mon.example: ok" in _operate(directory, "control nlams1-demo1.devel.mon.example ping")
    assert "127.20.0.1" in _operate(directory, "servers list")


def _operate(directory: Path, command: str) -> str:
    """Return the output of an operator's command."""
    done = subprocess.run(
        ["bash", "-c", f". {directory}/env && {shlex.quote(sys.executable)} -P -m ops {command}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={"PATH": os.environ["PATH"], "USER": "somebody"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _the_traffic_can_be_watched(directory: Path) -> None:
    """Check that an admin sees every kind of topic."""
    ops = f"{sys.executable} -P -m ops"
    watch = "mosquitto_sub -p $MQTT_PORT -i somebody/watch -u somebody -P \"$TOKEN\" -t '/devel/#' -F %t -W 6"
    shell = f". {directory}/env && TOKEN=$({ops} token admin somebody) && {watch}"
    done = subprocess.run(
        ["bash", "-c", shell],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    topics = Topics("devel")
    addresses = [(topic, topics.parse(topic)) for topic in set(done.stdout.splitlines())]
    assert {"status", "config", "assignments", "results", "acks"} <= {a.kind for _, a in addresses if a}, done.stderr
    echo = topics.echo("selector")  # by which it knows that it has read all retained messages
    live = {topic.split("/")[3] for topic, address in addresses if address is None and not topic.startswith(echo)}
    assert {"results", "scores"} <= live <= {"results", "scores", "assignments"}


def _seems_true(states: list[tuple[float, int]]) -> bool:
    """Return whether the score and the number of active monitors of each server (``states``) fit its true state."""
    if len(states) < 9:
        return False
    good = all(states[n][0] > 12 and states[n][1] >= 5 for n in (0, 2, 4, 7, 8))
    bad = {1: -2, 3: -50, 5: -40, 6: -40}
    return good and all(states[n][0] < most and states[n][1] == 0 for n, most in bad.items())


def _the_truth_was_found(servers: dict[str, dict[str, Any]]) -> None:
    assert len(servers) == 9
    for server in servers.values():
        assert server["handed_out"] is (server["score"] > 10) is (server["why_not"] is None)
        if server["true_offset"] is not None:
            assert server["median_offset"] == pytest.approx(server["true_offset"], abs=0.5e-3), server
    by_kind = {server["what"]: server for server in servers.values()}
    for what in ("good", "good, monitor's account", "good, monitor's network"):
        assert by_kind[what]["score"] > 12, "rises towards 20"
        # Without an active monitor, four become active before they have 24 results; the others need these results.
        assert by_kind[what]["active"] >= 5, "seven or all that may serve, in time"
        assert by_kind[what]["active"] <= min(7, by_kind[what]["may_serve"])
    # An offset of 400 ms costs 2.308 * 0.4 - 0.731 = 0.192 per result: the score tends to -3.84.
    assert -3.85 < by_kind["off by 400 ms"]["score"] < -2
    assert by_kind["off by 5 s"]["score"] < -50
    assert by_kind["stratum 16"]["score"] < -40
    assert by_kind["silent"]["score"] < -40
    assert by_kind["silent"]["median_offset"] is None
    for what, why in (
        ("off by 400 ms", "clock is 400 ms ahead"),
        ("off by 5 s", "clock is 5.0 s ahead"),
        ("stratum 16", "error: bad stratum 16"),
        ("silent", "does not answer"),
    ):
        assert by_kind[what]["active"] == 0
        assert by_kind[what]["why_not"] == why


def test_second_signal_ends_even_a_hanging_process(tmp_path: Path) -> None:
    with demo(tmp_path, "--agents", "1", "--servers", "1") as running:
        running.until_said("running; to inspect it")
        children = list(running.children())
        os.kill(running.child("ops ingest"), signal.SIGSTOP)
        running.process.send_signal(signal.SIGINT)
        running.until_said("the agents pause")
        running.process.send_signal(signal.SIGINT)
        code, _, err = running.end()
    assert code in (0, 1) and "Traceback" not in err
    assert alive(children) == []


def test_signal_during_the_start_leaves_no_process_behind(tmp_path: Path) -> None:
    with demo(tmp_path, "--agents", "2", "--servers", "1") as running:
        running.until(lambda: bool(running.children()), "starts something")
        children = list(running.children())
        running.process.send_signal(signal.SIGTERM)
        code, _, err = running.end()
    assert code in (0, 1) and "Traceback" not in err
    assert alive(children) == []


def test_no_process_outlives_a_killed_demo(tmp_path: Path) -> None:
    with demo(tmp_path, "--agents", "1", "--servers", "1", "--database", "mariadb") as running:
        running.until_said("running; to inspect it")
        children = list(running.children())
        assert len(children) == 9
        running.process.kill()
        running.process.wait()
        running.until(lambda: alive(children) == [], "children end")


def test_directory_with_foreign_files_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    theirs = tmp_path / "demo" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("42")
    with demo(tmp_path) as running:
        code, summary, err = running.end()
    assert (code, summary) == (1, None)
    assert "is neither empty nor a demo's directory" in err
    assert theirs.read_text() == "42"
