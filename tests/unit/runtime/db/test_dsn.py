"""Test the ledger's DSN: both forms, and errors that never show the password."""

import string
import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from ops.__main__ import main
from ops.context import place_of
from runtime.db.dsn import InvalidDsn, dsn_text, parse_dsn, place_of_server, servers_of
from runtime.db.engine import open_database


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mysql://u:p@db.example/ntppool", "mysql+pymysql://u:p@db.example/ntppool"),
        ("mysql://u:p%40ss@db:3307/ntppool", "mysql+pymysql://u:p%40ss@db:3307/ntppool"),
        ("mysql://u:p@[2001:db8::1]:3307/ntppool", "mysql+pymysql://u:p@[2001:db8::1]:3307/ntppool"),
        ("mysql://u:p@/ntppool?unix_socket=/run/s", "mysql+pymysql://u:p@/ntppool?unix_socket=%2Frun%2Fs"),
        ("mysql://u:p@tcp(db:3307)/ntppool?parseTime=true", "mysql+pymysql://u:p@db:3307/ntppool"),
        ("mariadb://u@db/ntppool", "mariadb+pymysql://u@db/ntppool"),
        ("mysql+mysqldb://u@db/ntppool", "mysql+pymysql://u@db/ntppool"),
        ("sqlite:////var/lib/ledger.db", "sqlite:////var/lib/ledger.db"),
        ("sqlite+pysqlite:///ledger.db", "sqlite:///ledger.db"),
        ("u:p@tcp(db:3307)/ntppool", "mysql+pymysql://u:p@db:3307/ntppool"),
        ("u:p@tcp(db)/ntppool", "mysql+pymysql://u:p@db:3306/ntppool"),
        ("u@tcp(127.0.0.1:3306)/ntppool", "mysql+pymysql://u@127.0.0.1:3306/ntppool"),
        ("tcp(db:3306)/ntppool", "mysql+pymysql://db:3306/ntppool"),
        ("u:p@tcp([2001:db8::1]:3306)/ntppool", "mysql+pymysql://u:p@[2001:db8::1]:3306/ntppool"),
        ("u:p@tcp(db)/ntppool?parseTime=true&charset=utf8mb4", "mysql+pymysql://u:p@db:3306/ntppool"),
        ("u:p@tcp(db)/ntppool?tls=true", "mysql+pymysql://u:p@db:3306/ntppool?ssl_verify_cert=true"),
        ("u:p@tcp(db)/ntppool?tls=false", "mysql+pymysql://u:p@db:3306/ntppool"),
        ("u:p@unix(/run/my.sock)/ntppool", "mysql+pymysql://u:p@/ntppool?unix_socket=%2Frun%2Fmy.sock"),
    ],
)
def test_both_forms_of_a_dsn_are_parsed(text: str, expected: str) -> None:
    assert parse_dsn(text).render_as_string(hide_password=False) == expected


def servers(text: str) -> list[str]:
    return [f"{url.host} {url.port}" for url in servers_of(parse_dsn(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mysql://u:p@db1:3307,db2,[::1]:3308/ntppool", ["db1 3307", "db2 None", "::1 3308"]),
        ("mysql://u:p@db1,db2/ntppool?ssl_ca=/ca.pem", ["db1 None", "db2 None"]),
        ("mariadb://[::1],127.0.0.1:1/ntppool", ["::1 None", "127.0.0.1 1"]),
        ("u:p@tcp(db1,db2:3307)/ntppool?parseTime=true", ["db1 3306", "db2 3307"]),
        ("mysql://u:p@tcp([2001:db8::1]:3306,[2001:db8::2]:3306)/x", ["2001:db8::1 3306", "2001:db8::2 3306"]),
        ("mysql://u:p@s,w@rd:1,x@db1,db2/ntppool", ["db1 None", "db2 None"]),
        ("mysql://u:p@db/ntppool", ["db None"]),
    ],
)
def test_several_servers_are_parsed_in_their_order(text: str, expected: list[str]) -> None:
    assert servers(text) == expected
    assert servers(dsn_text(parse_dsn(text), hide_password=False)) == expected


def test_each_server_has_everything_else_of_the_dsn() -> None:
    first, second = servers_of(parse_dsn("mysql://u:p%40@db1:1,db2:2/ntppool?ssl_ca=/ca.pem"))
    assert first.render_as_string(hide_password=False) == "mysql+pymysql://u:p%40@db1:1/ntppool?ssl_ca=%2Fca.pem"
    assert second == first.set(host="db2", port=2)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://u:p@db1,[::1]:2/x?ssl_ca=/ca.pem", "mysql+pymysql://u:***@db1,[::1]:2/x?ssl_ca=%2Fca.pem"),
        ("tcp(db1,db2)/x", "mysql+pymysql://db1:3306,db2:3306/x"),
        ("mysql://u:p@db1,db2,[::1]/x", "mysql+pymysql://u:***@db1,db2,[::1]/x"),
        ("mysql://u:p@db1:3307,db2/x", "mysql+pymysql://u:***@db1:3307,db2/x"),
        ("mysql://u:p@db/x", "mysql+pymysql://u:***@db/x"),
    ],
)
def test_text_of_a_dsn_names_all_servers_and_no_password(text: str, shown: str) -> None:
    assert dsn_text(parse_dsn(text)) == shown
    assert dsn_text(parse_dsn(text), parameters=False) == shown.partition("?")[0]


