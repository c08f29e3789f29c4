"""Test the local broker of demo, tests and benchmarks: life cycle, files, and error messages."""

import os
import re
import signal
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from auth.ca.authority import DEFAULT_LIFETIME, Revocation
from auth.ca.files import FileAuthority
from auth.ca.list_file import write_list
from auth.ca.request import new_key
from auth.tokens import load_key
from testbed import broker as broker_module
from testbed.broker import BrokerUnavailable, LocalBroker, find_parts
from testbed.fixtures.broker import Broker, build_plugin, require_address
from testbed.fixtures.mqtt import MqttClient, Refused, signed
from testbed.ports import ADDRESS, ADDRESS_V6, free_port, loopback_addresses
from testbed.tls import LocalCa
from testbed.waiting import block_until

KEY = load_key("k" * 48)


@pytest.fixture
def local(tmp_path: Path) -> LocalBroker:
    build_plugin()
    return LocalBroker(tmp_path / "some where" / "broker", free_port(), KEY.verification_text())


def works(broker: LocalBroker) -> bool:
    with MqttClient(broker.port, "joe", signed(KEY)):
        return True


def test_broker_runs_as_long_as_its_context(local: LocalBroker) -> None:
    with local:
        assert local.process is not None
        pid = local.process.pid
        assert works(local)
    assert local.process is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert "terminating" in local.log_text()


def test_broker_can_be_started_again_after_a_stop_or_kill(local: LocalBroker) -> None:
    for end in (local.stop, local.kill, local.stop):
        local.start()
        assert works(local)
        end()
    assert local.log_text().count(" running\n") == 3


def test_retained_messages_survive_a_stop(local: LocalBroker) -> None:
    with local, MqttClient(local.port, "joe", signed(KEY, publ=["x"])) as joe:
        joe.publish("x", "kept", retain=True)
    with local, MqttClient(local.port, "joe", signed(KEY, subs=["x"])) as joe:
        joe.subscribe("x")
        assert [message.payload for message in joe.receive()] == [b"kept"]


def test_stopping_it_twice_or_before_its_start_is_allowed(local: LocalBroker) -> None:
    local.stop()
    local.kill()
    local.reload()
    with local:
        local.stop()
        local.stop()


def test_broker_has_its_own_process_group(local: LocalBroker) -> None:
    with local:
        assert local.process is not None
        assert os.getpgid(local.process.pid) != os.getpgid(0)


def test_its_files_are_private_to_the_owner(local: LocalBroker) -> None:
    before = os.umask(0)
    try:
        with local:
            assert local.directory.stat().st_mode & 0o077 == 0
            for name in ("jwt.key", "key.pem"):
                assert (local.directory / name).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_broker_listens_on_loopback_only(local: LocalBroker) -> None:
    listeners = re.findall(r"^listener (.*)$", local.configuration(), re.M)
    ports = (local.port, local.tls_port)
    assert sorted(listeners) == sorted(f"{port} {host}" for port in ports for host in loopback_addresses())
    assert local.port != local.tls_port


@pytest.mark.parametrize("host", [ADDRESS, ADDRESS_V6])
@pytest.mark.parametrize("tls", [False, True])
def test_broker_is_reachable_at_all_its_addresses(local: LocalBroker, host: str, tls: bool) -> None:
    require_address(host)
    with local:
        address = local.address(host, tls=tls)
        with MqttClient(address.port, "joe", signed(KEY), host=address.host, tls=address.tls()) as joe:
            assert joe.is_alive()


def test_plain_connection_to_the_tls_port_is_closed(local: LocalBroker) -> None:
    with local, pytest.raises(Refused, match="closed"):
        MqttClient(local.tls_port, "joe", signed(KEY)).connect()


def test_broker_presents_a_new_certificate_after_a_reload(local: LocalBroker) -> None:
    def shown() -> str:
        return ssl.get_server_certificate((ADDRESS, local.tls_port), timeout=5)

    other = LocalCa().issue(ADDRESS)
    with local:
        assert shown() == local.certificate.certificate
        local.show(other)
        local.reload()
        block_until(lambda: shown() == other.certificate)
        local.show(local.certificate)
        local.reload()
        block_until(lambda: shown() == local.certificate.certificate)


def test_broker_with_a_ca_requires_its_certificates_on_tls_only(tmp_path: Path) -> None:
    authority = FileAuthority(tmp_path / "ca", "test")
    authority.create()
    made = new_key()
    certificate = authority.sign_server(made.request, ["ann.people.example"], DEFAULT_LIFETIME, client=True)
    (tmp_path / "cert.pem").write_text(certificate.chain)
    (tmp_path / "key.pem").write_text(made.key)
    build_plugin()
    key = KEY.verification_text()
    with LocalBroker(tmp_path / "broker", free_port(), key, authority=authority) as broker:
        assert works(broker)
        address = broker.address(tls=True)
        with pytest.raises(Refused, match="closed"):
            MqttClient(address.port, "joe", signed(KEY), tls=address.tls()).connect()
        address = replace(address, cert_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem")
        with MqttClient(address.port, "joe", signed(KEY), tls=address.tls()) as joe:
            assert joe.is_alive()
        revoked = Revocation(certificate.serial, datetime.now(UTC))
        write_list(broker.crl_file, lambda: authority.revocation_list([revoked]))
        broker.stop()
        broker.start()
        with pytest.raises(Refused, match="closed"):
            MqttClient(address.port, "joe", signed(KEY), tls=address.tls()).connect()
        assert works(broker)


def test_port_in_use_is_reported(local: LocalBroker, broker: Broker) -> None:
    local.port = broker.port
    with pytest.raises(BrokerUnavailable, match="Address already in use"):
        local.start()
    assert local.process is None


def test_missing_part_is_reported_with_the_remedy(local: LocalBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    local.parts = replace(local.parts, plugin=Path("/nowhere/plugin.so"))
    with pytest.raises(BrokerUnavailable, match=r"/nowhere/plugin\.so"):
        local.start()
    monkeypatch.setattr(broker_module, "_PLUGIN", (Path("/nowhere/plugin.so"),))
    with pytest.raises(BrokerUnavailable, match=r"plugin is not at /nowhere/plugin\.so: run scripts/bootstrap"):
        find_parts()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(broker_module, "_SBIN", "")
    with pytest.raises(BrokerUnavailable, match="mosquitto is not installed: run scripts/bootstrap"):
        find_parts()


def test_death_of_the_broker_is_visible_in_its_process(local: LocalBroker) -> None:
    with local:
        assert local.process is not None
        local.process.send_signal(signal.SIGKILL)
        process = local.process
        block_until(lambda: process.poll() is not None)


def test_free_ports_are_outside_the_range_of_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= free_port() < max(first, 20_000) for _ in range(100))
