"""Test the operators' commands for registrations and keys, on a ledger in a file."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from auth.api_key_store import authenticate
from auth.registration.model import Accepted, Refused
from auth.registration.store import Registrations
from auth.settings import peppers
from ops.__main__ import main
from runtime.settings import load_settings
from testbed.fixtures.registering import NOW, account, ask, new_id, token_of

PEPPER = "a pepper that an operator has set for these tests"
V4 = "8.8.4.4"


@pytest.fixture
def these(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Registrations:
    """Return registrations with the settings of the commands; ``now`` is the time of the machine."""
    monkeypatch.setenv("DEPLOYMENT_MODE", "prod")
    monkeypatch.setenv("DATABASE_DSN", f"sqlite:///{Path(str(sqlite_engine.url.database))}")
    monkeypatch.setenv("API_KEY_PEPPER", PEPPER)
    monkeypatch.setenv("MONITORS_DOMAIN", "mon.example")
    return Registrations(sqlite_engine, "prod", "mon.example", peppers(load_settings()))


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands run at the time of the tests' registrations."""
    import datetime as module

    class Clock(module.datetime):
        @classmethod
        def now(cls, tz: module.tzinfo | None = None) -> "Clock":
            return cls.fromtimestamp(NOW.timestamp(), tz)

    monkeypatch.setattr(module, "datetime", Clock)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code, capsys.readouterr().err
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(run(capsys, *arguments, "--json"))


def test_operator_approves_a_host_without_a_browser(these: Registrations, capsys: pytest.CaptureFixture[str]) -> None:
    account(these.engine, "4xhq2c9")
    mine = new_id()
    token = token_of(ask(these, mine, V4, account_token="4xhq2c9"))
    (row,) = as_json(capsys, "registrations", "list", "--status", "pending")
    assert (row["IPv4"], row["status"], row["hostname"]) == (V4, "pending", "host.example.net")
    shown = as_json(capsys, "registrations", "show", str(row["id"]))
    assert shown["page"].endswith(token) and mine.clear not in json.dumps(shown)
    done = as_json(capsys, "registrations", "approve", token, "--location", "nlams")
    assert done["name"] == "nlams1-4xhq2c9.prod.mon.example"
    assert isinstance(ask(these, mine, V4), Accepted)
    assert "was confirmed already" in run(capsys, "registrations", "reject", token, code=1)


def test_operator_rejects_a_host(these: Registrations, capsys: pytest.CaptureFixture[str]) -> None:
    mine = new_id()
    ask(these, mine, V4)
    (row,) = as_json(capsys, "registrations", "list")
    run(capsys, "registrations", "reject", str(row["id"]), "--reason", "unknown owner")
    told = ask(these, mine, V4)
    assert isinstance(told, Refused) and "unknown owner" in told.sentence


def test_approval_requires_an_account_and_a_choice(these: Registrations, capsys: pytest.CaptureFixture[str]) -> None:
    account(these.engine, "4xhq2c9")
    for outcome in ((), ("--outcome", "new-key")):
        token = token_of(ask(these, new_id(), V4))
        assert "--account: must be given" in run(capsys, "registrations", "approve", token, code=2)
        options = ("--account", "4xhq2c9", "--location", "nlams")
        if outcome:
            told = run(capsys, "registrations", "approve", token, *options, code=1)
            assert "Give --outcome new-key or --outcome new-name." in told
        run(capsys, "registrations", "approve", token, *options, *outcome)
    assert "--outcome 'x': must be one of new-key, new-name" in run(
        capsys, "registrations", "approve", token, "--outcome", "x", code=2
    )


@pytest.mark.parametrize("text", ["nothing", "99999999999", "0" * 32, "7"])
def test_unknown_registration_is_named(these: Registrations, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert f"registration '{text}': not found" in run(capsys, "registrations", "show", text, code=1)


def test_keys_are_listed_without_their_text_and_revoked(
    these: Registrations, capsys: pytest.CaptureFixture[str]
) -> None:
    account(these.engine, "4xhq2c9")
    made = as_json(capsys, "accounts", "key", "4xhq2c9")
    assert made["key"].startswith("ntpa_")
    assert authenticate(these.engine, these.peppers, made["key"], NOW) is not None
    (row,) = as_json(capsys, "keys", "list", "--account", "4xhq2c9")
    assert (row["id"], row["for"], row["ends"]) == (made["id"], "account", None)
    assert made["key"][16:] not in json.dumps(row)
    assert as_json(capsys, "keys", "revoke", str(row["id"]))["id"] == row["id"]
    assert authenticate(these.engine, these.peppers, made["key"], NOW) is None
    assert "key 99: not found" in run(capsys, "keys", "revoke", "99", code=1)


def test_refused_registrations_are_counted(these: Registrations, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(12):
        ask(these, new_id(), V4)
    (row,) = as_json(capsys, "registrations", "sources")
    assert (row["network"], row["begun"], row["refused"], row["last_refusal"]) == (V4, 10, 2, "too_many")


def test_pepper_that_is_too_short_is_refused_without_being_shown(
    these: Registrations, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY_PEPPER", "hunter2")
    told = run(capsys, "registrations", "list", code=2)
    assert "API_KEY_PEPPER: has 7 bytes" in told and "hunter2" not in told


def test_domain_must_be_one(these: Registrations, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("MONITORS_DOMAIN", "Not a domain/#")
    assert "MONITORS_DOMAIN" in run(capsys, "registrations", "list", code=2)


def test_list_warns_of_keys_that_were_made_under_another_pepper(
    these: Registrations, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    account(these.engine, "4xhq2c9")
    run(capsys, "accounts", "key", "4xhq2c9")
    assert main(["keys", "list"]) == 0
    assert "API_KEY_PEPPER" not in capsys.readouterr().err
    monkeypatch.setenv("API_KEY_PEPPER", "another secret of at least 32 bytes")
    assert main(["keys", "list"]) == 0
    said = capsys.readouterr().err
    assert "1 API key was made under another API_KEY_PEPPER than now" in said
    assert "another secret" not in said
    monkeypatch.setenv("API_KEY_PEPPER_FORMER", PEPPER)
    assert main(["keys", "list"]) == 0
    assert "API_KEY_PEPPER" not in capsys.readouterr().err
