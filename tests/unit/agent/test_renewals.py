"""Test when the daemon renews, and what it concludes from the outcomes; the child process is replaced."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from agent import renewals
from agent.renewal_file import Kind, Outcome, write_outcome
from agent.renewals import AFTER_FAILURE, AGAIN_EVERY, EVERY, REFUSED_EVERY, Renewals, pause_after, refusal_after
from agent.state import Api, Broker, State, StateDirectory, StateFile, provision
from testbed.waiting import wait_until

API = Api(url="https://api.example", key="ntpm_a_key_for_tests")


def outcome(kind: Kind, text: str = "") -> Outcome:
    return Outcome(at=datetime(2026, 1, 1, tzinfo=UTC), kind=kind, text=text)


REFUSED = outcome("refused", "the key is refused")


class Child:
    """Runs in place of the child process, and leaves the outcomes of a list; ``None`` leaves none."""

    def __init__(self, directory: StateDirectory) -> None:
        self.directory = directory
        self.left: list[Outcome | None] = []
        self.again: list[bool] = []
        self.go_on = asyncio.Event()

    async def run(self, *, again: bool) -> str:
        self.again.append(again)
        if not self.left:
            await self.go_on.wait()
        if self.left and (made := self.left.pop(0)) is not None:
            write_outcome(self.directory, made)
        return "it left nothing"


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path, "devel")
    made.prepare()
    made.write_file(StateFile(api=API))
    return made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(renewals, "LOOK_EVERY", 0.001)
    monkeypatch.setattr(renewals, "pause_after", lambda outcome, failures: 0.001)
    yield


@asynccontextmanager
async def running(directory: StateDirectory, *left: Outcome | None) -> AsyncIterator[tuple[Renewals, Child]]:
    made, child = Renewals(directory), Child(directory)
    made._run_child = child.run  # type: ignore[method-assign]
    child.left = list(left)
    task = asyncio.create_task(made.run())
    try:
        yield made, child
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def all_used(child: Child) -> None:
    """Wait until the outcomes are used, and the next child is awaited."""
    runs = len(child.again)
    await wait_until(lambda: not child.left and len(child.again) > runs, within=5)


@pytest.mark.parametrize(
    ("kind", "former", "refusal"),
    [
        ("ok", "refused", None),
        ("waiting", "refused", None),
        ("refused", None, "why"),
        ("unreachable", None, None),
        ("unreachable", "refused", "refused"),
        ("failed", "refused", "refused"),
    ],
)
def test_refusal_lasts_until_the_api_says_otherwise(kind: Kind, former: str | None, refusal: str | None) -> None:
    assert refusal_after(outcome(kind, "why"), former) == refusal
    assert refusal_after(None, former) is None


def test_pauses_are_those_that_are_documented() -> None:
    assert 270 <= pause_after(outcome("ok"), 0) <= EVERY == 300
    assert 540 <= pause_after(REFUSED, 0) <= REFUSED_EVERY == 600, "looks again every ten minutes"
    assert 30 <= pause_after(outcome("waiting"), 0) <= 60
    longest = [pause_after(outcome("unreachable"), failures) for failures in range(1, 40)]
    assert longest[0] <= 10 and max(longest) <= AFTER_FAILURE.longest_seconds == 900


@pytest.mark.parametrize(("due_in", "pause"), [(40.0, 40.0), (0.5, 5.0), (-60.0, 5.0)])
def test_token_or_certificate_that_is_due_earlier_is_renewed_on_time(due_in: float, pause: float) -> None:
    assert pause_after(msgspec.structs.replace(outcome("ok"), due_in=due_in), 0) == pause


def test_failures_of_the_api_do_not_delay_a_renewal_beyond_a_small_part_of_a_life() -> None:
    away = outcome("unreachable")
    for life, most in ((120.0, 12.0), (20.0, 5.0), (21_600.0, 900.0)):
        pauses = [pause_after(msgspec.structs.replace(away, life=life), failures) for failures in range(1, 40)]
        assert max(pauses) <= most, life


async def test_outcome_of_an_earlier_renewal_is_not_taken_for_a_new_one(directory: StateDirectory) -> None:
    async with running(directory, outcome("ok"), None) as (made, child):
        await all_used(child)
        assert made.trouble == "it left nothing" and made.refusal is None


async def test_wrong_clock_is_told_though_all_is_well(directory: StateDirectory) -> None:
    said = "this host's clock is 24h ahead of the API's"
    told = Outcome(at=datetime(2026, 1, 1, tzinfo=UTC), kind="ok", clock=said)
    async with running(directory, told) as (made, child):
        await all_used(child)
        assert (made.trouble, made.refusal) == (said, None)


class Hanging:
    """A child process that does not end by itself."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def kill(self) -> None:
        self.returncode = -9
        self._ended.set()

    async def wait(self) -> None:
        await self._ended.wait()


