"""Read the output of programs called traceroute, strictly: whatever is no route is an error. Pure.

A line has the number of the hop, then for each packet either ``*`` or an address, unless it is that of the packet
before, a time and a remark: `` 3  192.0.2.1  1.204 ms !X *``. FreeBSD's begins another line where the address changes.
"""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

import msgspec

from schema.messages import MAX_HOP_PROBES, MAX_HOPS, Hop, HopAnswer

_HEADING: Final = re.compile(r"traceroute6? to ")
_NUMBER: Final = re.compile(r"[0-9]{1,2}")
_TIME: Final = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,3})?)(ms)?")
_REMARK: Final = re.compile(r"![A-Z0-9<>-]{0,12}")
_LONGEST_ADDRESS: Final = 64
"""Characters, with the name of an interface."""


class NotARoute(ValueError):
    """The output is not that of a traceroute; the message names the line."""


class Route(msgspec.Struct, frozen=True):
    """What the output says."""

    hops: list[Hop]
    """To the last one with an answer."""
    tried: int
    """The last hop that was tried."""
    reached: bool
    """Whether the address itself has answered."""


def parse_route(text: str, target: str, *, complete: bool = True) -> Route:
    """Return the route to ``target``.

    Args:
        complete: the program ended by itself; otherwise its last line may be a part of one, and is ignored.

    Raises:
        NotARoute: the output is anything else.
    """
    lines = text.split("\n")
    last = lines.pop()
    if last and complete:
        lines.append(last)
    hops: list[Hop] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and _HEADING.match(line)):
            continue
        try:
            _read_line(line, hops)
        except ValueError:
            # Not with the text: it may have been made to look like anything.
            raise NotARoute(f"line {number} is not that of a route") from None
    tried = len(hops)
    while hops and not any(hops[-1].answers):
        hops.pop()
    return Route(hops, tried, _has_answered(hops, target))


def _read_line(line: str, hops: list[Hop]) -> None:
    """Add the hop of a line, or the rest of the last hop.

    Raises:
        ValueError: it is neither.
    """
    words = line.split()
    if _NUMBER.fullmatch(words[0]):
        ttl, before = int(words.pop(0)), []
        if ttl != len(hops) + 1 or ttl > MAX_HOPS or not words:
            raise ValueError
    elif hops and line[0].isspace():
        last = hops.pop()
        ttl, before = last.ttl, last.answers
    else:
        raise ValueError
    answers = [*before, *_answers(iter(words))]
    if len(answers) > MAX_HOP_PROBES:
        raise ValueError
    hops.append(Hop(ttl=ttl, answers=answers))


def _answers(words: Iterator[str]) -> list[HopAnswer | None]:
    """Return the answers in a line.

    Raises:
        ValueError: a word is out of place.
    """
    found: list[HopAnswer | None] = []
    address: str | None = None
    for word in words:
        if word == "*":
            found.append(None)
        elif (time := _TIME.fullmatch(word)) is not None and address is not None:
            if time[2] is None and next(words, None) != "ms":
                raise ValueError
            found.append(HopAnswer(ip=address, rtt=round(float(time[1]) / 1e3, 6)))
        elif _REMARK.fullmatch(word) and found and (noted := found[-1]) is not None and noted.note is None:
            found[-1] = msgspec.structs.replace(noted, note=word)
        else:
            address = _address(word)
    if address is not None and not any(found):
        raise ValueError  # an address without a time
    return found


def _address(word: str) -> str:
    if len(word) > _LONGEST_ADDRESS:
        raise ValueError
    return str(ip_address(word.partition("%")[0]))


def _has_answered(hops: list[Hop], target: str) -> bool:
    wanted = str(ip_address(target))
    return any(answer is not None and answer.ip == wanted for hop in hops for answer in hop.answers)
