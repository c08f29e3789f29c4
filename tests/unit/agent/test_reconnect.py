"""Test the back-off of a monitor that the pool does not want, and what counts as a refusal of its credentials."""

import pytest

from agent.reconnect import UNWANTED, Reconnect, refuses_credentials
from runtime.mqtt.types import Lost


def test_monitor_that_is_not_wanted_does_not_hurry() -> None:
    policy = Reconnect(spread=lambda low, high: 1.0)
    lost = Lost("refused", 0x87, 0.0)
    assert policy.back_off(lost, 1) < policy.back_off(lost, 5) < 60
    assert [policy.back_off(lost, failures, unwanted=True) for failures in (0, 1, 9)] == [UNWANTED] * 3
    assert not policy.kept_away


@pytest.mark.parametrize(
    ("lost", "refused"),
    [
        (Lost("the broker refused the connection: Not authorized", 0x87, 0.0), True),
        (Lost("the broker refused the connection: Bad user name or password", 0x86, 0.0), True),
        (Lost("[SSL: SSLV3_ALERT_CERTIFICATE_REVOKED] sslv3 alert certificate revoked (_ssl.c:2580)", None, 0.0), True),
        (Lost("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", None, 0.0), True),
        (Lost("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", None, 0.0), True),
        (Lost("disconnected: Not authorized", 0x87, 5.0), False),
        (Lost("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired", None, 0.0), False),
        (Lost("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version", None, 0.0), False),
        (Lost("the broker refused the connection: Server busy", 0x89, 0.0), False),
        (Lost("Connection refused", None, 0.0), False),
    ],
    ids=lambda value: value.reason[:40] if isinstance(value, Lost) else str(value),
)
def test_refusal_of_token_or_certificate_is_told_from_other_losses(lost: Lost, refused: bool) -> None:
    assert refuses_credentials(lost) is refused
