"""Where the ledger is: both forms of a DSN, and complaints that keep its password."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.dsn import InvalidDsn, parse_dsn


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mysql://u:p@db.example/ntppool", "mysql+pymysql://u:p@db.example/ntppool"),
        ("mysql://u:p%40ss@db:3307/ntppool", "mysql+pymysql://u:p%40ss@db:3307/ntppool"),
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
def test_both_forms(text: str, expected: str) -> None:
    assert parse_dsn(text).render_as_string(hide_password=False) == expected


ODD_PASSWORDS = ["p@ss", "p@tcp(x)/y", "a:b/c?d#e", "%41%zz", "(((", "@", " ", "p\nq", "ü\U0001f510", "'\"\\`;"]


@pytest.mark.parametrize("password", ODD_PASSWORDS)
def test_any_password_in_gos_form(password: str) -> None:
    url = parse_dsn(f"user:{password}@tcp(db:3307)/ntppool?parseTime=true")
    assert (url.username, url.password, url.host, url.port, url.database) == ("user", password, "db", 3307, "ntppool")


@given(st.text(min_size=1))
def test_every_password_in_gos_form(password: str) -> None:
    url = parse_dsn(f"user:{password}@tcp(db:3307)/ntppool")
    assert (url.username, url.password, url.host, url.database) == ("user", password, "db", "ntppool")


def test_user_and_password_from_elsewhere_win() -> None:
    url = parse_dsn("old:older@tcp(db)/ntppool", user="new", password="newer@")
    assert (url.username, url.password) == ("new", "newer@")
    assert parse_dsn("sqlite:///x.db", user="new", password="newer").username is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be mysql://user:pass@host/db, sqlite:///file or user:pass@tcp"),
        ("ntppool", "must be mysql://"),
        ("u:p@/ntppool", "must be mysql://"),
        ("postgresql://u:p@db/ntppool", "'postgresql' is not supported, only mysql, mariadb, sqlite"),
        ("mysql://u:p@db", "names no database"),
        ("mysql://u:p@db/", "names no database"),
        ("u:p@tcp(db)/", "names no database"),
        ("u:p@tcp(db:port)/ntppool", r"tcp\(...\) must hold host:port"),
        ("u:p@tcp(:3306)/ntppool", r"tcp\(...\) must hold host:port"),
        ("u:p@tcp(::1:3306)/ntppool", r"tcp\(...\) must hold host:port"),
        ("u:p@tcp(db:65536)/ntppool", "port must be 1 to 65535"),
        ("mysql://u:p@db:0/ntppool", "port must be 1 to 65535"),
        ("mysql://u:p@db:x/ntppool", "must be mysql://"),
        ("mysql://u:p@db/ntppool?parseTime=true", "unknown parameters after '?'"),
        ("mysql://db/ntppool?ssl_verify_cert=false", "can only be true"),
        ("mysql://db/ntppool?ssl_ca=ca.pem&ssl_verify_identity=0", "can only be true"),
        ("sqlite:///x.db?timeout=1", "known are mode, uri"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_what_is_wrong_is_said(text: str, complaint: str) -> None:
    with pytest.raises(InvalidDsn, match=f"^database DSN: .*{complaint}".replace("?'", r"\?'")):
        parse_dsn(text)


def test_a_ca_of_ones_own_is_what_a_certificate_is_verified_with() -> None:
    asked = "ssl_ca=/etc/ca.pem&ssl_verify_cert=true&ssl_verify_identity=true"
    assert parse_dsn(f"mysql://db/ntppool?{asked}").query == {"ssl_ca": "/etc/ca.pem"}


pieces = st.sampled_from(
    [*list("+:/@)?&=[]%\n\0#é²٣"), "mysql", "sqlite", "://", "tcp(", "unix(", "::1", "db", "3306", "99999"]
)


@given(st.text() | st.lists(pieces, max_size=12).map("".join))
def test_hostile_text_is_a_url_or_invalid(text: str) -> None:
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
def test_a_complaint_never_holds_the_password(secret: str, before: str, after: str) -> None:
    with_secret = f"mysql://u:{before}{secret}{after}"
    for text in (with_secret, f"u:{before}{secret}{after}"):
        try:
            parse_dsn(text)
        except InvalidDsn as error:
            assert secret not in str(error)
            assert error.__cause__ is None, "a traceback would show it"
