"""Test the operator of a running system: confirmations, counts, and missing answers."""

from collections.abc import Callable
from typing import Any

import pytest

from runtime.mqtt.session import Incoming, NotConnected
from runtime.mqtt.types import BrokerAddress
from schema.messages import AdHocAnswer, ControlAnswer, encode
from testbed import operator as operator_module
from testbed.operator import Operator, results_in

Answers = dict[str, Callable[[], bytes] | None]
NAMES = [f"{short}.devel.mon.example" for short in ("obeys", "refuses", "silent", "odd", "away")]


def operator_among(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Return an operator whose agents give these answers or none; requests to other agents cannot be published."""
    monkeypatch.setattr(operator_module, "_WITHIN", 0.1)
    operator = Operator(BrokerAddress("localhost", 1), "somebody", lambda: "token", "devel")

    async def publish(topic: str, payload: bytes, *, response_topic: str, correlation: bytes, **options: Any) -> None:
        name = response_topic.split("/")[-2]
        if name not in answers:
            raise NotConnected("no connection")
        if (answer := answers[name]) is not None:
            for said in (answer(), b"again"):
                operator.client._on_message(Incoming(response_topic, said, correlation=correlation))

    monkeypatch.setattr(operator.session, "publish", publish)
    return operator


async def test_agents_that_do_not_confirm_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Answers = {
        NAMES[0]: lambda: encode(ControlAnswer(service="agent", command="pause", ok=True)),
        NAMES[1]: lambda: encode(ControlAnswer(service="agent", command="pause", ok=False)),
        NAMES[2]: None,
        NAMES[3]: lambda: b"{",
    }
    assert await operator_among(answers, monkeypatch).pause(NAMES) == NAMES[1:]


async def test_result_counts_are_returned_for_agents_that_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = "ntppool_agent_probes_total 12\nntppool_agent_probes_discarded_total 2\n"
    answers: Answers = {
        NAMES[0]: lambda: encode(AdHocAnswer(id="1", metrics=metrics)),
        NAMES[1]: lambda: encode(AdHocAnswer(id="1", error="busy")),
        NAMES[2]: None,
        NAMES[3]: lambda: b"{",
    }
    assert await operator_among(answers, monkeypatch).all_measured(NAMES) == {NAMES[0]: 10}


def test_results_are_probes_that_were_not_discarded() -> None:
    text = "# TYPE x counter\nntppool_agent_probes_total 12\nntppool_agent_probes_discarded_total 2\n"
    assert results_in(text) == 10
    assert results_in("") is None