async def test_renewal_that_hangs_is_ended(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Hanging()

    async def start(*_: object, **__: object) -> Hanging:
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr(renewals, "LONGEST_RUN", 0.01)
    async with asyncio.timeout(5):
        assert await Renewals(directory)._run_child(again=False) == "the renewal was ended after 0.01 s"
    assert child.returncode == -9


async def test_refusal_outlasts_an_outage_a_restart_and_a_missing_file(directory: StateDirectory) -> None:
    async with running(directory, REFUSED, outcome("unreachable", "away")) as (made, child):
        await all_used(child)
        assert (made.refusal, made.trouble) == ("the key is refused", "away")
    write_outcome(directory, REFUSED)
    async with running(directory, None) as (made, child):
        assert made.refusal == "the key is refused", "known from the last run"
        await all_used(child)
        directory.state_file.unlink()
        child.go_on.set()
        await asyncio.sleep(0.05)
        assert made.refusal == "the key is refused"
        directory.write_file(StateFile(api=API))
        child.left = [outcome("ok")]
        await wait_until(lambda: made.refusal is None, within=5)


async def test_monitor_that_somebody_provisions_by_hand_is_not_refused_any_more(directory: StateDirectory) -> None:
    async with running(directory, REFUSED) as (made, child):
        await all_used(child)
        provision(directory.path.parent, "devel", State(name="a.devel.mon.example", broker=Broker(host="::1")), "token")
        child.go_on.set()
        await wait_until(lambda: made.refusal is None and made.trouble is None, within=5)


async def test_broker_that_refuses_makes_us_renew_everything_at_most_once_in_ten_minutes(
    directory: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "pause_after", lambda outcome, failures: 3600.0)
    async with running(directory, outcome("ok"), outcome("ok"), outcome("ok")) as (made, child):
        await wait_until(lambda: child.again == [False], within=5)
        for _ in range(3):
            made.broker_refuses()
            await asyncio.sleep(0.02)
        assert child.again == [False, True]
        made.ask_now()
        await wait_until(lambda: child.again == [False, True, False], within=5)
        assert AGAIN_EVERY == 600
        monkeypatch.setattr(made, "_again_from", 0.0)
        made.broker_refuses()
        await wait_until(lambda: child.again == [False, True, False, True], within=5)


async def test_new_key_is_used_at_once(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewals, "pause_after", lambda outcome, failures: 3600.0)
    async with running(directory, REFUSED, outcome("ok")) as (made, child):
        await wait_until(lambda: made.refusal is not None, within=5)
        directory.write_file(StateFile(api=Api(url=API.url, key="ntpm_another_key")))
        await wait_until(lambda: made.refusal is None, within=5)
        assert len(child.again) == 2


async def test_lost_file_is_fetched_at_once_but_not_again_and_again(
    directory: StateDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(renewals, "pause_after", lambda outcome, failures: 3600.0)
    for path in (directory.token_file, directory.certificate_file, directory.key_file):
        path.touch()
    async with running(directory, outcome("ok"), outcome("unreachable"), outcome("ok")) as (_, child):
        await wait_until(lambda: len(child.left) == 2, within=5)
        directory.token_file.unlink()
        await wait_until(lambda: len(child.left) == 1, within=5)
        await asyncio.sleep(0.05)
        assert len(child.left) == 1, "it could not be fetched: the usual pauses apply"
        assert caplog.text.count(f"{directory.token_file}: missing, asking the API") == 1
        directory.key_file.unlink()
        await wait_until(lambda: not child.left, within=5)


async def test_api_that_is_away_is_told_from_other_troubles(directory: StateDirectory) -> None:
    wrong_clock = msgspec.structs.replace(outcome("unreachable", "away"), clock="the clock is wrong")
    for left, away in ((outcome("unreachable", "away"), True), (outcome("failed", "why"), False), (wrong_clock, False)):
        async with running(directory, left) as (made, child):
            await all_used(child)
            assert made.away is away and made.trouble
