"""Test the commands' output: for people, for pipes, as JSON, and with foreign text made printable."""

import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.commands.control import answer_line, show_answer
from ops.output import (
    Layout,
    cope_with_any_character,
    print_error,
    show_fields,
    show_table,
    write,
    write_json,
    write_lines,
)
from schema.messages import ControlAnswer

EVIL = "a\x1b[2J\nb\t\u202ec\x9b\x7f\u2028d"
CLEAN = r"a\x1b[2J\nb\t\u202ec\x9b\x7f\u2028d"
ANY = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)


def on_terminal(show: Callable[[], None]) -> list[str]:
    """Return the lines that ``show`` writes to a terminal of 80 columns."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setenv("COLUMNS", "80")
        patch.setenv("TERM", "dumb")
        show()
    return [line.rstrip(" ") for line in stream.getvalue().removesuffix("\n").split("\n")]


def test_cell_cannot_break_the_table_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("id", "name"), [(1, EVIL), (2, "x")])
    assert capsys.readouterr().out == f"id\tname\n1\t{CLEAN}\n2\tx\n"


def test_cell_cannot_break_the_table_on_a_terminal() -> None:
    lines = on_terminal(lambda: show_table(("id", "name"), [(1, EVIL), (2, "[red]x[/red]")]))
    assert lines == ["id  name", f" 1  {CLEAN}", " 2  [red]x[/red]"]


def test_numbers_are_right_aligned_and_words_left_aligned() -> None:
    lines = on_terminal(lambda: show_table(("n", "online"), [(1, True), (20, False), (3, None)]))
    assert lines == [" n  online", " 1  yes", "20  no", " 3"]


WIDE = (1, "nlams1-a.devel.mon.example", "x" * 50, "y" * 30, datetime(2026, 1, 2, 3, 4, 5))
HEAD = ("id", "monitor", "first", "second", "seen")


def test_lesser_columns_are_dropped_until_the_table_fits() -> None:
    def shown(*lesser: str) -> list[list[str]]:
        layout = Layout(lesser=lesser, names=("monitor",))
        return [line.split() for line in on_terminal(lambda: show_table(HEAD, [WIDE], layout))]

    at = ["2026-01-02", "03:04"]
    assert shown("first", "second") == [["id", "monitor", "second", "seen"], ["1", "nlams1-a", "y" * 30, *at]]
    assert shown("id", "second", "first") == [["monitor", "first", "seen"], ["nlams1-a", "x" * 50, *at]]
    narrow = [(1, "a.devel.x", "x", "y", None)]
    layout = Layout(lesser=("first",))
    assert on_terminal(lambda: show_table(HEAD, narrow, layout))[0].split() == list(HEAD), "there is room"


def test_folded_column_is_broken_between_words_before_others_are_dropped() -> None:
    layout = Layout(lesser=("first",), folded=("labels",))

    def shown(first: str) -> list[str]:
        rows = [(first, ("stable-30d", "clock-good")), (first, ())]
        return on_terminal(lambda: show_table(("first", "labels"), rows, layout))

    wide, exact, narrow = shown("x" * 50), shown("x" * 67), shown("x" * 68)
    assert wide[1].split() == ["x" * 50, "stable-30d,", "clock-good"]
    assert [line.split() for line in exact] == [
        ["first", "labels"],
        ["x" * 67, "stable-30d,"],
        ["clock-good"],
        ["x" * 67],
    ]
    assert [line.split() for line in narrow][:2] == [["labels"], ["stable-30d,", "clock-good"]]


def test_table_of_exactly_the_width_is_complete() -> None:
    for width, columns in ((80 - 4, ["id", "text"]), (80 - 3, ["id"])):
        row = (1, "x" * width)
        layout = Layout(lesser=("text",))
        assert (
            on_terminal(lambda row=row, layout=layout: show_table(("id", "text"), [row], layout))[0].split() == columns
        )  # type: ignore[misc]


def test_headings_are_never_wrapped() -> None:
    row = ("x" * 60, "y" * 60, 1)
    assert on_terminal(lambda: show_table(("one", "two", "a long heading"), [row]))[0].endswith("  a long heading")


def test_piped_table_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(HEAD, [WIDE], Layout(lesser=HEAD, names=("monitor",)))
    assert capsys.readouterr().out.splitlines()[1].split("\t") == [
        *("1", "nlams1-a.devel.mon.example", "x" * 50, "y" * 30, "2026-01-02 03:04:05")
    ]


def test_text_answer_has_a_line_per_detail(capsys: pytest.CaptureFixture[str]) -> None:
    show_answer(
        ControlAnswer(ok=True, service="ingest", command="status", details={"client_id": "i/1", "due": 7, EVIL: {}})
    )
    show_answer(ControlAnswer(ok=False, service="ingest", command="x", message=EVIL))
    first, second, third, last = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert (first, second.split()) == ("i/1: ok", ["due", "7"])
    assert third.isprintable() and third.endswith("  {}")
    assert last == f"ingest: refused: {CLEAN}"


def test_fields_lines_and_errors_are_made_printable(capsys: pytest.CaptureFixture[str]) -> None:
    show_fields([("name", EVIL), ("seen", None), ("online", False), ("score", 19.46)])
    write(EVIL)
    write_lines(f"one\n{EVIL.replace(chr(10), '')}\n")
    print_error(EVIL)
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"name    {CLEAN}",
        "seen",
        "online  no",
        "score   19.5",
        CLEAN,
        "one",
        CLEAN.replace(r"\n", ""),
    ]
    assert said.err == f"ntppool-monitor: {CLEAN}\n"


def test_json_is_lossless(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"name": EVIL, "at": datetime(2026, 1, 2, 3, 4, 5, 6), "day": date(2026, 1, 2), "zone": NOW})
    text = capsys.readouterr().out
    assert text.removesuffix("\n").isprintable() and text.isascii()
    assert json.loads(text) == {
        "name": EVIL,
        "at": "2026-01-02T03:04:05.000006Z",
        "day": "2026-01-02",
        "zone": "2026-01-02T03:04:05+00:00",
    }


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_tables_and_fields_as_json_have_plain_keys(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("id", "last seen"), [(1, None), (2, ("x", "y"))], as_json=True)
    show_fields([("last seen", None), ("online", True)], as_json=True)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        [{"id": 1, "last_seen": None}, {"id": 2, "last_seen": ["x", "y"]}],
        {"last_seen": None, "online": True},
    ]


@given(rows=st.lists(st.tuples(ANY, ANY), min_size=1, max_size=3))
def test_foreign_text_cannot_break_tables_or_fields(rows: list[tuple[str, str]]) -> None:
    assert all(line.isprintable() for line in on_terminal(lambda: show_table(("one", "two"), rows)))
    assert all(line.isprintable() for line in on_terminal(lambda: show_fields(rows)))
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        show_table(("one", "two"), rows)
    lines = out.getvalue().removesuffix("\n").split("\n")
    assert [len(line.split("\t")) for line in lines] == [2] * (len(rows) + 1)


@given(answer=st.builds(ControlAnswer, ok=st.booleans(), service=ANY, command=ANY, message=ANY))
def test_an_answer_is_one_line(answer: ControlAnswer) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        write(answer_line(answer))
    assert out.getvalue().endswith("\n") and out.getvalue()[:-1].isprintable()


@pytest.mark.parametrize("show", [write, print_error])
def test_characters_missing_on_the_terminal_are_escaped(
    show: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "stdout" if show is write else "stderr"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding="ascii"))
    cope_with_any_character()
    show("é 日")
    getattr(sys, name).flush()
    assert raw.getvalue().endswith(b"\\xe9 \\u65e5\n")
