"""Test the broker's keys: invalid ones prevent its start, and valid ones can be rotated while it runs."""

import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from auth.tokens import SigningKey, load_key
from testbed.broker import BrokerUnavailable, render
from testbed.fixtures.broker import Broker
from testbed.fixtures.mqtt import MqttClient, Refused, signed
from testbed.waiting import block_until


def new_secret() -> SigningKey:
    return load_key(secrets.token_urlsafe(48))


def new_pair() -> SigningKey:
    key = ec.generate_private_key(ec.SECP384R1())
    return load_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def accepts(broker: Broker, token: str) -> bool:
    try:
        with MqttClient(broker.port, "joe", token, client_id="joe/rotation"):
            return True
    except Refused:
        return False


def reloaded(broker: Broker) -> None:
    """Make the broker read its keys again, and wait until it has."""
    before = broker.log_text().count("jwt-auth: tokens are checked") + broker.log_text().count("stay in use")
    broker.sighup()

    def done() -> bool:
        log = broker.log_text()
        return log.count("jwt-auth: tokens are checked") + log.count("stay in use") > before

    block_until(done)


@pytest.mark.parametrize("new_key", [new_secret, new_pair])
def test_both_keys_are_accepted_during_a_rotation(fresh_broker: Broker, new_key: Callable[[], SigningKey]) -> None:
    old, new = fresh_broker.key, new_key()
    tokens = {key: signed(key) for key in (old, new)}
    assert (accepts(fresh_broker, tokens[old]), accepts(fresh_broker, tokens[new])) == (True, False)
    fresh_broker.rotate(new, previous=old)
    assert not accepts(fresh_broker, tokens[new]), "it has not been told"
    reloaded(fresh_broker)
    assert (accepts(fresh_broker, tokens[old]), accepts(fresh_broker, tokens[new])) == (True, True)
    fresh_broker.rotate(new, previous=None)
    reloaded(fresh_broker)
    assert (accepts(fresh_broker, tokens[old]), accepts(fresh_broker, tokens[new])) == (False, True)


def test_each_key_is_valid_for_one_algorithm_even_during_a_rotation(fresh_broker: Broker) -> None:
    import jwt

    pair = new_pair()
    fresh_broker.rotate(pair, previous=fresh_broker.key)
    reloaded(fresh_broker)
    claims = jwt.decode(signed(pair), options={"verify_signature": False})
    secret = fresh_broker.process.directory / "jwt-previous.key"
    assert accepts(fresh_broker, jwt.encode(claims, secret.read_text(), algorithm="HS384"))
    assert not accepts(fresh_broker, jwt.encode(claims, secret.read_text(), algorithm="HS256"))


def test_connections_last_as_long_as_their_key_is_valid(fresh_broker: Broker) -> None:
    old, new = fresh_broker.key, new_secret()
    clients = {
        version: MqttClient(
            fresh_broker.port, "joe", signed(old), client_id=f"joe/{version}", version=version
        ).connect()
        for version in (4, 5)
    }
    fresh_broker.rotate(new, previous=old)
    reloaded(fresh_broker)
    assert all(client.is_alive() for client in clients.values())
    with MqttClient(fresh_broker.port, "bob", signed(new, "bob")) as bob:
        fresh_broker.rotate(new, previous=None)
        reloaded(fresh_broker)
        assert clients[5].wait_lost(5) == "Administrative action"
        assert clients[4].wait_lost(5)
        assert bob.is_alive()
    assert "joe/5 is disconnected: the token is not signed with a key that is valid here" in fresh_broker.log_text()


