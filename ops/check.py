"""Measure an address now for an operator at a terminal, and show each monitor's finding as soon as it arrives."""

import asyncio
import random
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from api.ops.agents import UnknownMonitor
from api.ops.asking import BrokerAway
from api.ops.check import CHECK_WITHIN, Finding, NoMonitor, Plan, Wanted, checking, plan_check
from api.ops.messages import end_line, finding_line, plan_line
from api.ops.target import WrongTarget, parse_target
from auth.settings import signing_key
from auth.tokens import Role, check_name, token_source
from ops.control import operator_name
from ops.errors import OperatorError, UsageError
from ops.output import Cell, write, write_row
from runtime.db.engine import reading, utc_now
from runtime.mqtt.request import RequestClient, RequestFailed, new_key
from runtime.mqtt.types import Identity
from schema.names import Environment, short_name
from schema.topics import Topics

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from runtime.settings import WorkerSettings

_COLUMNS: Final = ("monitor", "usual rtt", "rtt", "offset", "stratum", "finding")


def make_wanted(env: Environment, address: str, names: list[str], monitors: int, samples: int) -> Wanted:
    """Return what the operator wants to be measured.

    Raises:
        UsageError: the address may not be measured.
    """
    try:
        return Wanted(parse_target(env, address), tuple(names), monitors, samples)
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
            deadline = asyncio.get_running_loop().time() + CHECK_WITHIN
            async with checking(client.session, topics, plan, deadline) as findings:
                async for finding in findings:
                    measured += finding.result is not None
                    show(finding)
    except (RequestFailed, BrokerAway) as error:
        raise OperatorError(str(error).removesuffix(".")) from None
    return measured


class Shown:
    """The output of a check: a table, whose lines appear one after the other, or lines of JSON."""

    def __init__(self, plan: Plan, *, as_json: bool) -> None:
        self._as_json = as_json
        self._aligned = sys.stdout.isatty() and not as_json
        names = [*plan.names, *(one.monitor for one in plan.unfit)]
        self._width = max(len(_COLUMNS[0]), *(len(short_name(name)) for name in names))
        if as_json:
            self._say(plan_line(plan))
        elif self._aligned:
            self._say(self._line(_COLUMNS))
        else:
            write_row(_COLUMNS)

    def show(self, finding: Finding) -> None:
        """Show what one monitor found."""
        if self._as_json:
            self._say(finding_line(finding))
        elif self._aligned:
            self._say(self._line(_for_a_person(finding)))
        else:
            write_row(_for_a_program(finding))
            sys.stdout.flush()

    def end(self, plan: Plan, measured: int) -> None:
        """Show that this was all."""
        if self._as_json:
            self._say(end_line(len(plan.chosen) + len(plan.unfit), measured))

    def _line(self, texts: tuple[str, ...]) -> str:
        monitor, usual, rtt, offset, stratum, finding = texts
        return f"{monitor:<{self._width}}  {usual:>9}  {rtt:>9}  {offset:>13}  {stratum:>7}  {finding}".rstrip()

    def _say(self, line: str) -> None:
        write(line)
        sys.stdout.flush()


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
