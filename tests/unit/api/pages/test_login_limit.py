"""Test the limit of failed logins: for each network, for a while, in bounded memory."""

from concurrent.futures import ThreadPoolExecutor

from api.pages.login_limit import MOST, WITHIN_SECONDS, LoginLimit


class Seconds:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_ten_failed_logins_in_ten_minutes() -> None:
    clock = Seconds()
    limit = LoginLimit(clock=clock)
    assert (MOST, WITHIN_SECONDS) == (10, 600.0)
    assert [limit.begin("8.8.4.4") for _ in range(12)] == [True] * 10 + [False] * 2
    assert limit.begin("8.8.8.8"), "others are not concerned"
    clock.now += WITHIN_SECONDS - 1
    assert not limit.begin("8.8.4.4")
    clock.now += 1
    assert limit.begin("8.8.4.4"), "refused attempts do not prolong it"


def test_logins_that_succeed_do_not_count() -> None:
    limit = LoginLimit(clock=Seconds())
    for _ in range(50):
        assert limit.begin("8.8.4.4")
        limit.succeeded("8.8.4.4")
    limit.succeeded("9.9.9.9")
    assert [limit.begin("8.8.4.4") for _ in range(11)] == [True] * 10 + [False]


def test_limit_holds_for_simultaneous_logins() -> None:
    limit = LoginLimit(clock=Seconds())
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: limit.begin("8.8.4.4"), range(200))) == MOST


def test_memory_is_bounded() -> None:
    limit = LoginLimit(networks=100, clock=Seconds())
    for number in range(10_000):
        limit.begin(f"network {number}")
    assert len(limit._failed) == 100
