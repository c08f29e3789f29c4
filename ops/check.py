"""Measure an address now for an operator at a terminal, or trace the routes to it, and show each monitor's finding as
soon as it arrives."""

import asyncio
import random
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import SQLAlchemyError

from api.ops.agents import UnknownMonitor
from api.ops.asking import BrokerAway
from api.ops.check import (
    CHECK_WITHIN,
    MOST_SAMPLES,
    TRACEROUTE_WITHIN,
    USUAL_MONITORS,
    Finding,
    Kind,
    NoMonitor,
    Plan,
    Wanted,
    checking,
    plan_check,
)
from api.ops.kept_routes import keep_route
from api.ops.messages import end_line, finding_line, plan_line
from api.ops.target import WrongTarget, parse_target
from auth.settings import signing_key
from auth.tokens import Role, check_name, token_source
from ops.control import operator_name
from ops.errors import OperatorError, UsageError
from ops.output import Cell, print_error, write, write_row
from ops.route_lines import ROUTE_COLUMNS, route_lines, route_rows
from runtime.db.engine import reading, transaction, utc_now
from runtime.db.retry import DatabaseUnavailable
from runtime.mqtt.request import RequestClient, RequestFailed, new_key
from runtime.mqtt.types import Identity
from schema.messages import Result
from schema.names import Environment, short_name
from schema.topics import Topics

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from runtime.settings import WorkerSettings

_ROUTE_ROW: Final = ("monitor", *ROUTE_COLUMNS, "finding")
_COLUMNS: Final = ("monitor", "usual rtt", "rtt", "offset", "stratum", "finding")


def make_wanted(
    env: Environment, address: str, names: list[str], monitors: int | None, samples: int | None, *, route: bool
) -> Wanted:
    """Return what the operator wants.

    Args:
        route: to trace routes; otherwise to measure.

    Raises:
        UsageError: the address may not be measured, or the number of samples was given for routes.
    """
    if route and samples is not None:
        raise UsageError("--samples: conflicts with --traceroute; give only one of them")
    kind: Kind = "traceroute" if route else "ntp"
    most = USUAL_MONITORS[kind] if monitors is None else monitors
    try:
        return Wanted(parse_target(env, address), tuple(names), most, samples or (1 if route else MOST_SAMPLES), kind)
    except WrongTarget as error:
        raise UsageError(f"address {address[:64]!r}: {str(error).removesuffix('.')}") from None


def make_plan(engine: "Engine", env: Environment, wanted: Wanted) -> Plan:
    """Decide who measures.

    Raises:
        OperatorError: no monitor can measure, or a named one does not exist.
    """
    try:
        with reading(engine) as connection:
            return plan_check(connection, env, wanted, utc_now(), random.Random())
    except (UnknownMonitor, NoMonitor) as error:
        raise OperatorError(str(error).removesuffix(".")) from None


async def run_check(settings: "WorkerSettings", plan: Plan, show: Callable[[Finding], None]) -> int:
    """Ask the monitors of a plan, show what they find, and return how many measured.

    Raises:
        OperatorError: the broker cannot be reached, or refuses.
    """
    env, key = settings.deployment_mode, new_key()
    operator = check_name(Role.ADMIN, operator_name(), env)
    topics = Topics(env)
    client = RequestClient(
        settings.broker_address(),
        Identity(operator, f"{operator}/check-{key}"),
        token_source(signing_key(settings), Role.ADMIN, operator, env),
        answers=topics.answers(operator, key),
    )
    measured = 0
    try:
        async with client.connected():
            within = TRACEROUTE_WITHIN if plan.wanted.kind == "traceroute" else CHECK_WITHIN
            deadline = asyncio.get_running_loop().time() + within
            async with checking(client.session, topics, plan, deadline) as findings:
                async for finding in findings:
                    measured += finding.result is not None
                    show(finding)
    except (RequestFailed, BrokerAway) as error:
        raise OperatorError(str(error).removesuffix(".")) from None
    return measured


