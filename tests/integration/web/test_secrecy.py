"""Test that no answer has an address of a monitor, that texts are escaped, and what the database user may read."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.engine import open_database
from runtime.db.migrate import mismatch
from testbed.fixtures.pages import read_html
from testbed.fixtures.web import HOSTILE, HOSTNAME, SECRETS, V4, V6, Public, fill, public
from testbed.fixtures.web_routes import ADDRESSES
from testbed.paths import CHECKOUT

USER_SQL = CHECKOUT / "deploy" / "sql" / "web-user.sql"


@pytest.fixture
def web(sqlite_engine: Engine) -> Public:
    fill(sqlite_engine)
    return public(sqlite_engine)


def test_no_answer_has_an_address_of_a_monitor(web: Public) -> None:
    for path in ADDRESSES:
        found = web.get(path)
        said = found.text + str(found.headers.multi_items())
        assert [secret for secret in SECRETS if secret in said] == [], path


def test_pages_escape_everything_and_load_nothing_from_elsewhere(web: Public) -> None:
    pages = 0
    for path in ADDRESSES:
        found = web.get(path)
        if "text/html" in found.headers.get("content-type", "") and found.content:
            pages += 1
            assert "<script" not in found.text and "<b>odd" not in found.text, path
            assert not set("\x1b\x07\u202e") & set(found.text), path
            read_html(found)
    assert pages > 15


def test_a_hostname_and_an_error_with_markup_are_shown_as_text(web: Public, sqlite_engine: Engine) -> None:
    with sqlite_engine.begin() as connection:
        connection.execute(sa.text("UPDATE `servers` SET `hostname` = :name"), {"name": HOSTILE})
    text = web.get(f"/scores/{V4}").text
    shown = "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J\\u202egnp.exe\\x07"
    assert f'<p class="hint">{shown}</p>' in text
    assert f"gets the error “read udp &lt;address&gt;-&gt;{V4}:123, &#34;{shown}&#34;”" in text


def test_what_the_page_of_a_server_says(web: Public) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", web.get(f"/scores/{V4}").text).split())
    for words in (
        "Current score: 16.2 (only servers with a score higher than 10 are used in the pool)",
        "Clients are sent to this server.",
        "Its score has been above 10 since 2026-11-30 11:00 UTC",
        "1 of 3 monitors gets no answer since 2026-11-30 10:30 UTC",
        "testing → active",
        "3 promotions &lt;address&gt;",
        "uspao1-silent active -40.0 \N{EN DASH} \N{EN DASH} 100 % 2026-11-30 12:00 UTC",
    ):
        assert words in text, words
    other = web.get(f"/scores/{V6}").text
    assert "Clients are not sent to this server." in other and "has not been measured yet" in other
    assert re.search(r"<p [^>]*>Current score: -3.5 \(only servers with a score higher than 10 ", other)
    assert HOSTNAME in web.get(f"/scores/{V4}").text
    assert "25.0 %" in web.get("/monitors/nlams1-good").text


@pytest.fixture
def restricted(server_engine: Engine) -> Iterator[Engine]:
    """Yield an engine whose user has the permissions of the file."""
    url = server_engine.url
    text = USER_SQL.read_text().replace("`ntppool`", f"`{url.database}`").replace("127.0.0.1", "%")
    with server_engine.connect() as connection:
        for statement in re.sub(r"--.*", "", text).split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement.replace("%", "%%"))
    engine = open_database(url.set(username="ntppool_web", password="change-me"))
    yield engine
    engine.dispose()
    with server_engine.connect() as connection:
        connection.exec_driver_sql("DROP USER 'ntppool_web'@'%%'")


def test_every_route_works_with_the_documented_permissions(server_engine: Engine, restricted: Engine) -> None:
    fill(server_engine)
    assert mismatch(restricted) is None
    mine, owners = public(restricted), public(server_engine)
    for path in ADDRESSES:
        assert (found := mine.get(path)).status_code < 500 or "status-check" in path, (path, found.text)
        assert found.content == owners.get(path).content, path
    for query in ("SELECT `ip` FROM `monitors`", "SELECT `hostname` FROM `monitors`", "SELECT * FROM `api_keys`"):
        with restricted.connect() as connection, pytest.raises(sa.exc.OperationalError, match="denied"):
            connection.exec_driver_sql(query)
    with restricted.connect() as connection, pytest.raises(sa.exc.OperationalError, match="denied"):
        connection.exec_driver_sql("UPDATE `servers` SET `score_raw` = 20")


def test_the_database_away_is_said_on_the_page_and_to_tools(tmp_path: Path) -> None:
    engine = open_database(sa.engine.URL.create("mysql+pymysql", host="127.0.0.1", port=1, username="x"))
    web = public(engine)
    page = web.get(f"/scores/{V4}")
    assert (page.status_code, page.headers["cache-control"]) == (503, "no-store")
    assert "The database is unavailable; try again later." in page.text and "clients are served as before" in page.text
    tool = web.get(f"/api/data/server/scores/{V4}/json")
    assert (tool.status_code, tool.json()) == (503, {"message": "The database is unavailable; try again later."})
    assert tool.headers["access-control-allow-origin"] == "*"
    engine.dispose()
