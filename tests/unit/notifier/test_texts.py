"""Test the texts of alerts."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import rules
from notifier.model import Change, Key
from notifier.texts import Links, message_body, message_title, plain, text_of, title_of
from testbed.random_inputs import examples

NOW = datetime(2026, 1, 2, 12, 0, 0)


def a_change(kind: str = rules.SERVER_LOW, *, raised: bool = True, **fields: object) -> Change:
    given_fields = {"name": "192.0.2.1", "detail": "score 3.2", "link": "https://pool.example/scores/192.0.2.1"}
    return Change(
        key=Key(kind, "1"),
        raised=raised,
        changed_on=NOW,
        since=datetime(2026, 1, 2, 9, 30, 0),
        **(given_fields | fields),  # type: ignore[arg-type]
    )


def test_an_alert_says_what_since_when_what_to_do_and_where_to_read_more() -> None:
    assert text_of(a_change()).split("\n") == [
        "Server 192.0.2.1 is not handed out: its score is below 10.",
        "Now: score 3.2.",
        "Since: 2026-01-02 09:30 UTC.",
        "Check that it answers NTP queries from the Internet (UDP port 123, no firewall or rate limit in between), "
        "and that its clock is right.",
        "https://pool.example/scores/192.0.2.1",
    ]


def test_a_clear_says_when_the_alert_was_raised() -> None:
    assert text_of(a_change(raised=False, detail="score 12.0", link="")).split("\n") == [
        "Server 192.0.2.1 is handed out again.",
        "Now: score 12.0.",
        "The alert was raised: 2026-01-02 09:30 UTC.",
    ]


def test_the_end_of_an_alert_about_something_that_was_removed_says_so() -> None:
    lines = text_of(a_change(raised=False, gone=True)).split("\n")
    assert lines[0] == "No longer watched: 192.0.2.1."
    assert "Server 192.0.2.1 is not handed out" in lines[1]


@pytest.mark.parametrize("kind", rules.KINDS)
def test_every_kind_has_its_texts(kind: str) -> None:
    raised, cleared = title_of(a_change(kind)), title_of(a_change(kind, raised=False))
    assert raised != cleared
    assert len(text_of(a_change(kind)).split("\n")) == 5


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("ntp1.example.org", "ntp1.example.org"),
        ("<b>x</b>", "?b?x?/b?"),
        ("a\r\nBcc: x@y", "a??Bcc: x?y"),
        ("@everyone <!channel>", "?everyone ??channel?"),
        ("*bold* _it_ [a](b) `c` #x", "?bold?  it  (a)(b) 'c' ?x"),
        ("https://evil.example/", "https: evil.example/"),
        ("a\u202eb\u200bc\x1b[2J", "a?b?c?(2J"),
        ("Zürich 東京", "Zürich 東京"),
        ("wsrep_ready: '[Errno 111] refused'", "wsrep ready: '(Errno 111) refused'"),
    ],
)
def test_text_of_others_is_no_markup_no_link_and_no_mention(given_text: str, shown: str) -> None:
    assert plain(given_text, 100) == shown


@examples(200)
@given(st.text(max_size=400))
def test_text_of_others_is_short_and_on_one_line(text: str) -> None:
    found = plain(text, 100)
    assert len(found) <= 101
    assert found.isprintable()
    assert not set(found) & set('<>&@#*_`[]|~$\\{}!"')


def test_titles_of_messages() -> None:
    assert message_title("prod", [(True, "Monitor m is offline")]) == "[NTP Pool] Monitor m is offline"
    assert message_title("test", [(True, "a"), (False, "b")]) == "[NTP Pool, test] 2 alerts: 1 raised, 1 cleared"
    assert message_title("prod", [(True, "a"), (True, "b")]) == "[NTP Pool] 2 alerts: 2 raised"
    assert message_body(["a", "b"]) == "a\n\nb\n"


def test_links() -> None:
    links = Links("https://pool.example/scores/{ip}", "https://api.pool.example")
    assert links.server("192.0.2.1") == "https://pool.example/scores/192.0.2.1"
    assert links.monitor("m.prod.mon.example") == "https://api.pool.example/manage/monitors/m.prod.mon.example"
    assert Links(None, "https://api.pool.example").server("192.0.2.1") == ""