class Keeping:
    """Store the routes of a plan, and count them."""

    def __init__(self, engine: "Engine", plan: Plan) -> None:
        self._engine = engine
        self._plan = plan
        self.kept = 0
        """How many were stored."""

    def keep(self, finding: Finding) -> None:
        """Store the route that a monitor has found, if it has; report it if that fails."""
        now = utc_now()
        try:
            self.kept += transaction(self._engine, lambda found: keep_route(found, self._plan, finding, now))
        except (DatabaseUnavailable, SQLAlchemyError) as error:
            print_error(f"the route from {short_name(finding.monitor)} could not be stored: {error}")


class Shown:
    """The output of a check: a table or routes that appear one after the other, or lines of JSON."""

    def __init__(self, plan: Plan, *, as_json: bool) -> None:
        self._plan = plan
        self._as_json = as_json
        self._aligned = sys.stdout.isatty() and not as_json
        self._routes = plan.wanted.kind == "traceroute"
        names = [*plan.names, *(one.monitor for one in plan.unfit)]
        self._width = max(len(_COLUMNS[0]), *(len(short_name(name)) for name in names))
        if as_json:
            self._say(plan_line(plan))
        elif not self._aligned:
            write_row(_ROUTE_ROW if self._routes else _COLUMNS)
        elif not self._routes:
            self._say(self._line(_COLUMNS))

    def show(self, finding: Finding) -> None:
        """Show what one monitor found."""
        if self._as_json:
            self._say(finding_line(finding))
        elif not self._aligned:
            for row in _route_rows(finding) if self._routes else [_for_a_program(finding)]:
                write_row(row)
            sys.stdout.flush()
        elif self._routes:
            for line in finding_lines(finding):
                self._say(line)
        else:
            self._say(self._line(_for_a_person(finding)))

    def end(self, found: int, kept: int = 0) -> None:
        """Show that this was all."""
        if self._as_json:
            self._say(end_line(self._plan, found, kept))

    def _line(self, texts: tuple[str, ...]) -> str:
        monitor, usual, rtt, offset, stratum, finding = texts
        return f"{monitor:<{self._width}}  {usual:>9}  {rtt:>9}  {offset:>13}  {stratum:>7}  {finding}".rstrip()

    def _say(self, line: str) -> None:
        write(line)
        sys.stdout.flush()


def finding_lines(finding: Finding) -> list[str]:
    """Return the routes that one monitor has found for a person, or why it has none."""
    name = short_name(finding.monitor)
    if finding.result is None:
        return [f"{name}: {finding.said}"]
    return [f"{name}: {_answer(finding.result)}", *route_lines(finding.traces or ())]


def _answer(result: Result) -> str:
    if result.no_response:
        return f"no answer to NTP ({result.error})" if result.error else "no answer to NTP"
    rtt = "" if result.rtt is None else f" after {_in_ms(result.rtt)}"
    return f"answers NTP{rtt}" + (f" ({result.error})" if result.error else "")


def _route_rows(finding: Finding) -> list[tuple[Cell, ...]]:
    rows = [(finding.monitor, *row, None) for row in route_rows(finding.traces or ())]
    if finding.result is None or not rows:
        rows.append((finding.monitor, *[None] * len(ROUTE_COLUMNS), _words(finding) or _SILENT_ROUTE))
    return rows


_SILENT_ROUTE: Final = "no answer"


def _for_a_person(finding: Finding) -> tuple[str, ...]:
    result = finding.result
    offset = None if result is None else result.offset
    return (
        short_name(finding.monitor),
        _in_ms(finding.usual_rtt),
        _in_ms(None if result is None else result.rtt),
        "" if offset is None else f"{offset * 1e3:+.3f} ms",
        "" if result is None or result.stratum is None else str(result.stratum),
        _words(finding),
    )


def _for_a_program(finding: Finding) -> tuple[Cell, ...]:
    result = finding.result
    numbers = (None, None, None) if result is None else (result.rtt, result.offset, result.stratum)
    # As text: a table's numbers are rounded, and these are fractions of a second.
    exact = ("" if number is None else f"{number:.9g}" for number in (finding.usual_rtt, *numbers))
    return (finding.monitor, *exact, _words(finding))


def _words(finding: Finding) -> str:
    if finding.result is None:
        return finding.said or ""
    return finding.result.error or ("no answer" if finding.result.no_response else "")


def _in_ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.1f} ms"