def test_disconnected_sessions_survive_reloads(fresh_broker: Broker) -> None:
    def agent(token: str) -> MqttClient:
        return MqttClient(fresh_broker.port, "joe", token, client_id="joe/away", keep=60)

    def others() -> None:
        # Sessions that expire at different times, of which the broker keeps a list.
        for number in range(5):
            MqttClient(
                fresh_broker.port, "joe", signed(fresh_broker.key), client_id=f"joe/{number}", keep=1 + number % 3
            ).connect().close()

    old, new = fresh_broker.key, new_secret()
    with agent(signed(old, subs=["/test/#"])) as first:
        first.subscribe("/test/x")
    others()
    block_until(lambda: fresh_broker.log_text().count("disconnected.") == 6)
    before = len(fresh_broker.log_text())
    for previous in (old, None, None):
        fresh_broker.rotate(new, previous)
        reloaded(fresh_broker)
    log = fresh_broker.log_text()[before:]
    # A session refused here would be disconnected again, and be entered twice in the list of expiring sessions.
    assert "refused" not in log
    assert "disconnected" not in log
    others()
    with agent(signed(new, subs=["/test/#"])) as returned:
        assert returned.session_present
    reloaded(fresh_broker)
    with MqttClient(fresh_broker.port, "watch", signed(new, "watch")) as watch:
        block_until(lambda: fresh_broker.log_text().count("Expiring client") >= 5)
        assert watch.is_alive()


def test_sessions_from_before_a_restart_survive_reloads(fresh_broker: Broker) -> None:
    with MqttClient(fresh_broker.port, "joe", signed(fresh_broker.key, subs=["/test/#"]), keep=600) as first:
        first.subscribe("/test/x")
    fresh_broker.restart()
    for _ in range(3):
        reloaded(fresh_broker)
    assert "refused" not in fresh_broker.log_text()
    with MqttClient(fresh_broker.port, "joe", signed(fresh_broker.key, subs=["/test/#"]), keep=600) as returned:
        assert returned.session_present
        assert returned.is_alive()


def test_logins_are_checked_right_after_a_reload(fresh_broker: Broker) -> None:
    for _ in range(5):
        fresh_broker.sighup()
        assert not accepts(fresh_broker, "no token")
        assert not accepts(fresh_broker, signed(new_secret()))
        assert accepts(fresh_broker, signed(fresh_broker.key))


def test_white_space_around_a_key_is_ignored(fresh_broker: Broker) -> None:
    for new in (new_secret(), new_pair()):
        space = " \t\r\n\v\f"
        fresh_broker.process.set_keys(space + new.verification_text() + space)
        reloaded(fresh_broker)
        assert accepts(fresh_broker, signed(new))


# --- invalid keys -------------------------------------------------------------------------------------


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem() -> str:
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