ODD_PASSWORDS = ["p@ss", "p@tcp(x)/y", "a:b/c?d#e", "%41%zz", "(((", "@", " ", "p\nq", "ü\U0001f510", "'\"\\`;"]


@pytest.mark.parametrize("password", ODD_PASSWORDS)
def test_odd_passwords_in_gos_form_are_parsed(password: str) -> None:
    url = parse_dsn(f"user:{password}@tcp(db:3307)/ntppool?parseTime=true")
    assert (url.username, url.password, url.host, url.port, url.database) == ("user", password, "db", 3307, "ntppool")


@pytest.mark.parametrize("password", [text for text in ODD_PASSWORDS if "%" not in text])
def test_odd_unquoted_passwords_in_a_url_are_parsed(password: str) -> None:
    url = parse_dsn(f"mysql://user:{password}@db:3307/ntppool?charset=utf8mb4")
    assert (url.username, url.password, url.host, url.port, url.database) == ("user", password, "db", 3307, "ntppool")


def test_percent_encoding_in_a_url_is_decoded() -> None:
    assert parse_dsn("mysql://us%3Aer:p%40%25@db/ntppool").password == "p@%"
    assert parse_dsn("mysql://us%3Aer:p%40%25@db/ntppool").username == "us:er"
    assert parse_dsn("mysql://user:100%@db/ntppool").password == "100%"


@given(st.text(min_size=1))
def test_any_password_in_gos_form_is_parsed(password: str) -> None:
    url = parse_dsn(f"user:{password}@tcp(db:3307)/ntppool")
    assert (url.username, url.password, url.host, url.database) == ("user", password, "db", "ntppool")


