"""Test the order in which the servers of a ledger are tried: the chosen one first, those that failed lately last."""

from runtime.db.dsn import parse_dsn, servers_of
from runtime.db.servers import AVOID_SECONDS, Choice
from testbed.fixtures.manual_clock import ManualClock

SERVERS = servers_of(parse_dsn("mysql://u:p@a,b,c/x"))
A, B, C = SERVERS


def names(choice: Choice) -> str:
    return "".join(str(server.host) for server in choice.in_order(SERVERS))


def test_servers_are_tried_in_the_order_of_the_dsn() -> None:
    assert names(Choice()) == "abc"


def test_chosen_server_comes_first_even_when_an_earlier_one_is_back() -> None:
    clock = ManualClock()
    choice = Choice(clock.monotonic)
    choice.failed(A)
    assert choice.choose(B)
    clock.now += AVOID_SECONDS
    assert names(choice) == "bac"
    assert not choice.choose(B), "it is the same"


def test_server_that_failed_comes_last_for_some_seconds() -> None:
    clock = ManualClock()
    choice = Choice(clock.monotonic)
    choice.choose(B)
    choice.failed(B)
    assert names(choice) == "acb"
    choice.failed(A)
    assert names(choice) == "cba"
    clock.now += AVOID_SECONDS
    assert names(choice) == "bac"


def test_server_that_works_again_is_not_avoided() -> None:
    choice = Choice()
    choice.failed(A)
    choice.choose(A)
    assert names(choice) == "abc"


def test_servers_are_told_apart_by_their_place_not_by_the_password() -> None:
    choice = Choice()
    choice.choose(B)
    assert choice.is_chosen(B.set(password="rotated"))
    assert not choice.is_chosen(B.set(port=3307))
