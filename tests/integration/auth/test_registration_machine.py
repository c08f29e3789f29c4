"""Test registration as a whole: whatever is lost, repeated, simultaneous or late, every host ends with one valid key,
or with a sentence that says what to do."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy.engine import Engine

from auth.api_key_store import authenticate
from auth.registration.model import Accepted, Answer, Completed, Confirmed, Outcome, Pending, Refused, Request
from auth.registration.secret import RegistrationId
from auth.registration.store import Registrations
from runtime.db.engine import reading, transaction
from schema.tables import api_key_ends, api_keys, metadata, monitor_registrations, monitors
from testbed.fixtures.registering import NOW, PEPPERS, account, new_id, owner, registrations
from testbed.random_inputs import examples

ADDRESSES: Final = (("8.8.4.4", "2001:4860:4860::8844"), ("9.9.9.9", "2620:fe::fe"))
LEAPS: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 11, 61, 24 * 60, -30))


@dataclass
class Host:
    """An agent: its addresses, its current Registration-ID, and what it has learned from answers that arrived."""

    addresses: tuple[str, str]
    registration: RegistrationId = field(default_factory=new_id)
    token: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    """The keys that were handed out, by Registration-ID; also in answers that were lost."""
    key: str = ""
    """The key that arrived last."""
    sentence: str = ""


class Registering(RuleBasedStateMachine):
    """Two hosts of one account register, while answers are lost, requests repeated, and the clock jumps."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        with self.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        self.account = account(self.engine, "4xhq2c9")
        self.these: Registrations = registrations(self.engine)
        self.now = NOW
        self.hosts = [Host(addresses) for addresses in ADDRESSES]

    def ask(self, host: Host, ip: str) -> Answer:
        known = authenticate(self.engine, PEPPERS, host.key, self.now) if host.key else None
        ids = () if known is None else known.monitor_ids
        return self.these.poll(Request(host.registration, ip, "host", "", "ntppool-agent/v5", ids), self.now)

    def receive(self, host: Host, answer: Answer, *, lost: bool = False) -> None:
        if isinstance(answer, Accepted):
            known = host.keys.setdefault(host.registration.clear, answer.key.clear)
            assert known == answer.key.clear, "a registration leads to one key"
        if lost:
            return
        match answer:
            case Pending():
                host.token = answer.path.rpartition("/")[2]
            case Accepted():
                host.key = answer.key.clear
            case Completed():
                host.sentence = answer.advice
            case Refused():
                host.sentence = answer.sentence

    @rule(number=st.integers(0, 1), family=st.integers(0, 1), lost=st.booleans())
    def poll(self, number: int, family: int, lost: bool) -> None:
        host = self.hosts[number]
        self.receive(host, self.ask(host, host.addresses[family]), lost=lost)

    @rule(number=st.integers(0, 1))
    def poll_at_once(self, number: int) -> None:
        host = self.hosts[number]
        with ThreadPoolExecutor(2) as pool:
            for answer in pool.map(lambda ip: self.ask(host, ip), host.addresses):
                self.receive(host, answer)

    @rule(number=st.integers(0, 1), choice=st.sampled_from([None, *Outcome]))
    def confirm(self, number: int, choice: Outcome | None) -> None:
        self.confirmed(self.hosts[number], choice)

    def confirmed(self, host: Host, choice: Outcome | None) -> bool:
        done = self.these.confirm(
            host.token, account_id=self.account, location="nlams", choice=choice, by=owner(self.account), now=self.now
        )
        return isinstance(done, Confirmed)

    @rule(number=st.integers(0, 1))
    def reject(self, number: int) -> None:
        self.these.reject(self.hosts[number].token, by=owner(self.account), reason="no", now=self.now)

    @rule(number=st.integers(0, 1))
    def set_up_again(self, number: int) -> None:
        host = self.hosts[number]
        host.registration, host.token = new_id(), ""

    @rule(leap=st.sampled_from(LEAPS))
    def wait(self, leap: timedelta) -> None:
        self.now += leap

    @rule()
    def expire(self) -> None:
        self.these.expire(self.now)

    @invariant()
    def every_host_has_one_name_and_one_lasting_key(self) -> None:
        m, k, e = monitors.c, api_keys.c, api_key_ends.c
        with reading(self.engine) as connection:
            current = connection.execute(sa.select(m.tls_name, m.ip).where(m.is_current.is_not(None))).all()
            lasting = connection.scalars(
                sa.select(k.id).select_from(api_keys.outerjoin(api_key_ends)).where(e.ends_on.is_(None))
            ).all()
        for addresses in ADDRESSES:
            assert len({row.tls_name for row in current if row.ip in addresses}) <= 2
        assert len({row.ip for row in current}) == len(current)
        assert len(lasting) <= len({row.tls_name for row in current})

    def teardown(self) -> None:
        """Let each host run ``setup`` to its end, an hour later, with nothing lost."""
        for host in self.hosts:
            self.now += timedelta(hours=2)
            host.registration, host.token, host.key = new_id(), "", ""
            for ip in host.addresses:
                self.receive(host, self.ask(host, ip))
            assert self.confirmed(host, None) or self.confirmed(host, Outcome.NEW_NAME)
            self.receive(host, self.ask(host, host.addresses[0]))
            assert authenticate(self.engine, PEPPERS, host.key, self.now) is not None
            self.every_host_has_one_name_and_one_lasting_key()
        r = monitor_registrations.c
        with reading(self.engine) as connection:
            tokens = connection.scalars(sa.select(r.request_token)).all()
        assert len(tokens) == len(set(tokens))


@pytest.mark.parametrize("steps", [12])
def test_every_host_ends_with_one_key(engine: Engine, steps: int) -> None:
    number = 30 if engine.dialect.name == "sqlite" else 8
    machine = type("Machine", (Registering,), {"engine": engine})
    run_state_machine_as_test(machine, settings=examples(number, stateful_step_count=steps))


def test_an_ended_registration_says_what_to_do(engine: Engine) -> None:
    these, mine = registrations(engine), new_id()
    request = Request(mine, ADDRESSES[0][0])
    these.poll(request, NOW)
    for leap in LEAPS:
        answer = these.poll(request, NOW + leap)
        assert isinstance(answer, Pending) or (isinstance(answer, Refused) and "setup" in answer.sentence)
    transaction(engine, lambda c: c.execute(sa.delete(monitor_registrations)))
    assert isinstance(these.poll(request, NOW), Pending), "a ledger that has lost it begins anew"