BROKEN: dict[str, tuple[Callable[[], str], str]] = {
    "empty": (lambda: "", "too short"),
    "white space": (lambda: " \n" * 60, "too short"),
    "too short": (lambda: "hunter2" * 6 + "\n\n\n\n\n\n\n", "at least 48 bytes"),
    "with NUL": (lambda: "s" * 50 + "\0" + "s" * 50, "NUL"),
    "too long": (lambda: "s" * 20_000, "too large"),
    "a private key": (private_pem, "private key"),
    "an RSA key": (lambda: pem(rsa.generate_private_key(65537, 2048)), "P-384"),
    "another curve": (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "P-384"),
    "a longer curve": (lambda: pem(ec.generate_private_key(ec.SECP521R1())), "P-384"),
    "half a key": (lambda: pem(ec.generate_private_key(ec.SECP384R1()))[:120], "P-384"),
    "a damaged key": (lambda: pem(ec.generate_private_key(ec.SECP384R1())).replace("MHYw", "MHY!"), "P-384"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broker_does_not_start_with_an_invalid_key(fresh_broker: Broker, case: str) -> None:
    make, why = BROKEN[case]
    text = make()
    fresh_broker.stop()
    fresh_broker.process.set_keys(text)
    with pytest.raises(BrokerUnavailable) as caught:
        fresh_broker.start()
    assert why in str(caught.value)
    assert str(fresh_broker.process.directory / "jwt.key") in str(caught.value), "the file is named"
    assert not any(line in str(caught.value) for line in text.split() if len(line) > 20)


@pytest.mark.parametrize("case", [name for name in BROKEN if name != "empty"])
def test_broker_does_not_start_with_an_invalid_previous_key(fresh_broker: Broker, case: str) -> None:
    fresh_broker.stop()
    fresh_broker.process.set_keys(fresh_broker.key.verification_text(), BROKEN[case][0]())
    with pytest.raises(BrokerUnavailable, match=r"jwt-previous\.key"):
        fresh_broker.start()


@pytest.mark.parametrize("case", BROKEN)
def test_reload_with_an_invalid_key_keeps_the_loaded_keys(broker: Broker, case: str) -> None:
    make, why = BROKEN[case]
    broker.process.set_keys(make())
    try:
        reloaded(broker)
        log = broker.log_text().splitlines()[-12:]
        assert any(why in line and "jwt.key" in line for line in log)
        assert any("the keys that were loaded before stay in use" in line for line in log)
        assert accepts(broker, signed(broker.key))
    finally:
        broker.process.set_keys(broker.key.verification_text())
        reloaded(broker)


def unreadable(broker: Broker, options: str) -> str:
    broker.stop()
    directory = broker.process.directory
    text = render(broker.process.parts, directory, broker.port, broker.process.tls_port)
    lines = [line for line in text.splitlines() if not line.startswith("plugin_opt")]
    at = next(i for i, line in enumerate(lines) if line.startswith("plugin "))
    lines[at + 1 : at + 1] = options.format(directory=directory).splitlines()
    (directory / "other.conf").write_text("\n".join(lines) + "\n")
    run = subprocess.run(
        [broker.process.parts.program, "-c", directory / "other.conf"], capture_output=True, text=True, timeout=10
    )
    assert run.returncode != 0
    return run.stdout + run.stderr


def test_invalid_plugin_options_are_reported(fresh_broker: Broker) -> None:
    warnings = {
        "": "plugin_opt_key_file must be set",
        "plugin_opt_keyfile {directory}/jwt.key": "unknown option plugin_opt_keyfile; known are plugin_opt_key_file",
        "plugin_opt_key_file {directory}/none.key": "none.key: cannot be read: No such file",
        "plugin_opt_key_file {directory}": "cannot be read: Is a directory",
        "plugin_opt_key_file /dev/zero": "/dev/zero: cannot be read: Invalid argument",
    }
    for options, warning in warnings.items():
        assert warning in unreadable(fresh_broker, options)


def test_key_files_are_accessible_to_the_broker_only(broker: Broker) -> None:
    directory = broker.process.directory
    assert directory.stat().st_mode & 0o077 == 0
    for file in directory.glob("jwt*"):
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["jwt.key", "jwt-previous.key"])
@pytest.mark.parametrize(("mode", "why"), [(0o604, "readable by everybody"), (0o602, "writable by everybody")])
def test_secret_readable_or_writable_by_everybody_is_refused(
    fresh_broker: Broker, name: str, mode: int, why: str
) -> None:
    fresh_broker.rotate(fresh_broker.key, previous=new_secret())
    key: Path = fresh_broker.process.directory / name
    key.chmod(mode)
    reloaded(fresh_broker)
    log = fresh_broker.log_text()
    assert f"key file {key}: is {why}" in log
    assert "the keys that were loaded before stay in use" in log
    assert accepts(fresh_broker, signed(fresh_broker.key))
    program, configuration = fresh_broker.process.parts.program, fresh_broker.process.directory / "broker.conf"
    started = subprocess.run([program, "-c", configuration], capture_output=True, text=True, timeout=10, check=False)
    assert started.returncode != 0
    assert f"key file {key}: is {why}" in started.stdout + started.stderr


def test_public_key_may_be_world_readable_but_not_world_writable(fresh_broker: Broker) -> None:
    pair = new_pair()
    fresh_broker.rotate(pair, previous=None)
    key: Path = fresh_broker.process.directory / "jwt.key"
    key.chmod(0o644)
    reloaded(fresh_broker)
    assert accepts(fresh_broker, signed(pair))
    key.chmod(0o646)
    reloaded(fresh_broker)
    assert f"key file {key}: is writable by everybody" in fresh_broker.log_text()
