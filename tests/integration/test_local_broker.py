"""The broker that demo, tests and benchmarks run: its life, its files, and what it says when it cannot run."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.broker import Broker, build_plugin
from fixtures.mqtt import MqttClient, signed, wait_until

from auth.tokens import load_key
from ops import local_broker
from ops.local_broker import BrokerUnavailable, LocalBroker, find_parts
from ops.local_ports import free_port

KEY = load_key("k" * 48)


@pytest.fixture
def local(tmp_path: Path) -> LocalBroker:
    build_plugin()
    return LocalBroker(tmp_path / "some where" / "broker", free_port(), KEY.verification_text())


def works(broker: LocalBroker) -> bool:
    with MqttClient(broker.port, "joe", signed(KEY)):
        return True


def test_it_lives_as_long_as_its_context(local: LocalBroker) -> None:
    with local:
        assert local.process is not None
        pid = local.process.pid
        assert works(local)
    assert local.process is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert "terminating" in local.log_text()


def test_it_starts_again_after_any_end(local: LocalBroker) -> None:
    for end in (local.stop, local.kill, local.stop):
        local.start()
        assert works(local)
        end()
    assert local.log_text().count(" running\n") == 3


def test_what_is_retained_outlives_an_orderly_end(local: LocalBroker) -> None:
    with local, MqttClient(local.port, "joe", signed(KEY, publ=["x"])) as joe:
        joe.publish("x", "kept", retain=True)
    with local, MqttClient(local.port, "joe", signed(KEY, subs=["x"])) as joe:
        joe.subscribe("x")
        assert [message.payload for message in joe.receive()] == [b"kept"]


def test_ending_it_twice_or_before_its_start_is_fine(local: LocalBroker) -> None:
    local.stop()
    local.kill()
    local.reload()
    with local:
        local.stop()
        local.stop()


def test_ctrl_c_does_not_reach_it(local: LocalBroker) -> None:
    with local:
        assert local.process is not None
        assert os.getpgid(local.process.pid) != os.getpgid(0)


def test_its_files_are_its_own(local: LocalBroker) -> None:
    before = os.umask(0)
    try:
        with local:
            assert local.directory.stat().st_mode & 0o077 == 0
            assert (local.directory / "jwt.key").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_it_listens_on_loopback_only(local: LocalBroker) -> None:
    assert f"\nlistener {local.port} 127.0.0.1\n" in local.configuration()


def test_a_port_that_is_taken_is_said(local: LocalBroker, broker: Broker) -> None:
    local.port = broker.port
    with pytest.raises(BrokerUnavailable, match="Address already in use"):
        local.start()
    assert local.process is None


def test_a_missing_part_is_said_with_what_to_do(local: LocalBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    local.parts = replace(local.parts, plugin=Path("/nowhere/plugin.so"))
    with pytest.raises(BrokerUnavailable, match=r"/nowhere/plugin\.so"):
        local.start()
    monkeypatch.setattr(local_broker, "_PLUGIN", (Path("/nowhere/plugin.so"),))
    with pytest.raises(BrokerUnavailable, match=r"plugin is not at /nowhere/plugin\.so: run scripts/bootstrap"):
        find_parts()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(local_broker, "_SBIN", "")
    with pytest.raises(BrokerUnavailable, match="mosquitto is not installed: run scripts/bootstrap"):
        find_parts()


def test_a_broker_that_dies_is_noticed(local: LocalBroker) -> None:
    with local:
        assert local.process is not None
        local.process.send_signal(signal.SIGKILL)
        process = local.process
        wait_until(lambda: process.poll() is not None)


def test_ports_are_never_those_of_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= free_port() < max(first, 20_000) for _ in range(100))
