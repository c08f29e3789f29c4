"""Write the messages: plain text, short, and harmless whatever the names in it contain. Pure.

Names and reasons come from hosts and owners, and the receivers are mail programs, browsers and chats: text from others
is reduced to letters, digits and a few signs, so that it is no markup, no link, no mention of others and no control
character in any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from notifier import rules
from notifier.model import Change

_ALLOWED: Final = frozenset(" .,:;()/+-%='")

_INSTEAD: Final = str.maketrans('[]{}"`_', "()()'' ")
"""Harmless signs for those that are markup somewhere, but are usual in the messages of errors."""


def plain(text: str, most: int) -> str:
    """Return text of others on one line, without markup, at most so many characters."""
    found = "".join(
        char if (char.isalnum() and char.isprintable()) or char in _ALLOWED else "?"
        for char in text[:most].translate(_INSTEAD)
    )
    return found.replace("://", ": ")


@dataclass(frozen=True, slots=True)
class Links:
    """Where people read more."""

    server_pages: str | None
    """Address of the page of a server, with ``{ip}`` for its address; None: there is none."""
    pages: str
    """Address of the API's pages."""

    def server(self, ip: str) -> str:
        """Return the address of the page of a server; empty if there is none."""
        return "" if self.server_pages is None else self.server_pages.replace("{ip}", ip)

    def monitor(self, name: str) -> str:
        """Return the address of the page of a monitor."""
        return f"{self.pages}/manage/monitors/{name}"


_RAISED: Final = {
    rules.SERVER_LOW: "Server {name} is not handed out: its score is below 10",
    rules.SERVER_VERY_LOW: "Server {name} is far from usable: its score is below -15",
    rules.MONITOR_OFFLINE: "Monitor {name} is offline",
    rules.MONITOR_CLOCK: "Monitor {name} has a wrong clock",
    rules.MONITOR_UNHEALTHY: "Monitor {name} is unhealthy",
    rules.MONITORS_AWAY: "Most monitors are offline",
    rules.NO_RESULTS: "No results are stored",
    rules.DATABASE_AWAY: "Database away from {name}",
    rules.NODE_AWAY: "Database node away: {name}",
    rules.BROKER_AWAY: "Broker away from {name}",
    rules.CLOCK_DOUBTED: "Clocks of {name} and of the database differ",
}

_CLEARED: Final = {
    rules.SERVER_LOW: "Server {name} is handed out again",
    rules.SERVER_VERY_LOW: "Server {name}: its score is above -15 again",
    rules.MONITOR_OFFLINE: "Monitor {name} is online again",
    rules.MONITOR_CLOCK: "Monitor {name}: its clock is right again",
    rules.MONITOR_UNHEALTHY: "Monitor {name} is healthy again",
    rules.MONITORS_AWAY: "Most monitors are online again",
    rules.NO_RESULTS: "Results are stored again",
    rules.DATABASE_AWAY: "Database reached again by {name}",
    rules.NODE_AWAY: "Database node works again: {name}",
    rules.BROKER_AWAY: "Broker reached again by {name}",
    rules.CLOCK_DOUBTED: "Clocks of {name} and of the database agree again",
}

_TO_DO: Final = {
    rules.SERVER_LOW: (
        "Check that it answers NTP queries from the Internet (UDP port 123, no firewall or rate limit in between), "
        "and that its clock is right."
    ),
    rules.SERVER_VERY_LOW: (
        "If it no longer serves time, schedule its deletion, so that it is no longer measured. Otherwise check that it "
        "answers queries from the Internet, and that its clock is right."
    ),
    rules.MONITOR_OFFLINE: "Run 'ntppool-agent status' on its host, and check that the host reaches the broker.",
    rules.MONITOR_CLOCK: (
        "Check the host's NTP client. While the agent's own check of the clock fails, it does not measure."
    ),
    rules.MONITOR_UNHEALTHY: (
        "If it does not measure, 'ntppool-agent status' on its host names the reason. If packets are lost or a "
        "protocol fails, check the host's network, firewall and tunnels."
    ),
    rules.MONITORS_AWAY: (
        "They have a common cause: check the broker's listener for agents, its certificate, and the network before it. "
        "Nothing is reported about single monitors meanwhile."
    ),
    rules.NO_RESULTS: "Check ingest: its log, and /healthz. Agents keep their results for three days.",
    rules.DATABASE_AWAY: "Check the database server and the network. Workers wait for it; agents keep their results.",
    rules.NODE_AWAY: "Check this node of the cluster; the others are watched separately.",
    rules.BROKER_AWAY: "Check ntppool-broker and its log. Agents keep their results.",
    rules.CLOCK_DOUBTED: "Check the time service of both hosts. Until the clocks agree, workers wait.",
}


def title_of(change: Change) -> str:
    """Return the change in one line."""
    if change.gone:
        return f"No longer watched: {change.name}"[:300]
    return (_RAISED if change.raised else _CLEARED)[change.key.kind].format(name=change.name)[:300]


def text_of(change: Change) -> str:
    """Return the change with what was seen, since when, what to do, and where to read more."""
    lines = [f"{title_of(change)}."]
    if change.gone:
        told = _RAISED[change.key.kind].format(name=change.name)
        lines.append(f"It was removed, paused or moved. This ends the alert of {_time(change.since)}: {told}.")
        return "\n".join(lines)
    if change.detail:
        lines.append(f"Now: {change.detail}.")
    lines.append(f"{'Since' if change.raised else 'The alert was raised'}: {_time(change.since)}.")
    if change.raised:
        lines.append(_TO_DO[change.key.kind])
    if change.link:
        lines.append(change.link)
    return "\n".join(lines)


def message_title(env: str, titles: Sequence[tuple[bool, str]]) -> str:
    """Return the title of a message about these changes: each raised or cleared, with its title."""
    prefix = "NTP Pool" if env == "prod" else f"NTP Pool, {env}"
    if len(titles) == 1:
        return f"[{prefix}] {titles[0][1]}"[:300]
    raised = sum(is_raised for is_raised, _ in titles)
    numbers = [f"{raised} raised"] * (raised > 0) + [f"{len(titles) - raised} cleared"] * (raised < len(titles))
    return f"[{prefix}] {len(titles)} alerts: {', '.join(numbers)}"


def message_body(texts: Sequence[str]) -> str:
    """Return the text of a message about these changes."""
    return "\n\n".join(texts) + "\n"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
