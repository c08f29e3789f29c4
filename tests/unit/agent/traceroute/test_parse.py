"""Test that outputs of real programs are read as they are meant, and that nothing else passes for a route."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.traceroute.parse import NotARoute, Route, parse_route
from schema.messages import MAX_HOPS, Hop, HopAnswer
from testbed.random_inputs import examples

TARGET = "10.1.3.2"

MODERN = """\
traceroute to 10.1.3.2 (10.1.3.2), 30 hops max, 60 byte packets
 1  10.1.1.2  0.048 ms  0.005 ms
 2  * 10.1.2.2  0.013 ms
 3  * *
 4  * 10.1.3.2  0.059 ms
"""
PROHIBITED = """\
traceroute to 10.1.3.10 (10.1.3.10), 30 hops max, 60 byte packets
 1  10.1.1.2  0.054 ms  0.006 ms
 2  10.1.2.2  0.030 ms !X *
"""
INETUTILS = """\
traceroute to 10.1.3.9 (10.1.3.9), 64 hops max
  1   10.1.1.2  0.007ms  0.001ms\x20
  2   10.1.2.2  0.001ms !H  *\x20
"""
BUSYBOX = """\
traceroute to 10.1.3.2 (10.1.3.2), 30 hops max, 46 byte packets
 1  *  10.1.1.2  0.011 ms
 2  10.1.2.2  0.002 ms  *
 3  10.1.3.2  0.010 ms  0.002 ms
"""
FREEBSD = """\
traceroute6 to fd00:3::2 (fd00:3::2) from fd00:1::1, 30 hops max, 12 byte packets
 1  fe80::1%em0  0.101 ms
    fd00:1::3  0.120 ms
 2  fd00:3::2  1.046 ms !P
