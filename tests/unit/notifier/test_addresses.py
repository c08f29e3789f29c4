"""Test the addresses of channels: which are accepted, and that only their harmless parts are shown."""

from datetime import timedelta

import pytest

from auth.api_keys import Pepper, Peppers, derive_pepper
from notifier.addresses import (
    Address,
    InvalidAddress,
    mail_address,
    seal_address,
    shown,
    unseal_address,
    url_address,
)
from notifier.channels import Channel
from notifier.messages import unreadable

OLD, NEW = derive_pepper("o" * 48), derive_pepper("n" * 48)
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/"


def test_an_address_is_read_with_the_pepper_under_which_it_was_encrypted() -> None:
    address = Address("url", SLACK)
    sealed = seal_address(address, Peppers(OLD, ()))
    assert "slack" not in sealed.text
    assert unseal_address("url", sealed, Peppers(OLD, ())) == address
    assert unseal_address("url", sealed, Peppers(NEW, (OLD,))) == address
    assert unseal_address("url", sealed, Peppers(NEW, ())) is None
    assert unseal_address("url", sealed._replace(salt="0" * 32), Peppers(OLD, ())) is None


def test_channels_of_a_lost_pepper_are_found_before_an_alert_is_lost() -> None:
    def channel(number: int, pepper: Pepper) -> Channel:
        sealed = seal_address(Address("url", SLACK), Peppers(pepper, ()))
        return Channel(
            id=number,
            account_id=None,
            kind="url",
            sealed=sealed,
            shown="slack",
            about=frozenset(["pool"]),
            quiet=None,
            zone="UTC",
            every=timedelta(0),
        )

    channels = [channel(1, OLD), channel(2, NEW)]
    assert [one.id for one in unreadable(channels, Peppers(NEW, ()))] == [1]
    assert unreadable(channels, Peppers(NEW, (OLD,))) == []


def test_equal_addresses_are_encrypted_differently() -> None:
    first, second = (seal_address(Address("url", SLACK), Peppers(OLD, ())) for _ in range(2))
    assert first.text != second.text


@pytest.mark.parametrize("text", ["anna@example.org", "a.b+ntp@mail.example", "x@localhost"])
def test_mail_addresses(text: str) -> None:
    assert mail_address(text) == Address("mail", text)


@pytest.mark.parametrize(
    "text", ["", "anna", "a@b@c", "a b@example.org", "anna@example.org\r\nBcc: x@y.z", "Anna <a@example.org>", "a@x..y"]
)
def test_what_is_no_mail_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddress, match=r"anna@example\.org"):
        mail_address(text)


@pytest.mark.parametrize("text", [SLACK, "https://hooks.example/x?token=abc", "jsons://hooks.example/x", "TGRAM://a/b"])
def test_chats_and_webhooks_over_https_are_for_everybody(text: str) -> None:
    assert url_address(text, for_account=True).text == text


@pytest.mark.parametrize(
    "text", ["http://hooks.example/", "json://10.0.0.1/", "mqtt://broker/x", "smpp://a", "xyz://a"]
)
def test_other_schemes_are_for_operators(text: str) -> None:
    assert url_address(text, for_account=False).text == text
    with pytest.raises(InvalidAddress, match="must begin with one of these"):
        url_address(text, for_account=True)


@pytest.mark.parametrize("text", ["mailto://user:password@example.org", "dbus://", "file:///etc/passwd", "Syslog://"])
def test_local_schemes_and_other_mail_servers_are_for_nobody(text: str) -> None:
    with pytest.raises(InvalidAddress, match="must not begin with one of these"):
        url_address(text, for_account=False)


@pytest.mark.parametrize(
    "text", ["", "slack", "https://a b/", "https://a/\x1b", "https://a:x/", "https://" + "a" * 3000]
)
def test_what_is_no_url_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(InvalidAddress) as refused:
        url_address(text, for_account=False)
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize(
    ("address", "visible"),
    [
        (Address("mail", "anna@example.org"), "anna@example.org"),
        (Address("url", SLACK), "slack"),
        (Address("url", "https://user:secret@hooks.example/path?token=abc"), "https://hooks.example"),
        (Address("url", "jsons://hooks.example/secret"), "jsons://hooks.example"),
    ],
)
def test_lists_show_no_secret(address: Address, visible: str) -> None:
    assert shown(address) == visible
