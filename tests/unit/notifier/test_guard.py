"""Test what channels of accounts may connect to; `tests/integration/notifier/test_sender.py` tries it with sockets."""

import pytest

from notifier.guard import Guard, Refused

PUBLIC = [("9.9.9.9", 443), ("2620:fe::fe", 443, 0, 0)]
PRIVATE = [
    ("127.0.0.1", 443),
    ("10.1.2.3", 443),
    ("169.254.169.254", 80),
    ("192.168.0.1", 443),
    ("0.0.0.0", 80),
    ("::1", 443, 0, 0),
    ("fe80::1%eth0", 443, 0, 2),
    ("fd00::1", 443, 0, 0),
    ("::ffff:127.0.0.1", 443, 0, 0),
    ("64:ff9b::7f00:1", 443, 0, 0),
    ("localhost", 443),
    "/run/docker.sock",
    b"\0abstract",
]


@pytest.fixture
def guard() -> Guard:
    guard = Guard()
    guard.close()
    return guard


@pytest.mark.parametrize("address", PUBLIC, ids=str)
def test_public_addresses_are_permitted(guard: Guard, address: object) -> None:
    guard.check("socket.connect", (None, address))
    assert guard.refusal is None


@pytest.mark.parametrize("address", PRIVATE, ids=str)
@pytest.mark.parametrize("event", ["socket.connect", "socket.sendto", "socket.sendmsg"])
def test_other_addresses_are_refused(guard: Guard, event: str, address: object) -> None:
    with pytest.raises(Refused):
        guard.check(event, (None, address))
    assert guard.refusal is not None


@pytest.mark.parametrize("event", ["subprocess.Popen", "os.system", "os.posix_spawn", "os.exec"])
def test_programs_are_refused(guard: Guard, event: str) -> None:
    with pytest.raises(Refused):
        guard.check(event, ("/bin/sh", [], None, None))


def test_operators_channels_may_connect_to_any_address(guard: Guard) -> None:
    guard.open()
    for address in PRIVATE:
        guard.check("socket.connect", (None, address))


def test_a_refusal_concerns_one_message(guard: Guard) -> None:
    with pytest.raises(Refused):
        guard.check("socket.connect", (None, PRIVATE[0]))
    guard.close()
    assert guard.refusal is None
