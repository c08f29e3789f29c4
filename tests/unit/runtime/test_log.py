"""Test logging: lines on stderr or in the journal's format, rate limits, and masked secrets."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from ops.__main__ import main
from runtime import log
from runtime.log import (
    LEVEL_NAMES,
    OngoingWarning,
    RateLimitedLog,
    keep_out_of_logs,
    set_level,
    set_up_logging,
    stderr_is_journal,
    without_secrets,
)


@pytest.fixture
def stderr(tmp_path: Path) -> Iterator[TextIO]:
    """A file that :func:`redirect` makes the test's stderr."""
    with (tmp_path / "stderr").open("w", encoding="utf-8") as file:
        yield file


def redirect(stderr: TextIO, monkeypatch: pytest.MonkeyPatch, *, journal: bool) -> None:
    # Called in the test itself, since pytest installs its own capture before every phase.
    monkeypatch.setattr(sys, "stderr", stderr)
    stat = os.fstat(stderr.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}" if journal else "")


def lines(stderr: TextIO) -> list[str]:
    stderr.flush()
    return Path(stderr.name).read_text(encoding="utf-8").splitlines()


def test_line_has_utc_time_level_and_logger_name(stderr: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    redirect(stderr, monkeypatch, journal=False)
    set_up_logging("info")
    logging.getLogger("scorer.worker").warning("scored %d", 3)
    [line] = lines(stderr)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING scorer\.worker: scored 3", line)


@pytest.mark.parametrize("journal", [False, True])
def test_foreign_text_is_one_line_and_cannot_control_a_terminal(
    stderr: TextIO, monkeypatch: pytest.MonkeyPatch, journal: bool
) -> None:
    redirect(stderr, monkeypatch, journal=journal)
    set_up_logging("info")
    logging.getLogger("x").warning("reason: %s", "a\x1b[2J\n<3>forged\x9b\u202e")
    try:
        raise ValueError("b\x1b[2J\r\u2028c")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    first, *rest = Path(stderr.name).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert first.endswith(r"x: reason: a\x1b[2J\n<3>forged\x9b\u202e")
    assert rest[-1].endswith(r"ValueError: b\x1b[2J\r\u2028c") and len(rest) > 3
    assert all(line.isprintable() for line in rest)


def test_the_journal_gets_priorities_and_no_time(stderr: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    redirect(stderr, monkeypatch, journal=True)
    set_up_logging("debug")
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logging.getLogger("x"), level)("it is")
    assert lines(stderr) == [f"<{priority}>x: it is" for priority in (7, 6, 4, 3, 2)]


def test_every_line_of_a_traceback_has_the_priority(stderr: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    redirect(stderr, monkeypatch, journal=True)
    set_up_logging("info")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("x").exception("failed")
    found = lines(stderr)
    assert len(found) > 3
    assert all(line.startswith("<3>") for line in found)
    assert found[-1] == "<3>second"


@pytest.mark.parametrize("stream", ["1:2", "", "nonsense"])
def test_another_stream_is_not_the_journal(stderr: TextIO, monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    redirect(stderr, monkeypatch, journal=True)
    assert stderr_is_journal()
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    assert not stderr_is_journal()


def test_closed_stderr_is_not_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    with open(os.devnull, "w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    assert not stderr_is_journal()


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_level_applies_to_all_loggers_but_verbose_libraries(level: str) -> None:
    set_level(level)
    number = logging.getLevelName(level.upper())
    assert logging.getLogger().level == number
    assert logging.getLogger("alembic").level == max(number, logging.WARNING)


def test_second_setup_replaces_the_first(stderr: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    redirect(stderr, monkeypatch, journal=False)
    for _ in range(2):
        set_up_logging("info")
    logging.getLogger("x").info("once")
    assert len(lines(stderr)) == 1


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5.0
        monkeypatch.setattr(log.time, "monotonic", lambda: self.now)


def test_warning_is_repeated_at_most_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    warning = OngoingWarning(logging.getLogger("x"))
    for second in range(0, 121, 20):
        clock.now = 5.0 + second
        warning.warning("broker %s: away", "b")
    assert caplog.messages == ["broker b: away"] * 3  # at 0, 60 and 120 s


def test_another_reason_or_a_recurrence_is_logged_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Clock(monkeypatch)
    warning = OngoingWarning(logging.getLogger("x"))
    warning.warning("away")
    warning.warning("refused")
    warning.warning("refused")
    warning.over()
    warning.warning("refused")
    assert caplog.messages == ["away", "refused", "refused"]


def test_alternating_reasons_are_each_repeated_at_most_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    warning = OngoingWarning(logging.getLogger("x"))
    for tenth in range(1200):
        clock.now = 5.0 + tenth / 10
        warning.warning("away" if tenth % 2 else "refused")
    assert sorted(caplog.messages) == ["away"] * 2 + ["refused"] * 2


def test_ever_changing_reasons_are_logged_four_times_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    warning = OngoingWarning(logging.getLogger("x"))
    for second in range(600):
        clock.now = 5.0 + second
        warning.warning("%d s left", 600 - second)
    assert caplog.messages[:5] == [f"{left} s left" for left in (600, 599, 598, 597, 540)]
    assert len(caplog.messages) == 40
    assert [len(texts) for texts in warning._logged.values()] == [OngoingWarning.TEXTS]


def test_warning_without_a_repeat_interval_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    warning = OngoingWarning(logging.getLogger("x"), repeat_seconds=None)
    for _ in range(2):
        warning.warning("odd")
        clock.now += 10**9
    assert caplog.messages == ["odd"]


def test_each_key_starts_and_ends_separately(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    Clock(monkeypatch)
    warning = OngoingWarning(logging.getLogger("x"))
    for _ in range(2):
        for key in ("a", "b"):
            warning.warning("%s is away", key, key=key)
        warning.over("b")
        assert warning.lasting
    assert caplog.messages == ["a is away", "b is away", "b is away"]
    warning.over("a")
    assert not warning.lasting


def test_remembered_keys_are_bounded_and_excess_keys_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    logger = logging.getLogger("x")
    logged: list[str] = []
    monkeypatch.setattr(logger, "warning", lambda text, message: logged.append(message))
    warning = OngoingWarning(logger, repeat_seconds=None, window_seconds=600.0)
    for _ in range(3):
        for key in range(20_500):
            warning.warning("row %d", key, key=key)
    assert len(logged) == len(warning._logged) == 20_000
    clock.now += 599.0
    warning.warning("something else", key=0)
    warning.warning("row %d", 20_499, key=20_499)
    assert logged[-1] == "something else"
    clock.now += 1.0
    warning.warning("row %d", 20_499, key=20_499)
    assert logged[-1] == "row 20499", "it takes the place of the one that was logged longest ago"
    assert len(warning._logged) == 20_000
    assert 0 in warning._logged and 1 not in warning._logged


def test_warning_arguments_may_contain_percent_signs(caplog: pytest.LogCaptureFixture) -> None:
    OngoingWarning(logging.getLogger("x")).warning("%s", "100 % away, %s")
    assert caplog.messages == ["100 % away, %s"]


def test_each_key_is_logged_once_a_minute_whatever_the_text(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    sparing = RateLimitedLog(logging.getLogger("x"))
    for second in range(0, 121, 10):
        clock.now = 5.0 + second
        sparing.log(logging.WARNING, "a", "a says %d", second)
    assert caplog.messages == ["a says 0", "a says 60 (and 5 more since)", "a says 120 (and 5 more since)"]


def test_all_keys_together_get_ten_lines_plus_one_per_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    sparing = RateLimitedLog(logging.getLogger("x"))
    for number in range(2_000):
        clock.now = 5.0 + number / 100
        sparing.log(logging.ERROR, f"m{number}", "odd")
    assert 29 <= len(caplog.messages) <= 30
    assert caplog.messages[10].startswith("odd (and ")


def test_remembered_keys_of_the_rate_limited_log_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sparing = RateLimitedLog(logging.getLogger("x"))
    for number in range(20_500):
        clock.now += 1.0
        sparing.log(logging.DEBUG, f"m{number}", "odd")
    assert len(sparing._logged_at) == 10_000


def test_rate_limited_line_can_have_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("the reason")
    except ValueError:
        RateLimitedLog(logging.getLogger("x")).log(logging.ERROR, "a", "100 %% wrong", exc_info=True)
    assert caplog.messages == ["100 % wrong"]
    assert "the reason" in caplog.text


# ---- secrets -------------------------------------------------------------------------------------------------------

KEY = "Zm9ydHktZWlnaHQgYnl0ZXMgYXQgbGVhc3QsIG9mIHRoaXMgdGVzdA"
JWT = "eyJhbGciOiJIUzM4NCJ9.eyJzdWIiOiJzb21lYm9keSJ9.c2lnbmF0dXJlLW9mLXNvbWVib2R5"


@pytest.mark.parametrize("journal", [False, True])
def test_own_secret_in_foreign_text_is_masked(stderr: TextIO, monkeypatch: pytest.MonkeyPatch, journal: bool) -> None:
    redirect(stderr, monkeypatch, journal=journal)
    monkeypatch.setattr(log, "_kept_out", set())
    set_up_logging("info")
    keep_out_of_logs(f"{KEY}\n")
    logging.getLogger("x").warning("message on %s refused", f"/test/{KEY}/x")
    try:
        raise ValueError(f"no such topic: {KEY}")
    except ValueError:
        logging.getLogger("x").exception("failed")
    text = "\n".join(lines(stderr))
    assert KEY not in text
    assert "message on /test/[secret]/x refused" in text
    assert "ValueError: no such topic: [secret]" in text


@pytest.mark.parametrize(
    "text",
    [
        JWT,
        f"/test/monitors/data/{JWT}/x",
        f"Bearer {JWT}",
        "hvs.CAESIJlU9jVsQ7WrpSDj",
        f"the key ntpm_{b'0c2lnbmF0dXJl'.hex()}",
        f"the key ntpa_{b'0c2lnbmF0dXJl'.hex()}",
        "-----BEGIN EC PRIVATE KEY-----\nMIGkAgEBBDCx\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIGkAgEBBDCx",
    ],
)
def test_text_resembling_a_token_or_key_is_masked(text: str) -> None:
    shown = without_secrets(f"before {text} after" if "KEY" not in text else f"before {text}")
    assert shown.startswith("before ") and "[secret]" in shown
    assert not {"c2lnbmF0dXJl", "eyJzdWIi", "CAESIJlU9", "MIGkAgEBBDCx"} & set(re.split(r"[^A-Za-z0-9]", shown))
    assert "30633" not in shown


@pytest.mark.parametrize("text", ["monitor uspao1.test.mon.example", "eyJ", "hvs.", "key for tokens: has 3 bytes", ""])
def test_other_texts_are_unchanged(text: str) -> None:
    assert without_secrets(text) == text


def test_multiline_key_is_masked_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_kept_out", set())
    keep_out_of_logs("-----BEGIN X-----\nMIGkAgEBBDCxMIGk\nAgEBBDCxMIGkAgEB\nend\n-----END X-----\n")
    assert without_secrets("a MIGkAgEBBDCxMIGk b AgEBBDCxMIGkAgEB end c") == "a [secret] b [secret] end c"


def test_short_password_is_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_kept_out", set())
    keep_out_of_logs("")
    keep_out_of_logs("monitor")
    assert without_secrets("monitor a") == "monitor a"


def test_command_error_masks_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-e", "devel", "token", "monitor", f"{JWT}.mon.example"]) == 2
    said = capsys.readouterr().err
    assert "[secret]" in said and "c2lnbmF0dXJl" not in said