def test_separate_user_and_password_override_the_dsn() -> None:
    url = parse_dsn("old:older@tcp(db)/ntppool", user="new", password="newer@")
    assert (url.username, url.password) == ("new", "newer@")
    assert parse_dsn("sqlite:///x.db", user="new", password="newer").username is None


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("", "must be mysql://user:pass@host/db, sqlite:///file or user:pass@tcp"),
        ("ntppool", "must be mysql://"),
        ("u:p@/ntppool", "must be mysql://"),
        ("postgresql://u:p@db/ntppool", "not supported; known are mysql, mariadb, sqlite"),
        ("mysql://u:p@db/ntppool?ssl_ca=/etc/a@b.pem", "names no database"),
        ("mysql://u:p@db/ntp pool", "must be mysql://"),
        ("u:p@tcp(db)/ntp@pool", "must be mysql://"),
        ("mysql://u:p@db", "names no database"),
        ("mysql://u:p@db/", "names no database"),
        ("u:p@tcp(db)/", "names no database"),
        ("u:p@tcp(db:port)/ntppool", r"tcp\(...\) must hold host:port"),
        ("u:p@tcp(:3306)/ntppool", r"tcp\(...\) must hold host:port"),
        ("u:p@tcp(::1:3306)/ntppool", r"tcp\(...\) must hold host:port"),
        ("u:p@tcp(db:65536)/ntppool", "port must be 1 to 65535"),
        ("mysql://u:p@db:0/ntppool", "port must be 1 to 65535"),
        ("mysql://u:p@db:x/ntppool", "must be mysql://"),
        ("mysql://u:p@db1,/ntppool", "must be mysql://"),
        ("mysql://u:p@,db1/ntppool", "must be mysql://"),
        ("mysql://u:p@db1, db2/ntppool", "must be mysql://"),
        ("mysql://u:p@db1;db2/ntppool", "must be mysql://"),
        ("mysql://u:p@db1,::1/ntppool", "must be mysql://"),
        ("u:p@tcp(db1,)/ntppool", r"tcp\(...\) must hold host:port"),
        ("mysql://u:p@db1,db2:0/ntppool", "port must be 1 to 65535"),
        ("u:p@tcp(db1:1,db2:65536)/ntppool", "port must be 1 to 65535"),
        ("mysql://u:p@db1,DB1:3306/ntppool", "names a server twice"),
        ("mysql://u:p@db1,db2/ntppool?unix_socket=/run/s", "a socket, which has one"),
        ("mysql://u:p@db1/ntppool?others=db2", "unknown parameters after '?'"),
        ("mysql://u:p@db/ntppool?parseTime=true", "unknown parameters after '?'"),
        ("mysql://db/ntppool?ssl_verify_cert=false", "can only be true"),
        ("mysql://db/ntppool?ssl_ca=ca.pem&ssl_verify_identity=0", "can only be true"),
        ("sqlite:///x.db?timeout=1", "known are mode, uri"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_invalid_dsn_is_refused_with_the_reason(text: str, warning: str) -> None:
    with pytest.raises(InvalidDsn, match=f"^database DSN: .*{warning}".replace("?'", r"\?'")):
        parse_dsn(text)


def test_custom_ca_makes_verification_options_redundant() -> None:
    asked = "ssl_ca=/etc/ca.pem&ssl_verify_cert=true&ssl_verify_identity=true"
    assert parse_dsn(f"mysql://db/ntppool?{asked}").query == {"ssl_ca": "/etc/ca.pem"}


pieces = st.sampled_from(
    [*list("+:/@)?&=[]%\n\0#é²٣,"), "mysql", "sqlite", "://", "tcp(", "unix(", "::1", "db", "3306", "99999"]
)


@given(st.text() | st.lists(pieces, max_size=12).map("".join))
def test_hostile_text_is_parsed_or_refused(text: str) -> None:
    try:
        url = parse_dsn(text)
    except InvalidDsn:
        return
    assert url.drivername in ("sqlite", "mysql+pymysql", "mariadb+pymysql")
    assert url.database


secrets = st.text(string.ascii_uppercase, min_size=6, max_size=12)


@given(secrets, st.lists(pieces, max_size=8).map("".join), st.lists(pieces, max_size=8).map("".join))
@example("SECRET", "mysql://u:a@b?", "=1@h/db")
@example("SECRET", "mysql://u:", "99999/db")
def test_error_never_contains_the_password(secret: str, before: str, after: str) -> None:
    with_secret = f"mysql://u:{before}{secret}{after}"
    for text in (with_secret, f"u:{before}{secret}{after}"):
        try:
            parse_dsn(text)
        except InvalidDsn as error:
            assert secret not in str(error)
            assert error.__cause__ is None, "a traceback would show it"


# Letters that occur in none of our messages, and characters with a meaning in a DSN.
PSI, OMEGA, EURO = "\N{GREEK CAPITAL LETTER PSI}", "\N{GREEK CAPITAL LETTER OMEGA}", "\N{EURO SIGN}"
OWN = PSI + OMEGA + EURO
passwords = st.text(OWN + "@/:#?&=%()[]+., \n'", max_size=24)
FORMS = (
    "mysql://pool:{}@127.0.0.1:1/ntppool",
    "mariadb://pool:{}@127.0.0.1:1/ntppool?charset=utf8mb4",
    "mysql+pymysql://:{}@127.0.0.1:1/ntppool",
    "pool:{}@tcp(127.0.0.1:1)/ntppool",
    "pool:{}@tcp(127.0.0.1:1)/ntppool?parseTime=true",
    "pool:{}@unix(/nowhere/s)/ntppool",
    "mysql://pool:{}@tcp(127.0.0.1:1)/ntppool",
    "mysql://pool:{}@127.0.0.1:1,127.0.0.1:2/ntppool",
    "pool:{}@tcp(127.0.0.1:1,127.0.0.1:2)/ntppool",
    # Invalid or incomplete variants of them.
    "mysql://pool:{}@127.0.0.1:port/ntppool",
    "mysql://pool:{}@127.0.0.1:1",
    "mysql://pool:{}@tcp(127.0.0.1:port)/ntppool",
    "mysql:/pool:{}@127.0.0.1:1/ntppool",
    "mysql://pool:{}@127.0.0.1:1/ntp/pool",
    "mysql://pool:{}@127.0.0.1:1/ntppool?parseTime=true",
    "postgresql://pool:{}@127.0.0.1:1/ntppool",
    "pool:{}@127.0.0.1:1/ntppool",
    "pool:{}@tcp(127.0.0.1:1)",
    "pool:{}@tcp(127.0.0.1:1)/ntp/pool",
    "pool:{}@tcp()/ntppool",
    "{}://pool@127.0.0.1:1/ntppool",
)


def parts(password: str) -> set[str]:
    """Return all parts of four characters that cannot come from anywhere else."""
    fours = (password[start : start + 4] for start in range(len(password) - 3))
    return {four for four in fours if set(four) & set(OWN)}


def shown(text: str) -> list[str]:
    """Return all texts in which a DSN may be shown: errors, and its own representations."""
    try:
        url = parse_dsn(text)
    except InvalidDsn as error:
        return [str(error), repr(error), "".join(traceback.format_exception(error))]
    places = [place_of_server(server) for server in servers_of(url)]
    return [str(url), repr(url), place_of(url), f"{places} {url.database} {dict(url.query)}"]


@pytest.mark.parametrize("form", FORMS)
@given(password=passwords)
@example(password=f"{PSI}@{OMEGA}" * 3)
@example(password=f"{PSI * 5}/{OMEGA * 5}")
@example(password=f"{PSI * 5}@tcp({OMEGA * 5})/x?y")
def test_no_four_characters_of_a_password_are_ever_shown(form: str, password: str) -> None:
    seen = "\n".join(shown(form.format(password)))
    assert not [part for part in parts(password) if part in seen or repr(part)[1:-1] in seen]


@pytest.mark.parametrize("form", FORMS[:5])
@pytest.mark.parametrize("password", [f"{EURO}{PSI * 4}", f"{PSI * 5}@{OMEGA * 5}", f"{PSI * 5}@tcp({OMEGA * 5})/x?y"])
def test_driver_errors_do_not_show_the_password(form: str, password: str) -> None:
    engine = open_database(parse_dsn(form.format(password)))
    with pytest.raises(OperationalError) as refused, engine.connect():
        pass
    failed = refused.value
    seen = f"{engine!r} {failed} {failed!r} {failed.orig!r} {failed.__cause__!r}"
    assert not [part for part in parts(password) if part in seen or repr(part)[1:-1] in seen]


@pytest.mark.parametrize("form", [form for form in FORMS if "unix" not in form])
@pytest.mark.parametrize("level", ["warning", "debug"])
def test_command_errors_do_not_show_the_password(
    form: str, level: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    password = f"{PSI * 5}@{OMEGA * 5}/{EURO * 4}"
    monkeypatch.setenv("DATABASE_DSN", form.format(password))
    assert main(["--log-level", level, "db", "status"]) in (1, 2)
    seen = "".join(capfd.readouterr())
    assert "ntppool-monitor: " in seen
    assert not [part for part in parts(password) if part in seen or repr(part)[1:-1] in seen]


@pytest.mark.parametrize(
    "path", ["/tmp/ü/ledger.db", "/tmp/a b'c/ledger.db", "/tmp/100%/ledger.db", "/tmp/a?b#c/ledger.db"]
)
def test_sqlite_url_of_sqlalchemy_names_the_same_file(path: str) -> None:
    assert parse_dsn(URL.create("sqlite", database=path).render_as_string()).database == path
