"""Test what setup keeps, says and accepts."""

import socket

import pytest

from agent.api_messages import ConfigAnswer, ProtocolAnswer
from agent.settings import ConfigurationError
from agent.setup import stored_with
from agent.setup_command import checked_account, checked_hostname
from agent.setup_words import changes, clock_line, outlook
from agent.state import Api, Broker, Fetched, Registered, StateFile

NAME = "uspao1-acc1.devel.mon.example"
OLD = Api(url="https://api.example", key="ntpm_the_old_key")
FORMER = StateFile(
    name=NAME,
    broker=Broker(host="broker.example", ca_file="broker-ca.pem"),
    allow_private_targets=True,
    api=OLD,
    protocols={"v4": Registered(ip="192.0.2.1", status="active")},
    fetched=Fetched(token="a", certificate="b", etag='"c"', config="d"),
)


def config(status: str = "active", name: str = NAME, **addresses: str) -> ConfigAnswer:
    found = {ipv: ProtocolAnswer(ip=addresses.get(ipv, ""), status=status) for ipv in ("v4", "v6")}
    return ConfigAnswer(tls_name=name, ipv4=found["v4"], ipv6=found["v6"])


def test_new_key_keeps_everything_but_the_tag_of_the_configuration() -> None:
    new = Api(url=OLD.url, key="ntpm_the_new_key")
    stored = stored_with(FORMER, new)
    assert (stored.api, stored.name, stored.broker, stored.protocols) == (new, NAME, FORMER.broker, FORMER.protocols)
    assert stored.fetched == Fetched(token="a", certificate="b")


def test_key_of_another_api_keeps_nothing_that_the_former_one_has_told() -> None:
    new = Api(url="https://other.example", key="ntpm_the_new_key")
    assert stored_with(FORMER, new) == StateFile(api=new, allow_private_targets=True)
    by_hand = StateFile(name=NAME, broker=FORMER.broker)
    assert stored_with(by_hand, new) == StateFile(name=NAME, broker=FORMER.broker, api=new)


@pytest.mark.parametrize(
    ("former", "before", "now", "lines"),
    [
        (StateFile(), None, config(v4="192.0.2.1"), ["the API key is stored", f"monitor {NAME}",
                                                     "IPv4 192.0.2.1: active"]),
        (StateFile(), None, None, ["the API key is stored", "the API could not be asked for the configuration; the "
                                   "agent asks again by itself"]),
        (FORMER, config(v4="192.0.2.1"), config(v4="192.0.2.9", v6="2001:db8::1"),
         ["the API key was renewed", f"monitor {NAME}", "IPv4 192.0.2.9: active, formerly 192.0.2.1",
          "IPv6 2001:db8::1: active, added"]),
        (FORMER, None, config(v6="2001:db8::1", name="deber1-acc1.devel.mon.example"),
         ["the API key was renewed", f"the name is now deber1-acc1.devel.mon.example, formerly {NAME}",
          "IPv6 2001:db8::1: active, added", "IPv4 192.0.2.1: not registered any more"]),
    ],
    ids=["first", "API away", "moved", "renamed"],
)  # fmt: skip
def test_changes_are_said(
    former: StateFile, before: ConfigAnswer | None, now: ConfigAnswer | None, lines: list[str]
) -> None:
    assert changes(former, before, now, new_key=True) == lines


def test_what_the_pool_has_yet_to_do_is_said() -> None:
    assert outlook(config("testing", v4="192.0.2.1")) == [] == outlook(config())
    assert "has yet to approve" in outlook(config("pending", v4="192.0.2.1"))[0]
    assert outlook(config("paused", v4="192.0.2.1"))[0].endswith("its status is paused")


def test_clock_is_described_in_words() -> None:
    assert clock_line(86400.0).startswith("this host's clock is 24h ahead of the API's")
    assert clock_line(-125.0).startswith("this host's clock is 2m behind the API's")


def test_host_name_must_be_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked_hostname(" host.example ") == "host.example"
    for wrong in ("h\x1b[2J", "hôst", "\udcff", "x" * 256):
        with pytest.raises(ConfigurationError, match="--hostname"):
            checked_hostname(wrong)
        monkeypatch.setattr(socket, "gethostname", lambda wrong=wrong: wrong)
        assert checked_hostname(None) == "", "the system's own is left out instead"
    monkeypatch.setattr(socket, "gethostname", lambda: "own.example")
    assert checked_hostname(None) == "own.example"


def test_account_must_be_a_token() -> None:
    assert (checked_account(""), checked_account("21wase0")) == ("", "21wase0")
    for wrong in ("a b", "a\n", "é", "x" * 65):
        with pytest.raises(ConfigurationError, match="--account"):
            checked_account(wrong)
