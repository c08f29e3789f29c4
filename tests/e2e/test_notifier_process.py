"""Test the notifier as a process, with a real database, broker, mail server and web server: outages, restarts, kills.

Its times are shortened (:mod:`testbed.quick_notifier`); everything else is as its operators run it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from runtime.db.engine import open_database, utc_now
from runtime.db.migrate import upgrade
from schema.tables import alert_messages, servers
from testbed.database import MariaDb, temporary_database
from testbed.fixtures.broker import Broker
from testbed.fixtures.receivers import MailReceiver, WebReceiver, mail_receiver, web_receiver
from testbed.fixtures.worker_process import WorkerProcess, worker_settings, write_key
from testbed.fixtures.world import add_account, add_server
from testbed.waiting import block_until


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    with mail_receiver() as receiver:
        yield receiver


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver


def settings(broker: Broker, directory: Path, database: URL, mail: MailReceiver) -> dict[str, str]:
    given = worker_settings(broker, write_key(directory, broker), database)
    state = {"STATE_DIRECTORY": str(directory / "state"), "ALERT_SERVER_URL": "https://pool.example/scores/{ip}"}
    return {**given, **mail.settings(), **state}


def notifier(directory: Path, environment: dict[str, str], **more: str) -> WorkerProcess:
    return WorkerProcess(directory, "devel", "notifier", program="testbed.quick_notifier", **environment, **more)


def command(environment: dict[str, str], *arguments: str, stdin: str = "", code: int = 0) -> str:
    """Run ``ntppool-monitor alerts ...``; return what it prints."""
    argv = [sys.executable, "-m", "ops", "--env", "devel", "alerts", *arguments]
    done = subprocess.run(
        argv, env=os.environ | environment, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def a_low_server(engine: Engine, account_id: int | None, ip: str) -> int:
    with engine.begin() as connection:
        server = add_server(connection, ip, account_id=account_id, score=3.0)
        connection.execute(sa.update(servers).where(servers.c.id == server).values(score_ts=utc_now()))
    return server


def raise_score(engine: Engine, server: int) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(servers).where(servers.c.id == server).values(score_raw=20.0))


def test_people_are_told_once_of_each_beginning_and_end_through_outages_and_restarts(
    broker: Broker, mail: MailReceiver, tmp_path: Path
) -> None:
    with temporary_database(MariaDb) as database:
        url = database.create("notifier")
        engine = open_database(url)
        upgrade(engine)
        environment = settings(broker, tmp_path, url, mail)
        with engine.begin() as connection:
            account = add_account(connection, "Ticks")
        server = a_low_server(engine, account, "192.0.2.7")
        command(environment, "add-channel", "--account", "Ticks", "--mail", "anna@example.org", "--digest", "0")
        command(environment, "add-channel", "--operators", "--mail", "ops@example.org", "--digest", "0")
        expected = ["[NTP Pool, devel] Server 192.0.2.7 is not handed out: its score is below 10"]
        with notifier(tmp_path, environment) as process:
            block_until(lambda: mail.titles() == expected)
            assert mail.mails[0]["To"] == "anna@example.org"
            assert "https://pool.example/scores/192.0.2.7" in str(mail.mails[0].get_payload())
            assert "192.0.2.7" in command(environment, "list")
            status = json.loads(_control(environment))
            assert status[0]["details"]["raised"]["server-low"] == 1

            engine.dispose()
            database.stop(kill=True)
            block_until(lambda: len(mail.mails) == 2)
            assert "Database away from" in mail.titles()[1]
            assert mail.mails[1]["To"] == "ops@example.org"
            # A message whose delivery was not recorded yet would be repeated.
            block_until(lambda: not json.loads(state_file(tmp_path).read_bytes()).get("messages"))
            process.kill()

        with notifier(tmp_path, environment) as process:  # within the outage
            process.wait_for_log("waiting for it")
            assert len(mail.mails) == 2
            database.start()
            block_until(lambda: len(mail.mails) == 3)
            assert "Database reached again by" in mail.titles()[2]
            raise_score(engine, server)
            block_until(lambda: len(mail.mails) == 4)
            assert "192.0.2.7 is handed out again" in mail.titles()[3]
            assert process.ends_after(signal.SIGTERM) < 5
            assert process.process.returncode == 0
        engine.dispose()
        assert len(mail.mails) == 4, mail.titles()
        assert "password" not in process.log_text()


def state_file(directory: Path) -> Path:
    (found,) = directory.rglob("notifier.json")
    return found


def _control(environment: dict[str, str]) -> str:
    argv = [sys.executable, "-m", "ops", "--env", "devel", "control", "notifier", "status", "--json"]
    done = subprocess.run(argv, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_a_kill_between_sending_and_recording_repeats_the_message_with_its_key(
    broker: Broker, mail: MailReceiver, web: WebReceiver, sqlite_engine: Engine, tmp_path: Path
) -> None:
    environment = settings(broker, tmp_path, sqlite_engine.url, mail)
    a_low_server(sqlite_engine, None, "192.0.2.8")
    command(
        environment, "add-channel", "--operators", "--about", "server", "--url-file", "-", stdin=web.url("/x/s3cret12")
    )
    assert "s3cret" not in command(environment, "channels")
    web.hang.set()
    with notifier(tmp_path, environment) as process:
        block_until(lambda: len(web.posted) == 1)
        process.kill()
    web.hang.clear()
    _end_leases(sqlite_engine)
    with notifier(tmp_path, environment) as process:
        block_until(lambda: len(web.posted) == 2 and _messages(sqlite_engine) == 0)
        assert process.ends_after(signal.SIGTERM) < 5
        assert "s3cret" not in process.log_text()
    assert len({posted.headers["Idempotency-Key"] for posted in web.posted}) == 1
    assert web.posted[0].body["message"] == web.posted[1].body["message"]


def _end_leases(engine: Engine) -> None:
    """Let time pass until the attempts of a dead process count as failed."""
    with engine.begin() as connection:
        connection.execute(sa.update(alert_messages).values(due_on=utc_now()))


def _messages(engine: Engine) -> Any:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(alert_messages))


def test_commands_name_what_is_wrong(broker: Broker, mail: MailReceiver, sqlite_engine: Engine, tmp_path: Path) -> None:
    environment = settings(broker, tmp_path, sqlite_engine.url, mail)
    said = command(environment, "add-channel", "--mail", "anna@example.org", code=2)
    assert said == "ntppool-monitor: --account, --operators: give one of them\n"
    said = command(environment, "add-channel", "--operators", "--mail", "anna", code=2)
    assert "--mail 'anna': must be an e-mail address" in said
    assert "cannot be read" in command(environment, "add-channel", "--operators", "--url-file", "/nowhere", code=2)
    assert "channel 7: not found" in command(environment, "test", "7", code=1)
    command(environment, "add-channel", "--operators", "--mail", "anna@example.org")
    assert "took the message" in command(environment, "test", "1")
    assert mail.titles() == ["[NTP Pool, devel] Test of this channel"]
    mail.answer = "550 no such user"
    assert "the mail server answered 550 no such user" in command(environment, "test", "1", code=1)
    changed = environment | {"API_KEY_PEPPER": "another secret of at least 32 bytes"}
    assert "API_KEY_PEPPER has changed" in command(changed, "test", "1", code=1)
    assert "removed" in command(environment, "remove-channel", "1")