"""


def hop(ttl: int, *answers: tuple[str, float] | tuple[str, float, str] | None) -> Hop:
    """Return a hop; times are in milliseconds."""
    return Hop(
        ttl=ttl,
        answers=[
            None
            if one is None
            else HopAnswer(ip=one[0], rtt=round(one[1] / 1e3, 6), note=one[2] if len(one) > 2 else None)
            for one in answers
        ],
    )


@pytest.mark.parametrize(
    ("text", "target", "hops", "tried", "reached"),
    [
        (
            MODERN,
            TARGET,
            [
                hop(1, ("10.1.1.2", 0.048), ("10.1.1.2", 0.005)),
                hop(2, None, ("10.1.2.2", 0.013)),
                hop(3, None, None),
                hop(4, None, (TARGET, 0.059)),
            ],
            4,
            True,
        ),
        (
            PROHIBITED,
            "10.1.3.10",
            [hop(1, ("10.1.1.2", 0.054), ("10.1.1.2", 0.006)), hop(2, ("10.1.2.2", 0.03, "!X"), None)],
            2,
            False,
        ),
        (
            INETUTILS,
            "10.1.3.9",
            [hop(1, ("10.1.1.2", 0.007), ("10.1.1.2", 0.001)), hop(2, ("10.1.2.2", 0.001, "!H"), None)],
            2,
            False,
        ),
        (
            BUSYBOX,
            TARGET,
            [
                hop(1, None, ("10.1.1.2", 0.011)),
                hop(2, ("10.1.2.2", 0.002), None),
                hop(3, (TARGET, 0.01), (TARGET, 0.002)),
            ],
            3,
            True,
        ),
        (
            FREEBSD,
            "fd00:3:0::2",
            [hop(1, ("fe80::1", 0.101), ("fd00:1::3", 0.12)), hop(2, ("fd00:3::2", 1.046, "!P"))],
            2,
            True,
        ),
    ],
)
def test_outputs_of_real_programs(text: str, target: str, hops: list[Hop], tried: int, reached: bool) -> None:
    assert parse_route(text, target) == Route(hops, tried, reached)


def test_hops_end_with_the_last_answer() -> None:
    silence = "".join(f"{ttl:>2}  * *\n" for ttl in range(3, 31))
    route = parse_route(" 1  10.1.1.2  1.0 ms *\n 2  * *\n" + silence, TARGET)
    assert (len(route.hops), route.tried, route.reached) == (1, 30, False)
    assert parse_route(" 1  * *\n", TARGET) == Route([], 1, False)
    assert parse_route("", TARGET) == Route([], 0, False)


def test_the_last_line_of_a_killed_program_does_not_count() -> None:
    for part in (" 2", " 2  10.1", " 2  10.1.2.2  0.0", " 2  10.1.2.2  0.013 ms !"):
        cut = f" 1  10.1.1.2  0.048 ms\n{part}"
        assert parse_route(cut, TARGET, complete=False).tried == 1
    with pytest.raises(NotARoute, match=r"^line 2 "):
        parse_route(" 1  10.1.1.2  0.048 ms\n 2  10.1", TARGET)


@pytest.mark.parametrize(
    "line",
    [
        *("usage: traceroute host", "1", " 1", " 1  ", " 0  *", " 2  *", "31  *", " 1  * * * *", "-1  *", " 1.0  *"),
        *(" 1  10.1.1.2", " 1  10.1.1.2  5", " 1  10.1.1.2  5 s", " 1  5 ms", " 1  10.1.1.2  -5 ms"),
        *(" 1  10.1.1.2  nan ms", " 1  10.1.1.2  1e3 ms", " 1  10.1.1.2  999999 ms", " 1  10.1.1.2  \u0661 ms"),
        *(" 1  router.example  5 ms", " 1  router.example (10.1.1.2)  5 ms", " 1  10.1.1  5 ms", " 1  fe80::1%  x"),
        *(" 1  !H", " 1  * !H", " 1  10.1.1.2  5 ms !H !X", " 1  10.1.1.2  5 ms !\x1b[2J", " 1  10.1.1.2  5 ms !h"),
        *(" 1  fe80::1%" + "x" * 99 + "  5 ms", "    10.1.1.2  5 ms", "\x1b[2J", " 1  10.1.1.2  5 ms\0"),
    ],
)
def test_anything_else_is_refused_and_not_quoted(line: str) -> None:
    with pytest.raises(NotARoute, match=r"^line 1 is not that of a route$"):
        parse_route(f"{line}\n", TARGET)


def test_a_heading_is_the_first_line_only() -> None:
    heading = "traceroute to x\n"
    with pytest.raises(NotARoute, match=r"^line 2 "):
        parse_route(heading + heading, TARGET)


ADDRESSES = st.sampled_from(["10.1.1.2", "10.1.2.2", TARGET, "fd00:1::2"])
NOTES = st.none() | st.from_regex(r"\A![A-Z0-9<>-]{0,12}\Z")
ANSWERS = st.none() | st.builds(
    lambda ip, thousandths, note: HopAnswer(ip=ip, rtt=round(thousandths / 1e6, 6), note=note),
    ADDRESSES,
    st.integers(0, 99_999_999),
    NOTES,
)
ROUTES = st.lists(st.lists(ANSWERS, min_size=1, max_size=3), max_size=MAX_HOPS)


def written(hops: Sequence[Sequence[HopAnswer | None]], *, glued: bool, broken: bool) -> str:
    """Write a route as a program does: ``glued`` as inetutils writes times, ``broken`` as FreeBSD breaks lines."""
    lines = []
    for ttl, answers in enumerate(hops, 1):
        line, last = f"{ttl:>2} ", ""
        for one in answers:
            if one is None:
                line += " *"
                continue
            assert one.rtt is not None
            if one.ip != last:
                line += f"\n    {one.ip}" if broken and last else f" {one.ip}"
                last = one.ip
            line += f"  {one.rtt * 1e3:.3f}{'ms' if glued else ' ms'}" + (f" {one.note}" if one.note else "")
        lines.append(line)
    return "traceroute to it\n" + "".join(f"{line}\n" for line in lines)


@examples(150)
@given(ROUTES, st.booleans(), st.booleans())
def test_what_a_program_writes_is_what_is_read(
    answers: list[list[HopAnswer | None]], glued: bool, broken: bool
) -> None:
    route = parse_route(written(answers, glued=glued, broken=broken), TARGET)
    assert route.tried == len(answers)
    hops = [Hop(ttl=ttl, answers=one) for ttl, one in enumerate(answers, 1)]
    assert route.hops == hops[: len(route.hops)] and not any(any(one.answers) for one in hops[len(route.hops) :])
    assert route.reached == any(one is not None and one.ip == TARGET for hop in answers for one in hop)


WORDS = st.sampled_from(["1", "2", "*", "ms", "0.5", "0.5ms", "10.1.1.2", "!H", "\n", "  ", "traceroute to ", "\x1b"])


@examples(300)
@given(st.lists(WORDS | st.text(max_size=4), max_size=40).map(" ".join), st.booleans())
def test_any_text_is_a_bounded_route_or_an_error(text: str, complete: bool) -> None:
    try:
        route = parse_route(text, TARGET, complete=complete)
    except NotARoute:
        return
    assert len(route.hops) <= route.tried <= MAX_HOPS
    assert [hop.ttl for hop in route.hops] == list(range(1, len(route.hops) + 1))
    assert all(1 <= len(hop.answers) <= 3 for hop in route.hops)
